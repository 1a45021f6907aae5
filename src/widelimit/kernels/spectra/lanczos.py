"""The largest eigenvalues and their eigenvectors, from products with vectors alone."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from widelimit.kernels.spectra.operators import KernelOperator, precision, products

ORTHOGONAL = 2.0**8  # times eps: two passes of reorthogonalisation leave a few eps


class Eigenpairs(NamedTuple):
    """Approximate eigenpairs, largest first, with the error of each.

    Args:
        values: shape [k], float64.
        vectors: unit length, mutually orthogonal, shape [k, *vector_shape].
        residuals: ``|Theta v - lam v|``, shape [k]: an eigenvalue lies within this distance of each value.
        steps: products with the operator that were spent on the subspace.
    """

    values: np.ndarray  # shape=(k,), dtype=float64
    vectors: np.ndarray  # shape=(k, *vector_shape), dtype=that of the operator
    residuals: np.ndarray  # shape=(k,), dtype=float64
    steps: int


class Tridiagonal(NamedTuple):
    """Lanczos' tridiagonal matrix T = Q^T A Q, cut where rounding takes the orthogonality of Q."""

    diagonal: jax.Array  # shape=(steps,)
    offdiagonal: jax.Array  # shape=(steps - 1,)
    valid: jax.Array  # shape=(), dtype=int32: rows of T and Q that count


def top_eigenpairs(
    operator: KernelOperator, k: int, *, key: jax.Array, steps: int | None = None
) -> Eigenpairs:
    r"""The k largest eigenvalues of a symmetric operator with their eigenvectors, by Lanczos' method.

    ``steps`` products with the operator span a subspace, fully reorthogonalised; the largest eigenvalues of
    the operator restricted to it are returned, each with its measured residual. The values come from below.
    Their error is at most the residual, and about residual^2 / gap where the gap to the next eigenvalue is
    larger: raise ``steps`` until it is as small as you need. Memory: ``steps`` vectors.

    An eigenvalue that occurs m times in exact arithmetic (as in a kernel K (x) I_O over O outputs; not in
    that of a finite network) is found once, unless ``steps`` exhausts all others.

    Args:
        operator: of ``operator``, ``from_matrix``, or any ``KernelOperator``.
        k: number of eigenpairs.
        key: for the random start.
        steps: products spent, from k to the operator's size; None is ``2 k + 30``, or the size if smaller.

    Raises:
        ValueError: if k or ``steps`` is out of range, or a product is not finite.
        ImportError: if matfree is not installed.

    Example:
        >>> from widelimit.kernels.spectra import from_matrix
        >>> top = top_eigenpairs(from_matrix(np.diag(np.arange(100.0))), 2, key=jax.random.key(0), steps=60)
        >>> top.values.round(6), bool(top.residuals.max() < 1e-3)
        (array([99., 98.]), True)

    Reference:
        Lanczos (1950); Parlett, "The Symmetric Eigenvalue Problem" (1980), chapters 4 and 13.
    """
    size = operator.size
    if not 1 <= k <= size:
        raise ValueError(f"k must be from 1 to {size}, the operator's size; got {k}.")
    steps = min(2 * k + 30, size) if steps is None else steps
    check_steps(steps, operator, at_least=k)
    with precision(operator.dtype):
        basis = np.zeros((0, size), operator.dtype)
        values, coordinates = np.zeros(0), np.zeros((0, 0))
        spent = 0
        # One pass, unless it ends in an invariant subspace: then it goes on in what is left.
        while True:
            q, (diagonal, offdiagonal, valid) = _krylov(operator, key, len(basis), _padded(basis), steps)
            count = min(int(valid), size - len(basis))
            spent += steps
            _check_finite(diagonal[:count], offdiagonal[: count - 1])
            found, turned = np.linalg.eigh(tridiagonal(diagonal, offdiagonal, count))
            enough = len(values) >= k and found[-1] <= values[-k]
            basis = np.concatenate([basis, np.asarray(q)[:count]])
            coordinates = _block_diagonal(coordinates, turned)
            order = np.argsort(np.concatenate([values, found]))
            values, coordinates = np.concatenate([values, found])[order], coordinates[:, order]
            if enough or count == steps or len(basis) == size:
                break
        vectors = coordinates.T[::-1][:k].astype(operator.dtype) @ basis
        values = values[::-1][:k]
        images = np.asarray(products(operator, jnp.asarray(vectors)), float)
    residuals = np.linalg.norm(images - values[:, None] * vectors, axis=1)
    return Eigenpairs(values, vectors.reshape(k, *operator.vector_shape), residuals, spent)


