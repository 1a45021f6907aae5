"""The few operations of a step: products over samples, the place of a time, halves of antithetic pairs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

HIGHEST = lax.Precision.HIGHEST  # a GPU would else multiply float32 in fewer bits


def dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """The matrix product, in full precision."""
    return jnp.matmul(a, b, precision=HIGHEST)


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


def mean(now: jax.Array, history: jax.Array) -> jax.Array:
    """Averages over samples of products: fields of one time [..., s] and of all times [W, ..., s]."""
    # the long factor first: it is read along its rows
    product = dot(merge(history), merge(now).T).T / now.shape[-1]
    return product.reshape(now.shape[:-1] + history.shape[:-1])


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
