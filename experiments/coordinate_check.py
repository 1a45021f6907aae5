"""Do activations and their changes scale with width as the theory predicts, layer by layer?

    python -m experiments.coordinate_check                   # digits, two cores, about two minutes
    python -m experiments.coordinate_check --preset smoke    # seconds

Trains an MLP of growing width for a few steps, under every parametrization, with SGD and Adam, and fits the
exponent of every layer's size and of its change. Predictions are computed from the exponent tables before the
run. The first step is taken apart: what the update of one parameter changes in one layer is one power of the
width, whatever grows or vanishes beside it. Expected: every claim holds; under muP nothing moves with width.

Reference: Yang et al., arXiv 2203.03466, Appendix D.1; Everett et al., arXiv 2407.05872, Section 3.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from experiments import coordinate_figures, coordinate_network, coordinate_report, coordinate_theory
from widelimit.compare import Summary
from widelimit.models import MLPConfig
from widelimit.scaling import standard
from widelimit.training import Progress, Results, main, open_results
from widelimit.training.data import digits


@dataclasses.dataclass(frozen=True)
class Config:
    """The coordinate check.

    Args:
        preset: the preset this config started from.
        seed: of the data split and of all initial weights.
        widths: units of each hidden layer, increasing.
        base_width: where the relative rules are neutral and the rates below apply unscaled.
        depth: number of hidden layers (tanh).
        parametrizations: any of standard (one rate for all layers), standard_full (per-layer rates), ntk,
            mean_field, mup_3, mup_8, mup_9 (the forms of Tables 3, 8 and 9).
        optimizers: any of sgd, adam.
        seeds: independent cells per width, from which the error bars come.
        networks: a cell is the geometric mean over up to so many networks: largest width / width of them,
            since narrow networks fluctuate more and cost less.
        batch_size: samples per step; sizes are measured on the first batch.
        steps: optimizer steps at the ordinary rate.
        rate_sgd: ordinary learning rate of SGD.
        rate_adam: ordinary learning rate of Adam.
        stderr: standard error of an exponent that the seeds are meant to reach; tolerances follow from it.
    """

    preset: Literal["smoke", "default", "full"] = "default"
    seed: int = 0
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024)
    base_width: int = 16
    depth: int = 3
    parametrizations: tuple[str, ...] = tuple(coordinate_theory.CASES)
    optimizers: tuple[str, ...] = ("sgd", "adam")
    seeds: int = 28
    networks: int = 16
    batch_size: int = 16
    steps: int = 4
    rate_sgd: float = 0.1
    rate_adam: float = 2.0**-8
    stderr: float = 0.02

    def __post_init__(self) -> None:
        """Says what cannot be run, before anything is."""
        for field, known in (
            ("parametrizations", coordinate_theory.CASES),
            ("optimizers", coordinate_network.OPTIMIZERS),
        ):
            chosen = getattr(self, field)
            if not chosen or not {*chosen} <= {*known} or len({*chosen}) != len(chosen):
                raise ValueError(f"{field} must be among {', '.join(known)}, each once; got {chosen}.")
        if len(self.widths) < 3 or min(self.widths) < 1 or list(self.widths) != sorted({*self.widths}):
            raise ValueError(
                "an exponent with its finite-width correction needs three or more increasing widths; got "
                f"{self.widths}."
            )
        counts = ("base_width", "depth", "networks", "batch_size", "steps")
        if self.seeds < 2 or min(getattr(self, name) for name in counts) < 1:
            raise ValueError(
                f"error bars need seeds >= 2, and {', '.join(counts)} are at least 1; got seeds {self.seeds} "
                f"and {[getattr(self, name) for name in counts]}."
            )
        if not all(0 < number < math.inf for number in (self.rate_sgd, self.rate_adam, self.stderr)):
            raise ValueError(
                "rate_sgd, rate_adam and stderr must be positive and finite; got "
                f"{self.rate_sgd}, {self.rate_adam} and {self.stderr}."
            )


PRESETS = {
    "smoke": Config(
        preset="smoke",
        widths=(32, 128, 512),
        depth=2,
        parametrizations=("standard", "ntk", "mup_3"),
        seeds=16,
        steps=2,
        stderr=0.035,
    ),
    "default": Config(),
    "full": Config(
        preset="full", widths=(64, 128, 256, 512, 1024, 2048, 4096), seeds=32, steps=10, stderr=0.01
    ),
}


def run(config: Config, directory: Path) -> Summary:
    """Measures what is missing, and judges the whole."""
    batches = _batches(config)
    with open_results(directory, "coordinate_check", config) as results:
        # A network costs about the square of its width; so does, over all of its networks, a cell.
        work = {width: _networks(config, width) * (width**2 + 1e4) for width in config.widths}
        total = sum(work.values()) * len(config.optimizers) * config.seeds
        with Progress(total, "coordinate_check", done=_done(config, results, work)) as progress:
            for width in config.widths:
                for optimizer in config.optimizers:
                    _measure(config, results, width, optimizer, batches, (progress, work[width]))
        cells = coordinate_report.Cells(config, results.rows)
        judged = coordinate_report.judge(cells)
        captions = coordinate_figures.save_all(results, cells, *judged[:2])
        summary = coordinate_report.summarise(cells, judged, captions, results.seconds)
        results.finish(summary)
    return summary


def _batches(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """The first images of the training split, one batch a step; the same for all networks."""
    count = config.steps * config.batch_size
    data = digits(seed=config.seed, smallest_std=1.0)
    if count > len(data.train_inputs):
        raise ValueError(
            f"{config.steps} steps of {config.batch_size} samples need {count} of the "
            f"{len(data.train_inputs)} training images; lower steps or batch_size."
        )
    shape = (config.steps, config.batch_size)
    inputs = np.asarray(data.train_inputs[:count], np.float32).reshape(*shape, -1)
    return inputs, np.asarray(data.train_targets[:count], np.int32).reshape(shape)


def _networks(config: Config, width: int) -> int:
    """How many networks a cell of this width averages over."""
    return max(1, min(config.networks, config.widths[-1] // width))


def _done(config: Config, results: Results, work: dict[int, float]) -> float:
    """Work that an earlier process finished."""
    return sum(work[row["width"]] / len(config.parametrizations) for row in results.rows)


def _measure(
    config: Config,
    results: Results,
    width: int,
    optimizer: str,
    batches: tuple[np.ndarray, np.ndarray],
    progress: tuple[Progress, float],
) -> None:
    """All seeds of a width and an optimizer: one compiled program, a row per parametrization and seed."""
    # A kill may leave some rows of a seed: the others are measured again, which gives the same numbers.
    known = {(row["seed"], row["parametrization"]) for row in results.find(width=width, optimizer=optimizer)}
    cases = config.parametrizations
    missing = [seed for seed in range(config.seeds) if any((seed, case) not in known for case in cases)]
    if not missing:
        return
    started = time.monotonic()
    shape = MLPConfig(
        inputs=batches[0].shape[-1],
        outputs=coordinate_report.OUTPUTS,
        width=width,
        base_width=config.base_width,
        parametrization=standard(),
        depth=config.depth,
    )
    rate = np.float32({"sgd": config.rate_sgd, "adam": config.rate_adam}[optimizer])
    draw = coordinate_network.drawing(shape)
    program = coordinate_network.program(shape, optimizer)
    numbers = coordinate_network.stacked(cases, shape, optimizer)
    spread = config.widths[-1] / config.widths[0]
    shares = np.array(
        [coordinate_theory.trials(case, optimizer, config.depth, spread) for case in cases], np.float32
    )
    at_width = jax.random.fold_in(jax.random.key(config.seed), width)  # widths are independent of each other
    for seed in missing:
        keys = jax.random.split(jax.random.fold_in(at_width, seed), _networks(config, width))
        measured = program(draw(keys), batches, rate, numbers, shares)
        sizes = {name: np.asarray(value) for name, value in measured.items()}
        seconds = (time.monotonic() - started) / len(cases)
        results.append(
            *(
                {"width": width, "optimizer": optimizer, "parametrization": case, "seed": seed}
                | _fields(config, {name: value[i] for name, value in sizes.items()})
                | {"seconds": round(seconds, 4)}
                for i, case in enumerate(cases)
                if (seed, case) not in known
            )
        )
        progress[0].advance(progress[1])
        started = time.monotonic()
    progress[0].finished(f"width {width:>5} {optimizer}: {len(missing)} seeds")


def _fields(config: Config, sizes: dict[str, np.ndarray]) -> dict[str, Any]:
    """The sizes of one network by name: at first, after each step, and what each trial step changes."""
    fields = {}
    trials = coordinate_theory.trial_names(config.depth)
    for i, layer in enumerate(coordinate_theory.layers(config.depth)):
        fields[f"initial {layer}"] = float(sizes["initial"][i])
        fields |= {f"step {t + 1} {layer}": float(size) for t, size in enumerate(sizes["change"][i])}
        fields |= {
            f"{trial} -> {layer}": float(size) for trial, size in zip(trials, sizes["first"][i], strict=True)
        }
    return fields


if __name__ == "__main__":
    sys.exit(main("coordinate_check", PRESETS, run))
