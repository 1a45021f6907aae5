"""Where does the best learning rate go as a network widens, under muP and under the NTK parametrization?

    python -m experiments.linear_transfer                    # two cores, some minutes
    python -m experiments.linear_transfer --preset smoke     # seconds

Trains deep linear networks on fresh Gaussian batches, width N = nu D and batch B = beta D proportional to
the dimension D, at a grid of learning rates, and holds loss and best rate against the theory of that
proportional limit, which is exact. Both parametrizations are one network at the smallest width. Expected:
every claim holds; the best rate of muP settles while that of the NTK parametrization goes on rising until
its network is lazy.

Reference: Bordelon and Pehlevan, Deep Linear Network Training Dynamics from Random Initialization,
arXiv 2502.02531.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments import linear_transfer_report as report
from experiments import linear_transfer_theory as theory
from experiments.linear_transfer_theory import PARAMETRIZATIONS
from widelimit.compare import Summary, finite_proportional
from widelimit.training import Progress, Results, main, open_results

CHUNK = 8  # networks between two writes
DIVERGED = 1e6  # a final loss beyond it (it starts below 2) counts as diverged, in networks as in theory


@dataclasses.dataclass(frozen=True)
class Config:
    """The best learning rate of deep linear networks against their width.

    Args:
        preset: the preset this config started from.
        seed: of weights and batches.
        depths: numbers of hidden layers.
        ratios: widths over the dimension, nu = N / D, increasing; at the first one muP and the NTK
            parametrization are the same network.
        size: the dimension D; half of it is trained too, to extrapolate losses to infinite size.
        seeds: networks per width at this size; twice as many at half of it.
        steps: gradient steps, each on a fresh batch.
        batch: samples of a batch over the dimension, B / D.
        richness: g = gamma0 sqrt(D): of muP at every width, of the NTK parametrization at the first, from
            where it falls like 1 / sqrt(N).
        lowest: log2 of the lowest learning rate, over the best of a lazy network of this depth.
        highest: log2 of the highest, likewise.
        spacing: of the grid of rates, in powers of two.
    """

    preset: Literal["smoke", "default", "full"] = "default"
    seed: int = 0
    depths: tuple[int, ...] = (1, 3)
    ratios: tuple[float, ...] = (1, 2, 4, 8, 16)
    size: int = 128
    seeds: int = 64
    steps: int = 5
    batch: float = 2.0
    richness: float = 3.0
    lowest: float = -2.5
    highest: float = 0.75
    spacing: float = 0.25

    def __post_init__(self) -> None:
        """Says what cannot be run, before anything is."""
        if len(self.ratios) < 4 or list(self.ratios) != sorted({*self.ratios}) or self.ratios[0] <= 0:
            raise ValueError(f"ratios must be four or more increasing positive numbers; got {self.ratios}.")
        if not self.depths or min(self.depths) < 1 or len({*self.depths}) < len(self.depths):
            raise ValueError(f"depths must be different numbers of hidden layers; got {self.depths}.")
        if self.seeds < 4 or self.steps < 1 or self.seed < 0 or self.size < 2 or self.size % 2:
            raise ValueError(
                f"seeds must be at least 4, steps 1, seed 0, and size even; got {self.seeds}, {self.steps}, "
                f"{self.seed} and {self.size}."
            )
        if not all(0 < number < math.inf for number in (self.batch, self.richness, self.spacing)):
            raise ValueError(
                f"batch, richness and spacing must be positive and finite; got {self.batch}, "
                f"{self.richness} and {self.spacing}."
            )
        if not 5 * self.spacing <= self.highest - self.lowest < math.inf:
            raise ValueError(
                f"lowest to highest must span at least five spacings of {self.spacing}; got {self.lowest} "
                f"and {self.highest}."
            )
        for ratio in self.ratios:  # refuses counts that are not whole, by the problem's own sentence
            theory.problem(self, self.depths[0], ratio, "mup", -3.0).counts(self.size // 2)


PRESETS = {
    "smoke": Config("smoke", depths=(1,), ratios=(1, 2, 4, 16), size=32, seeds=96),
    "default": Config(),
    "full": Config("full", depths=(1, 2, 3, 4), ratios=(1, 2, 4, 8, 16, 32), seeds=256),
}


def run(config: Config, directory: Path) -> Summary:
    """Runs the experiment, or what is missing of it, and judges it."""
    with open_results(directory, "linear_transfer", config) as results:
        total = sum(_work(*cell) for cell in _cells(config))
        done = sum(_work(row["depth"], row["ratio"], row["size"], 1) for row in results.rows)
        with Progress(total, "linear_transfer", done=done) as progress:
            for depth, ratio, size, count in _cells(config):
                _train(config, results, progress, depth, ratio, size, count)
        summary = report.summarise(config, results)
        results.finish(summary)
    return summary


def _cells(config: Config) -> Iterator[tuple[int, float, int, int]]:
    """Depth, ratio, size and number of networks of everything that is trained."""
    for depth in config.depths:
        for ratio in config.ratios:
            yield depth, ratio, config.size // 2, 2 * config.seeds
            yield depth, ratio, config.size, config.seeds


def _work(depth: int, ratio: float, size: int, networks: int) -> float:
    """Cost in any unit: weights, and something for what does not depend on them."""
    width = ratio * size
    return networks * (width * size + (depth - 1) * width**2 + 2e5 * depth)


def _train(
    config: Config, results: Results, progress: Progress, depth: int, ratio: float, size: int, count: int
) -> None:
    """Trains what is missing of the networks of a cell, each at all rates in both parametrizations."""
    done = {row["network"] for row in results.find(depth=depth, ratio=ratio, size=size)}
    rates = theory.rates(config, depth)
    problems = [
        theory.problem(config, depth, ratio, name, rate) for name in PARAMETRIZATIONS for rate in rates
    ]
    for first in range(0, count, CHUNK):
        networks = [index for index in range(first, min(first + CHUNK, count)) if index not in done]
        if not networks:
            continue
        started = time.monotonic()
        seeds = [(config.seed, depth, round(ratio * size), size, index) for index in networks]
        losses = finite_proportional(problems, size=size, seeds=seeds).loss[..., -1]
        seconds = (time.monotonic() - started) / len(networks)
        case = {"depth": depth, "ratio": ratio, "size": size}
        results.append(
            *(
                {**case, "network": index, **_row(column, len(rates)), "seconds": round(seconds, 4)}
                for index, column in zip(networks, losses.T, strict=True)
            )
        )
        progress.advance(_work(depth, ratio, size, len(networks)))
    if size == config.size:
        progress.finished(report.line(config, results, depth, ratio))


def _row(losses: np.ndarray, count: int) -> dict[str, Any]:
    """Final losses of one network by parametrization, at every rate; None where it diverged."""
    both = losses.reshape(len(PARAMETRIZATIONS), count)
    kept = {
        name: [float(loss) if loss < DIVERGED else None for loss in each]
        for name, each in zip(PARAMETRIZATIONS, both, strict=True)
    }
    return {**kept, "diverged": int((~(losses < DIVERGED)).sum())}


if __name__ == "__main__":
    sys.exit(main("linear_transfer", PRESETS, run))
