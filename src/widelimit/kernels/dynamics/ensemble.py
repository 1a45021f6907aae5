"""Gaussian processes of infinitely wide networks: Bayesian, and trained by gradient descent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from widelimit.kernels.dynamics.factors import (
    check_rate,
    check_steps,
    check_times,
    descent_factors,
    flow_factors,
)
from widelimit.kernels.dynamics.problem import spectrum
from widelimit.kernels.dynamics.solve import check_shift, factorise
from widelimit.kernels.matrices import as_float64, rounding, square


@dataclass(frozen=True)
class Gaussian:
    """Mean and covariance of predictions, float64; outputs are independent and share the covariance.

    Args:
        mean: [..., P, O] ([..., P] where targets are [N]).
        covariance: [..., P, P]; [..., P], the variances, where only those were asked for.
        jitter: what was added to the diagonal beside the noise, an absolute number: 0 unless passed.
        rank: how many directions of the training points' kernel are more than rounding.

    Example:
        >>> Gaussian(np.zeros(1), np.ones((1, 1)), jitter=0.0, rank=1).covariance.tolist()
        [[1.0]]
    """

    mean: np.ndarray
    covariance: np.ndarray
    jitter: float
    rank: int


def gp_inference(nngp: ArrayLike, targets: ArrayLike, *, noise: float = 0.0, jitter: float = 0.0) -> Gaussian:
    r"""Returns the posterior of the Bayesian infinitely wide network at the points without targets.

    With ``A = K_XX + (noise + jitter) 1``: ``mean = K_*X A^-1 y``, ``covariance = K_** - K_*X A^-1 K_X*``,
    of the function, without the noise. The kernel covers all points at once, training points first, as
    ``analytic.kernel(config, np.concatenate([x_train, x_test]))`` gives it. Singular kernels are treated as
    in ``kernel_regression``.

    Args:
        nngp: K of training and test points, [N + M, N + M].
        targets: y of the first N points, [N, O] or [N].
        noise: variance of the targets' noise, from 0.
        jitter: a second number for the diagonal, from 0, to keep apart what is there for the arithmetic.

    Raises:
        ValueError: if shapes disagree, a number is not finite, or K is not positive semi-definite.
        TypeError: if an array holds no real numbers.

    Example:
        >>> posterior = gp_inference([[1.0, 0.5], [0.5, 1.0]], [2.0])
        >>> posterior.mean.tolist(), posterior.covariance.tolist()
        ([1.0], [[0.75]])

    Reference:
        Rasmussen & Williams, Gaussian Processes for Machine Learning, Eq. 2.22-2.24; Lee et al., arXiv
        1711.00165.
    """
    shift = check_shift(noise, "noise") + check_shift(jitter, "jitter")
    kernel, y, samples, eps = _joint(nngp, targets, "nngp")
    factor = factorise(kernel[:samples, :samples], shift, eps)
    cross = factor.half(kernel[:samples, samples:])
    mean = cross.T @ factor.half(y.reshape(samples, -1))
    covariance = _semi_definite(kernel[samples:, samples:] - cross.T @ cross, kernel, eps)
    return Gaussian(mean.reshape(-1, *y.shape[1:]), covariance, float(jitter), factor.rank)


def ensemble(
    nngp: ArrayLike,
    ntk: ArrayLike,
    targets: ArrayLike,
    times: ArrayLike | None = None,
    *,
    rate: float | None = None,
    steps: ArrayLike | None = None,
    momentum: float = 0.0,
    nesterov: bool = False,
    form: Literal["full", "diagonal"] = "full",
) -> Gaussian:
    r"""Returns mean and covariance over initialisations of infinitely wide networks while they train.

    A draw f_0 ~ N(0, K) trained on ``1/(2N) sum_i |f_i - y_i|^2`` becomes ``f_t = f_0 - G_t (f_0X - y)``,
    with ``G_t = Theta_.X Theta_XX^-1 (1 - e^(-Theta_XX t/N))``, so at all P = N + M points

    ``mean = G y``,  ``covariance = (1 - G S) K (1 - G S)^T``, S selecting the training points.

    ``times`` asks for gradient flow, and may hold ``np.inf``. ``rate`` and ``steps`` ask for gradient descent
    in discrete steps, exactly: the exponential is replaced by ``(1 - rate/N Theta_XX)^t``, with momentum by
    its recursion. Nothing is inverted, so there is no jitter.

    Args:
        nngp: K of all points, training points first, [P, P].
        ntk: Theta of all points with the training points, [P, N]; [P, P] will do.
        targets: y of the first N points, [N, O] or [N].
        times: t of gradient flow, [T].
        rate: learning rate of the loss above.
        steps: numbers of steps t at that rate, [T].
        momentum: from 0 to below 1, as in ``gradient_descent``; for steps.
        nesterov: Nesterov's form of it.
        form: ``"full"`` covariances [T, P, P], or only the variances, ``"diagonal"``, [T, P].

    Returns:
        Mean [T, P, O] and covariance; infinite where descent above ``largest_rate`` has overflowed.

    Raises:
        ValueError: if shapes disagree, a number is not finite, a kernel is not positive semi-definite, or
            there are neither times nor rate and steps, or both.
        TypeError: if an array holds no real numbers.

    Example:
        >>> trained = ensemble([[1.0, 0.5], [0.5, 1.0]], [[1.0, 0.5], [0.5, 1.0]], [2.0], [0.0, np.inf])
        >>> trained.mean.tolist(), trained.covariance[-1].tolist()
        ([[0.0, 0.0], [2.0, 1.0]], [[0.0, 0.0], [0.0, 0.75]])

    Reference:
        Lee et al., arXiv 1902.06720, Eq. 14-16 (test points); He et al., arXiv 2007.05864, Section 3.
    """
    if form not in ("full", "diagonal"):
        raise ValueError(f'form must be "full" or "diagonal"; got {form!r}.')
    if (rate is None) != (steps is None) or (times is None) == (steps is None):
        given = {"times": times, "rate": rate, "steps": steps}
        names = [name for name, value in given.items() if value is not None]
        raise ValueError(
            "gradient flow needs times, gradient descent rate and steps, and not both; got "
            f"{' and '.join(names) or 'none of them'}."
        )
    if steps is None and (momentum != 0.0 or nesterov):
        raise ValueError("momentum needs rate and steps; got times, and gradient flow has none.")
    kernel, y, samples, precision = _joint(nngp, targets, "nngp")
    tangent, eps = as_float64(ntk, "ntk")
    if tangent.ndim != 2 or len(tangent) != len(kernel) or tangent.shape[1] not in (samples, len(kernel)):
        raise ValueError(
            f"ntk must have shape {(len(kernel), samples)}, all points with the training points (or "
            f"{kernel.shape}); got {tangent.shape}."
        )
    tangent = tangent[:, :samples]
    train, _, _, _ = square(np.asarray(ntk)[:samples, :samples], "ntk")
    modes = spectrum(train, eps, "ntk")
    if rate is None:
        left, dual = flow_factors(modes, samples, check_times(times))
    else:
        check_rate(rate, momentum)
        counts = check_steps(steps)
        left, dual = descent_factors(modes, samples, float(rate), counts, float(momentum), nesterov)
    rank = int((modes.values > modes.floor).sum())
    moments = [
        _trained(kernel, tangent, modes.vectors, y.reshape(samples, -1), *factors, form, precision)
        for factors in zip(left, dual, strict=True)
    ]
    mean = np.stack([m for m, _ in moments]).reshape(-1, len(kernel), *y.shape[1:])
    return Gaussian(mean, np.stack([c for _, c in moments]), 0.0, rank)


def _trained(
    kernel: np.ndarray,
    tangent: np.ndarray,
    vectors: np.ndarray,
    targets: np.ndarray,
    left: np.ndarray,
    dual: np.ndarray,
    form: str,
    eps: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance at one time; the training points' own rows come without cancellation."""
    samples, points = len(targets), len(kernel)
    with np.errstate(over="ignore", invalid="ignore"):
        change = np.eye(points)
        change[:samples, :samples] = (vectors * left) @ vectors.T
        gain = (tangent[samples:] @ vectors * dual) @ vectors.T
        change[samples:, :samples] = -gain
        mean = np.concatenate([targets - change[:samples, :samples] @ targets, gain @ targets])
        spread = change @ kernel
        if form == "diagonal":
            covariance = np.einsum("ij,ij->i", spread, change)
        else:
            covariance = spread @ change.T
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        return np.full_like(mean, np.inf), np.full_like(covariance, np.inf)
    if form == "diagonal":
        return mean, _variances(covariance, kernel, eps)
    return mean, _semi_definite(covariance, kernel, eps)


