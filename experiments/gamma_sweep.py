"""From lazy to rich: what does gamma0 do to the loss, the kernels, their alignment and the time to fit?

    python -m experiments.gamma_sweep                     # digits, two cores, less than four minutes
    python -m experiments.gamma_sweep --preset smoke      # seconds
    python -m experiments.gamma_sweep --preset full       # more images, steps and widths, for a GPU

Solves one tanh network on digits at infinite width for gamma0 from 1/16 to 8, everything else fixed, and
trains finite networks beside it. Expected: every claim holds. At the lazy end kernels move by gamma0^2 and
networks fit when the NTK says so; at every gamma0 networks extrapolated to infinite width are where DMFT is:
losses, movement and alignment of the kernels, steps to fit.

Reference: Bordelon & Pehlevan, Self-Consistent Dynamical Field Theory of Kernel Evolution in Wide Neural
Networks, arXiv 2205.09653.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path
from typing import Literal

from experiments import dmft_digits
from experiments import gamma_sweep_cells as cells
from experiments import gamma_sweep_figures as figures
from experiments import gamma_sweep_report as report
from widelimit import dmft
from widelimit.compare import Summary
from widelimit.training import Progress, main, open_results
from widelimit.training.data import Dataset


@dataclasses.dataclass(frozen=True)
class Config:
    """From lazy to rich, DMFT beside finite networks.

    Args:
        preset: the preset this config started from.
        seed: of the data split, of all initial weights and of DMFT's noise.
        classes: the two digits to tell apart, labelled -1 and +1.
        samples: training images P; steps are full batch.
        test_samples: held-out images.
        depth: number of hidden layers (tanh).
        gamma0s: feature-learning strengths, increasing; the first three are taken for the lazy end.
        rate: learning rate eta, the same at every gamma0; weights move by eta gamma0^2 N times the gradient.
        steps: number of steps T.
        fitted: share of the loss at the start below which the images count as fitted.
        widths: units per hidden layer, increasing; the limit is extrapolated from all of them.
        units: networks of a width n are units / n: an error bar of equal size at every width.
        sites: samples of each replica of DMFT.
        replicas: independent solutions, from which DMFT's error comes.
    """

    preset: Literal["smoke", "default", "full"] = "default"
    seed: int = 0
    classes: tuple[int, int] = (3, 8)
    samples: int = 8
    test_samples: int = 4
    depth: int = 2
    gamma0s: tuple[float, ...] = (0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
    rate: float = 0.25
    steps: int = 40
    fitted: float = 0.1
    widths: tuple[int, ...] = (32, 64, 128)
    units: int = 196608
    sites: int = 2000
    replicas: int = 16

    def __post_init__(self) -> None:
        """Says what cannot be run, before anything is."""
        grid = list(self.gamma0s)
        if len(grid) < 4 or grid != sorted({*grid}) or not 0 < grid[0] <= grid[-1] < math.inf:
            raise ValueError(f"gamma0s must be four or more increasing positive numbers; got {self.gamma0s}.")
        if len(self.widths) not in (2, 3) or list(self.widths) != sorted({*self.widths}):
            raise ValueError(f"widths must be two or three increasing numbers; got {self.widths}.")
        whole = [self.units % (cells.BLOCKS * width) if width > 0 else 1 for width in self.widths]
        if self.units < 1 or any(whole):
            raise ValueError(
                f"units must be a multiple of {cells.BLOCKS} times every width; got {self.units} and widths "
                f"{self.widths}."
            )
        counts = ("samples", "test_samples", "depth", "steps")
        if min(getattr(self, name) for name in counts) < 1 or self.seed < 0:
            raise ValueError(
                f"{', '.join(counts)} must be at least 1, and seed not negative; got "
                f"{[getattr(self, name) for name in counts]} and {self.seed}."
            )
        if self.sites < 2 or self.sites % 2 or self.replicas < 4:
            raise ValueError(
                f"sites must be even and replicas 4 or more; got {self.sites} and {self.replicas}."
            )
        if not 0 < self.fitted < 1 or not 0 < self.rate < math.inf:
            raise ValueError(
                f"fitted must lie in (0, 1), and rate be positive; got {self.fitted} and {self.rate}."
            )

    def networks(self, width: int) -> int:
        """Networks of a width."""
        return self.units // width


PRESETS = {
    "smoke": Config(
        "smoke", samples=3, test_samples=2, gamma0s=(0.125, 0.25, 0.5, 2.0), steps=12, rate=0.5,
        widths=(16, 32), units=65536, sites=1000, replicas=8,
    ),
    "default": Config(),
    "full": Config(
        "full", samples=16, test_samples=8, depth=3, steps=60,
        gamma0s=tuple(2.0 ** (k / 2) for k in range(-8, 8)), widths=(64, 128, 256), units=1048576,
        sites=32768,
    ),
}  # fmt: skip


def run(config: Config, directory: Path) -> Summary:
    """Runs the experiment, or what is missing of it, and judges it."""
    data = load(config)
    with open_results(directory, "gamma_sweep", config, fixed={"data": data.fingerprint()}) as results:
        work = {stage: cells.work(config, stage) for stage in ("DMFT", "networks")}
        done = sum(work[row["stage"]] for row in results.rows if row["width"] in (0, config.widths[-1]))
        with Progress(len(config.gamma0s) * sum(work.values()), "gamma_sweep", done=done) as progress:
            for gamma0 in config.gamma0s:
                problem = make_problem(config, data, gamma0)
                for stage in work:
                    place = results.directory / f"unfinished-{stage}-{gamma0:g}"
                    if not results.find(stage=stage, gamma0=gamma0):
                        rows = cells.solve(config, problem, data.test_targets[:, 0], stage, place)
                        results.append(*rows)
                        progress.finished(report.describe(rows[-1]), work[stage])
                    cells.clear(place)
        problem = make_problem(config, data, config.gamma0s[0])
        found = report.gather(config, dmft.lazy(problem), data.test_targets[:, 0], results.rows)
        captions = figures.save_all(results, found)
        summary = report.summarise(found, captions, results.seconds)
        results.finish(summary)
    return summary


def load(config: Config) -> Dataset:
    """Returns the images."""
    return dmft_digits.load(config.seed, config.samples, config.test_samples, config.classes)


def make_problem(config: Config, data: Dataset, gamma0: float) -> dmft.Problem:
    """Returns what is solved."""
    return dmft.Problem(
        **dmft_digits.of_problem(data),
        depth=config.depth,
        gamma0=gamma0,
        learning_rate=config.rate,
        steps=config.steps,
    )


if __name__ == "__main__":
    sys.exit(main("gamma_sweep", PRESETS, run))
