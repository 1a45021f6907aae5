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
            mixed = attend(query, key, value, config.temperature(), signal.bias, causal=config.causal)
        return dense(config, shapes, "output")(mixed.reshape(h.shape))


def attend(
    query: Float[Array, "*batch T heads d"],
    key: Float[Array, "*batch S keys d"],
    value: Float[Array, "*batch S keys d"],
    scale: float,
    bias: Float[Array, "each T S"] | None,
    *,
    causal: bool = False,
) -> Float[Array, "*batch T heads d"]:
    """Returns ``softmax(scale q k^T + bias) v``; consecutive query heads share a head of keys and values.

    Logits and softmax are in float32 at least, the products in the dtype of what enters. With ``causal``,
    where the bias masks all later keys, each of up to four parts of the queries leaves out the keys that are
    later than all of it: 5/8 of the work.
    """
    *batch, length, heads, size = query.shape
    keys = key.shape[-2]
    # Heads before positions: XLA's CPU backend is fast at products of the last two axes.
    q = jnp.moveaxis(query.reshape(*batch, length, keys, heads // keys, size), -4, -2)
    k, v = (jnp.swapaxes(array, -2, -3) for array in (key, value))
    parts = max(1, min(4, length // 32)) if causal else 1
    ends = [length * (part + 1) // parts for part in range(parts)]
    mixed = []
    for first, last in zip([0, *ends], ends, strict=False):
        seen = last if causal else k.shape[-2]
        near = None if bias is None else bias[:, first:last, :seen]
        mixed.append(_mix(q[..., first:last, :], k[..., :seen, :], v[..., :seen, :], scale, near))
    joined = mixed[0] if parts == 1 else jnp.concatenate(mixed, axis=-2)
    return jnp.moveaxis(joined, -2, -4).reshape(query.shape)


def _mix(
    query: Float[Array, "*batch keys group T d"],
    key: Float[Array, "*batch keys S d"],
    value: Float[Array, "*batch keys S d"],
    scale: float,
    bias: Float[Array, "each T S"] | None,
) -> Float[Array, "*batch keys group T d"]:
    """Returns what some queries mix; the weights are normalised last, where there are fewer numbers."""
    *outer, group, length, size = query.shape
    rows = query.reshape(*outer, group * length, size)
    logits_of, mix = "...td,...sd->...ts", "...ts,...sd->...td"
    if wide(query.dtype) == query.dtype:
        logits = jnp.einsum(logits_of, scale * rows, key)
    else:
        logits = scale * wide_einsum(logits_of, wide(query.dtype).name, rows, key)
    if bias is not None:
        heads = (outer[-1], group) if bias.shape[0] > 1 else (1, 1)
        told = bias.astype(logits.dtype).reshape((1,) * (len(outer) - 1) + heads + bias.shape[1:])
        logits = (logits.reshape(*outer, group, length, -1) + told).reshape(logits.shape)
    # The gradient through the maximum is zero: it cancels.
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True)))
    total = weights.sum(axis=-1, keepdims=True)
    if wide(value.dtype) == value.dtype:
        mixed = jnp.einsum(mix, weights, value) / total
    else:
        mixed = wide_einsum(mix, wide(value.dtype).name, weights.astype(value.dtype), value) / total
    return mixed.astype(value.dtype).reshape(query.shape)
