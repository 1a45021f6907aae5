"""Does the best learning rate stay put as a network grows deeper, and wider?

    python -m experiments.depth_transfer                    # residual MLP on digits, two cores, some minutes
    python -m experiments.depth_transfer --preset full      # decoder on text, a GPU
    python -m experiments.depth_transfer --preset full --source my_texts --suffixes .md .txt

Trains one kind of network on a grid of (learning rate x seed) at every depth, at every width, and at one
shape that is larger in both, in the standard parametrization, muP, depth-muP and CompleteP, and finds the
optimum of every loss curve with its error bar. Adam, a rate that falls linearly to zero. Expected: over
depth, CompleteP's optimum stays and muP's falls; over width, muP's stays and the standard one falls.

Reference: Dey et al., arXiv 2505.01618; Yang et al., arXiv 2310.02244; Bordelon et al., arXiv 2309.16620.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path
from typing import Any, Literal

import jax

from experiments import depth_transfer_report as report
from experiments.decoder_sweep import check_source, parameter_count
from experiments.depth_transfer_networks import (
    PARAMETRIZATIONS,
    TASKS,
    Shape,
    Task,
    case_of,
    same_network,
)
from experiments.transfer_search import REACH, optimum, plan, search, window
from widelimit.compare import Optimum, Summary
from widelimit.training import Checkpoint, Mode, Progress, Results, main, open_results

_TEXT = (
    "source",
    "suffixes",
    "tokenizer",
    "vocabulary",
    "token_file",
    "context",
    "head_size",
    "compute_dtype",
    "validation_windows",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Learning-rate transfer across depth and width.

    Args:
        preset: the preset this config started from.
        seed: of data, initial weights and batches; cell s uses seed + s.
        model: a residual MLP on digits (mlp), or a decoder on text (decoder).
        depths: numbers of blocks, at the base width; the first is the base depth.
        widths: of the stream, at the base depth; the first is the base width.
        corner: a width and a depth, of a network that is larger in both; or none.
        parametrizations: any of standard, mup, depth_mup, completep.
        activation: of the blocks.
        batch_size: images or windows of text per step.
        steps: optimizer steps per cell.
        warmup: of them, those over which the rate rises; after them it falls linearly to zero.
        seeds: cells per learning rate.
        rates: learning rates in the window around the expected optimum.
        spacing: distance of neighbouring rates, in log2.
        center: log2 of the rate in the middle of the window at the base shape.
        source: text of the decoder: python (the installed library's source), a directory, or a file.
        suffixes: endings of the files of a directory; .txt if none is given.
        tokenizer: bytes, or bpe (a byte-pair encoding learned from the training part).
        vocabulary: pieces of bpe, or tokens of the token file; a default if not given.
        token_file: a file of tokens (raw uint16 as nanoGPT's, or .npy) in place of a text.
        context: tokens that the decoder sees at once.
        head_size: of an attention head; heads grow in number with the width.
        compute_dtype: of the decoder's matrix products.
        validation_windows: windows on which the decoder's loss after the last step is measured.
        checkpoint_seconds: time between two checkpoints of a running grid; 0 takes one after every chunk.
    """

    preset: Literal["smoke", "default", "full"] = "default"
    seed: int = 0
    model: Literal["mlp", "decoder"] = "mlp"
    depths: tuple[int, ...] = (2, 4, 8, 16, 32)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    corner: tuple[int, int] | None = (256, 16)
    parametrizations: tuple[str, ...] = ("standard", "mup", "depth_mup", "completep")
    activation: str = "relu"
    batch_size: int = 64
    steps: int = 20
    warmup: int = 0
    seeds: int = 8
    rates: int = 12
    spacing: float = 0.5
    center: float = -5.0
    source: str = "python"
    suffixes: tuple[str, ...] = ()
    tokenizer: Literal["bytes", "bpe"] = "bytes"
    vocabulary: int | None = None
    token_file: Path | None = None
    context: int = 256
    head_size: int = 32
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    validation_windows: int = 64
    checkpoint_seconds: float = 30.0

    def __post_init__(self) -> None:
        """Says what cannot be run, before anything is."""
        unknown = sorted({*self.parametrizations} - {*PARAMETRIZATIONS})
        if unknown or not self.parametrizations:
            raise ValueError(
                f"parametrizations must be among {', '.join(PARAMETRIZATIONS)}; got {unknown or 'none'}."
            )
        for name, sizes in (("depths", self.depths), ("widths", self.widths)):
            if len(sizes) < 2 or min(sizes) < 1 or list(sizes) != sorted({*sizes}):
                raise ValueError(f"{name} must be at least two increasing positive numbers; got {sizes}.")
        if self.corner is not None and (
            self.corner[0] not in self.widths[1:] or self.corner[1] not in self.depths[1:]
        ):
            raise ValueError(
                "corner must be one of the widths and one of the depths, each above the base; got "
                f"{self.corner} with widths {self.widths} and depths {self.depths}."
            )
        if self.seeds < 2 or self.rates < 5 or not self.spacing > 0 or not 0 <= self.warmup < self.steps:
            raise ValueError(
                "an optimum with an error bar needs seeds >= 2, rates >= 5, spacing > 0 and fewer steps of "
                f"warmup than steps; got {self.seeds}, {self.rates}, {self.spacing}, {self.warmup} and "
                f"{self.steps}."
            )
        if not self.rates * self.spacing + abs(self.center) <= REACH:
            raise ValueError(
                f"the window of learning rates must lie within 2^-{REACH} and 2^{REACH}; got {self.rates} "
                f"rates, {self.spacing} apart in log2, around {self.center}."
            )

    def shapes(self) -> list[Shape]:
        """Returns every shape in the order of training: the base, deeper ones, wider ones, the corner."""
        width, depth = self.widths[0], self.depths[0]
        shapes = [Shape(width, deep) for deep in self.depths]
        shapes += [Shape(wide, depth) for wide in self.widths[1:]]
        return shapes + ([Shape(*self.corner)] if self.corner else [])


