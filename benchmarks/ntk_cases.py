"""The networks of the empirical NTK benchmark: an MLP, a convolutional network, a decoder.

The decoder is plain Flax, so that it is what a user has; the other two are the package's own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from widelimit import models, scaling

Network = tuple[Callable[[Any, Any], jax.Array], Any, Any]  # apply, params, x
DEPTH, PIXELS, TOKENS, BLOCKS, HEADS = 3, 16, 32, 2, 4


@dataclasses.dataclass(frozen=True)
class Case:
    """One kernel: of which network, how many samples, which form."""

    network: str
    form: str
    samples: int
    width: int
    outputs: int

    def build(self) -> Network:
        """Returns ``apply(params, x)``, its parameters and its inputs."""
        return NETWORKS[self.network](self)

    def __str__(self) -> str:
        return f"{self.network} {self.form} N={self.samples} W={self.width} O={self.outputs}"


def mlp(case: Case) -> Network:
    """Three hidden ReLU layers on 64 inputs."""
    config = models.MLPConfig(
        inputs=64,
        outputs=case.outputs,
        width=case.width,
        base_width=case.width,
        parametrization=scaling.ntk(),
        depth=DEPTH,
        activation="relu",
    )
    x = jax.random.normal(jax.random.key(1), (case.samples, 64))
    return _own(models.MLP(config), config, x)


def cnn(case: Case) -> Network:
    """Three ReLU convolutions of 3 x 3 on 16 x 16 x 3 images, global average pooling, a dense readout."""
    config = models.ConvConfig(
        inputs=3,
        outputs=case.outputs,
        width=case.width,
        base_width=case.width,
        parametrization=scaling.ntk(),
        depth=DEPTH,
    )
    x = jax.random.normal(jax.random.key(1), (case.samples, PIXELS, PIXELS, 3))
    return _own(models.ConvNet(config), config, x)


def _own(model: Any, config: Any, x: jax.Array) -> Network:
    """A network of the package, with its multipliers."""
    rules = models.rules(config, "sgd")
    params = models.initialise(jax.random.key(0), rules)
    return lambda p, x: model.apply({"params": p, "multipliers": rules.multiplier}, x), params, x


class Decoder(nn.Module):
    """A small pre-norm decoder with causal attention; returns the logits after the last token."""

    vocabulary: int
    width: int

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = nn.Embed(self.vocabulary, self.width, name="tokens")(tokens)
        x += nn.Embed(tokens.shape[-1], self.width, name="positions")(jnp.arange(tokens.shape[-1])[None])
        mask = nn.make_causal_mask(tokens)
        for _ in range(BLOCKS):
            x += nn.MultiHeadDotProductAttention(HEADS)(nn.LayerNorm()(x), mask=mask)
            x += nn.Dense(self.width)(nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x))))
        return nn.Dense(self.vocabulary, use_bias=False, name="readout")(nn.LayerNorm()(x)[:, -1])


def decoder(case: Case) -> Network:
    """Two blocks with 4 heads over 32 tokens, vocabulary and outputs the same; untied."""
    model = Decoder(case.outputs, case.width)
    tokens = jax.random.randint(jax.random.key(1), (case.samples, TOKENS), 0, case.outputs)
    params = model.init(jax.random.key(0), tokens)["params"]

    def apply(p: Any, x: Any) -> jax.Array:
        return jnp.asarray(model.apply({"params": p}, x))

    return apply, params, tokens


NETWORKS: dict[str, Callable[[Case], Network]] = {"mlp": mlp, "cnn": cnn, "decoder": decoder}
