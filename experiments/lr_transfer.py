"""Does the best learning rate stay put as a network grows?

    python -m experiments.lr_transfer                    # digits, two cores, about four minutes
    python -m experiments.lr_transfer --preset full      # four parametrizations, a GPU
    python -m experiments.lr_transfer --data npz --data-path mine.npz

Trains an MLP on a grid of (learning rate x seed) at every width, under each parametrization and optimizer,
and finds the optimum of every loss curve with its error bar. Expected on digits: muP's optimum moves by less
than a factor 2^0.15 per doubling of the width, SP's falls like 1/width with Adam and more slowly with SGD,
where it sits on the edge of divergence.

Reference: Yang et al., arXiv 2203.03466, Figure 1.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax

from experiments import transfer_report
from experiments.mlp_sweep import Network, load, parameter_count, sweep_cells
from experiments.transfer_search import REACH, optimum, plan, search, window
from widelimit.compare import Optimum, Summary
from widelimit.scaling import Parametrization, mean_field, mup, ntk, standard
from widelimit.training import Checkpoint, Mode, Progress, Results, main, open_results
from widelimit.training.data import batch_table

PARAMETRIZATIONS: Mapping[str, Parametrization] = {
    "standard": standard(),
    "mup": mup(table=3),
    "ntk": ntk(),
    "mean_field": mean_field(),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Learning-rate transfer across width.

    Args:
        preset: the preset this config started from.
        seed: of data split, batches and initial weights; cell s uses seed + s.
        data: which data: digits (comes with scikit-learn), cifar10 (a directory you have) or npz (your own
            arrays).
        data_path: the CIFAR-10 directory or the .npz file.
        widths: units of each hidden layer; the first is the base width, where the rate is tuned.
        depth: number of hidden layers.
        activation: of the hidden layers.
        parametrizations: any of standard, mup, ntk, mean_field.
        optimizers: any of sgd, adam.
        batch_size: samples per step.
        steps: optimizer steps per cell.
        seeds: cells per learning rate.
        rates: learning rates in the window around the expected optimum.
        spacing: distance of neighbouring rates, in log2.
        center_sgd: log2 of the rate in the middle of SGD's window at the base width.
        center_adam: log2 of the rate in the middle of Adam's window at the base width.
        checkpoint_seconds: time between two checkpoints of a running grid; 0 takes one after every chunk.
    """

    preset: Literal["smoke", "default", "full"] = "default"
    seed: int = 0
    data: Literal["digits", "cifar10", "npz"] = "digits"
    data_path: Path | None = None
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024)
    depth: int = 2
    activation: str = "tanh"
    parametrizations: tuple[str, ...] = ("standard", "mup")
    optimizers: tuple[str, ...] = ("sgd", "adam")
    batch_size: int = 64
    steps: int = 50
    seeds: int = 6
    rates: int = 12
    spacing: float = 0.5
    center_sgd: float = -1.0
    center_adam: float = -7.0
    checkpoint_seconds: float = 30.0

    def __post_init__(self) -> None:
        """Says what cannot be run, before anything is."""
        unknown = sorted({*self.parametrizations} - {*PARAMETRIZATIONS})
        if unknown or not self.parametrizations:
            raise ValueError(
                f"parametrizations must be among {', '.join(PARAMETRIZATIONS)}; got {unknown or 'none'}."
            )
        if not self.optimizers or not {*self.optimizers} <= {"sgd", "adam"}:
            raise ValueError(
                f"optimizers must be among sgd, adam; got {', '.join(self.optimizers) or 'none'}."
            )
        if len(self.widths) < 2 or min(self.widths) < 1 or list(self.widths) != sorted({*self.widths}):
            raise ValueError(f"widths must be at least two increasing positive numbers; got {self.widths}.")
        if self.seeds < 2 or self.rates < 5 or self.steps < 1 or not self.spacing > 0:
            raise ValueError(
                "an optimum with an error bar needs seeds >= 2, rates >= 5, steps >= 1 and spacing > 0; got "
                f"{self.seeds}, {self.rates}, {self.steps} and {self.spacing}."
            )
        reach = self.rates * abs(self.spacing) + max(abs(self.center_sgd), abs(self.center_adam))
        if not reach <= REACH:
            raise ValueError(
                f"the window of learning rates must lie within 2^-{REACH} and 2^{REACH}; got {self.rates} "
                f"rates, {self.spacing} apart in log2, around {self.center_sgd} and {self.center_adam}."
            )
        if (self.data_path is None) != (self.data == "digits"):
            raise ValueError(
                f"data_path goes with data 'cifar10' or 'npz'; got data {self.data!r} and {self.data_path}."
            )


