"""Do finite networks that learn features converge to dynamical mean-field theory, and at which rates?

    python -m experiments.dmft_limit                     # digits, two cores, less than five minutes
    python -m experiments.dmft_limit --preset smoke      # seconds
    python -m experiments.dmft_limit --preset full       # more images, classes, steps and widths, for a GPU

Trains muP networks of growing width on digits in a lazy and in a rich regime, and holds loss curves, held-out
predictions, feature kernels, gradient kernels, tangent kernels and densities against three predictions of
infinite width: DMFT, DMFT without its response functions, and the NTK. Expected: every claim holds. A single
network misses DMFT by width^-1/2 and the mean of many by width^-1, until DMFT's own Monte-Carlo error; in the
rich regime the NTK is far off, and leaving out the responses is measurably wrong.

Reference: Bordelon & Pehlevan, Self-Consistent Dynamical Field Theory of Kernel Evolution in Wide Neural
Networks, arXiv 2205.09653.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from pathlib import Path
from typing import Any, Literal

from experiments import dmft_digits
from experiments import dmft_limit_figures as figures
from experiments import dmft_limit_report as report
from experiments.dmft_limit_regimes import REGIMES, Found, Regime, describe
from widelimit import dmft
from widelimit.compare import Summary, finite_ensemble
from widelimit.training import Progress, Results, main, open_results
from widelimit.training.data import Dataset


@dataclasses.dataclass(frozen=True)
class Config:
    """Convergence of finite networks to the feature-learning limit.

    Args:
        preset: the preset this config started from.
        seed: of the data split, of all initial weights and of DMFT's noise.
        classes: the digits to tell apart; two are labelled -1 and +1, more one-hot.
        samples: training images P; steps are full batch.
        test_samples: held-out images.
        depth: number of hidden layers (tanh).
        lazy_gamma0: feature-learning strength of the lazy regime.
        rich_gamma0: of the rich regime.
        rate: learning rate eta; weights move by eta gamma0^2 N times the gradient.
        steps: number of steps T.
        widths: units per hidden layer, increasing.
        seeds_per_unit: networks per unit of width: the mean's bias needs three at the very least.
        most: no more networks than this per width.
        sites: samples of each replica of DMFT.
        replicas: independent solutions, from which DMFT's error comes.
    """

    preset: Literal["smoke", "default", "full"] = "default"
    seed: int = 0
    classes: tuple[int, ...] = (3, 8)
    samples: int = 8
    test_samples: int = 4
    depth: int = 3
    lazy_gamma0: float = 0.1
    rich_gamma0: float = 2.0
    rate: float = 0.2
    steps: int = 40
    widths: tuple[int, ...] = (8, 16, 32, 64, 128)
    seeds_per_unit: int = 64
    most: int = 4096
    sites: int = 8000
    replicas: int = 8

    def __post_init__(self) -> None:
        """Says what cannot be run, before anything is."""
        if len(self.widths) < 3 or self.widths[0] < 2 or list(self.widths) != sorted({*self.widths}):
            raise ValueError(
                f"widths must be three or more increasing numbers, 2 or more; got {self.widths}."
            )
        counts = ("samples", "test_samples", "depth", "steps")
        if min(getattr(self, name) for name in counts) < 1 or self.seed < 0:
            raise ValueError(
                f"{', '.join(counts)} must be at least 1, and seed not negative; got "
                f"{[getattr(self, name) for name in counts]} and {self.seed}."
            )
        if len(self.classes) < 2:
            raise ValueError(f"classes must be two digits or more; got {self.classes}.")
        if self.seeds_per_unit < 3 or self.most < 3 * self.widths[-1]:
            raise ValueError(
                "the mean's bias needs three networks per unit of width: seeds_per_unit of 3 or more and "
                f"most of {3 * self.widths[-1]} or more; got {self.seeds_per_unit} and {self.most}."
            )
        if self.sites < 2 or self.sites % 2 or self.replicas < 2:
            raise ValueError(
                f"sites must be even and replicas 2 or more; got {self.sites} and {self.replicas}."
            )
        if not 0 < self.lazy_gamma0 < self.rich_gamma0 < math.inf or not 0 < self.rate < math.inf:
            raise ValueError(
                "lazy_gamma0 must be positive and below rich_gamma0, and rate positive; got "
                f"{self.lazy_gamma0}, {self.rich_gamma0} and {self.rate}."
            )

    def seeds(self, width: int) -> int:
        """Networks of a width."""
        return min(self.seeds_per_unit * width, self.most)


PRESETS = {
    "smoke": Config(
        "smoke", samples=3, test_samples=2, depth=2, steps=8, widths=(8, 16, 32), most=512, sites=2000,
        replicas=4,
    ),
    "default": Config(),
    "full": Config(
        "full", classes=(3, 5, 8), samples=24, test_samples=12, steps=100,
        widths=(16, 32, 64, 128, 256, 512), most=8192, sites=32768, replicas=16,
    ),
}  # fmt: skip


FIELDS = 2000  # sites of DMFT of which fields are kept, for densities
# How each prediction is solved, and with which share of the sites. Without responses only the kernel's own
# dynamics has the right lazy limit: the exact rule would lose what reaches f through them, at any gamma0.
# It is an Euler step, so that its own error is measured too, with responses.
STAGES: dict[str, tuple[int, dict[str, Any]]] = {
    "dmft": (1, {}),
    "none": (4, {"response": "none", "output_rule": "ntk_euler"}),
    "euler": (4, {"output_rule": "ntk_euler"}),
}


def run(config: Config, directory: Path) -> Summary:
    """Runs the experiment, or what is missing of it, and judges it."""
    data = load(config)
    with open_results(directory, "dmft_limit", config, fixed={"data": data.fingerprint()}) as results:
        work = _work(config)
        done = sum(work[row["stage"]] for row in results.rows)
        found = {}
        with Progress(len(REGIMES) * sum(work.values()), "dmft_limit", done=done) as progress:
            for regime in REGIMES:
                problem = make_problem(config, data, getattr(config, f"{regime}_gamma0"))
                found[regime] = _solve(config, results, progress, problem, regime)
        whole = Found(config, found["lazy"], found["rich"], data.test_targets[:, 0], results.rows)
        captions = figures.save_all(results, whole)
        summary = report.summarise(whole, captions, results.seconds)
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


def _work(config: Config) -> dict[str, float]:
    """Rough flops of each stage, for the remaining time."""
    points = config.samples + config.test_samples
    outputs = 1 if len(config.classes) == 2 else len(config.classes)
    side = points * (config.steps + 1)
    sites = 2.0 * 8 * config.depth * config.replicas * config.sites * side**2 * outputs
    networks = sum(6.0 * n**2 * config.seeds(n) for n in config.widths) * config.depth * side * (1 + outputs)
    return {name: sites / share for name, (share, _) in STAGES.items()} | {"networks": networks}


def _solve(config: Config, results: Results, progress: Progress, problem: dmft.Problem, name: str) -> Regime:
    """One regime: predictions of infinite width, and networks; what is done is read."""
    work, place = _work(config), results.directory
    solutions = {}
    for stage, (share, options) in STAGES.items():
        file = place / f"{name}-{stage}.npz"
        if not results.find(regime=name, stage=stage):
            started = time.monotonic()
            sites = 2 * (config.sites // (2 * share))
            solution = dmft.mlp(
                problem,
                samples=sites,
                replicas=config.replicas,
                seed=config.seed,
                **options,
                fields=min(FIELDS, sites),
                directory=place / f"{name}-{stage}-replicas",
            )
            solution.save(file)
            seconds = round(time.monotonic() - started, 3)
            results.append({"regime": name, "stage": stage, "seconds": seconds})
            progress.finished(describe(name, stage, solution, seconds), work[stage])
        solutions[stage] = dmft.Solution.load(file)
    started = time.monotonic()
    ensembles = finite_ensemble(
        problem,
        config.widths,
        [config.seeds(width) for width in config.widths],
        seed=config.seed,
        times=kernel_times(config),
        fields=[0] * (len(config.widths) - 1) + [64],
        directory=place / f"{name}-networks",
    )
    if not results.find(regime=name, stage="networks"):
        seconds = round(time.monotonic() - started, 3)
        results.append({"regime": name, "stage": "networks", "seconds": seconds})
        last = ensembles.solution(config.widths[-1])
        progress.finished(
            describe(name, f"networks of width {config.widths[-1]}", last, seconds), work["networks"]
        )
    return Regime(
        name, problem, solutions["dmft"], solutions["none"], solutions["euler"], dmft.lazy(problem), ensembles
    )


def kernel_times(config: Config) -> tuple[int, ...]:
    """Steps at which kernels are compared: the start, the fast phase, the end."""
    return tuple(sorted({0, config.steps // 8, config.steps // 4, config.steps // 2, config.steps}))


if __name__ == "__main__":
    sys.exit(main("dmft_limit", PRESETS, run))
