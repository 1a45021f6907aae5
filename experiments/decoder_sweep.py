"""What the experiments on decoders share: text by name, one compiled program per shape, rows of a grid."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from experiments.mlp_sweep import numbers_of
from experiments.transfer_search import Case, train_rows
from widelimit.models import Decoder, DecoderConfig, initialise, leaves, rules
from widelimit.optim import adamw
from widelimit.scaling import make_rules, standard
from widelimit.scaling.rules import Decay
from widelimit.training import Checkpoint, Mode, Problem, cross_entropy
from widelimit.training.data import Tokens, text, token_batch, token_file

B1, B2 = 0.9, 0.95
DECAY: Decay = "undone"  # decay times the global rate alone, so that it does not fade with width


class Training(Protocol):
    """What a grid needs of an experiment's config."""

    @property
    def steps(self) -> int:
        """Optimizer steps per cell."""

    @property
    def warmup(self) -> int:
        """Steps over which the rate rises."""

    @property
    def batch_size(self) -> int:
        """Windows per step."""

    @property
    def context(self) -> int:
        """Tokens per window."""

    @property
    def validation_windows(self) -> int:
        """Windows of the validation part on which the last loss is measured."""


class Source(Protocol):
    """Which text an experiment's config asks for."""

    @property
    def source(self) -> str:
        """``"python"``, a directory or a file."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Endings of the files of a directory; none for the default."""

    @property
    def tokenizer(self) -> Literal["bytes", "bpe"]:
        """How text becomes tokens."""

    @property
    def vocabulary(self) -> int | None:
        """Number of pieces, or of tokens in a token file."""

    @property
    def token_file(self) -> Path | None:
        """Tokens in place of text."""


def check_source(config: Source, preset: Source) -> None:
    """Refuses flags of a text that its source has no use for; what the preset itself sets is no flag.

    Args:
        config: of the experiment.
        preset: the preset that it started from.
    """
    names = ("source", "suffixes", "tokenizer")
    given = [name for name in names if getattr(config, name) != getattr(preset, name)]
    if config.token_file is not None and given:
        raise ValueError(
            "token_file is tokenised already and takes the place of a source; leave "
            f"{' and '.join(given)} out, got {' and '.join(repr(getattr(config, name)) for name in given)}."
        )
    if config.token_file is None and config.tokenizer == "bytes" and config.vocabulary is not None:
        raise ValueError(f"bytes have 257 tokens; leave vocabulary out, got {config.vocabulary}.")


def load(config: Source) -> Tokens:
    """Returns the tokens of an experiment: of its text, or of a file of tokens."""
    if config.token_file is not None:
        return token_file(config.token_file, vocabulary=config.vocabulary)
    return text(
        config.source, config.tokenizer, vocabulary=config.vocabulary, suffixes=config.suffixes or None
    )


def step_windows(tokens: Tokens, training: Training, seed: int, step: int) -> np.ndarray:
    """Returns the windows of a training step, the same at every width, or says why there can be none."""
    return token_batch(tokens, seed=seed, step=step, batch=training.batch_size, context=training.context)


def held_out(tokens: Tokens, training: Training) -> np.ndarray:
    """Returns the windows of the validation part on which every network is measured."""
    count, context = training.validation_windows, training.context
    return token_batch(tokens.validation, seed=0, step=0, batch=count, context=context)


def parameter_count(config: Any) -> int:
    """Returns the number of weights of a network."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(leaves(config)))


def schedule(rate: jax.Array, steps: int, warmup: int) -> Any:
    """Returns the rate of each step: it rises linearly over the warmup and falls linearly to zero at the end.

    ``rate min(1, (t + 1) / warmup, (steps - t) / (steps - warmup))``, t = 0, ..., steps - 1.
    """

    def at(count: jax.Array) -> jax.Array:
        rise = (count + 1) / max(warmup, 1)
        return rate * jnp.minimum(jnp.minimum(rise, 1.0), (steps - count) / (steps - warmup))

    return at


@functools.lru_cache(maxsize=4)
def problem(config: DecoderConfig, steps: int, warmup: int, decays: bool) -> Problem:
    """Returns the problem of a shape: one program for every parametrization, which comes in as numbers.

    Args:
        config: of any parametrization that has the same attention scale.
        steps: optimizer steps.
        warmup: of them, those over which the rate rises.
        decays: whether weights decay; by how much is in the numbers.
    """
    template = make_rules(leaves(config), standard(), "adam", weight_decay=DECAY)
    model = Decoder(config)

    def loss(params: Any, rows: jax.Array, extras: Any) -> jax.Array:
        variables = {"params": params, "multipliers": extras["multiplier"]}
        logits: Any = model.apply(variables, rows[:, :-1])
        return cross_entropy(logits.reshape(-1, config.vocabulary), rows[:, 1:].reshape(-1))

    def optimizer(rate: jax.Array, extras: Any) -> Any:
        tree = dataclasses.replace(template, **extras)
        return adamw(schedule(rate, steps, warmup), tree, B1, B2, weight_decay=float(decays))

    return Problem(
        initialise=lambda key, extras: initialise(key, dataclasses.replace(template, **extras)),
        loss=lambda params, batch, extras: loss(params, batch["tokens"], extras),
        optimizer=optimizer,
        measure=lambda params, evaluation, extras: {"loss": loss(params, evaluation["tokens"], extras)},
    )


def sweep_cells(
    tokens: Tokens,
    config: DecoderConfig,
    case: Case,
    log2_rates: Sequence[float],
    seeds: Sequence[int],
    training: Training,
    mode: Mode,
    checkpoint: Checkpoint,
    *,
    init_scale: float = 1.0,
    weight_decay: float = 0.0,
) -> list[dict[str, Any]]:
    """Trains a grid of one decoder and returns its rows; a killed grid resumes from its checkpoint.

    Cells of a seed see the same windows, whatever the rate and width; the loss of a row is that on the same
    windows of the validation part for all.

    Args:
        tokens: the text.
        config: of the decoder, whose parametrization gives the numbers of the rules.
        case: the fields of a row that tell this grid from others.
        log2_rates: log2 of the learning rates.
        seeds: of initial weights and windows.
        training: sizes and schedule.
        mode: how many cells run together.
        checkpoint: of the grid.
        init_scale: factor on the initial std of every matrix and table.
        weight_decay: coefficient, decoupled and multiplied by the global rate.
    """
    windows = [step_windows(tokens, training, seed, step) for seed in seeds for step in range(training.steps)]
    numbers = numbers_of(rules(config, "adam", weight_decay=DECAY))
    for name, factor in (("init_std", init_scale), ("weight_decay", weight_decay)):
        numbers[name] = jax.tree.map(lambda value, factor=factor: np.float32(factor * value), numbers[name])
    # The parametrization and what starts at zero have done their part: one program serves all of a shape.
    shared = dataclasses.replace(config, parametrization=standard(), zero_query=False, zero_readout=False)
    if shared.temperature() != config.temperature():
        shared = config
    return train_rows(
        problem(shared, training.steps, training.warmup, weight_decay > 0),
        case,
        log2_rates,
        seeds,
        data={"tokens": np.concatenate(windows)},
        batches=np.arange(len(windows) * training.batch_size).reshape(len(seeds), training.steps, -1),
        evaluation={"tokens": held_out(tokens, training)},
        extras=numbers,
        mode=mode,
        checkpoint=checkpoint,
    )
