"""The few operations of a step: products over samples, the place of a time, halves of antithetic pairs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

HIGHEST = lax.Precision.HIGHEST  # a GPU would else multiply float32 in fewer bits


def dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """The matrix product, in full precision."""
    return jnp.matmul(a, b, precision=HIGHEST)


def turned(few: jax.Array, many: jax.Array) -> jax.Array:
    """``few many^T`` for few rows and many, the long factor first: on a CPU up to six times as fast.

    Without the barrier XLA takes the transposed product as one in the other order again.
    """
    return lax.optimization_barrier(dot(many, few.T)).T


def merge(array: jax.Array) -> jax.Array:
    """The array as a matrix, with all axes before the last in one."""
    return array.reshape(-1, array.shape[-1])


def put(rows: jax.Array, row: jax.Array, t: jax.Array) -> jax.Array:
    """The rows with that of time t."""
    return lax.dynamic_update_index_in_dim(rows, row.astype(rows.dtype), t, 0)


def at(rows: jax.Array, t: jax.Array, axis: int = 0) -> jax.Array:
    """What stands at time t."""
    return lax.dynamic_index_in_dim(rows, t, axis, keepdims=False)


def put_layer(
    layers: tuple[jax.Array, ...], layer: int, row: jax.Array, t: jax.Array
) -> tuple[jax.Array, ...]:
    """The layers' rows with that of one layer and time t."""
    return (*layers[:layer], put(layers[layer], row, t), *layers[layer + 1 :])


def put_field(
    layers: tuple[jax.Array, ...], layer: int, field: jax.Array, t: jax.Array
) -> tuple[jax.Array, ...]:
    """The layers' histories, matrices with all times and points in their rows, with a field of time t."""
    rows = merge(field)
    history = lax.dynamic_update_slice_in_dim(layers[layer], rows, t * len(rows), 0)
    return (*layers[:layer], history, *layers[layer + 1 :])


def mean(now: jax.Array, history: jax.Array) -> jax.Array:
    """Averages over samples of products: a field of one time [..., s], and the history [n, s] of one."""
    return (turned(merge(now), history) / now.shape[-1]).reshape(*now.shape[:-1], -1)


def mean_own(now: jax.Array, history: jax.Array) -> jax.Array:
    """The same with a field's own history: an axis of times, then the field's axes but the samples."""
    return mean(now, history).reshape(*now.shape[:-1], -1, *now.shape[:-1])


class Pairs:
    """Samples in antithetic pairs: the first half has noise (u, r), the second (u, -r). Or no pairs.

    Args:
        antithetic: whether there are pairs.
    """

    def __init__(self, antithetic: bool) -> None:
        self.antithetic = antithetic

    def same(self, u: jax.Array) -> jax.Array:
        """Noise that both partners share."""
        return jnp.concatenate([u, u], axis=-1) if self.antithetic else u

    def flip(self, r: jax.Array) -> jax.Array:
        """Noise that changes its sign between partners."""
        return jnp.concatenate([r, -r], axis=-1) if self.antithetic else r

    def even(self, y: jax.Array) -> jax.Array:
        """The part of a field that partners share."""
        return self._halves(y, 1.0)

    def odd(self, y: jax.Array) -> jax.Array:
        """The part of a field that changes its sign between partners."""
        return self._halves(y, -1.0)

    def _halves(self, y: jax.Array, sign: float) -> jax.Array:
        """Half the sum, or difference, of partners."""
        half = y.shape[-1] // 2
        return (y[..., :half] + sign * y[..., half:]) / 2 if self.antithetic else y