def tridiagonalise(
    operator: KernelOperator, start: jax.Array, steps: int, outside: jax.Array | None = None
) -> tuple[jax.Array, Tridiagonal]:
    """Returns Lanczos' basis [steps, size] from a start vector, and T; matfree does the work.

    Once the subspace is invariant, the next vector is rounding (or 0 / 0), not orthogonal to the others, and
    from there on T has eigenvalues that the operator has not. The rows before it are counted in ``valid``:
    those orthogonal to each other and to the rows of ``outside``.
    """
    try:
        from matfree import decomp
    except ImportError as error:
        message = "Lanczos needs matfree, which is not installed: pip install 'widelimit[kernels]'."
        raise ImportError(message) from error

    def product(v: jax.Array) -> jax.Array:
        return operator.function(operator.arguments, v.reshape(operator.vector_shape)).ravel()

    start = start.ravel() / jnp.linalg.norm(start.ravel())
    scale = _power_of_two(jnp.abs(product(start)).max())  # squares of 1e-20 or 1e20 are no float32
    lanczos = decomp.tridiag_sym(steps, materialize=False, reortho="full", custom_vjp=False)
    q, (diagonal, offdiagonal), *_ = lanczos(lambda v: product(v) / scale, start)
    errors = jnp.abs(jnp.tril(q @ q.T - jnp.eye(steps, dtype=q.dtype))).max(axis=1)
    if outside is not None:
        errors = jnp.maximum(errors, jnp.abs(q @ outside.T).max(axis=1))
    orthogonal = errors < ORTHOGONAL * jnp.finfo(q.dtype).eps
    # The first row is the start vector itself: where it is not finite, what follows says so.
    valid = jnp.maximum(jnp.cumprod(orthogonal.astype(jnp.int32)).sum(), 1)
    return q, Tridiagonal(scale * diagonal, scale * offdiagonal, valid)


def tridiagonal(diagonal: Any, offdiagonal: Any, count: int) -> np.ndarray:
    """Returns the leading ``count`` rows and columns of T as a float64 matrix."""
    sides = np.asarray(offdiagonal, float)[: count - 1]
    return np.diag(np.asarray(diagonal, float)[:count]) + np.diag(sides, 1) + np.diag(sides, -1)


def check_steps(steps: int, operator: KernelOperator, at_least: int = 1) -> None:
    """Refuses a number of Lanczos steps outside of what the operator has."""
    if not at_least <= steps <= operator.size:
        raise ValueError(
            f"steps must be from {at_least} to {operator.size}, the operator's size; got {steps}."
        )


def _check_finite(*parts: Any) -> None:
    """Refuses what came from products with NaN or infinity."""
    if not all(np.isfinite(np.asarray(part)).all() for part in parts):
        raise ValueError(
            "products with the operator must be finite; some are not: the network's outputs or "
            "derivatives overflow or are NaN on these inputs."
        )


def _power_of_two(size: jax.Array) -> jax.Array:
    """Returns the power of two next above a size, by which to divide exactly; 1 where there is none."""
    scale = jnp.ldexp(jnp.ones_like(size), jnp.frexp(size)[1])
    return jnp.where(jnp.isfinite(scale) & (scale > 0) & (size > 0), scale, jnp.ones_like(size))


def _padded(basis: np.ndarray) -> jax.Array:
    """Returns the basis with rows of zeros up to a power of two, so that few shapes are compiled."""
    rows = 1 << max(len(basis) - 1, 0).bit_length()
    return jnp.asarray(np.concatenate([basis, np.zeros((rows - len(basis), basis.shape[1]), basis.dtype)]))


def _block_diagonal(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the two matrices along a diagonal."""
    both = np.zeros((len(first) + len(second), first.shape[1] + second.shape[1]))
    both[: len(first), : first.shape[1]] = first
    both[len(first) :, first.shape[1] :] = second
    return both


@functools.partial(jax.jit, static_argnums=4)
def _krylov(
    operator: KernelOperator, key: jax.Array, rows: int, basis: jax.Array, steps: int
) -> tuple[jax.Array, Tridiagonal]:
    """Runs Lanczos from a random start in the orthogonal complement of an invariant subspace of some rows."""
    start = jax.random.normal(jax.random.fold_in(key, rows), (operator.size,), operator.dtype)

    def project(v: jax.Array) -> jax.Array:
        v = v - (basis @ v) @ basis
        return v - (basis @ v) @ basis

    def function(arguments: Any, v: jax.Array) -> jax.Array:
        product = operator.function(arguments, project(v.ravel()).reshape(operator.vector_shape))
        return project(product.ravel()).reshape(operator.vector_shape)

    inside = dataclasses.replace(operator, function=function)
    return tridiagonalise(inside, project(start), steps, outside=basis)