def _joint(kernel: Any, targets: Any, name: str) -> tuple[np.ndarray, np.ndarray, int, float]:
    """Returns the kernel of all points, the targets of the first N, N, and the kernel's precision."""
    matrix, points, outputs, eps = square(kernel, name)
    y, _ = as_float64(targets, "targets")
    if outputs is not None:
        raise ValueError(f"{name} must have shape [P, P], one for all outputs; got {np.shape(kernel)}.")
    if y.ndim not in (1, 2) or not y.size or len(y) > points:
        raise ValueError(
            f"targets must have shape [N, O] or [N], N at most the {points} points of {name}; got {y.shape}."
        )
    return matrix, y, len(y), eps


def _semi_definite(covariance: np.ndarray, kernel: np.ndarray, eps: float) -> np.ndarray:
    """Symmetrises, and sets variances that rounding made negative to zero."""
    covariance = 0.5 * (covariance + covariance.T)
    np.fill_diagonal(covariance, _variances(np.diag(covariance), kernel, eps))
    return covariance


def _variances(values: np.ndarray, kernel: np.ndarray, eps: float) -> np.ndarray:
    """Sets what rounding made negative to zero, and refuses what is more."""
    size = float(max(np.abs(np.diag(kernel)).max(), np.abs(values).max(initial=0.0)))
    if values.min(initial=0.0) < -10 * rounding(eps, len(kernel)) * size:
        raise ValueError(
            f"nngp must be positive semi-definite; it gives a point the variance {values.min():.3g}, "
            "which is more than rounding. Compute the kernel of all points in one go."
        )
    return np.maximum(values, 0.0)
