"""Square roots of kernels that grow by some rows at every step, and survive where a kernel is singular."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

#: Directions of new rows that keep less than this part of their variance are taken as known: float32
#: averages of kernels are no better.
CLIP = {"float32": 1e-6, "float64": 1e-12}


class Factor(NamedTuple):
    """A block triangular root C of a kernel, ``C C^T = K``, for the rows so far; zero beyond.

    The inverse is kept beside the root, so that a step is two matrix products. Where an innovation is
    clipped the inverse is the pseudo-inverse: later rows put no weight there.
    """

    root: jax.Array  # shape=(n, n), dtype=float64
    inverse: jax.Array  # shape=(n, n), dtype=float64
    ridged: jax.Array  # inverse root of K + ridge, shape=(n, n) or (0, 0) where not needed, dtype=float64
    clipped: jax.Array  # directions without new variance, shape=(), dtype=int32


def empty(rows: int, ridged: bool) -> Factor:
    """A factor of no rows yet, with space for some.

    Args:
        rows: n.
        ridged: whether the root of K + ridge is needed too.
    """
    shape, also = (rows, rows), (rows, rows) if ridged else (0, 0)
    return Factor(jnp.zeros(shape), jnp.zeros(shape), jnp.zeros(also), jnp.zeros((), jnp.int32))


def extend(
    factor: Factor, row: jax.Array, t: jax.Array, clip: float, ridge: float
) -> tuple[Factor, jax.Array]:
    """Returns the factor with the rows of time t, and these rows of the root.

    Args:
        factor: of the times before t.
        row: the kernel between the b new points and all so far, themselves included, shape [b, n]; what is
            beyond is ignored.
        t: the time, so that the new rows are t b .. (t + 1) b.
        clip: the part of its variance below which a new direction counts as known.
        ridge: added to the diagonal of the ridged root, over the mean of the diagonal.
    """
    b, n = row.shape
    start = t * b
    block = lax.dynamic_slice_in_dim(row, start, b, axis=1)
    block = (block + block.T) / 2
    past = jnp.where(jnp.arange(n)[None, :] < start, row, 0.0)
    scale = jnp.trace(block) / b
    loading, root, inverse, lost = _rows(factor.inverse, past, block, clip * scale)
    root = lax.dynamic_update_slice_in_dim(loading, root, start, axis=1)
    new = lax.dynamic_update_slice_in_dim(-inverse @ (loading @ factor.inverse), inverse, start, axis=1)
    ridged = factor.ridged
    if ridged.size:
        shifted = block + ridge * scale * jnp.eye(b)
        loading, _, inverse, _ = _rows(ridged, past, shifted, 0.0)
        last = lax.dynamic_update_slice_in_dim(-inverse @ (loading @ ridged), inverse, start, axis=1)
        ridged = lax.dynamic_update_slice_in_dim(ridged, last, start, axis=0)
    return (
        Factor(
            lax.dynamic_update_slice_in_dim(factor.root, root, start, axis=0),
            lax.dynamic_update_slice_in_dim(factor.inverse, new, start, axis=0),
            ridged,
            factor.clipped + lost,
        ),
        root,
    )


def _rows(
    inverse: jax.Array, past: jax.Array, block: jax.Array, least: jax.Array | float
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """What new rows owe to old noise, the root of the rest and its pseudo-inverse, and what was clipped."""
    loading = past @ inverse.T
    values, vectors = jnp.linalg.eigh(block - loading @ loading.T)
    kept = values > least
    root = jnp.where(kept, jnp.sqrt(jnp.where(kept, values, 1.0)), 0.0)
    inverse = jnp.where(kept, 1 / jnp.where(kept, root, 1.0), 0.0)
    lost = jnp.sum(~kept).astype(jnp.int32)
    return loading, (vectors * root) @ vectors.T, (vectors * inverse) @ vectors.T, lost


def stein(factor: Factor, covariance: jax.Array) -> jax.Array:
    r"""Returns mean derivatives by a Gaussian field from covariances with its noise.

    ``<d y / d r> = <y eps^T> C^T (K + ridge)^-1``, Gaussian integration by parts.

    Args:
        factor: of the field's kernel.
        covariance: <y eps^T>, shape [b, n].
    """
    return ((covariance @ factor.root.T) @ factor.ridged.T) @ factor.ridged
