"""How many cells of a sweep run together: a cost model that times nothing, so its answer never changes."""

from __future__ import annotations

import dataclasses
import math

# Calibration: tanh MLP 64-n-n-10, batch 64, Adam, on 2 cores with 32 MB of shared cache. Microseconds of one
# core per step of one cell, for groups of g cells run by vmap (processor time, the lower decile of many
# repetitions, with other work on the machine: good to 10%):
#
#          n   bytes/cell   g = 1      2      4     12     36
#         64       0.3 MB      71     56     53     61     56
#        128       0.6 MB     137    145    153    131    143
#        256       1.9 MB     535    487    467    447    616
#        512       6.0 MB    1590   1693   1879   2091   2630
#
# They follow  24/g + (products at 95 Gflop/s) + (60 bytes per parameter, at 43 GB/s as long as the groups
# that run side by side fit into the cache, else at 12 GB/s): grouping saves the fixed cost of each small
# operation, and pays with memory traffic once the cache is full. So the best group is the largest that
# fits; half of the cache is left to everything else.
CACHE = 16 * 2**20  # bytes, for the groups that run side by side on a CPU
MEMORY = 2 * 2**30  # bytes for cells under way, per device


@dataclasses.dataclass(frozen=True)
class Mode:
    """How the cells of a sweep are executed: ``dataclasses.asdict`` makes it JSON, ``Mode(**d)`` reads it.

    Args:
        group: cells per device in one call of the program, run together by ``vmap``; 1 runs each cell by
            itself, as plain matrix products. A grid that does not fill its last group is filled up with
            copies of its last cell, so that a few more cells need no other program.
        in_flight: calls that are under way at once. On a CPU they run side by side on its cores.

    Raises:
        ValueError: if one of them is not a positive whole number.

    Example:
        >>> Mode(**dataclasses.asdict(Mode(group=1, in_flight=4)))
        Mode(group=1, in_flight=4)
    """

    group: int
    in_flight: int = 1

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            _positive(f"{name} of a Mode", value)


def choose_mode(
    *, parameters: int, batch: int, cells: int, platform: str, cores: int, devices: int = 1
) -> Mode:
    r"""Chooses how to execute a sweep, from sizes alone.

    With ``b = 16 P + 32 B sqrt(P)`` bytes per cell (weights, gradient and two moments of P parameters, and
    some activations of a batch of B), the group on a CPU is the largest with ``cores * group * b`` within the
    cache, in as many groups as divide evenly among the cores; on an accelerator it is as many cells as its
    memory takes. As many groups are in flight as fit into memory, and at least one per core.

    Call it once, store the answer before the first cell, and give ``sweep`` the stored one: modes differ in
    rounding, which training near the edge of stability amplifies.

    Args:
        parameters: P, of one cell.
        batch: B, samples per step.
        cells: in the sweep.
        platform: ``jax.default_backend()``.
        cores: of the CPU, ``os.cpu_count()``; other platforms ignore it.
        devices: over which cells are sharded.

    Raises:
        ValueError: if a size is not a positive whole number.

    Example:
        >>> [
        ...     choose_mode(parameters=n * (n + 76) + 10, batch=64, cells=36, platform="cpu", cores=2).group
        ...     for n in (64, 128, 256, 512, 1024)
        ... ]
        [18, 9, 4, 1, 1]
    """
    sizes = {"parameters": parameters, "batch": batch, "cells": cells, "devices": devices, "cores": cores}
    for name, value in sizes.items():
        _positive(name, value)
    cell = 16 * parameters + 32 * batch * math.isqrt(parameters)
    here = math.ceil(cells / devices)  # cells of one device
    if platform == "cpu":
        side_by_side = max(1, cores // devices)
        fit = max(1, CACHE // (side_by_side * cell))
        groups = side_by_side * math.ceil(here / fit / side_by_side)
    else:
        side_by_side = 1
        groups = math.ceil(here / max(1, MEMORY // cell))
    group = math.ceil(here / groups)
    return Mode(group, min(math.ceil(here / group), max(side_by_side, MEMORY // (group * cell))))


def _positive(name: str, value: object) -> None:
    """Sizes come from configs and JSON; a float or a zero would fail far from its cause."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number, at least 1; got {value!r}.")
