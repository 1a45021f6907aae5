"""What the experiments on MLPs share: data by name, one compiled program per (width, optimizer), rows of a
grid."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from experiments.transfer_search import train_rows
from widelimit.models import MLP, MLPConfig, initialise, leaves, rules
from widelimit.optim import adam, sgd
from widelimit.scaling import Parametrization, Rules, make_rules, standard
from widelimit.scaling.rules import NUMBERS
from widelimit.training import Checkpoint, Mode, Problem, accuracy, cross_entropy
from widelimit.training.data import Dataset, batch_table, cifar10, digits, npz


@dataclasses.dataclass(frozen=True)
class Network:
    """One network of an experiment, before learning rates and seeds."""

    width: int
    base_width: int
    depth: int
    activation: str
    inputs: int
    outputs: int
    optimizer: str
    parametrization: Parametrization
    name: str

    def config(self, parametrization: Parametrization) -> MLPConfig:
        """Returns the model's config."""
        return MLPConfig(
            inputs=self.inputs,
            outputs=self.outputs,
            width=self.width,
            base_width=self.base_width,
            parametrization=parametrization,
            depth=self.depth,
            activation=self.activation,
        )

    def numbers(self) -> dict[str, Any]:
        """Returns the rules' numbers: what the shared program takes as arrays."""
        return numbers_of(rules(self.config(self.parametrization), self.optimizer))


def parameter_count(network: Network) -> int:
    """Returns the number of weights and biases."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(leaves(network.config(standard()))))


def load(name: str, path: Path | None, seed: int) -> Dataset:
    """Returns the labelled data of an experiment, flat."""
    if path is None:
        # Pixels set in one or two images have a tiny std: without a floor of one grey level single inputs
        # reach 40 standard deviations, and these few images decide where SGD becomes unstable.
        return digits(seed=seed, form="flat", smallest_std=1.0)
    if name == "cifar10":
        return cifar10(path, seed=seed, form="flat")
    data = npz(path, seed=seed)
    if not data.labelled:
        raise ValueError(
            f"{path} must hold whole-number labels y, which cross-entropy needs; got floats, so regression "
            "targets: store y as integers."
        )
    flat = {
        part: getattr(data, part).reshape(len(getattr(data, part)), -1)
        for part in ("train_inputs", "test_inputs")
    }
    return dataclasses.replace(data, **flat)


@functools.lru_cache(maxsize=4)
def problem(network_config: MLPConfig, optimizer: str) -> Problem:
    """Returns the problem of a width and an optimizer: one program for every parametrization.

    Args:
        network_config: of any parametrization; the rules come in as arrays.
        optimizer: ``"sgd"`` or ``"adam"``.
    """
    return classifier(MLP(network_config), make_rules(leaves(network_config), standard(), optimizer))


def classifier(model: Any, template: Rules, schedule: Callable[[jax.Array], Any] | None = None) -> Problem:
    """Returns the problem of a network that labels its inputs, whatever the numbers of its rules.

    Args:
        model: a Flax module of ``params`` and ``multipliers``.
        template: rules of its leaves and optimizer (``"sgd"`` or ``"adam"``), whose numbers are not used.
        schedule: from the learning rate to that of each step; None is constant.
    """

    def outputs(params: Any, extras: Any, inputs: jax.Array) -> jax.Array:
        logits: Any = model.apply({"params": params, "multipliers": extras["multiplier"]}, inputs)
        return logits

    def make_optimizer(learning_rate: jax.Array, extras: Any) -> Any:
        tree = dataclasses.replace(template, **extras)
        rate = learning_rate if schedule is None else schedule(learning_rate)
        return sgd(rate, tree) if template.optimizer == "sgd" else adam(rate, tree)

    def measure(params: Any, evaluation: Any, extras: Any) -> dict[str, jax.Array]:
        result = {}
        for part in ("train", "test"):
            logits = outputs(params, extras, evaluation[part]["x"])
            result[f"{part}_loss"] = cross_entropy(logits, evaluation[part]["y"])
            result[f"{part}_accuracy"] = accuracy(logits, evaluation[part]["y"])
        return result

    return Problem(
        initialise=lambda key, extras: initialise(key, dataclasses.replace(template, **extras)),
        loss=lambda params, batch, extras: cross_entropy(outputs(params, extras, batch["x"]), batch["y"]),
        optimizer=make_optimizer,
        measure=measure,
    )


def numbers_of(rules: Rules) -> dict[str, Any]:
    """Returns the rules' numbers: what the shared program takes as arrays."""
    return {name: jax.tree.map(np.float32, getattr(rules, name)) for name in NUMBERS}


class Schedule(Protocol):
    """What a grid needs of an experiment's config."""

    @property
    def steps(self) -> int:
        """Optimizer steps per cell."""

    @property
    def batch_size(self) -> int:
        """Samples per step."""


def sweep_cells(
    data: Dataset,
    network: Network,
    log2_rates: Sequence[float],
    seeds: Sequence[int],
    schedule: Schedule,
    mode: Mode,
    checkpoint: Checkpoint,
) -> list[dict[str, Any]]:
    """Trains a grid of one network and returns its rows; a killed grid resumes from its checkpoint."""
    return train_rows(
        problem(network.config(standard()), network.optimizer),
        {"width": network.width, "parametrization": network.name, "optimizer": network.optimizer},
        log2_rates,
        seeds,
        **labelled(data, seeds, schedule),
        extras=network.numbers(),
        mode=mode,
        checkpoint=checkpoint,
    )


def labelled(data: Dataset, seeds: Sequence[int], schedule: Schedule) -> dict[str, Any]:
    """Returns what ``sweep`` trains on and measures: the training data, batches of each seed, both parts."""
    train = {"x": data.train_inputs, "y": data.train_targets}
    test = {"x": data.test_inputs, "y": data.test_targets}
    tables = [batch_table(seed, 0, schedule.steps, schedule.batch_size, data.samples) for seed in seeds]
    return {"data": train, "batches": np.stack(tables), "evaluation": {"train": train, "test": test}}