PRESETS = {
    "smoke": Config(
        preset="smoke",
        depths=(2, 4, 8),
        widths=(16, 32),
        corner=(32, 4),
        steps=10,
        seeds=2,
        rates=5,
        spacing=1.0,
        center=-4.0,
    ),
    "default": Config(),
    "full": Config(
        preset="full",
        model="decoder",
        tokenizer="bpe",
        depths=(2, 4, 8, 16, 32),
        widths=(128, 256, 512, 1024),
        corner=(512, 16),
        activation="gelu",
        batch_size=16,
        steps=300,
        warmup=30,
        center=-7.5,
        compute_dtype="bfloat16",
        validation_windows=128,
    ),
}


def run(config: Config, directory: Path) -> Summary:
    """Runs the sweep, or what is missing of it, and judges it."""
    check_flags(config)
    task = TASKS[config.model](config)
    sizes = {shape: parameter_count(task.network(shape, "standard")) for shape in config.shapes()}
    # The number of devices decides the rounding, so a resumed run must have as many.
    fixed = {"data": task.fingerprint(), "devices": jax.device_count()}

    def modes() -> dict[str, Any]:
        named = {_name(shape): size for shape, size in sizes.items()}
        return plan(named, batch=task.batch, cells=config.rates * config.seeds)

    with open_results(directory, "depth_transfer", config, modes, fixed) as results:
        twins = {
            (shape, name): _twin(config, task, shape, name)
            for shape in config.shapes()
            for name in config.parametrizations
        }
        # A step costs about the number of weights, and something at any shape.
        work = {key: 0.0 if twin else sizes[key[0]] + 3e4 for key, twin in twins.items()}
        with Progress(total=sum(work.values()), label="depth_transfer") as progress:
            for (shape, name), twin in twins.items():
                best = _search(config, results, task, shape, name, twin)
                said = f"best rate 2^{best.log2_lr:.2f}, loss {best.loss:.4f}"
                same = f" (the network of {twin})" if twin else ""
                progress.finished(
                    f"depth {shape.depth:>3} width {shape.width:>5} {name}: {said}{same}", work[shape, name]
                )
        shutil.rmtree(directory / "checkpoints", ignore_errors=True)
        optima = {
            name: {shape: optimum(results, case_of(shape, name), task.loss) for shape in config.shapes()}
            for name in config.parametrizations
        }
        summary = report.summarise(config, results, optima, task)
        results.finish(summary)
    return summary


def check_flags(config: Config) -> None:
    """Refuses a flag that was given and would do nothing; what the preset itself sets is no flag."""
    preset = PRESETS[config.preset]
    unused = [name for name in _TEXT if getattr(config, name) != getattr(preset, name)]
    if config.model == "mlp" and unused:
        raise ValueError(
            f"{', '.join(unused)}: the decoder's, and model is 'mlp'; leave them out, or pass "
            "--model decoder."
        )
    check_source(config, preset)


def _name(shape: Shape) -> str:
    """A key for JSON."""
    return f"{shape.width}x{shape.depth}"


def _twin(config: Config, task: Task, shape: Shape, name: str) -> str | None:
    """Returns an earlier parametrization whose network and window of rates at this shape are the same."""
    earlier = config.parametrizations[: config.parametrizations.index(name)]
    line = [other for other in config.shapes()[: config.shapes().index(shape) + 1] if _before(other, shape)]
    same = (other for other in earlier if all(same_network(task, passed, other, name) for passed in line))
    return next(same, None)


def _before(other: Shape, shape: Shape) -> bool:
    """Whether the search at a shape builds on what was found at another."""
    return other.width <= shape.width and other.depth <= shape.depth


def _search(
    config: Config, results: Results, task: Task, shape: Shape, name: str, twin: str | None
) -> Optimum:
    """Trains the grid around where the optimum is expected, widening it at need."""
    mode = Mode(**results.plan["modes"][_name(shape)])
    seeds = range(config.seed, config.seed + config.seeds)

    def train(rates: list[float], store: Checkpoint) -> list[dict[str, Any]]:
        if twin is not None:  # the same numbers in the same program: the same rows
            rows = results.find(**case_of(shape, twin))
            return [
                {**row, "parametrization": name, "seconds": 0.0} for row in rows if row["log2_lr"] in rates
            ]
        return task.train(shape, name, rates, seeds, mode, store)

    center, tuned = _expected(config, results, task, shape, name)
    wanted = window(center, config.rates, config.spacing, tuned)
    return search(results, case_of(shape, name), wanted, train, config.checkpoint_seconds, task.loss)


def _expected(
    config: Config, results: Results, task: Task, shape: Shape, name: str
) -> tuple[float, float | None]:
    """Returns where the optimum is expected, and where it is at the base shape.

    That is where it was at the next smaller shape; at the corner, moved by what depth and width did each.
    """

    def found(width: int, depth: int) -> float:
        return optimum(results, case_of(Shape(width, depth), name), task.loss).log2_lr

    width, depth = config.widths[0], config.depths[0]
    if shape == (width, depth):
        return config.center, None
    tuned = found(width, depth)
    if shape.depth == depth:
        return found(config.widths[config.widths.index(shape.width) - 1], depth), tuned
    if shape.width == width:
        return found(width, config.depths[config.depths.index(shape.depth) - 1]), tuned
    return found(shape.width, depth) + found(width, shape.depth) - tuned, tuned


if __name__ == "__main__":
    sys.exit(main("depth_transfer", PRESETS, run))
