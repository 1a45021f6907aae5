"""The MLP of a block: plain, or gated."""

from __future__ import annotations

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from widelimit.models.transformer.activations import SWIGLU, feedforward_activation
from widelimit.models.transformer.config import TransformerConfig
from widelimit.models.transformer.layers import dense, norm


class FeedForward(nn.Module):
    """``down(phi(up(norm(x))))``; with the activation swiglu, ``down(silu(gate(norm(x))) up(norm(x)))``."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x: Float[Array, "*batch T width"]) -> Float[Array, "*batch T width"]:
        """Returns the branch."""
        config, shapes = self.config, self.config.block()["mlp"]
        h = norm(config, inside=True)(x)
        up = dense(config, shapes, "up")(h)
        if config.activation == SWIGLU:
            h = jax.nn.silu(dense(config, shapes, "gate")(h)) * up
        else:
            h = feedforward_activation(config.activation)(up)
        return dense(config, shapes, "down")(h)
