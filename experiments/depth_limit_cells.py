"""The cells of the depth experiment: networks of one size, the limits once, exact linear networks."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np

from widelimit import dmft
from widelimit.compare import finite_ensemble
from widelimit.dmft import ResidualProblem

BLOCKS = 32  # means over so many blocks of networks are kept: error bars come from them


@dataclasses.dataclass(frozen=True)
class Cell:
    """A row to be.

    Attributes:
        key: what tells it from other rows.
        work: rough flops, for the remaining time.
    """

    key: dict[str, Any]
    work: float


def plan(config: Any) -> list[Cell]:
    """Returns all cells of a run, the cheap ones first."""
    side = (config.samples + config.test_samples) * (config.steps + 1)
    found = [
        Cell({"part": "independence", "exponent": exponent, "depth": depth}, 2e7 * depth)
        for exponent in (0.5, 1.0)
        for depth in config.exact_depths
    ]
    layers = 2 * sum(config.depths) + sum(config.limit_depths)
    work = 16.0 * layers * config.sites * side**2
    found += [Cell({"part": "limits", "repeat": repeat}, work) for repeat in range(config.repeats)]
    for depth in config.depths:
        for width in config.widths:
            flops = 12.0 * width**2 * depth * side * config.networks(width) + 1e10  # and compilation
            found.append(Cell({"part": "networks", "depth": depth, "width": width}, flops))
    return found


def solve(config: Any, problem: ResidualProblem, cell: Cell) -> dict[str, Any]:
    """Returns a cell's row."""
    started = time.monotonic()
    part, *place = cell.key.values()
    if part == "networks":
        found = _networks(config, problem, *place)
    elif part == "limits":
        found = _limits(config, problem, *place)
    else:
        found = _independence(*place)
    return {**cell.key, **found, "seconds": round(time.monotonic() - started, 3)}


def describe(row: dict[str, Any]) -> str:
    """A finished row, for the terminal."""
    if row["part"] == "networks":
        return f"{row['networks']} networks of width {row['width']}, depth {row['depth']}"
    if row["part"] == "limits":
        return f"limits, repeat {row['repeat']}"
    where = f"alpha {row['exponent']:g}, depth {row['depth']}"
    return f"linear, {where}: without responses f is off by {row['gap']:.2g}"


def of_depth(problem: ResidualProblem, depth: int, **changes: Any) -> ResidualProblem:
    """Returns the same problem with another number of branches."""
    return dataclasses.replace(problem, depth=depth, kernel=None, **changes)


def _limits(config: Any, problem: ResidualProblem, repeat: int) -> dict[str, Any]:
    """Infinite width at each depth and at infinite depth, from the same noise; then without responses."""
    noise = {"replicas": 2, "seed": 1000 * config.seed + repeat}
    deepest, half = config.limit_depths[-1], config.sites // 2
    at = [of_depth(problem, depth) for depth in config.depths]

    def curves(**options: Any) -> list[Any]:
        found = [dmft.residual(one, **noise, **options, paths=deepest).predictions.values for one in at]
        return [values.tolist() for values in found]

    both = dmft.infinite_depth(problem, depths=config.limit_depths, samples=config.sites, **noise)
    return {
        "f": curves(samples=config.sites),
        "limit": both.predictions.values.tolist(),
        "depth_slope": both.diagnostics["depth_slope"],
        "kernel_rule": curves(samples=half, output_rule="ntk_euler"),
        "without": curves(samples=half, output_rule="ntk_euler", response="none"),
    }


def _networks(config: Any, problem: ResidualProblem, depth: int, width: int) -> dict[str, Any]:
    """Networks of one size: means over blocks of f and of f^2, mean and standard deviation of the loss."""
    count = config.networks(width)
    found = finite_ensemble(of_depth(problem, depth), [width], count, seed=config.seed, measures=())
    f, loss = found.members[width].predictions, found.members[width].loss
    blocks = f.reshape(BLOCKS, count // BLOCKS, *f.shape[1:])
    return {
        "networks": count,
        "mean": blocks.mean(axis=1).tolist(),
        "square": (blocks**2).mean(axis=1).tolist(),
        "loss": loss.mean(axis=0).tolist(),
        "loss_std": loss.std(axis=0).tolist(),
    }


def _independence(exponent: float, depth: int) -> dict[str, Any]:
    """A linear network, exactly: what leaving out responses does to f, and what learning features does.

    One sample with K = y = 1. Predictions follow the tangent kernel, which is right in the lazy limit
    without responses too.
    """
    curves = []
    for gamma0, response in ((1.0, "stein"), (1.0, "none"), (1e-3, "stein")):
        one = ResidualProblem(
            targets=[1.0],
            kernel=[[1.0]],
            steps=12,
            learning_rate=0.03,
            depth=depth,
            activation="identity",
            gamma0=gamma0,
            branch_exponent=exponent,
        )
        found = dmft.residual(one, samples=None, output_rule="ntk_euler", response=response)
        curves.append(found.predictions.values)
    full, without, lazy = curves
    return {"gap": rms(full - without), "effect": rms(full - lazy)}


def rms(values: Any) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.mean(np.asarray(values) ** 2)))
