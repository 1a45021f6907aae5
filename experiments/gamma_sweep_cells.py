"""The cells of the sweep: at one gamma0, infinite width once, and networks of all widths."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from experiments.gamma_sweep_measures import Draws, measure
from widelimit import dmft
from widelimit.compare import Ensembles, finite_ensemble
from widelimit.dmft.causal.control import corrected

BLOCKS = 32  # finite_ensemble keeps kernels as means over so many blocks of networks


def work(config: Any, stage: str) -> float:
    """Rough flops of a cell, compilation among them, for the remaining time.

    Args:
        config: of the run.
        stage: "DMFT" or "networks".
    """
    side = (config.samples + config.test_samples) * (config.steps + 1)
    if stage == "DMFT":
        return 16.0 * config.depth * config.replicas * config.sites * side**2 + 5e10
    return sum(12.0 * n**2 * config.networks(n) for n in config.widths) * config.depth * side


def solve(
    config: Any, problem: dmft.Problem, held_out: np.ndarray, stage: str, place: Path
) -> list[dict[str, Any]]:
    """Returns the rows of one cell: every quantity of all draws, and without each of them.

    Args:
        config: of the run.
        problem: at one gamma0.
        held_out: targets of the held-out points, [M].
        stage: "DMFT" or "networks".
        place: keeps what is done until the cell is; a killed run goes on.
    """
    started = time.monotonic()
    lazy = dmft.lazy(problem)
    if stage == "DMFT":
        parts = {0: _theory(config, problem, place)}
    else:
        parts = _networks(config, problem, held_out, place)
    rows = []
    for width, draws in parts.items():
        found = measure(draws, problem, held_out, lazy, config.fitted)
        values = {name: [one[name] for one in found] for name in found[0]}
        rows.append({"stage": stage, "gamma0": problem.gamma0, "width": width, **values, "seconds": 0.0})
    rows[-1]["seconds"] = round(time.monotonic() - started, 3)
    return rows


def clear(place: Path) -> None:
    """Removes what a finished cell no longer needs."""
    shutil.rmtree(place, ignore_errors=True)


def _theory(config: Any, problem: dmft.Problem, place: Path) -> Draws:
    """Replicas of DMFT one by one, as their files hold them, with the same noise at every gamma0."""
    solution = dmft.mlp(
        problem, samples=config.sites, replicas=config.replicas, seed=config.seed, directory=place
    )
    f, features, ntk = [], [], []
    for file in sorted(place.glob("replica-*.npz")):
        with np.load(file, allow_pickle=False) as kept:
            f.append(kept["predictions"])
            ntk.append(kept["ntk"][[0, -1]])
            ends = [kept["features"][:, t, :, t] for t in (0, -1)]
            features.append(np.stack(ends, axis=1))
    tangent = np.stack(ntk)
    curves, _ = corrected(problem, np.stack(f), tangent[:, 0])  # as the solution does
    np.testing.assert_allclose(curves.mean(axis=0)[..., 0], solution.predictions.values, atol=1e-9)
    return Draws(curves[..., 0], None, None, np.stack(features), tangent[:, :, :, 0, :, 0])


def _networks(config: Any, problem: dmft.Problem, held_out: np.ndarray, place: Path) -> dict[int, Draws]:
    """Networks of all widths, the same starts at every gamma0, as means over blocks."""
    counts = [config.networks(width) for width in config.widths]
    ensembles = finite_ensemble(
        problem,
        config.widths,
        counts,
        seed=config.seed,
        measures=("features", "ntk"),
        times=(0, problem.steps),
        directory=place,
    )
    return {width: _blocks(ensembles, width, held_out) for width in config.widths}


def _blocks(ensembles: Ensembles, width: int, targets: np.ndarray) -> Draws:
    """The networks of one width; all blocks are of one size."""
    own, train = ensembles.members[width], ensembles.problem.samples
    features, ntk = own.moments["features"], own.moments["ntk"]
    assert len(features.sizes) == BLOCKS and len(set(features.sizes)) == 1
    f = own.predictions
    held_out = np.mean((f[:, -1, train:] - targets) ** 2, axis=1) / 2

    def block(values: np.ndarray) -> np.ndarray:
        means: np.ndarray = values.reshape(BLOCKS, -1, *values.shape[1:]).mean(axis=1)
        return means

    return Draws(block(f), block(own.loss), block(held_out), features.means, ntk.means)
