"""Does each block of a deep network learn non-linearly, or is it its own linearisation?

    python -m experiments.laziness                   # digits, two cores, some minutes
    python -m experiments.laziness --preset smoke    # seconds

Makes one optimizer step in residual networks of growing depth, moves only a part of the weights by it, and
splits the change of the middle branch into the part that is linear in the step and the rest. Their ratio says
how far the block is from its own linearisation. Expected, with Adam and branches of two layers: it does not
depend on depth under CompleteP, and falls as L^-1/2 under depth-muP, whose blocks become lazy; with a kinked
activation (relu) as L^-1/4. A branch of one layer is linear in its weights at any depth; what it does as the
layers below it learn stays non-linear under both rules. SGD is measured, and nothing is claimed of it.

Reference: Dey et al., arXiv 2505.01618, Section 4 and Fig. 6.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from experiments import depth_check_data, depth_check_network, depth_check_theory, laziness_network
from experiments import laziness_report as report
from widelimit.compare import Summary
from widelimit.models import ResidualMLPConfig
from widelimit.scaling import mup
from widelimit.training import Progress, Results, main, open_results


@dataclasses.dataclass(frozen=True)
class Config:
    """One step of one block.

    Args:
        preset: the preset this config started from.
        seed: of the data and of all initial weights.
        depths: numbers of blocks, increasing.
        width: of the stream and of every hidden layer.
        base_width: where the rates below apply unscaled.
        base_depth: the same for depth: there all parametrizations are one.
        branch_depths: layers in a branch, any of 1 and 2.
        branch_scale: factor on every branch at the base depth: about its root's inverse, so that the branches
            together are as large as the first layer.
        activations: names that models know, e.g. tanh, relu, gelu; all but the first are measured with the
            first optimizer and the last branch depth only.
        parametrizations: any of mup, branches_only, depth_mup, completep.
        optimizers: any of sgd, adam, muon.
        seeds: networks per depth, from which the error bars come.
        batch_size: samples of the step, on which the change is measured too.
        rate_sgd: learning rate of SGD.
        rate_adam: learning rate of Adam: moves pre-activations by some tenths at the base depth.
        rate_muon: learning rate of Muon.
        stderr: standard error of a slope that the seeds are meant to reach; the tolerance follows from it.
    """

    preset: Literal["smoke", "default", "full"] = "default"
    seed: int = 0
    depths: tuple[int, ...] = (16, 32, 64, 128, 256, 512)
    width: int = 64
    base_width: int = 32
    base_depth: int = 16
    branch_depths: tuple[int, ...] = (1, 2)
    branch_scale: float = 0.25
    activations: tuple[str, ...] = ("tanh", "relu")
    parametrizations: tuple[str, ...] = tuple(depth_check_theory.CASES)
    optimizers: tuple[str, ...] = ("adam", "sgd")
    seeds: int = 16
    batch_size: int = 16
    rate_sgd: float = 0.5
    rate_adam: float = 2.0**-6
    rate_muon: float = 2.0**-4
    stderr: float = 0.02

    def __post_init__(self) -> None:
        """Says what cannot be run, before anything is."""
        for field, known in (
            ("parametrizations", depth_check_theory.CASES),
            ("optimizers", depth_check_network.OPTIMIZERS),
            ("branch_depths", (1, 2)),
        ):
            chosen = getattr(self, field)
            if not chosen or not {*chosen} <= {*known} or len({*chosen}) != len(chosen):
                among = ", ".join(map(str, known))
                raise ValueError(f"{field} must be among {among}, each once; got {chosen}.")
        if len(self.depths) < 3 or min(self.depths) < 2 or list(self.depths) != sorted({*self.depths}):
            raise ValueError(
                "a slope with its finite-depth correction needs three or more increasing depths from 2 on; "
                f"got {self.depths}."
            )
        if not self.activations or len({*self.activations}) != len(self.activations):
            raise ValueError(f"activations must be one or more names, each once; got {self.activations}.")
        counts = ("width", "base_width", "base_depth", "batch_size")
        if self.seeds < 2 or min(getattr(self, name) for name in counts) < 1:
            raise ValueError(
                f"seeds must be 2 or more, and {', '.join(counts)} at least 1; got seeds {self.seeds} and "
                f"{[getattr(self, name) for name in counts]}."
            )
        positive = ("branch_scale", "rate_sgd", "rate_adam", "rate_muon", "stderr")
        if not all(0 < getattr(self, name) < math.inf for name in positive):
            raise ValueError(
                f"{', '.join(positive)} must be positive and finite; got "
                f"{[getattr(self, name) for name in positive]}."
            )
        for cell in self.cells():
            self.shape(cell[0], *cell[2:])

    def cells(self) -> list[tuple[str, str, int, int]]:
        """Activation, optimizer, branch depth and depth of every cell.

        All optimizers and branch depths with the first activation; of the others what they are there for.
        """
        whole = [
            (self.activations[0], optimizer, branch_depth)
            for branch_depth in self.branch_depths
            for optimizer in self.optimizers
        ]
        others = [(name, self.optimizers[0], self.branch_depths[-1]) for name in self.activations[1:]]
        return [(*line, depth) for line in whole + others for depth in self.depths]

    def shape(self, activation: str, branch_depth: int, depth: int) -> ResidualMLPConfig:
        """The network of a cell; whose parametrization it has does not matter."""
        return ResidualMLPConfig(
            inputs=64,
            outputs=10,
            width=self.width,
            base_width=self.base_width,
            parametrization=mup(table=8),
            depth=depth,
            base_depth=self.base_depth,
            branch_depth=branch_depth,
            branch_scale=self.branch_scale,
            norm="rms",
            scan=True,
            activation=activation,
        )


PRESETS = {
    "smoke": Config(
        preset="smoke",
        depths=(8, 32, 128),
        base_depth=8,
        branch_scale=0.35,
        branch_depths=(2,),
        activations=("tanh",),
        optimizers=("adam",),
        seeds=12,
        stderr=0.04,
    ),
    "default": Config(),
    "full": Config(
        preset="full",
        depths=(16, 32, 64, 128, 256, 512, 1024, 2048),
        width=256,
        activations=("tanh", "relu", "gelu"),
        optimizers=("adam", "muon", "sgd"),
        seeds=32,
        batch_size=128,
        stderr=0.01,
    ),
}


def run(config: Config, directory: Path) -> Summary:
    """Measures what is missing, and judges the whole."""
    batches = depth_check_data.images(config.seed, 1, config.batch_size)
    fixed = {"data": depth_check_data.fingerprint(batches), "devices": jax.device_count()}
    with open_results(directory, "laziness", config, fixed=fixed) as results:
        plan = config.cells()
        # What a cell computes, and what its program costs to compile, in the same unit.
        unit = config.width**2 * config.seeds
        work = {cell: cell[2] * cell[3] * unit + 5e7 for cell in plan}
        missing = [cell for cell in plan if len(_rows(results, cell)) < _number(config, cell[1])]
        done = sum(work.values()) - sum(work[cell] for cell in missing)
        batch = (batches[0][0], batches[1][0])
        with Progress(sum(work.values()), "laziness", done=done) as progress:
            for cell in missing:
                _measure(config, results, cell, batch)
                progress.finished("{} {:>4} branch depth {} depth {:>4}".format(*cell), work[cell])
        summary = report.finish(config, results)
        results.finish(summary)
    return summary


def _where(cell: tuple[str, str, int, int]) -> dict[str, str | int]:
    """A cell's fields."""
    return dict(zip(("activation", "optimizer", "branch_depth", "depth"), cell, strict=True))


