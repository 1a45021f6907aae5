"""A block, and the stack of them: unrolled or scanned, with or without storing activations."""

from __future__ import annotations

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from widelimit.models.layers import scaled
from widelimit.models.transformer.attention import Attention
from widelimit.models.transformer.config import TransformerConfig
from widelimit.models.transformer.mlp import FeedForward
from widelimit.models.transformer.positions import Signal


class Block(nn.Module):
    """Two residual additions: attention, then the MLP. Records the stream that leaves it as ``stream``."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x: Float[Array, "*batch T width"], signal: Signal) -> Float[Array, "*batch T width"]:
        """Returns the stream after the block."""
        scale = self.config.branch_scale
        x = x + scaled(scale, Attention(self.config, name="attention")(x, signal).astype(x.dtype))
        x = x + scaled(scale, FeedForward(self.config, name="mlp")(x).astype(x.dtype))
        self.sow("intermediates", "stream", x)
        return x


def run_blocks(
    config: TransformerConfig, x: Float[Array, "*batch T width"], signal: Signal
) -> Float[Array, "*batch T width"]:
    """Returns the stream after all blocks; to be called in the compact method of a network."""
    block = nn.remat(Block, prevent_cse=not config.scan) if config.remat else Block
    if not config.scan:
        for index in range(config.depth):
            x = block(config, name=f"block_{index}")(x, signal)
        return x

    def step(module: nn.Module, stream: jax.Array, told: Signal) -> tuple[jax.Array, None]:
        return module(stream, told), None

    scan = nn.scan(
        step,
        variable_axes={"params": 0, "intermediates": 0, "perturbations": 0},
        variable_broadcast="multipliers",
        split_rngs={"params": True},
        in_axes=nn.broadcast,
        length=config.depth,
    )
    return scan(block(config, name="blocks"), x, signal)[0]
