"""The deep linear network's best rate: the contract, resuming, and what the claims can tell apart."""

import dataclasses

import numpy as np
import pytest

from experiments import one_step_report
from experiments.one_step_rate import PRESETS, run
from tests.experiments.support import killed, stored
from widelimit.compare import PowerLaw
from widelimit.training import main

SMOKE = ["--preset", "smoke", "--widths", "16", "32", "64", "--seeds", "6"]


def start(directory, *flags):
    return main("one_step_rate", PRESETS, run, [*SMOKE, "--directory", str(directory), *flags])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("one_step")
    assert start(directory) == 0
    return directory


def test_contract(finished):
    assert {path.name for path in finished.iterdir()} >= {
        "config.json", "environment.json", "rows.jsonl", "summary.json", "report.md", "best_rate.png",
    }  # fmt: skip
    rows, summary = stored(finished)
    assert len(rows) == 3 * 6 * 2 * 2 and (finished / "best_rate.png").stat().st_size > 10_000
    assert len(summary["claims"]) == one_step_report.CLAIMS
    assert {row["parametrization"] for row in summary["tables"]["best_rate"]} == {"mup", "standard"}


def test_resumed_anywhere_it_ends_with_the_same_numbers(finished, tmp_path):
    """The first cells of a run, the last of them half-written, are all that a kill leaves."""
    place = killed(finished, tmp_path / "killed", (finished / "rows.jsonl").read_bytes()[:3000])
    assert start(place) == 0
    assert stored(place) == stored(finished)


def test_both_parametrizations_are_one_network_at_the_base_width(tmp_path):
    assert start(tmp_path, "--base-width", "16") == 0
    rows, _ = stored(tmp_path)
    rates = {
        name: [row["rate"] for row in rows if (row["width"], row["parametrization"]) == (16, name)]
        for name in ("mup", "standard")
    }
    assert rates["mup"] == rates["standard"] and len(rates["mup"]) == 12


def test_a_gaussian_teacher(tmp_path):
    assert start(tmp_path, "--data", "gaussian") == 0


@pytest.mark.parametrize("wrong", [0.0, -1.0])
def test_the_default_tells_every_exponent_from_its_rivals(wrong):
    """A distance that stays or falls like 1/width, a rate that moves like width^-1/2: noticed."""
    law = PowerLaw(-0.5, 0.04, 0.04, 0.0, 0.0, 6, 64, 63.0)
    distance = one_step_report._slope(PRESETS["default"], "distance", law, -0.5)
    assert distance.holds is True
    assert dataclasses.replace(distance, measured=wrong).holds is False
    moving = one_step_report._slope(
        PRESETS["default"], "rate", dataclasses.replace(law, stderr_seeds=0.01), wrong
    )
    assert moving.holds is False
    assert np.isclose(moving.tolerance, 0.1, atol=0.02)