def _rows(results: Results, cell: tuple[str, str, int, int]) -> set[tuple[str, int]]:
    """Parametrization and seed of every row that a cell has."""
    return {(row["parametrization"], row["seed"]) for row in results.find(**_where(cell))}


def _number(config: Config, optimizer: str) -> int:
    """How many rows a cell has in the end."""
    return len(depth_check_theory.cases(config.parametrizations, optimizer)) * config.seeds


def _measure(
    config: Config, results: Results, cell: tuple[str, str, int, int], batch: tuple[np.ndarray, np.ndarray]
) -> None:
    """All seeds and parametrizations of a cell: one compiled program, a row per parametrization and seed."""
    started = time.monotonic()
    activation, optimizer, branch_depth, depth = cell
    shape = config.shape(activation, branch_depth, depth)
    chosen = depth_check_theory.cases(config.parametrizations, optimizer)
    rate = np.float32({"sgd": config.rate_sgd, "adam": config.rate_adam, "muon": config.rate_muon}[optimizer])
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), depth), config.seeds)
    numbers = depth_check_network.stacked(chosen, shape, optimizer)
    found = laziness_network.program(shape, optimizer)(keys, batch, rate, numbers)
    sizes = {kind: np.asarray(value) for kind, value in found.items()}
    seconds = (time.monotonic() - started) / (len(chosen) * config.seeds)
    known = _rows(results, cell)
    results.append(
        *(
            _where(cell)
            | {"parametrization": case, "seed": seed}
            | {
                f"{kind} {part}": float(sizes[kind][seed, i, j])
                for j, part in enumerate(laziness_network.PARTS)
                for kind in ("linear", "nonlinear")
            }
            | {"seconds": round(seconds, 4)}
            for i, case in enumerate(chosen)
            for seed in range(config.seeds)
            if (case, seed) not in known
        )
    )


if __name__ == "__main__":
    sys.exit(main("laziness", PRESETS, run))
