"""Self-attention: one, several or all query heads to a head of keys and values."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from widelimit.models.layers import wide, wide_einsum
from widelimit.models.transformer.config import TransformerConfig
from widelimit.models.transformer.fused import attend_fused
from widelimit.models.transformer.layers import dense, norm
from widelimit.models.transformer.positions import Signal, rotate


class Attention(nn.Module):
    r"""``output(softmax(temperature q k^T + bias) v)`` of ``q, k, v = query, key, value(norm(x))``."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x: Float[Array, "*batch T width"], signal: Signal) -> Float[Array, "*batch T width"]:
        """Returns the branch."""
        config, shapes, heads = self.config, self.config.block()["attention"], self.config.split()
        h = norm(config, inside=True)(x)
        query, key, value = (
            dense(config, shapes, name)(h).reshape(*h.shape[:-1], number, heads.size)
            for name, number in (("query", heads.queries), ("key", heads.keys), ("value", heads.keys))
        )
        if signal.cosine is not None and signal.sine is not None:
            query, key = (rotate(array, signal.cosine, signal.sine) for array in (query, key))
        if config.attention_kernel == "cudnn":
            mixed = attend_fused(query, key, value, config.temperature(), signal.bias, causal=config.causal)
        else:
            mixed = attend(query, key, value, config.temperature(), signal.bias)
        return dense(config, shapes, "output")(mixed.reshape(h.shape))


def attend(
    query: Float[Array, "*batch T heads d"],
    key: Float[Array, "*batch S keys d"],
    value: Float[Array, "*batch S keys d"],
    scale: float,
    bias: Float[Array, "each T S"] | None,
) -> Float[Array, "*batch T heads d"]:
    """Returns ``softmax(scale q k^T + bias) v``; consecutive query heads share a head of keys and values.

    Logits and softmax are in float32 at least, the products in the dtype of what enters.
    """
    *batch, length, heads, size = query.shape
    keys = key.shape[-2]
    grouped = query.reshape(*batch, length, keys, heads // keys, size)
    logits_of, mix = "...tkgd,...skd->...kgts", "...kgts,...skd->...tkgd"
    if wide(query.dtype) == query.dtype:
        logits = jnp.einsum(logits_of, scale * grouped, key)
    else:
        logits = scale * wide_einsum(logits_of, wide(query.dtype).name, grouped, key)
    if bias is not None:
        each = (keys, heads // keys) if bias.shape[0] > 1 else (1, 1)
        logits = logits + bias.reshape((1,) * len(batch) + each + bias.shape[1:])
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    return jnp.einsum(mix, weights, value).reshape(query.shape)
