"""The loss of a language model, written so that a vocabulary may be split over devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

PyTree = Any


def token_cross_entropy(
    logits: Float[Array, "*batch vocabulary"], labels: Int[Array, "*batch"]
) -> Float[Array, ""]:
    r"""Cross-entropy in nats, averaged over all tokens, in float32 at least.

    ``L = mean_t (log sum_v exp z_tv - z_t,label(t))``. The label's logit is a masked sum and not an indexed
    read: each device sums over its own part of the vocabulary, and no device gathers the logits.

    Args:
        logits: z, one row per token.
        labels: the token that came next, in ``0..vocabulary-1``; any other makes the loss NaN.

    Example:
        >>> float(token_cross_entropy(jnp.zeros((2, 3, 4)), jnp.zeros((2, 3), int))) == float(jnp.log(4.0))
        True
    """
    wide = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    top = jax.lax.stop_gradient(jnp.max(wide, axis=-1, keepdims=True))
    normalizer = jnp.log(jnp.sum(jnp.exp(wide - top), axis=-1)) + top[..., 0]
    vocabulary = logits.shape[-1]
    entry = jax.lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1)
    chosen = jnp.sum(jnp.where(entry == labels[..., None], wide, jnp.zeros((), wide.dtype)), axis=-1)
    known = (labels >= 0) & (labels < vocabulary)
    return jnp.mean(jnp.where(known, normalizer - chosen, jnp.nan))


def next_token_loss(apply: Callable[[PyTree, Array], Array]) -> Callable[[PyTree, Array], Array]:
    """Returns the loss of predicting each token of a window from those before it.

    Args:
        apply: ``(params, tokens [batch, T]) -> logits [batch, T, vocabulary]``.

    Returns:
        ``(params, windows [batch, T + 1]) -> loss``: the first T tokens go in, the last T are predicted.

    Example:
        >>> loss = next_token_loss(lambda table, tokens: table[tokens])
        >>> f"{loss(jnp.eye(2) * 9, jnp.array([[0, 0, 0]])):.4f}"
        '0.0001'
    """

    def loss(params: PyTree, windows: Int[Array, "batch window"]) -> Float[Array, ""]:
        return token_cross_entropy(apply(params, windows[:, :-1]), windows[:, 1:])

    return loss
