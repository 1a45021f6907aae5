"""The cost model is a pure function with the limits that memory and cores set."""

from __future__ import annotations

import dataclasses
import json

import pytest

from widelimit.training import Mode, choose_mode

WIDTHS = (16, 64, 128, 256, 512, 1024, 4096)


def chosen(width: int, **changes: object) -> Mode:
    """The mode of a network with two hidden layers."""
    sizes = {"parameters": width * (width + 76) + 10, "batch": 64, "cells": 36, "platform": "cpu", "cores": 2}
    return choose_mode(**{**sizes, **changes})


def test_wide_networks_run_one_by_one_and_narrow_ones_together():
    """On a CPU groups shrink as cells outgrow the cache, from half the grid (a group a core) to one cell."""
    groups = [chosen(width).group for width in WIDTHS]
    assert groups == sorted(groups, reverse=True)
    assert groups[0] == 18 and groups[-1] == 1


def test_every_core_is_busy_and_memory_is_bounded():
    """At least one group per core is in flight, and no more than memory takes beyond that."""
    for cores in (1, 2, 8):
        for width in WIDTHS:
            mode = chosen(width, cores=cores)
            assert min(cores, -(-36 // mode.group)) <= mode.in_flight <= 36
    assert chosen(16384).in_flight == 2


def test_an_accelerator_takes_all_cells_at_once_if_they_fit():
    """And splits the grid when they do not."""
    assert chosen(512, platform="gpu") == Mode(36, 1)
    assert chosen(512, platform="gpu", devices=8) == Mode(5, 1)
    assert chosen(8192, platform="gpu").group == 1


def test_a_mode_survives_json():
    """It is stored in config.json."""
    mode = chosen(256)
    assert Mode(**json.loads(json.dumps(dataclasses.asdict(mode)))) == mode


@pytest.mark.parametrize("name", ["parameters", "batch", "cells", "cores", "devices"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True])
def test_sizes_that_make_no_sense_are_refused(name, value):
    """One sentence, with the name."""
    with pytest.raises(ValueError, match=f"{name} must be a whole number, at least 1; got {value!r}"):
        chosen(64, **{name: value})


def test_a_mode_without_cells_is_refused():
    """Also when it comes from an edited config."""
    with pytest.raises(ValueError, match="group of a Mode must be a whole number, at least 1; got 0"):
        Mode(0)
    with pytest.raises(ValueError, match="in_flight of a Mode"):
        Mode(1, in_flight=1.5)  # type: ignore[arg-type]
