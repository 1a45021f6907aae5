"""When does a network follow its kernel, when does it learn features, and which of the two predicts better?

    python -m experiments.lazy_or_rich                    # digits, two cores, three minutes
    python -m experiments.lazy_or_rich --preset smoke     # seconds

Part one trains one network at many output scales: F = scale (h(w) - h(w_0)) at learning rate / scale^2. A
large scale is lazy: the kernel moves like 1/scale, and so does F away from what the kernel of the start
predicts. A small one is rich: the kernel turns towards the labels. Part two puts kernel regression of the
infinite network, the finite lazy one, the feature-learning one and a tuned support-vector machine on one axis
of training-set size. Expected: every claim holds; both kernel regressions reach the machine on 1,000 digits.

Reference: Chizat, Oyallon and Bach, On Lazy Training in Differentiable Programming, arXiv 1812.07956.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from experiments import lazy_or_rich_networks as networks
from experiments import lazy_or_rich_report as report
from experiments import lazy_or_rich_sizes as sizes
from experiments import lazy_or_rich_tables as tables
from experiments.lazy_or_rich_networks import Descent, Schedule
from widelimit.compare import Summary
from widelimit.kernels import analytic
from widelimit.kernels.spectra import alignment, cka_gap, relative_change
from widelimit.training import Progress, Results, main, open_results
from widelimit.training.data import digits

IMAGES = 1797
GREY = 4.0  # grey levels: the unit of a pixel, which makes |x|^2 / D about 1


@dataclasses.dataclass(frozen=True)
class Config:
    """Lazy or rich: an output scale swept, and predictors side by side.

    Args:
        preset: the preset this config started from.
        seed: of data splits and initial weights.
        width: units of each hidden layer (erf).
        depth: number of hidden layers.
        steps: full-batch steps of gradient descent, the same for every network.
        momentum: heavy ball.
        rate: learning rate, as a share of the largest stable one of the infinite network.
        samples: training samples of the scale sweep.
        probe: how many of them the kernel is measured on.
        log2_scales: log2 of the output scales, increasing.
        lazy_from: log2 of the smallest scale at which laws of the lazy end are fitted.
        seeds: initial weights per scale.
        sizes: training-set sizes of the comparison, increasing.
        splits: random splits into training and test images per size.
        test_samples: test images; at most those outside the largest training set.
        lazy_scale: output scale of the lazy network of the comparison.
        gamma0: of the feature-learning one, whose output scale is 1 / (gamma0 sqrt(width)): mean-field.
        rich_rates: learning rates to choose from for the latter, in the unit of ``rate``.
    """

    preset: Literal["smoke", "default", "full"] = "default"
    seed: int = 0
    width: int = 256
    depth: int = 2
    steps: int = 300
    momentum: float = 0.95
    rate: float = 0.25
    samples: int = 128
    probe: int = 64
    log2_scales: tuple[int, ...] = (-5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6)
    lazy_from: int = 3
    seeds: int = 6
    sizes: tuple[int, ...] = (32, 64, 125, 250, 500, 1000)
    splits: int = 5
    test_samples: int = 797
    lazy_scale: float = 16.0
    gamma0: float = 1.0
    rich_rates: tuple[float, ...] = (0.25, 0.5, 0.75)

    def __post_init__(self) -> None:
        """Says what cannot be run, before anything is."""
        for name, least in (("log2_scales", 3), ("sizes", 1)):
            values = getattr(self, name)
            if len(values) < least or list(values) != sorted({*values}):
                raise ValueError(f"{name} must be {least} or more increasing numbers; got {values}.")
        if sum(scale >= self.lazy_from for scale in self.log2_scales) < 3:
            raise ValueError(
                f"a law of the lazy end needs three of log2_scales from lazy_from = {self.lazy_from} up; got "
                f"{self.log2_scales}."
            )
        counts = ("width", "depth", "steps", "test_samples")
        if min(getattr(self, name) for name in counts) < 1 or self.seed < 0:
            raise ValueError(
                f"{', '.join(counts)} must be at least 1, and seed 0; got "
                f"{[getattr(self, name) for name in counts]} and {self.seed}."
            )
        if min(self.seeds, self.splits) < 2:
            raise ValueError(
                f"error bars need two seeds and two splits or more; got {self.seeds} and {self.splits}."
            )
        if not 2 * sizes.CLASSES <= self.sizes[0] or not 3 <= self.probe <= self.samples:
            raise ValueError(
                f"sizes must start at {2 * sizes.CLASSES} or more, and probe lie between 3 and samples; got "
                f"{self.sizes}, {self.probe} and {self.samples}."
            )
        room = IMAGES - max(*self.sizes, self.samples)
        if self.test_samples > room:
            raise ValueError(
                f"{IMAGES} digits leave {max(room, 0)} for testing beside the largest training set; got "
                f"test_samples {self.test_samples}."
            )
        if not 0 <= self.momentum < 1 or not self.rich_rates:
            raise ValueError(
                f"momentum must lie in [0, 1), and rich_rates hold a rate; got {self.momentum} and "
                f"{self.rich_rates}."
            )
        positive = (self.rate, self.lazy_scale, self.gamma0, *self.rich_rates)
        if not all(0 < number < math.inf for number in positive):
            raise ValueError(
                f"rate, lazy_scale, gamma0 and rich_rates must be positive and finite; got {positive}."
            )


PRESETS = {
    "smoke": Config(
        "smoke", width=64, depth=1, steps=100, samples=40, probe=24, log2_scales=(-3, 3, 4, 5), seeds=3,
        sizes=(24, 48), splits=2, test_samples=200, rich_rates=(0.25, 0.5),
    ),
    "default": Config(),
    "full": Config(
        "full", width=1024, samples=256, seeds=16, splits=20, rich_rates=(0.125, 0.25, 0.5, 0.75)
    ),
}  # fmt: skip


def run(config: Config, directory: Path) -> Summary:
    """Runs the experiment, or what is missing of it, and judges it."""
    data = digits(config.seed, smallest_std=16.0).fingerprint()
    with open_results(directory, "lazy_or_rich", config, fixed={"data": data}) as results:
        trainings = 2 + (1 - sizes.VALIDATION) * len(config.rich_rates)
        scale_work, size_work = config.samples, {n: trainings * n + 200 for n in config.sizes}
        total = config.seeds * len(config.log2_scales) * scale_work + config.splits * sum(size_work.values())
        done: float = scale_work * len(results.find(part="scale"))
        done += sum(size_work[row["samples"]] for row in results.find(part="size", predictor="svm"))
        with Progress(total, "lazy_or_rich", done=done) as progress:
            _sweep_scales(config, results, progress)
            for samples in config.sizes:
                for split in range(config.splits):
                    if not results.find(part="size", samples=samples, split=split):
                        results.append(*_compare(config, samples, split))
                        progress.advance(size_work[samples])
                progress.finished(tables.size_line(results, samples))
        summary = report.summarise(config, results)
        results.finish(summary)
    return summary


def load(config: Config, split: int, samples: int) -> sizes.Sample:
    """Returns the first samples of a split, and its test images, which are the same for every size.

    Pixels less their mean over the split's largest training set, in units of four grey levels.
    """
    largest = max(*config.sizes, config.samples)
    data = digits(
        config.seed + split,
        test_fraction=(IMAGES - largest) / IMAGES,
        samples=samples,
        test_samples=config.test_samples,
        smallest_std=16.0,  # of at most 8 grey levels that a pixel can have: all are divided by 16
    )
    unit = np.float32(16 / GREY)
    return sizes.Sample(
        unit * data.train_inputs, data.train_targets, unit * data.test_inputs, data.test_targets
    )


def _sweep_scales(config: Config, results: Results, progress: Progress) -> None:
    """Part one, seed by seed: all scales of a seed start from the same weights."""
    sample = load(config, 0, config.samples)
    shape = networks.describe(config.width, config.depth)
    share = Schedule(config.rate, config.momentum, config.steps)
    schedule = sizes.stable_rate(analytic.kernel(shape, sample.x, get="ntk"), share)
    for seed in range(config.seeds):
        done = {row["log2_scale"] for row in results.find(part="scale", seed=seed)}
        missing = [scale for scale in config.log2_scales if scale not in done]
        if missing:
            start = networks.draw(shape, config.seed, 0, seed)
            for row in _scales(config, sample, networks.forward(shape), start, schedule, missing):
                results.append({"part": "scale", "seed": seed, **row})
                progress.advance(config.samples)
    progress.finished(tables.scale_line(results))


def _scales(
    config: Config,
    sample: sizes.Sample,
    apply: networks.Apply,
    start: Any,
    schedule: Schedule,
    missing: list[int],
) -> Iterator[dict[str, Any]]:
    """One network at the scales that are missing: a row each."""
    # Descents are under way side by side while the prediction, which all of them share, is computed.
    started = time.monotonic()
    ends = [networks.descend(apply, start, sample.x, sample.y, 2.0**scale, schedule) for scale in missing]
    own = networks.own_prediction(apply, start, sample.x, sample.y, sample.x_test, schedule)
    probe = sample.x[: config.probe]
    zero = jax.tree.map(np.zeros_like, start)
    before = networks.trace_kernel(apply, start, zero, 1.0, probe)
    for scale, end in zip(missing, ends, strict=True):
        row = _measure(config, sample, apply, start, end, 2.0**scale, own, before)
        yield {"log2_scale": scale, **row, "seconds": round(time.monotonic() - started, 4)}
        started = time.monotonic()


def _measure(
    config: Config,
    sample: sizes.Sample,
    apply: networks.Apply,
    start: Any,
    end: Descent,
    scale: float,
    own: np.ndarray,
    before: np.ndarray,
) -> dict[str, Any]:
    """What training did to the function and to its kernel; nothing, where it diverged."""
    losses = networks.losses(end, sample.y)
    if not np.isfinite(losses).all():
        return {"diverged": True, **dict.fromkeys(tables.MEASURED)}
    probe, labels = sample.x[: config.probe], sample.y[: config.probe]
    after = networks.trace_kernel(apply, start, end.offset, scale, probe)
    test = networks.outputs(apply, start, end.offset, scale, sample.x_test)
    fitted = np.flatnonzero(losses <= tables.FITTED * losses[0])
    return {
        "diverged": False,
        "train_loss": float(losses[-1]),
        "train_accuracy": sizes.share_right(np.asarray(end.train[-1]), sample.labels),
        "steps_to_fit": int(fitted[0]) if fitted.size else None,
        "test_error": 1 - sizes.share_right(test, sample.labels_test),
        "own_test_error": 1 - sizes.share_right(own, sample.labels_test),
        "own_distance": float(np.linalg.norm(test - own) / np.linalg.norm(own)),
        "kernel_change": relative_change(after, before),
        "cka_gap": cka_gap(after, before),
        "alignment_before": alignment(before, labels, centred=True),
        "alignment": alignment(after, labels, centred=True),
    }


def _compare(config: Config, samples: int, split: int) -> list[dict[str, Any]]:
    """Part two: a row per predictor on one training set."""
    started = time.monotonic()
    setting = sizes.Networks(
        shape=networks.describe(config.width, config.depth),
        seed=(config.seed, 1, split, samples),
        schedule=Schedule(config.rate, config.momentum, config.steps),
        lazy_scale=config.lazy_scale,
        rich_scale=1 / (config.gamma0 * math.sqrt(config.width)),
        shares=config.rich_rates,
    )
    rows = sizes.compare(load(config, split, samples), setting)
    seconds = round((time.monotonic() - started) / len(rows), 4)
    case = {"part": "size", "samples": samples, "split": split}
    return [{**case, **row, "seconds": seconds} for row in rows]


if __name__ == "__main__":
    sys.exit(main("lazy_or_rich", PRESETS, run))
