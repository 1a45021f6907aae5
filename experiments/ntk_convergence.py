"""Does a network converge to its infinite limit as it grows, and at which rate?

    python -m experiments.ntk_convergence                    # digits, two cores, two minutes
    python -m experiments.ntk_convergence --preset smoke     # seconds
    python -m experiments.ntk_convergence --preset full      # wider, more networks, for a GPU

Trains tanh networks of growing width on two classes of digits by full-batch gradient descent. Under the NTK
parametrization kernel and features stop moving and the network becomes its own linearisation, each at its
rate; under muP nothing of that happens. An ensemble is held against the Gaussian process that theory predicts
for it at every step: its second moment by z-scores, and the bias of its mean, which falls like 1/width and is
seen through a control variate. Expected: every claim holds.

Reference: Jacot et al., arXiv 1806.07572; Lee et al., arXiv 1902.06720; Dyer & Gur-Ari, arXiv 1909.11304.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from experiments import ntk_convergence_figures as figures
from experiments import ntk_convergence_fits as fits
from experiments import ntk_convergence_networks as networks
from experiments import ntk_convergence_report as report
from experiments import ntk_convergence_rows as rows
from experiments import ntk_convergence_theory as theory
from widelimit.compare import Summary
from widelimit.training import Progress, Results, main, open_results
from widelimit.training.data import digits


@dataclasses.dataclass(frozen=True)
class Config:
    """Convergence of finite networks to the NTK limit.

    Args:
        preset: the preset this config started from.
        seed: of the data split and of all initial weights.
        classes: the two digits to tell apart.
        samples: training samples N; steps are full batch.
        test_samples: test samples.
        depth: number of hidden layers (tanh).
        rate: learning rate of the loss 1/(2N) sum (f - y)^2.
        steps: number of steps; the physical time is rate times steps.
        widths: units per hidden layer, increasing; rates are fitted from the second on.
        seeds: networks per width, each under both parametrizations.
        ensemble_widths: where an ensemble is held against the Gaussian process; the last is judged.
        ensemble: networks in each ensemble.
        mean_widths: small widths at which the bias of the ensemble's mean is measured, increasing.
        pilot: networks at each of the first two of these widths that tell how many more are needed.
        mean_stderr: standard error wanted of the exponent of the bias; sets how many networks there are.
        most: no more networks than this per width, whatever the power calculation says.
        batch: networks trained at once at widths up to 128, fewer at larger ones; more suit a GPU.
    """

    preset: Literal["smoke", "default", "full"] = "default"
    seed: int = 0
    classes: tuple[int, int] = (3, 8)
    samples: int = 16
    test_samples: int = 8
    depth: int = 2
    rate: float = 2.0
    steps: int = 16
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024)
    seeds: int = 64
    ensemble_widths: tuple[int, ...] = (32, 1024)
    ensemble: int = 512
    mean_widths: tuple[int, ...] = (16, 32, 64, 128)
    pilot: int = 4096
    mean_stderr: float = 0.03
    most: int = 100_000
    batch: int = 32

    def __post_init__(self) -> None:
        """Says what cannot be run, before anything is."""
        for name, least in (("widths", 3), ("ensemble_widths", 1), ("mean_widths", 2)):
            one = getattr(self, name)
            if len(one) < least or min(one) < 1 or list(one) != sorted({*one}):
                raise ValueError(f"{name} must be at least {least} increasing positive numbers; got {one}.")
        counts = ("samples", "test_samples", "depth", "steps", "batch")
        if min(getattr(self, name) for name in counts) < 1 or self.seed < 0:
            raise ValueError(
                f"{', '.join(counts)} must be at least 1, and seed not negative; got "
                f"{[getattr(self, name) for name in counts]} and {self.seed}."
            )
        chunk = rows.chunk(self.batch, self.mean_widths[0])
        if min(self.seeds, self.ensemble) < 2 or min(self.pilot, self.most) < 3 * chunk:
            raise ValueError(
                f"error bars need seeds and ensemble >= 2, and pilot and most three chunks of {chunk} "
                f"networks; got {self.seeds}, {self.ensemble}, {self.pilot} and {self.most}: raise them, or "
                "lower batch."
            )
        if not (0 < self.rate < math.inf and 0 < self.mean_stderr < math.inf):
            raise ValueError(
                f"rate and mean_stderr must be positive; got {self.rate} and {self.mean_stderr}."
            )


PRESETS = {
    "smoke": Config(
        "smoke",
        widths=(32, 64, 128),
        seeds=12,
        ensemble_widths=(64,),
        ensemble=128,
        mean_widths=(16, 32),
        pilot=512,
        mean_stderr=0.2,
        most=2048,
        batch=8,
    ),
    "default": Config(),
    "full": Config(
        "full",
        widths=(64, 128, 256, 512, 1024, 2048, 4096),
        seeds=128,
        ensemble_widths=(32, 256, 2048),
        ensemble=4096,
        mean_widths=(32, 64, 128, 256, 512),
        pilot=16384,
        mean_stderr=0.02,
        most=4_000_000,
        batch=512,
    ),
}


def run(config: Config, directory: Path) -> Summary:
    """Runs the experiment, or what is missing of it, and judges it."""
    data = digits(
        config.seed,
        samples=config.samples,
        test_samples=config.test_samples,
        classes=config.classes,
        targets="signs",
        smallest_std=1.0,  # rare pixels count with a std of one grey level, as in lr_transfer
    )
    task = theory.make_task(data, config.rate, config.steps)
    limit = theory.predict(task, config.depth)
    top = np.linalg.eigvalsh(limit.ntk[: task.train, : task.train])[-1] / task.train
    if config.rate * top >= 2:
        raise ValueError(
            f"rate times the kernel's largest eigenvalue / N must be below 2 for training to converge; got "
            f"{config.rate * top:.3g}: pass a rate below {2 / top:.3g}."
        )
    with open_results(directory, "ntk_convergence", config, fixed={"data": data.fingerprint()}) as results:
        stages = Stages(config, results, task, limit)
        with Progress(stages.total(), "ntk_convergence", done=stages.done()) as progress:
            stages.rates(progress)
            stages.ensembles(progress)
            stages.pilot(progress)
        needed = rows.power(config, results.find(stage="pilot"))
        with Progress(stages.total(needed), "bias of the mean", done=stages.done("mean")) as progress:
            stages.bias(progress, needed)
        found = fits.Found(config, task, limit, results.rows)
        captions = figures.save_all(results, found)
        summary = report.summarise(found, captions, results.seconds)
        results.finish(summary)
    return summary


class Stages:
    """The stages of a run; each does what is missing of it.

    Args:
        config: of the run.
        results: its directory.
        task: what is learned.
        limit: what is predicted.
    """

    def __init__(self, config: Config, results: Results, task: networks.Task, limit: theory.Limit) -> None:
        self._config, self._results, self._task, self._limit = config, results, task, limit

    def rates(self, progress: Progress) -> None:
        """Networks of every width under both parametrizations: a row each, two a cell."""
        config = self._config
        for width in config.widths:
            done = {row["seed"] for row in self._results.find(stage="rates", width=width)}
            for index in (index for index in range(config.seeds) if index not in done):
                started = time.monotonic()
                found = networks.measure(self._task, width, config.depth, config.seed, index)
                cell = rows.of_network(self._task, self._limit, found)
                case = {"stage": "rates", "width": width, "seed": index}
                seconds = (time.monotonic() - started) / len(cell)
                self._results.append(*({**case, **row, "seconds": seconds} for row in cell))
                progress.advance(_measuring(width))
            progress.finished(f"width {width:>5}: {config.seeds} networks under both parametrizations")

    def ensembles(self, progress: Progress) -> None:
        """Ensembles under the NTK parametrization, whole curves: a row per chunk of networks."""
        for width in self._config.ensemble_widths:
            self._train("ensemble", width, self._config.ensemble, progress)
            progress.finished(f"width {width:>5}: an ensemble of {self._config.ensemble}")

    def pilot(self, progress: Progress) -> None:
        """Ensembles that tell how many networks the bias of the mean needs, and are used for nothing else."""
        for width in self._config.mean_widths[:2]:
            self._train("pilot", width, self._config.pilot, progress)

    def bias(self, progress: Progress, needed: Mapping[int, int]) -> None:
        """Ensembles for the bias of the mean, as large as the pilot asks for."""
        for width, count in needed.items():
            self._train("mean", width, count, progress)
            progress.finished(f"width {width:>5}: {count} networks")

    def _train(self, stage: str, width: int, count: int, progress: Progress) -> None:
        """Trains what is missing of an ensemble, in chunks that do not depend on what is there."""
        config = self._config
        size = rows.chunk(config.batch, width)
        done = {row["chunk"] for row in self._results.find(stage=stage, width=width)}
        for chunk in (chunk for chunk in range(-(-count // size)) if chunk not in done):
            started = time.monotonic()
            indices = np.arange(chunk * size, (chunk + 1) * size)
            batch = rows.at_once(config.batch, width)
            outputs = networks.train(self._task, width, config.depth, config.seed, stage, indices, batch)
            moments = rows.of_curves if stage == "ensemble" else rows.of_deviations
            case = {"stage": stage, "width": width, "chunk": chunk, "networks": size}
            row = {**case, **moments(self._limit, outputs)}
            self._results.append({**row, "seconds": time.monotonic() - started})
            progress.advance(size * _training(width))

    def total(self, needed: Mapping[int, int] | None = None) -> float:
        """All the work before the power calculation, in units of a trained network's; or that after it."""
        if needed is not None:
            return sum(count * _training(width) for width, count in needed.items())
        config = self._config
        return (
            config.seeds * sum(map(_measuring, config.widths))
            + config.ensemble * sum(map(_training, config.ensemble_widths))
            + config.pilot * sum(map(_training, config.mean_widths[:2]))
        )

    def done(self, *stages: str) -> float:
        """The part of some stages' work that an earlier process finished; by default all before the last."""
        rows_of = [
            row for stage in stages or ("ensemble", "pilot") for row in self._results.find(stage=stage)
        ]
        pairs = self._results.find(stage="rates") if not stages else []
        return sum(row["networks"] * _training(row["width"]) for row in rows_of) + sum(
            _measuring(row["width"]) / 2 for row in pairs
        )


def _training(width: int) -> float:
    """Cost of training a network, in any unit: its parameters, and something for its vectors."""
    return float(width**2 + rows.OVERHEAD * width)


def _measuring(width: int) -> float:
    """Cost of two trained networks and their kernels, likewise."""
    return 6.0 * _training(width) + 1e5


if __name__ == "__main__":
    sys.exit(main("ntk_convergence", PRESETS, run))
