"""Do a residual network's stream and its changes scale with depth and width as the theory predicts?

    python -m experiments.depth_check                       # digits, two cores, some minutes
    python -m experiments.depth_check --preset smoke        # seconds
    python -m experiments.depth_check --preset full --model decoder --branch-depths 2   # text, for a GPU

Trains pre-norm residual networks of growing depth (and, at one depth, growing width) for a few steps: muP
without a rule of depth (alpha = 0), depth-muP (1/2), half of it (its branches without its learning rates)
and CompleteP (1), with SGD and Adam. The exponents of stream, branches, logits and of their changes are
fitted, and compared with predictions made before the run from ``scaling.depth_slopes``. Expected: every
claim holds; under depth-muP and CompleteP nothing that matters moves with depth.

References: Dey et al., arXiv 2505.01618 (Fig. 7); Bordelon et al., arXiv 2309.16620; Yang et al., arXiv
2310.02244.
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

from experiments import depth_check_data as data
from experiments import depth_check_network, depth_check_report
from experiments import depth_check_theory as theory
from widelimit.compare import Summary
from widelimit.training import Progress, Results, main, open_results


@dataclasses.dataclass(frozen=True)
class Config:
    """The depth check.

    Args:
        preset: the preset this config started from.
        seed: of the data and of all initial weights.
        model: residual_mlp on digits, or decoder on the text of Python's standard library.
        depths: numbers of blocks, increasing.
        at_width: width at which depth varies.
        widths: widths, increasing; empty to leave the width alone.
        at_depth: depth at which the width varies.
        base_width: where the relative rules of width are neutral and the rates below apply unscaled.
        base_depth: the same for depth.
        branch_depths: layers in a branch, 1 and 2 (residual_mlp); the decoder's have 2. The width varies in
            networks of the last.
        branch_scale: factor on every branch: strong enough that the branches soon outgrow the first layer.
        activation: of the residual_mlp.
        context: tokens in a sequence (decoder).
        parametrizations: any of mup, branches_only, depth_mup, completep.
        optimizers: any of sgd, adam, muon.
        seeds: independent cells per depth and width, from which the error bars come.
        networks: a cell is the geometric mean over so many networks.
        batch_size: samples, or sequences, per step; sizes are measured on the first batch.
        steps: optimizer steps at the ordinary rate.
        rate_sgd: ordinary learning rate of SGD.
        rate_adam: ordinary learning rate of Adam.
        rate_muon: ordinary learning rate of Muon.
        stderr: standard error of an exponent that the seeds are meant to reach; tolerances follow from it.
    """

    preset: Literal["smoke", "default", "full"] = "default"
    seed: int = 0
    model: Literal["residual_mlp", "decoder"] = "residual_mlp"
    depths: tuple[int, ...] = (8, 16, 32, 64, 128)
    at_width: int = 64
    widths: tuple[int, ...] = (32, 64, 128, 256, 512)
    at_depth: int = 4
    base_width: int = 16
    base_depth: int = 1
    branch_depths: tuple[int, ...] = (1, 2)
    branch_scale: float = 2.0
    activation: str = "tanh"
    context: int = 32
    parametrizations: tuple[str, ...] = tuple(theory.CASES)
    optimizers: tuple[str, ...] = ("sgd", "adam")
    seeds: int = 24
    networks: int = 3
    batch_size: int = 16
    steps: int = 4
    rate_sgd: float = 0.1
    rate_adam: float = 2.0**-8
    rate_muon: float = 2.0**-6
    stderr: float = 0.035

    def __post_init__(self) -> None:
        """Says what cannot be run, before anything is."""
        for field, known in (
            ("parametrizations", theory.CASES),
            ("optimizers", depth_check_network.OPTIMIZERS),
            ("branch_depths", (2,) if self.model == "decoder" else (1, 2)),
        ):
            chosen = getattr(self, field)
            if not chosen or not {*chosen} <= {*known} or len({*chosen}) != len(chosen):
                raise ValueError(
                    f"{field} must be among {', '.join(map(str, known))}, each once; got {chosen}."
                )
        for name, least in (("depths", 2), ("widths", 1)):
            values = getattr(self, name)
            if name == "widths" and not values:
                continue
            if len(values) < 3 or min(values) < least or list(values) != sorted({*values}):
                raise ValueError(
                    f"an exponent with its finite-size correction needs three or more increasing {name} from "
                    f"{least} on; got {values}."
                )
        counts = (
            "at_width",
            "at_depth",
            "base_width",
            "base_depth",
            "networks",
            "batch_size",
            "steps",
            "context",
        )
        if self.seeds < 2 or self.at_depth < 2 or min(getattr(self, name) for name in counts) < 1:
            raise ValueError(
                f"seeds and at_depth must be 2 or more, and {', '.join(counts)} at least 1; got seeds "
                f"{self.seeds} and {[getattr(self, name) for name in counts]}."
            )
        positive = ("branch_scale", "rate_sgd", "rate_adam", "rate_muon", "stderr")
        if not all(0 < getattr(self, name) < math.inf for name in positive):
            raise ValueError(
                f"{', '.join(positive)} must be positive and finite; got "
                f"{[getattr(self, name) for name in positive]}."
            )

    def cells(self, branch_depth: int) -> list[tuple[int, int]]:
        """Depths and widths that are measured, each once."""
        wide = [(self.at_depth, width) for width in self.widths if branch_depth == self.branch_depths[-1]]
        return list(dict.fromkeys([(depth, self.at_width) for depth in self.depths] + wide))


PRESETS = {
    "smoke": Config(
        preset="smoke",
        depths=(4, 16, 64),
        at_width=32,
        widths=(),
        branch_depths=(2,),
        parametrizations=("mup", "depth_mup", "completep"),
        optimizers=("adam",),
        seeds=16,
        networks=2,
        steps=2,
        stderr=0.035,
    ),
    "default": Config(),
    "full": Config(
        preset="full",
        depths=(8, 16, 32, 64, 128, 256),
        at_width=128,
        widths=(64, 128, 256, 512, 1024),
        optimizers=("sgd", "adam", "muon"),
        seeds=32,
        steps=10,
        stderr=0.02,
    ),
}


def run(config: Config, directory: Path) -> Summary:
    """Measures what is missing, and judges the whole."""
    batches = data.load(config)
    fixed = {"data": data.fingerprint(batches), "devices": jax.device_count()}
    with open_results(directory, "depth_check", config, fixed=fixed) as results:
        plan = [
            (branch_depth, optimizer, depth, width)
            for branch_depth in config.branch_depths
            for optimizer in config.optimizers
            for depth, width in config.cells(branch_depth)
        ]
        # What a cell computes, and what its program costs to compile, in the same unit.
        work = {
            cell: cell[0] * cell[2] * cell[3] ** 2 * config.seeds * config.networks + 1e8 for cell in plan
        }
        missing = [cell for cell in plan if len(_stored(results, *cell)) < len(_cases(config, cell[1]))]
        done = sum(work.values()) - sum(work[cell] for cell in missing)
        with Progress(sum(work.values()), "depth_check", done=done) as progress:
            for cell in missing:
                _measure(config, results, cell, batches)
                progress.finished("branch depth {} {:>4} depth {:>3} width {:>4}".format(*cell), work[cell])
        summary = depth_check_report.finish(config, results)
        results.finish(summary)
    return summary


def _cases(config: Config, optimizer: str) -> list[str]:
    """The parametrizations that an optimizer tells apart."""
    return theory.cases(config.parametrizations, optimizer)


def _stored(results: Results, branch_depth: int, optimizer: str, depth: int, width: int) -> dict[str, int]:
    """How many rows each parametrization has in a cell; those that have all of their seeds."""
    rows = results.find(branch_depth=branch_depth, optimizer=optimizer, depth=depth, width=width)
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["parametrization"]] = counts.get(row["parametrization"], 0) + 1
    return {case: number for case, number in counts.items() if number == results.config["seeds"]}


def _measure(
    config: Config, results: Results, cell: tuple[int, str, int, int], batches: data.Batches
) -> None:
    """All seeds and parametrizations of a cell: one compiled program, a row per parametrization and seed."""
    started = time.monotonic()
    branch_depth, optimizer, depth, width = cell
    shape = data.shape(config, branch_depth, depth, width)
    names = depth_check_network.block_parameters(shape)
    chosen, spread = _cases(config, optimizer), config.depths[-1] / config.depths[0]
    sizes = np.stack([theory.trials(case, optimizer, names, branch_depth, spread) for case in chosen])
    rate = np.float32({"sgd": config.rate_sgd, "adam": config.rate_adam, "muon": config.rate_muon}[optimizer])
    key = jax.random.fold_in(jax.random.key(config.seed), depth)  # cells are independent of each other
    keys = jax.random.split(jax.random.fold_in(key, width), config.seeds * config.networks)
    numbers = depth_check_network.stacked(chosen, shape, optimizer)
    measured = depth_check_network.program(shape, optimizer)(keys, batches, rate, numbers, sizes)
    with np.errstate(divide="ignore", invalid="ignore"):
        means = {
            name: np.exp(np.log(np.asarray(value).reshape(config.seeds, -1, *value.shape[1:])).mean(axis=1))
            for name, value in measured.items()
        }
    seconds = (time.monotonic() - started) / (len(chosen) * config.seeds)
    where = {"branch_depth": branch_depth, "optimizer": optimizer, "depth": depth, "width": width}
    known = {(row["parametrization"], row["seed"]) for row in results.find(**where)}
    results.append(
        *(
            where
            | {"parametrization": case, "seed": seed}
            | _fields(names, {name: value[seed, i] for name, value in means.items()})
            | {"seconds": round(seconds, 4)}
            for i, case in enumerate(chosen)
            for seed in range(config.seeds)
            if (case, seed) not in known
        )
    )


def _fields(names: list[str], sizes: dict[str, np.ndarray]) -> dict[str, Any]:
    """The sizes of one cell by name: at first, after each step, and what each trial step changes."""
    fields = {}
    for i, field in enumerate(theory.FIELDS):
        fields[f"initial {field}"] = float(sizes["initial"][i])
        if field != "branches":
            fields |= {f"step {t + 1} {field}": float(size) for t, size in enumerate(sizes["change"][i])}
            trials = zip(theory.trial_names(names), sizes["first"][i], strict=True)
            fields |= {f"{trial} -> {field}": float(size) for trial, size in trials}
    return fields


if __name__ == "__main__":
    sys.exit(main("depth_check", PRESETS, run))
