"""Where does the best learning rate of one step go as a deep linear network grows?

    python -m experiments.one_step_rate                    # two classes of digits, two cores, a minute or two
    python -m experiments.one_step_rate --data gaussian    # a linear teacher on Gaussian inputs

Draws weights at every width, takes one step of gradient descent with exact arithmetic in the learning rate
(the loss after it is a polynomial), and finds the rate at which the loss is smallest. Expected: under muP it
converges to the constant that docs/one_step.md derives, its distance falling like width^-1/2; under SP it
falls like 1/width. Both when only hidden matrices take the step, as in the paper, and when all do.

Reference: A Proof of Learning Rate Transfer under muP, arXiv 2511.01734.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments import one_step_report
from widelimit.compare import LinearProblem, LinearWeights, Summary, best_rate, limiting_rate, loss_polynomial
from widelimit.scaling import Parametrization, mup, standard
from widelimit.training import Progress, main, open_results
from widelimit.training.data import Dataset, digits, gaussian_teacher

PARAMETRIZATIONS: Mapping[str, Parametrization] = {"mup": mup(), "standard": standard()}
TRAINED = {"hidden": ("hidden",), "all": ("input", "hidden", "output")}


@dataclasses.dataclass(frozen=True)
class Config:
    """The best learning rate of one step of gradient descent on a deep linear network.

    Args:
        preset: the preset this config started from.
        seed: of data and initial weights; cell s draws its weights with seed + s, anew at every width.
        data: digits (two classes, targets -1 and +1) or gaussian (a linear teacher on Gaussian inputs).
        classes: the two digits to tell apart.
        samples: training samples; the step is full batch.
        dimension: number of Gaussian inputs.
        widths: units per hidden layer, increasing.
        base_width: where SP and muP are the same network.
        hidden_layers: number of width x width matrices.
        seeds: draws of the weights per width.
    """

    preset: Literal["smoke", "default", "full"] = "default"
    seed: int = 0
    data: Literal["digits", "gaussian"] = "digits"
    classes: tuple[int, int] = (3, 8)
    samples: int = 64
    dimension: int = 16
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048)
    base_width: int = 64
    hidden_layers: int = 3
    seeds: int = 64

    def __post_init__(self) -> None:
        """Says what cannot be run, before anything is."""
        if len(self.widths) < 3 or min(self.widths) < 1 or list(self.widths) != sorted({*self.widths}):
            raise ValueError(f"widths must be at least three increasing positive numbers; got {self.widths}.")
        if self.base_width < 1 or self.hidden_layers < 1:
            raise ValueError(
                f"base_width and hidden_layers must be at least 1; got {self.base_width} and "
                f"{self.hidden_layers}."
            )
        if self.seeds < 2 or self.seed < 0:
            raise ValueError(
                f"an error bar needs seeds >= 2, and seed must not be negative; got {self.seeds} and "
                f"{self.seed}."
            )


PRESETS = {
    "smoke": Config("smoke", widths=(32, 64, 128, 256), base_width=32, samples=24, seeds=16),
    "default": Config(),
    "full": Config("full", samples=256, widths=(64, 128, 256, 512, 1024, 2048, 4096), seeds=128),
}


def run(config: Config, directory: Path) -> Summary:
    """Runs the experiment, or what is missing of it, and judges it."""
    data = _load(config)
    problems = {name: _problem(config, data, roles) for name, roles in TRAINED.items()}
    limits = {name: limiting_rate(problem, mup()) for name, problem in problems.items()}
    with open_results(directory, "one_step_rate", config) as results:
        done = {(row["width"], row["seed"]) for row in results.rows}
        total = config.seeds * sum(width**2 for width in config.widths)
        with Progress(total, "one_step_rate", done=sum(width**2 for width, _ in done)) as progress:
            for width in config.widths:
                for seed in range(config.seed, config.seed + config.seeds):
                    if (width, seed) not in done:
                        results.append(*_cell(problems, width, seed))
                        progress.advance(width**2)
                rates = [
                    row["rate"] for row in results.find(width=width, parametrization="mup", trained="all")
                ]
                distance = np.sqrt(np.mean((np.array(rates) / limits["all"] - 1) ** 2))
                progress.finished(
                    f"width {width:>5}: muP's best rate is {distance:.1%} from its limit (rms)", 0
                )
        summary = one_step_report.summarise(config, results, limits)
        results.finish(summary)
    return summary


def _load(config: Config) -> Dataset:
    """Returns the data; digits as in ``lr_transfer``: rare pixels count with a std of one grey level."""
    if config.data == "gaussian":
        return gaussian_teacher(config.seed, samples=config.samples, dimension=config.dimension)
    return digits(
        config.seed, samples=config.samples, classes=config.classes, targets="signs", smallest_std=1.0
    )


def _problem(config: Config, data: Dataset, trained: tuple[str, ...]) -> LinearProblem:
    """Returns the step on all samples, in double precision."""
    return LinearProblem(
        inputs=data.train_inputs.astype(np.float64),
        targets=data.train_targets[:, 0].astype(np.float64),
        hidden_layers=config.hidden_layers,
        base_width=config.base_width,
        trained=trained,
    )


def _cell(problems: Mapping[str, LinearProblem], width: int, seed: int) -> list[dict[str, Any]]:
    """Returns a row per parametrization and trained set, all from one draw of the weights."""
    started = time.monotonic()
    weights = LinearWeights.draw(next(iter(problems.values())), width, np.random.default_rng([seed, width]))
    rows: list[dict[str, Any]] = []
    for parametrization, rules in PARAMETRIZATIONS.items():
        for trained, problem in problems.items():
            rate = best_rate(loss_polynomial(problem, rules, weights))
            case = {"parametrization": parametrization, "trained": trained, "width": width, "seed": seed}
            rows.append({**case, "rate": rate})
    seconds = (time.monotonic() - started) / len(rows)
    return [{**row, "seconds": seconds} for row in rows]


if __name__ == "__main__":
    sys.exit(main("one_step_rate", PRESETS, run))
