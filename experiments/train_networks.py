"""What `experiments.train` trains: network, loss, optimizer and data of a config."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from experiments.decoder_sweep import load
from widelimit import optim
from widelimit.models import Decoder, DecoderConfig, ViT, ViTConfig, rules
from widelimit.scaling import Parametrization, Role, Rules, completep, depth_mup, mup, standard, with_depth
from widelimit.training import cross_entropy
from widelimit.training.data import Tokens, batch_indices, cifar10, digits, token_batch, token_file
from widelimit.training.scale import Flops, check_heads, flops_per_token, next_token_loss, warmup_then

if TYPE_CHECKING:
    from experiments.train import Config

NAMED: dict[str, Callable[[], Parametrization]] = {
    "sp": standard,
    "mup": lambda: mup(table=8),
    "depth_mup": depth_mup,
    "completep": completep,
}
_LOOK = 10**7  # tokens that single-token statistics are taken from


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """What there is to train.

    Args:
        loss: ``(params, batch) -> loss``.
        optimizer: with schedule, clip and decay.
        schedule: the global learning rate by step.
        rules: of the network.
        batches: ``step -> batch``.
        validation: fixed batches.
        tokens: per step; patches for images.
        outputs: the vocabulary, or the classes.
        parameters: number of weights.
        flops: of the model per token.
        fingerprint: of the data.
        name: of the data.
        notes: what reading the data has to say.
        logit_variance: of the initial network, where theory fixes it.
        unigram: loss of predicting validation tokens by their frequencies in training, nats; None for images.
    """

    loss: Callable[[Any, Any], jax.Array]
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    rules: Rules
    batches: Callable[[int], Any]
    validation: list[Any]
    tokens: int
    outputs: int
    parameters: int
    flops: Flops
    fingerprint: str
    name: str
    notes: tuple[str, ...]
    logit_variance: float | None
    unigram: float | None


def make_job(config: Config, mesh: Mesh) -> Job:
    """Returns what a config asks for, or says in a sentence why there is no such thing."""
    return _text_job(config, mesh) if config.model == "decoder" else _image_job(config, mesh)


def parametrization(name: str) -> Parametrization:
    """Returns a parametrization by name, or muP with a power of depth."""
    if name in NAMED:
        return NAMED[name]()
    try:
        alpha = Fraction(name)
    except (ValueError, ZeroDivisionError):
        raise ValueError(
            f"parametrization must be one of {', '.join(NAMED)} or a power of depth such as 0.75; got "
            f"{name!r}."
        ) from None
    return with_depth(mup(table=8), alpha)


def _text_job(config: Config, mesh: Mesh) -> Job:
    """A decoder on text."""
    tokens = _tokens(config)
    vocabulary = math.ceil(tokens.vocabulary / config.pad_vocabulary) * config.pad_vocabulary
    network = DecoderConfig(
        vocabulary=vocabulary, context=config.context, tied=config.tied, **_shared(config, "rope")
    )
    check_heads(mesh, network.split().queries)
    numbers, model = _rules(config, network), Decoder(network)

    def logits(params: Any, windows: jax.Array) -> jax.Array:
        found: Any = model.apply({"params": params, "multipliers": numbers.multiplier}, windows)
        return found

    def windows(part: np.ndarray, seed: int, step: int) -> np.ndarray:
        return token_batch(part, seed=seed, step=step, batch=config.batch, context=config.context)

    return Job(
        loss=next_token_loss(logits),
        batches=lambda step: windows(tokens.train, config.seed, step),
        validation=[windows(tokens.validation, 0, i) for i in range(config.validation_batches)],
        tokens=config.batch * config.context,
        outputs=vocabulary,
        flops=flops_per_token(network, config.context),
        fingerprint=tokens.fingerprint(),
        name=repr(tokens),
        notes=tokens.notes,
        logit_variance=None if config.tied else _logit_variance(numbers),
        unigram=_unigram(tokens),
        **_optimizer(config, numbers),
    )


def _tokens(config: Config) -> Tokens:
    """The text of the flags, or the token file."""
    if config.token_file is None:
        return load(config)
    return token_file(config.token_file, dtype=config.token_dtype, vocabulary=config.vocabulary)


def _image_job(config: Config, mesh: Mesh) -> Job:
    """A vision transformer on images."""
    data = (
        digits(seed=config.seed, form="image", smallest_std=1.0)
        if config.images == "digits"
        else cifar10(config.images, seed=config.seed, form="image")
    )
    height, width, channels = data.train_inputs.shape[1:]
    network = ViTConfig(
        image=(height, width),
        inputs=channels,
        patch=config.patch,
        outputs=data.outputs,
        **_shared(config, "learned"),
    )
    check_heads(mesh, network.split().queries)
    numbers, model = _rules(config, network), ViT(network)

    def loss(params: Any, batch: Any) -> jax.Array:
        logits: Any = model.apply({"params": params, "multipliers": numbers.multiplier}, batch["x"])
        return cross_entropy(logits, batch["y"])

    def rows(part: str, index: np.ndarray) -> dict[str, np.ndarray]:
        inputs, targets = getattr(data, f"{part}_inputs"), getattr(data, f"{part}_targets")
        return {"x": inputs[index], "y": targets[index]}

    held_out = len(data.test_inputs)
    return Job(
        loss=loss,
        batches=lambda step: rows("train", batch_indices(config.seed, step, config.batch, data.samples)),
        validation=[
            rows("test", batch_indices(0, i, config.batch, held_out))
            for i in range(config.validation_batches)
        ],
        tokens=config.batch * network.tokens,
        outputs=data.outputs,
        flops=flops_per_token(network, network.tokens, causal=False),
        fingerprint=data.fingerprint(),
        name=repr(data),
        notes=(),
        logit_variance=None,
        unigram=None,
        **_optimizer(config, numbers),
    )


def _shared(config: Config, positions: str) -> dict[str, Any]:
    """What both networks take from the flags."""
    names = (
        "width base_width depth base_depth head_size heads kv_heads mlp_ratio activation norm gains bias "
        "zero_query zero_readout init_std attention_kernel scan remat"
    ).split()
    return {
        **{name: getattr(config, name) for name in names},
        "positions": positions if config.positions == "default" else config.positions,
        "parametrization": parametrization(config.parametrization),
        "compute_dtype": None if config.precision == "float32" else config.precision,
    }


def _rules(config: Config, network: DecoderConfig | ViTConfig) -> Rules:
    """The rules of a network under the optimizer of the flags."""
    family = {"adamw": "adam", "sgd": "sgd", "muon": "muon"}[config.optimizer]
    return rules(network, family, weight_decay=config.decay)


def _optimizer(config: Config, numbers: Rules) -> dict[str, Any]:
    """Optimizer, schedule, rules and number of weights, as fields of a job."""
    schedule = warmup_then(
        config.schedule, config.learning_rate, config.steps, config.warmup, config.final_rate
    )
    adam: dict[str, Any] = {"b1": config.beta1, "b2": config.beta2, "eps": config.epsilon}
    update = {
        "adamw": lambda: optim.adamw(schedule, numbers, **adam, weight_decay=config.weight_decay),
        "muon": lambda: optim.muon(schedule, numbers, **adam, weight_decay=config.weight_decay),
        "sgd": lambda: optim.sgd(
            schedule, numbers, momentum=config.beta1 or None, weight_decay=config.weight_decay
        ),
    }[config.optimizer]()
    clip = optim.clip_by_global_norm(config.clip, numbers) if config.clip else optax.identity()
    return {
        "optimizer": optax.chain(clip, update),
        "schedule": schedule,
        "rules": numbers,
        "parameters": sum(math.prod(leaf.shape) for leaf in numbers.leaves),
    }


def _logit_variance(numbers: Rules) -> float:
    """The variance of an initial logit: the readout's effective weights meet features of mean square one."""
    flat = [jax.tree.leaves(part) for part in (numbers.multiplier, numbers.init_std)]
    return sum(
        (multiplier * std) ** 2 * leaf.fan_in
        for leaf, multiplier, std in zip(numbers.leaves, *flat, strict=True)
        if leaf.role is Role.OUTPUT and leaf.contracted
    )


def _unigram(tokens: Tokens) -> float:
    """Cross-entropy of validation tokens under training frequencies, each token counted once more."""
    counts = [
        np.bincount(part[:_LOOK], minlength=tokens.vocabulary) for part in (tokens.train, tokens.validation)
    ]
    known = (counts[0] + 1) / (counts[0] + 1).sum()
    return float(-(counts[1] / counts[1].sum()) @ np.log(known))
