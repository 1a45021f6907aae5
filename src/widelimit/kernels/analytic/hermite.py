"""The covariance behind any activation, as a power series in the correlation with a bound on its error."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from widelimit.models.activations import Activation

_TERMS = (32, 128, 512)
"""Numbers of terms that are tried."""

_STEP, _REACH = 1 / 32, 13.0
"""Of the trapezoidal rule, which for a smooth function times a Gaussian converges exponentially."""

_ENOUGH = 1e-13
"""More terms are not tried below this error."""


@functools.lru_cache(1)
def _table() -> tuple[np.ndarray, np.ndarray]:
    """Returns nodes [Q] and weighted orthonormal Hermite polynomials [Q, K]."""
    nodes = np.arange(-_REACH, _REACH + _STEP / 2, _STEP)
    density = np.exp(-(nodes**2) / 2) / np.sqrt(2 * np.pi)
    rows = [np.ones_like(nodes), nodes]
    for k in range(1, _TERMS[-1] - 1):
        rows.append((nodes * rows[k] - np.sqrt(k) * rows[k - 1]) / np.sqrt(k + 1))
    return nodes, np.ascontiguousarray((np.array(rows) * density * _STEP).T)


def expansion(
    function: Activation, name: str, tolerance: float
) -> Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    r"""Returns the map from correlations and variances to ``E[f(u) f(v)]`` and ``E[f'(u) f'(v)]``.

    With orthonormal Hermite polynomials h_k and ``a_k(q) = E[f(sqrt(q) z) h_k(z)]``,
    ``E[f(u) f(v)] = sum_k a_k(q1) a_k(q2) rho^k`` (Mehler). What K terms leave out is at most
    ``|rho|^K sqrt(tail(q1) tail(q2))``, ``tail = E[f^2] - sum_k<K a_k^2``; what the integrals miss is taken
    from twice the step. Where u = v the sum is E[f^2] itself.

    Args:
        function: entrywise, of JAX.
        name: of it, for the error.
        tolerance: largest error bound, relative to ``sqrt(E[f(u)^2] E[f(v)^2])``.

    Reference:
        O'Donnell, Analysis of Boolean Functions, Section 11.2 (Hermite expansion); Mehler (1866).
    """

    def covariances(rho: np.ndarray, q1: np.ndarray, q2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        one, two = _at_nodes(function, name, q1), _at_nodes(function, name, q2)
        exact = (rho == 1) & (q1 == q2)
        value, slope = (_sum(rho, exact, *pair, name, tolerance) for pair in zip(one, two, strict=True))
        return value, slope

    return covariances


def _at_nodes(function: Activation, name: str, q: np.ndarray) -> list[np.ndarray]:
    """Returns the function and its derivative at the nodes, [..., Q] each, for Gaussians of variance q."""
    with jax.enable_x64(True):
        points = jnp.asarray(np.sqrt(q)[..., None] * _table()[0])
        found = [np.asarray(part) for part in jax.jvp(function, (points,), (jnp.ones_like(points),))]
    for values in found:
        if values.shape != points.shape or values.dtype != np.float64 or not np.isfinite(values).all():
            raise ValueError(
                f"The activation {name} must be entrywise, float64 for float64, and finite with its "
                f"derivative up to {_REACH:g} standard deviations of the pre-activations; change it, or "
                "scale the inputs down."
            )
    return found


def _project(values: np.ndarray, terms: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns coefficients [..., K], E[f^2] [...] and the error of the integrals [...], a norm over them."""
    table = _table()[1]
    flat, shape = values.reshape(-1, values.shape[-1]), values.shape[:-1]
    series = flat @ table[:, :terms]
    coarse = 2 * (flat[:, ::2] @ table[::2, :terms])
    square, error = (flat**2) @ table[:, 0], np.linalg.norm(series - coarse, axis=-1)
    return series.reshape(*shape, -1), square.reshape(shape), error.reshape(shape)


def _sum(
    rho: np.ndarray, exact: np.ndarray, one: np.ndarray, two: np.ndarray, name: str, tolerance: float
) -> np.ndarray:
    """Adds up the series with as many terms as it needs, for functions given at the nodes."""
    for terms in _TERMS:
        series, squares, errors = zip(_project(one, terms), _project(two, terms), strict=True)
        norms = [np.sqrt(square) for square in squares]
        scale = norms[0] * norms[1]
        tails = [np.maximum(s - (c**2).sum(-1), 0) for s, c in zip(squares, series, strict=True)]
        cut = np.where(exact, 0, np.abs(rho) ** terms * np.sqrt(tails[0] * tails[1]))
        if (cut <= _ENOUGH * scale).all():
            break
    missed = errors[0] * norms[1] + errors[1] * norms[0]
    worst = float(np.max(np.divide(cut + missed, scale, out=np.zeros_like(cut), where=scale > 0)))
    if worst > tolerance:
        raise ValueError(
            f"The kernel of the activation {name} is only known to a relative {worst:.1g} here (it has a "
            f"kink, or the inputs saturate it), which exceeds tolerance={tolerance:g}; use a smooth "
            "activation or relu, scale the inputs down, or pass a larger tolerance."
        )
    with jax.enable_x64(True):
        total = np.asarray(_horner(rho, *series))
    return np.where(exact, scale, total)


@jax.jit
def _horner(rho: jax.Array, one: jax.Array, two: jax.Array) -> jax.Array:
    """Returns the sum over k of ``one_k two_k rho^k``, from the last term down."""
    terms = one.shape[-1]

    def step(index: int, total: jax.Array) -> jax.Array:
        k = terms - 1 - index
        return total * rho + one[..., k] * two[..., k]

    return jax.lax.fori_loop(0, terms, step, jnp.zeros_like(rho))