PRESETS = {
    "smoke": Config(
        preset="smoke",
        widths=(16, 32, 64),
        parametrizations=("standard", "mup"),
        steps=12,
        seeds=3,
        rates=5,
        spacing=1.0,
    ),
    "default": Config(),
    "full": Config(
        preset="full",
        widths=(64, 128, 256, 512, 1024, 2048, 4096),
        parametrizations=("standard", "mup", "ntk", "mean_field"),
        steps=200,
        seeds=8,
        rates=16,
    ),
}


def run(config: Config, directory: Path) -> Summary:
    """Runs the sweep, or what is missing of it, and judges it."""
    data = load(config.data, config.data_path, config.seed)
    batch_table(config.seed, 0, 1, config.batch_size, data.samples)  # or says why there can be no such batch
    # The number of devices decides the rounding, so a resumed run must have as many.
    fixed = {"data": data.fingerprint(), "devices": jax.device_count()}
    with open_results(directory, "lr_transfer", config, lambda: _plan(config, data), fixed) as results:
        cases = [(p, o) for o in config.optimizers for p in config.parametrizations]
        # A step costs about the square of the width, and something at any width.
        work = {width: width**2 + 1e4 for width in config.widths}
        with Progress(total=sum(work.values()) * len(cases), label="lr_transfer") as progress:
            for width in config.widths:
                for parametrization, optimizer in cases:
                    network = _network(config, data, width, parametrization, optimizer)
                    best = _search(config, results, data, network)
                    found = f"best rate 2^{best.log2_lr:.2f}, loss {best.loss:.4f}"
                    progress.finished(f"width {width:>5} {parametrization}/{optimizer}: {found}", work[width])
        shutil.rmtree(directory / "checkpoints", ignore_errors=True)
        summary = transfer_report.summarise(config, results, optima(config, results))
        results.finish(summary)
    return summary


def _plan(config: Config, data: Any) -> dict[str, Any]:
    """Returns what is decided once, before the first cell, and stored: how cells run."""
    networks = {str(width): _network(config, data, width, "standard", "sgd") for width in config.widths}
    sizes = {width: parameter_count(network) for width, network in networks.items()}
    return plan(sizes, batch=config.batch_size, cells=config.rates * config.seeds)


def _network(config: Config, data: Any, width: int, parametrization: str, optimizer: str) -> Network:
    """Returns what one cell of the grid trains."""
    return Network(
        width=width,
        base_width=config.widths[0],
        depth=config.depth,
        activation=config.activation,
        inputs=data.train_inputs.shape[1],
        outputs=data.outputs,
        optimizer=optimizer,
        parametrization=PARAMETRIZATIONS[parametrization],
        name=parametrization,
    )


def _search(config: Config, results: Results, data: Any, network: Network) -> Optimum:
    """Trains the grid around the optimum of the next smaller width, widening it at need."""
    case = {"width": network.width, "parametrization": network.name, "optimizer": network.optimizer}
    center, tuned = {"sgd": config.center_sgd, "adam": config.center_adam}[network.optimizer], None
    position = config.widths.index(network.width)
    if position:
        tuned, center = (
            optimum(results, {**case, "width": config.widths[place]}).log2_lr for place in (0, position - 1)
        )
    seeds = range(config.seed, config.seed + config.seeds)
    mode = Mode(**results.plan["modes"][str(network.width)])

    def train(rates: list[float], store: Checkpoint) -> list[dict[str, Any]]:
        return sweep_cells(data, network, rates, seeds, config, mode, store)

    wanted = window(center, config.rates, config.spacing, tuned)
    return search(results, case, wanted, train, config.checkpoint_seconds)


def optima(config: Config, results: Results) -> dict[tuple[str, str], dict[int, Optimum]]:
    """Returns every optimum, by (parametrization, optimizer) and width."""
    return {
        (parametrization, optimizer): {
            width: optimum(
                results, {"width": width, "parametrization": parametrization, "optimizer": optimizer}
            )
            for width in config.widths
        }
        for optimizer in config.optimizers
        for parametrization in config.parametrizations
    }


if __name__ == "__main__":
    sys.exit(main("lr_transfer", PRESETS, run))
