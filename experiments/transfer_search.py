"""What the experiments on transfer share: a grid around an expected optimum, trained, stored and widened."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from widelimit.compare import Estimate, Optimum, PowerLaw, find_optimum, widen
from widelimit.training import Checkpoint, Mode, Problem, Results, choose_mode, pivot, sweep

REACH = 60  # of log2 learning rates, for which float32 has room
WIDENINGS = 4  # a minimum at the edge of the grid widens it this often before it is reported as it is
UNRESOLVED = (
    "A claim about an optimum that is flagged edge_low or edge_high is inconclusive: the optimum may lie "
    "beyond the rates that were trained."
)

Case = Mapping[str, Any]
Train = Callable[[list[float], Checkpoint], list[dict[str, Any]]]


def plan(sizes: Mapping[str, int], *, batch: int, cells: int) -> dict[str, Any]:
    """Returns what is decided once, before the first cell, and stored: how cells run.

    Args:
        sizes: number of parameters of every network, by the name that its mode gets.
        batch: samples or tokens of a step.
        cells: of a grid.
    """
    modes = {
        name: choose_mode(
            parameters=parameters,
            batch=batch,
            cells=cells,
            platform=jax.default_backend(),
            devices=jax.device_count(),
            cores=os.cpu_count() or 1,
        )
        for name, parameters in sizes.items()
    }
    return {"modes": {name: dataclasses.asdict(mode) for name, mode in modes.items()}}


def optimum(
    results: Results,
    case: Case,
    loss: str = "train_loss",
    axis: str = "log2_lr",
    among: Collection[float] | None = None,
) -> Optimum:
    """Returns the optimum of one loss curve along an axis in log2, from the rows as they are stored.

    Args:
        results: where the rows are.
        case: the fields that tell this curve's rows from others.
        loss: the field that is minimised.
        axis: the field along which it is.
        among: values of the axis to look at; None for all that are stored.
    """
    rows = [row for row in results.find(**case) if among is None or row[axis] in among]
    losses, (values, _) = pivot(rows, loss, (axis, "seed"))
    return find_optimum(values, losses)


def resolved(found: Estimate, *optima: Optimum) -> Estimate:
    """Returns what was found from some optima, without an error bar if one lies at the edge of its grid.

    How far off it is no one knows then, so a claim about it is inconclusive. A ``cliff`` is resolved: that
    training diverges right above it says where it is.

    Args:
        found: a slope, shift or regret.
        optima: those that it was found from.
    """
    if not any(best.flag.startswith("edge") for best in optima):
        return found
    return Estimate(found.value if math.isfinite(found.value) else math.nan, math.nan)


def resolved_law(law: PowerLaw, *optima: Optimum) -> PowerLaw:
    """Returns a line through some optima, without error bars if one lies at the edge of its grid."""
    seeds, residual = (
        resolved(Estimate(law.exponent, stderr), *optima).stderr
        for stderr in (law.stderr_seeds, law.stderr_residual)
    )
    return dataclasses.replace(law, stderr_seeds=seeds, stderr_residual=residual)


def window(center: float, rates: int, spacing: float, tuned: float | None = None) -> list[float]:
    """Returns a lattice of log2 rates around an expected optimum, and both neighbours of the tuned rate.

    The neighbourhood of the rate tuned at the base shape is trained at every shape, because the regret is
    measured there.

    Args:
        center: log2 of the rate in the middle.
        rates: how many.
        spacing: distance of neighbouring rates, in log2.
        tuned: log2 of the rate tuned at the base shape; None at that shape itself.
    """
    low = np.floor((center if tuned is None else tuned) / spacing)
    around = set() if tuned is None else {float(spacing * (low + k)) for k in (0, 1)}
    first = np.round(center / spacing) - rates // 2
    return sorted(around | {float(spacing * (first + k)) for k in range(rates)})


def search(
    results: Results,
    case: Case,
    wanted: Sequence[float],
    train: Train,
    checkpoint_seconds: float,
    loss: str = "train_loss",
) -> Optimum:
    """Trains the missing ones of the wanted log2 rates, and more as long as the minimum lies at the edge.

    Every call takes the same decisions from the beginning, each on the rates that were there when it was
    first taken, so that a search that was killed goes on as it would have, and a finished one trains nothing.

    Args:
        results: where finished cells are, and go to.
        case: the fields that tell this curve's rows from others.
        wanted: log2 of the rates to begin with.
        train: takes log2 rates and a checkpoint, returns rows.
        checkpoint_seconds: time between two checkpoints of a running grid.
        loss: the field that is minimised.
    """
    store = Checkpoint(
        results.directory / "checkpoints" / "-".join(map(str, case.values())), checkpoint_seconds
    )
    grid: set[float] = set()
    for _ in range(WIDENINGS + 1):
        done = {row["log2_lr"] for row in results.find(**case)}
        missing = [rate for rate in wanted if rate not in done]
        if missing:
            results.append(*train(missing, store))
            store.clear()
        grid |= {*wanted}
        wanted = [float(rate) for rate in widen(optimum(results, case, loss, among=grid), cells=3)]
        if not wanted:
            break
    return optimum(results, case, loss)


def train_rows(
    problem: Problem,
    case: Case,
    log2_rates: Sequence[float],
    seeds: Sequence[int],
    *,
    data: Any,
    batches: np.ndarray,
    evaluation: Any,
    extras: Any,
    mode: Mode,
    checkpoint: Checkpoint,
) -> list[dict[str, Any]]:
    """Trains a grid and returns its rows; a killed grid resumes from its checkpoint. See ``sweep``."""
    started = time.monotonic()
    result = sweep(
        problem,
        learning_rates=2.0 ** np.asarray(log2_rates),
        seeds=seeds,
        data=data,
        batches=batches,
        mode=mode,
        extras=extras,
        evaluation=evaluation,
        checkpoint=checkpoint,
    )
    seconds = (time.monotonic() - started) / (len(seeds) * len(log2_rates))
    return [
        {**case, "log2_lr": log2_rates[index // len(seeds)], **row, "seconds": seconds}
        for index, row in enumerate(result.rows())
    ]
