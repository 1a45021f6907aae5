"""Square roots of kernels that grow by some rows at every step, and survive where a kernel is singular."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from widelimit.dmft.causal.products import turned

#: Added to a kernel's diagonal, over its mean. It bounds the root's inverse where the kernel is singular (a
#: kernel that has stopped to change, duplicate samples), well above the rounding errors of averages in this
#: dtype: a field gets that much variance more, a hundredth of its size or less.
JITTER = {"float32": 1e-5, "float64": 1e-8}


class Factor(NamedTuple):
    """A triangular root C of a kernel, ``C C^T = K + jitter``, for the rows so far; zero beyond.

    Inverses are kept beside it, so that a step is products of matrices and no triangular solve.
    """

    root: jax.Array  # shape=(n, n) or (0, 0) where only its newest rows are needed, dtype=float64
    inverse: jax.Array  # of the root, shape=(n, n), dtype=float64
    ridged: jax.Array  # inverse root of K + ridge, shape=(n, n) or (0, 0) where not needed, dtype=float64
    clipped: jax.Array  # directions that bring nothing new beside the jitter, shape=(), dtype=int32


def empty(rows: int, ridged: bool) -> Factor:
    """A factor of no rows yet, with space for some.

    Args:
        rows: n.
        ridged: whether responses are taken from it, which need the root of K + ridge too.
    """
    whole, also = (rows, rows), (rows, rows) if ridged else (0, 0)
    return Factor(jnp.zeros(also), jnp.zeros(whole), jnp.zeros(also), jnp.zeros((), jnp.int32))


def extend(
    factor: Factor, row: jax.Array, t: jax.Array, jitter: float, ridge: jax.Array
) -> tuple[Factor, jax.Array]:
    """Returns the factor with the rows of time t, and these rows of the root.

    Args:
        factor: of the times before t.
        row: the kernel between the b new points and all so far, themselves included, shape [b, n]; what is
            beyond is ignored.
        t: the time, so that the new rows are t b .. (t + 1) b.
        jitter: added to the diagonal, over its mean.
        ridge: added in place of the jitter in the ridged root.
    """
    b, n = row.shape
    start = t * b
    block = lax.dynamic_slice_in_dim(row, start, b, axis=1)
    block = (block + block.T) / 2
    past = jnp.where(jnp.arange(n, dtype=t.dtype)[None, :] < start, row, 0.0)
    scale = jnp.trace(block) / b  # of no field at all there is nothing to be regularised
    scale = jnp.where(scale > 0, scale, 1.0)
    inverse, root, lost = _grow(factor.inverse, past, block, jitter * scale, start)
    ridged, whole = factor.ridged, factor.root
    if ridged.size:
        ridged, _, _ = _grow(ridged, past, block, ridge * scale, start)
        whole = lax.dynamic_update_slice_in_dim(whole, root, start, axis=0)
    return Factor(whole, inverse, ridged, factor.clipped + lost), root


def _grow(
    inverse: jax.Array, past: jax.Array, block: jax.Array, jitter: jax.Array, start: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """An inverse root with new rows, the root's own new rows, and how many of them bring nothing new."""
    loading = turned(past, inverse)
    # rounding errors of the averages must not make a field larger than its kernel says
    size, most = jnp.sum(loading * loading, axis=1), jnp.diagonal(block)
    loading = loading * jnp.sqrt(jnp.where(size > most, most / jnp.where(size > 0, size, 1.0), 1.0))[:, None]
    values, vectors = jnp.linalg.eigh(block - loading @ loading.T)
    lost = jnp.sum(values < jitter).astype(jnp.int32)
    size = jnp.sqrt(jnp.maximum(values, 0.0) + jitter)
    new, back = (vectors * size[None]) @ vectors.T, (vectors / size[None]) @ vectors.T
    rows = lax.dynamic_update_slice_in_dim(-back @ (loading @ inverse), back, start, axis=1)
    # a field without variance is zero, and gets none by the jitter; its inverse stays finite
    root = lax.dynamic_update_slice_in_dim(loading, new, start, axis=1)
    root = jnp.where((most > 0)[:, None], root, 0.0)
    return lax.dynamic_update_slice_in_dim(inverse, rows, start, axis=0), root, lost


def stein(factor: Factor, covariance: jax.Array) -> jax.Array:
    r"""Returns mean derivatives by a Gaussian field from covariances with its noise.

    ``<d y / d r> = <y eps^T> C^T (K + ridge)^-1``, Gaussian integration by parts.

    Args:
        factor: of the field's kernel.
        covariance: <y eps^T>, shape [b, n].
    """
    return turned(turned(covariance, factor.root), factor.ridged) @ factor.ridged
