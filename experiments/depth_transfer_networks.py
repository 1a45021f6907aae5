"""What the transfer over depth trains: a residual MLP on digits, or a decoder on text."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from experiments import decoder_sweep
from experiments.mlp_sweep import classifier, labelled, numbers_of
from experiments.mlp_sweep import load as load_labelled
from experiments.transfer_search import train_rows
from widelimit.models import DecoderConfig, ResidualMLP, ResidualMLPConfig, leaves, rules
from widelimit.scaling import Parametrization, completep, depth_mup, make_rules, mup, standard
from widelimit.training import Checkpoint, Mode, Problem

PARAMETRIZATIONS: Mapping[str, Parametrization] = {
    "standard": standard(),
    "mup": mup(table=8),
    "depth_mup": depth_mup(),
    "completep": completep(),
}


class Shape(NamedTuple):
    """The two sizes that grow."""

    width: int
    depth: int


class Task(Protocol):
    """A kind of network with its data."""

    @property
    def loss(self) -> str:
        """The field of a row that is minimised."""

    @property
    def axis_label(self) -> str:
        """What that is, for figures."""

    @property
    def log(self) -> bool:
        """Whether losses of a grid span so much that their axis is logarithmic."""

    @property
    def note(self) -> str:
        """What was trained on, for the report."""

    @property
    def batch(self) -> int:
        """Samples or tokens of a step."""

    def fingerprint(self) -> str:
        """What tells the data from others."""

    def network(self, shape: Shape, parametrization: str) -> Any:
        """Returns the config of the model."""

    def train(
        self,
        shape: Shape,
        parametrization: str,
        rates: Sequence[float],
        seeds: Sequence[int],
        mode: Mode,
        store: Checkpoint,
    ) -> list[dict[str, Any]]:
        """Returns the rows of a grid of log2 rates."""


def case_of(shape: Shape, parametrization: str) -> dict[str, Any]:
    """Returns the fields that tell the rows of one curve from others."""
    return {"parametrization": parametrization, "width": shape.width, "depth": shape.depth}


def same_network(task: Task, shape: Shape, one: str, other: str) -> bool:
    """Whether two parametrizations are one network at this shape: all numbers of their rules are equal."""
    first, second = (
        jax.tree.leaves(numbers_of(rules(task.network(shape, name), "adam"))) for name in (one, other)
    )
    return bool(np.array_equal(first, second))


class Digits:
    """The residual MLP on digits: a norm before each branch, branches of two ReLU layers, Adam.

    Args:
        config: of the experiment.
    """

    loss, axis_label, log = "train_loss", "training loss (nats)", True

    def __init__(self, config: Any) -> None:
        self.config, self.batch = config, config.batch_size
        self.data = load_labelled("digits", None, config.seed)
        labelled(self.data, [config.seed], config)  # or says why there can be no such batch
        self.note = (
            f"Digits, {self.data.samples} images to train on; loss: cross-entropy on all of them after "
            f"{config.steps} steps of {config.batch_size} images."
        )

    def fingerprint(self) -> str:
        """What tells the data from others."""
        return self.data.fingerprint()

    def network(self, shape: Shape, parametrization: str) -> ResidualMLPConfig:
        """Returns the config of the model."""
        config = self.config
        return ResidualMLPConfig(
            inputs=self.data.train_inputs.shape[1],
            outputs=self.data.outputs,
            width=shape.width,
            base_width=config.widths[0],
            depth=shape.depth,
            base_depth=config.depths[0],
            branch_depth=2,
            norm="rms",
            scan=True,
            activation=config.activation,
            parametrization=PARAMETRIZATIONS[parametrization],
        )

    def train(
        self,
        shape: Shape,
        parametrization: str,
        rates: Sequence[float],
        seeds: Sequence[int],
        mode: Mode,
        store: Checkpoint,
    ) -> list[dict[str, Any]]:
        """Returns the rows of a grid of log2 rates."""
        config = self.config
        return train_rows(
            _residual_problem(self.network(shape, "standard"), config.steps, config.warmup),
            case_of(shape, parametrization),
            rates,
            seeds,
            **labelled(self.data, seeds, config),
            extras=numbers_of(rules(self.network(shape, parametrization), "adam")),
            mode=mode,
            checkpoint=store,
        )


@functools.lru_cache(maxsize=16)
def _residual_problem(network: ResidualMLPConfig, steps: int, warmup: int) -> Problem:
    """Returns the problem of a shape: one program for every parametrization, which comes in as numbers."""
    schedule = functools.partial(decoder_sweep.schedule, steps=steps, warmup=warmup)
    return classifier(ResidualMLP(network), make_rules(leaves(network), standard(), "adam"), schedule)


class Text:
    """The decoder on text: scanned blocks, recomputed in the backward pass.

    Args:
        config: of the experiment.
    """

    loss, axis_label, log = "loss", "validation loss (nats per token)", False

    def __init__(self, config: Any) -> None:
        self.config, self.batch = config, config.batch_size * config.context
        self.tokens = decoder_sweep.load(config)
        # Or they say why there can be no such windows.
        decoder_sweep.step_windows(self.tokens, config, config.seed, 0)
        decoder_sweep.held_out(self.tokens, config)
        self.note = (
            f"Text: {self.tokens.name}, {len(self.tokens.train)} tokens to train on; loss: cross-entropy on "
            f"{config.validation_windows} windows of the validation part after {config.steps} steps of "
            f"{config.batch_size} windows of {config.context} tokens."
        )

    def fingerprint(self) -> str:
        """What tells the data from others."""
        return self.tokens.fingerprint()

    def network(self, shape: Shape, parametrization: str) -> DecoderConfig:
        """Returns the config of the model."""
        config = self.config
        return DecoderConfig(
            vocabulary=self.tokens.vocabulary,
            context=config.context,
            width=shape.width,
            base_width=config.widths[0],
            depth=shape.depth,
            base_depth=config.depths[0],
            head_size=config.head_size,
            activation=config.activation,
            compute_dtype=config.compute_dtype,
            scan=True,
            remat=True,
            parametrization=PARAMETRIZATIONS[parametrization],
        )

    def train(
        self,
        shape: Shape,
        parametrization: str,
        rates: Sequence[float],
        seeds: Sequence[int],
        mode: Mode,
        store: Checkpoint,
    ) -> list[dict[str, Any]]:
        """Returns the rows of a grid of log2 rates."""
        network = self.network(shape, parametrization)
        case = case_of(shape, parametrization)
        return decoder_sweep.sweep_cells(self.tokens, network, case, rates, seeds, self.config, mode, store)


TASKS: Mapping[str, type[Digits] | type[Text]] = {"mlp": Digits, "decoder": Text}
