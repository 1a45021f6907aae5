"""Traces of functions of the kernel from random probes: log-determinant, effective dimension, density."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike

from widelimit.kernels.spectra.lanczos import Tridiagonal, check_steps, tridiagonal, tridiagonalise
from widelimit.kernels.spectra.operators import KernelOperator, precision


class ProbeEstimate(NamedTuple):
    """A value estimated from random probes, and its standard error over the probes.

    Args:
        value: mean over the probes.
        stderr: ``std(ddof=1) / sqrt(probes)``. It does not hold the error of too few Lanczos steps, which is
            the same for all probes.

    Example:
        >>> ProbeEstimate(3.0, 0.1).value
        3.0
    """

    value: float
    stderr: float


class Quadrature(NamedTuple):
    r"""Nodes and weights with ``tr g(Theta) = (size / q) sum_q sum_k w_qk g(nodes_qk)`` for any function g.

    Args:
        nodes: Ritz values, shape [probes, steps].
        weights: squared first components of their eigenvectors, shape [probes, steps]; each row sums to 1.
        size: N O, the trace of the identity.
    """

    nodes: np.ndarray  # shape=(probes, steps), dtype=float64
    weights: np.ndarray  # shape=(probes, steps), dtype=float64
    size: int

    def trace_of(self, function: Callable[[np.ndarray], np.ndarray]) -> ProbeEstimate:
        """Estimates ``tr function(Theta)``.

        Args:
            function: of an array of eigenvalues, entry by entry.

        Raises:
            ValueError: if the function is not finite at a node that has a weight.
        """
        present = self.weights > 0
        at_nodes = np.asarray(function(np.where(present, self.nodes, self.nodes.max())), float)
        if not np.isfinite(at_nodes).all():
            worst = self.nodes[~np.isfinite(at_nodes)].min()
            raise ValueError(f"the function must be finite on the spectrum; at {worst:.3g} it is not.")
        each = self.size * np.sum(self.weights * at_nodes, axis=1)
        return ProbeEstimate(float(each.mean()), float(each.std(ddof=1) / np.sqrt(len(each))))


class SpectralDensity(NamedTuple):
    """The distribution of the eigenvalues, smoothed, with standard errors over the probes.

    Args:
        grid: eigenvalues at which the density is given, shape [G].
        density: share of eigenvalues per unit of eigenvalue, shape [G]; integrates to 1 over the real line.
        density_stderr: shape [G].
        below: share of eigenvalues up to the grid point, not smoothed, shape [G].
        below_stderr: shape [G].
        width: standard deviation of the Gaussian that smooths the density.
    """

    grid: np.ndarray  # shape=(G,), dtype=float64
    density: np.ndarray  # shape=(G,), dtype=float64
    density_stderr: np.ndarray  # shape=(G,), dtype=float64
    below: np.ndarray  # shape=(G,), dtype=float64
    below_stderr: np.ndarray  # shape=(G,), dtype=float64
    width: float


def quadrature(operator: KernelOperator, *, key: jax.Array, probes: int = 10, steps: int = 25) -> Quadrature:
    r"""Stochastic Lanczos quadrature: one run of ``probes * steps`` products answers for every function.

    A probe is a vector of random signs, ``E[z^T g(Theta) z] = tr g(Theta)``; from it Lanczos builds the Gauss
    quadrature of its own spectral measure, exact for polynomials g up to degree ``2 steps - 1``. Probes run
    one after the other: memory is ``steps`` vectors.

    Args:
        operator: of ``operator``, ``from_matrix``, or any ``KernelOperator``.
        key: for the probes.
        probes: number of probes, 2 or more: one has no standard error.
        steps: Lanczos steps per probe, at most the operator's size.

    Raises:
        ValueError: if ``probes`` or ``steps`` is out of range, or a product is not finite.
        ImportError: if matfree is not installed.

    Example:
        >>> from widelimit.kernels.spectra import from_matrix
        >>> rule = quadrature(from_matrix(np.diag([1.0, 2.0, 3.0])), key=jax.random.key(0), probes=2, steps=3)
        >>> round(rule.trace_of(np.square).value, 9)  # random signs are exact for diagonal matrices
        14.0

    Reference:
        Ubaru, Chen and Saad, "Fast estimation of tr(f(A)) via stochastic Lanczos quadrature" (2017).
    """
    if probes < 2:
        raise ValueError(f"probes must be 2 or more, for a standard error; got {probes}.")
    check_steps(steps, operator)
    with precision(operator.dtype):
        small = _tridiagonals(operator, key, probes, steps)
        diagonals, sides, counts = (np.asarray(part) for part in small)
    if not np.isfinite(diagonals[:, 0]).all():
        raise ValueError("products with the operator must be finite; some are NaN or infinite.")
    nodes, weights = np.zeros((2, probes, steps))
    for row, count in enumerate(counts):
        nodes[row, :count], vectors = np.linalg.eigh(tridiagonal(diagonals[row], sides[row], count))
        weights[row, :count] = vectors[0] ** 2
    return Quadrature(nodes, weights, operator.size)


def trace(operator: KernelOperator, *, key: jax.Array, probes: int = 30) -> ProbeEstimate:
    r"""Trace of the kernel, ``tr Theta = E[z^T Theta z]`` over vectors z of random signs (Hutchinson).

    Args:
        operator: of ``operator``, ``from_matrix``, or any ``KernelOperator``.
        key: for the probes.
        probes: number of probes, one product each.

    Raises:
        ValueError: if there are fewer than two probes, or a product is not finite.

    Example:
        >>> from widelimit.kernels.spectra import from_matrix
        >>> trace(from_matrix(np.diag([1.0, 2.0])), key=jax.random.key(0))
        ProbeEstimate(value=3.0, stderr=0.0)

    Reference:
        Hutchinson, "A stochastic estimator of the trace of the influence matrix" (1990).
    """
    return quadrature(operator, key=key, probes=probes, steps=1).trace_of(lambda nodes: nodes)


def log_determinant(
    operator: KernelOperator, ridge: float, *, key: jax.Array, probes: int = 10, steps: int = 25
) -> ProbeEstimate:
    r"""Log-determinant ``log det(Theta + ridge I)``, of a Gaussian process' evidence for example.

    Args:
        operator: of ``operator``, ``from_matrix``, or any ``KernelOperator``.
        ridge: zero or more, in the unit of the kernel. The smaller, the more ``steps`` are needed.
        key: for the probes.
        probes: number of probes.
        steps: Lanczos steps per probe.

    Raises:
        ValueError: if the ridge is negative, or a Ritz value is not above ``-ridge``.

    Example:
        >>> from widelimit.kernels.spectra import from_matrix
        >>> estimate = log_determinant(from_matrix(np.diag([1.0, 3.0])), 1.0, key=jax.random.key(0), steps=2)
        >>> round(estimate.value, 4), round(float(np.log(2 * 4)), 4)
        (2.0794, 2.0794)

    Reference:
        Ubaru, Chen and Saad (2017).
    """
    rule = quadrature(operator, key=key, probes=probes, steps=steps)
    _check_ridge(ridge, rule, zero=True)
    return rule.trace_of(lambda nodes: np.log(nodes + ridge))


def effective_dimension(
    operator: KernelOperator, ridge: float, *, key: jax.Array, probes: int = 10, steps: int = 25
) -> ProbeEstimate:
    r"""Effective dimension ``tr Theta (Theta + ridge)^-1 = sum lam / (lam + ridge)``.

    The number of eigenfunctions that ridge regression fits. ``degrees_of_freedom`` is the same of a dense
    kernel.

    Args:
        operator: of ``operator``, ``from_matrix``, or any ``KernelOperator``.
        ridge: positive, in the unit of the kernel.
        key: for the probes.
        probes: number of probes.
        steps: Lanczos steps per probe.

    Raises:
        ValueError: if the ridge is not positive, or a Ritz value is not above ``-ridge``.

    Example:
        >>> from widelimit.kernels.spectra import from_matrix
        >>> kernel = from_matrix(np.diag([9.0, 1.0]))
        >>> round(effective_dimension(kernel, ridge=1.0, key=jax.random.key(0), steps=2).value, 6)
        1.4

    Reference:
        Caponnetto and De Vito, "Optimal rates for the regularized least-squares algorithm" (2007).
    """
    rule = quadrature(operator, key=key, probes=probes, steps=steps)
    _check_ridge(ridge, rule, zero=False)
    return rule.trace_of(lambda nodes: nodes / (nodes + ridge))


def spectral_density(
    operator: KernelOperator,
    *,
    key: jax.Array,
    probes: int = 10,
    steps: int = 50,
    grid: ArrayLike | None = None,
    width: float | None = None,
) -> SpectralDensity:
    """The density of the eigenvalues, smoothed by a Gaussian, and the share of them up to each grid point.

    Args:
        operator: of ``operator``, ``from_matrix``, or any ``KernelOperator``.
        key: for the probes.
        probes: number of probes.
        steps: Lanczos steps per probe, or the operator's size if that is smaller.
        grid: eigenvalues at which to give it, shape [G], rising; None is 200 over the whole spectrum.
        width: standard deviation of the Gaussian; None is a fiftieth of the spectrum's range.

    Raises:
        ValueError: if the width is not positive or the grid not finite and rising.

    Example:
        >>> from widelimit.kernels.spectra import from_matrix
        >>> kernel = from_matrix(np.diag([1.0, 1.0, 4.0]))
        >>> spectral_density(kernel, key=jax.random.key(0), grid=[0.0, 2.0, 5.0]).below.round(6)
        array([0.        , 0.666667, 1.        ])

    Reference:
        Lin, Saad and Yang, "Approximating spectral densities of large matrices" (2016); Ghorbani et al.,
        arXiv 1901.10159.
    """
    rule = quadrature(operator, key=key, probes=probes, steps=min(steps, operator.size))
    seen = rule.nodes[rule.weights > 0]
    extent = float(seen.max() - seen.min()) or abs(float(seen.max())) or 1.0
    width = extent / 50 if width is None else width
    if not 0 < width < np.inf:
        raise ValueError(f"width must be positive; got {width}.")
    if grid is None:
        grid = np.linspace(seen.min() - 4 * width, seen.max() + 4 * width, 200)
    points = np.asarray(grid, float)
    if points.ndim != 1 or not points.size or not np.isfinite(points).all() or (np.diff(points) <= 0).any():
        raise ValueError(f"grid must be finite rising eigenvalues [G]; got {grid!r}.")
    distance = (points[:, None, None] - rule.nodes) / width  # [G, probes, steps]
    bells = np.exp(-(distance**2) / 2) / (width * np.sqrt(2 * np.pi))
    density, below = (np.sum(rule.weights * part, axis=2) for part in (bells, distance >= 0))
    root = np.sqrt(probes)
    return SpectralDensity(
        points,
        density.mean(axis=1),
        density.std(axis=1, ddof=1) / root,
        below.mean(axis=1),
        below.std(axis=1, ddof=1) / root,
        float(width),
    )


def _check_ridge(ridge: float, rule: Quadrature, *, zero: bool) -> None:
    """Refuses a ridge that leaves the spectrum not positive."""
    if not (0 <= ridge if zero else 0 < ridge) or not np.isfinite(ridge):
        raise ValueError(f"ridge must be finite and {'0 or more' if zero else 'positive'}; got {ridge}.")
    smallest = rule.nodes[rule.weights > 0].min()
    if smallest + ridge <= 0:
        raise ValueError(
            f"ridge must be above {max(-smallest, 0.0):.3g}, as the operator's smallest Ritz value is "
            f"{smallest:.3g}; got {ridge:g}. If that value is rounding, use float64 or a larger ridge."
        )


@functools.partial(jax.jit, static_argnums=(2, 3))
def _tridiagonals(operator: KernelOperator, key: jax.Array, probes: int, steps: int) -> Tridiagonal:
    """Runs Lanczos from random signs, probe after probe; the results are stacked."""

    def one(subkey: jax.Array) -> Tridiagonal:
        signs = jax.random.rademacher(subkey, operator.vector_shape, operator.dtype)
        return tridiagonalise(operator, signs, steps)[1]

    return jax.lax.map(one, jax.random.split(key, probes))
