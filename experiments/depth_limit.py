"""Do residual networks converge as they grow in width and in depth, to what, and at which rates?

    python -m experiments.depth_limit                    # digits, two cores, six minutes of processor time
    python -m experiments.depth_limit --preset smoke     # seconds
    python -m experiments.depth_limit --preset full      # more images, widths and depths, for a large machine

Trains residual tanh networks with branches b L^-alpha on digits over a grid of widths N and depths L, and
holds them against ``dmft.residual`` (infinite width at each depth) and ``dmft.infinite_depth`` (both).
Expected: every claim holds. The mean over networks misses the limit of infinite width by 1/N at every
depth, a single one by 1/sqrt(N), and infinite width misses infinite depth by 1/L. Also settled: whether
backward weights may be taken as independent of forward ones in deep networks (for alpha = 1/2 they may not).

References: Bordelon et al., arXiv 2309.16620; on gradient independence, arXiv 2512.21075.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path
from typing import Literal

from experiments import depth_limit_cells as cells
from experiments import depth_limit_report as report
from experiments import dmft_digits
from widelimit.compare import Summary
from widelimit.dmft import ResidualProblem
from widelimit.training import Progress, Results, main, open_results
from widelimit.training.data import Dataset


@dataclasses.dataclass(frozen=True)
class Config:
    """Residual networks in width and depth.

    Args:
        preset: the preset this config started from.
        seed: of the data split, of all initial weights and of the limit's noise.
        samples: training images P (digits 3 and 8, labels -1 and +1); steps are full batch.
        test_samples: held-out images.
        gamma0: feature-learning strength.
        rate: learning rate eta; weights move by eta gamma0^2 N times the gradient.
        steps: number of steps T.
        branch_scale: b.
        branch_exponent: alpha, 1/2 or 1.
        widths: N of the networks, increasing.
        depths: L of the networks, each twice the one before.
        limit_depths: L to extrapolate to infinite depth from: multiples of the first, divisors of the last.
        networks_per_unit: networks per unit of width; their mean's bias needs three at the very least.
        least: no fewer networks than this per cell.
        most: no more.
        sites: samples of each replica of the limit; half as many for what responses do.
        repeats: independent solutions of all depths, from two replicas each: error bars are theirs.
        exact_depths: L at which linear networks are solved exactly, with and without responses; the last
            three double.
    """

    preset: Literal["smoke", "default", "full"] = "default"
    seed: int = 0
    samples: int = 4
    test_samples: int = 2
    gamma0: float = 1.5
    rate: float = 0.15
    steps: int = 12
    branch_scale: float = 1.0
    branch_exponent: float = 0.5
    widths: tuple[int, ...] = (8, 16, 32, 64)
    depths: tuple[int, ...] = (2, 4, 8, 16)
    limit_depths: tuple[int, ...] = (16, 32)
    networks_per_unit: int = 32
    least: int = 512
    most: int = 4096
    sites: int = 2000
    repeats: int = 8
    exact_depths: tuple[int, ...] = (2, 4, 8, 16, 32, 64)

    def __post_init__(self) -> None:
        """Says what cannot be run, before anything is."""
        if any(2 * one != other for one, other in zip(self.depths, self.depths[1:], strict=False)):
            raise ValueError(f"depths must double from one to the next; got {self.depths}.")
        for name, least in (("widths", 3), ("depths", 3), ("exact_depths", 3)):
            values = getattr(self, name)
            if len(values) < least or values[0] < 1 or list(values) != sorted({*values}):
                raise ValueError(f"{name} must be {least} or more increasing numbers; got {values}.")
        limits = self.limit_depths
        nested = len(limits) >= 2 and limits[0] >= 1 and list(limits) == sorted({*limits})
        if not nested or any(limits[-1] % depth or depth % limits[0] for depth in limits):
            raise ValueError(
                "limit_depths must be two or more increasing numbers, each a multiple of the first and a "
                f"divisor of the last; got {limits}."
            )
        if self.exact_depths[-3:] != tuple(self.exact_depths[-1] // k for k in (4, 2, 1)):
            raise ValueError(f"the last three exact_depths must double; got {self.exact_depths}.")
        if any(limits[-1] % depth for depth in self.depths):
            raise ValueError(
                f"depths must divide the last of limit_depths, {limits[-1]}: all share their noise; got "
                f"{self.depths}."
            )
        counts = ("samples", "test_samples", "steps")
        if min(getattr(self, name) for name in counts) < 1 or self.seed < 0:
            raise ValueError(
                f"{', '.join(counts)} must be at least 1, and seed not negative; got "
                f"{[getattr(self, name) for name in counts]} and {self.seed}."
            )
        if self.branch_exponent not in (0.5, 1.0):
            raise ValueError(f"branch_exponent must be 0.5 or 1; got {self.branch_exponent}.")
        if self.networks_per_unit < 3 or not cells.BLOCKS <= self.least <= self.most:
            raise ValueError(
                f"networks_per_unit must be 3 or more, least {cells.BLOCKS} or more and at most most; got "
                f"{self.networks_per_unit}, {self.least} and {self.most}."
            )
        if self.sites < 4 or self.sites % 4 or self.repeats < 3:
            raise ValueError(
                f"sites must be a multiple of 4 and repeats 3 or more; got {self.sites} and {self.repeats}."
            )
        positive = (self.gamma0, self.rate, self.branch_scale)
        if not all(0 < number < math.inf for number in positive):
            raise ValueError(f"gamma0, rate and branch_scale must be positive and finite; got {positive}.")

    def networks(self, width: int) -> int:
        """Networks of a width, a multiple of the blocks."""
        wanted = min(max(self.networks_per_unit * width, self.least), self.most)
        return cells.BLOCKS * (wanted // cells.BLOCKS)


PRESETS = {
    "smoke": Config(
        "smoke", samples=2, test_samples=1, steps=3, widths=(8, 16, 32), depths=(1, 2, 4),
        limit_depths=(4, 8), networks_per_unit=8, least=256, sites=400, repeats=4,
        exact_depths=(4, 8, 16, 32, 64),
    ),
    "default": Config(),
    "full": Config(
        "full", samples=8, test_samples=4, steps=20, widths=(8, 16, 32, 64, 128, 256),
        depths=(2, 4, 8, 16, 32, 64), limit_depths=(32, 64), networks_per_unit=64, least=2048,
        most=16384, sites=16000, repeats=16,
    ),
}  # fmt: skip


def run(config: Config, directory: Path) -> Summary:
    """Runs the experiment, or what is missing of it, and judges it."""
    data = load(config)
    with open_results(directory, "depth_limit", config, fixed={"data": data.fingerprint()}) as results:
        plan = cells.plan(config)
        missing = [cell for cell in plan if not results.find(**cell.key)]
        done = sum(cell.work for cell in plan) - sum(cell.work for cell in missing)
        problem = make_problem(config, data)
        with Progress(sum(cell.work for cell in plan), "depth_limit", done=done) as progress:
            for cell in missing:
                row = cells.solve(config, problem, cell)
                results.append(row)
                progress.finished(cells.describe(row), cell.work)
        return finish(config, problem, results)


def finish(config: Config, problem: ResidualProblem, results: Results) -> Summary:
    """Judges and draws what the rows hold."""
    summary = report.summarise(config, problem, results)
    results.finish(summary)
    return summary


def load(config: Config) -> Dataset:
    """Returns the images."""
    return dmft_digits.load(config.seed, config.samples, config.test_samples, (3, 8))


def make_problem(config: Config, data: Dataset) -> ResidualProblem:
    """Returns what is solved, one branch deep; cells take the depth that is theirs."""
    return ResidualProblem(
        **dmft_digits.of_problem(data),
        steps=config.steps,
        learning_rate=config.rate,
        gamma0=config.gamma0,
        branch_scale=config.branch_scale,
        branch_exponent=config.branch_exponent,
    )


if __name__ == "__main__":
    sys.exit(main("depth_limit", PRESETS, run))
