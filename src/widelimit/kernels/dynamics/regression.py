"""Kernel ridge regression: predictions, leave-one-out predictions, marginal likelihood."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from widelimit.kernels.dynamics.problem import Problem, make_problem
from widelimit.kernels.dynamics.solve import Factor, check_shift, factorise


@dataclass(frozen=True)
class Regression:
    """A fitted kernel regression, float64.

    Args:
        coefficients: a, [N, O]: the prediction at any x is ``sum_i K(x, x_i) a_i``.
        train: predictions at the training points, [N, O].
        test: predictions at the test points, [M, O], or None.
        ridge: as it was passed.
        jitter: what was added to the diagonal beside the ridge, an absolute number: 0 unless passed.
        rank: how many directions were solved for; below n = N (or N O) the kernel was singular and the
            rest was left out.

    Example:
        >>> kernel_regression([[1.0]], [2.0]).rank
        1
    """

    coefficients: np.ndarray
    train: np.ndarray
    test: np.ndarray | None
    ridge: float
    jitter: float
    rank: int


def kernel_regression(
    kernel: ArrayLike,
    targets: ArrayLike,
    *,
    test: ArrayLike | None = None,
    ridge: float = 0.0,
    jitter: float = 0.0,
) -> Regression:
    r"""Returns the kernel ridge regression ``f_* = K_* a``, ``a = (K + (ridge + jitter) 1)^-1 y``.

    It minimises ``1/(2N) sum_i |f_i - y_i|^2 + ridge/(2N) |f|_K^2``: the ridge stands beside K, not K/N.
    Nothing is ever added to the diagonal but what is passed, in the units of the kernel.

    A singular kernel (duplicate inputs, more points than features) needs none: with ``ridge=0`` directions
    whose eigenvalue is rounding are left out (below ten times the relative precision of the kernel's dtype,
    or twice the size of the most negative eigenvalue). The result is the least-squares fit of smallest norm,
    which is where gradient flow from zero ends: contradictory targets of duplicates are averaged. ``rank``
    says so.

    Args:
        kernel: K of the training points, [N, N] (the same for every output) or (N, N, O, O).
        targets: y, [N, O] or [N].
        test: K_*, the kernel of test with training points, [M, N] or (M, N, O, O).
        ridge: variance of the targets' noise, from 0.
        jitter: a second number for the diagonal, from 0, to keep apart what is there for the arithmetic.

    Raises:
        ValueError: if shapes disagree, a number is not finite, or the kernel has negative eigenvalues that
            are more than rounding and not lifted by the ridge.
        TypeError: if an array holds no real numbers.

    Example:
        >>> fit = kernel_regression(np.ones((2, 2)), [1.0, 3.0], test=[[1.0, 1.0]])
        >>> fit.test.round(6).tolist(), fit.rank
        ([2.0], 1)

    Reference:
        Rasmussen & Williams, Gaussian Processes for Machine Learning, Section 6.2.
    """
    problem, factor = _fit(kernel, targets, test, ridge, jitter)
    coefficients = factor.solve(problem.targets)
    predictions = None if problem.test is None else problem.restore(problem.test @ coefficients)
    return Regression(
        coefficients=problem.restore(coefficients),
        train=problem.restore(problem.matrix @ coefficients),
        test=predictions,
        ridge=float(ridge),
        jitter=float(jitter),
        rank=factor.rank,
    )


def leave_one_out(
    kernel: ArrayLike, targets: ArrayLike, *, ridge: float = 0.0, jitter: float = 0.0
) -> np.ndarray:
    r"""Returns for each training point the prediction of a regression without it, [N, O].

    ``f_-i = y_i - ((A^-1)_ii)^-1 (A^-1 y)_i`` with ``A = K + (ridge + jitter) 1``, one factorisation for
    all; for a kernel (N, N, O, O) a point is left out with all its outputs, and ``(A^-1)_ii`` is a block.

    Args:
        kernel: K of the training points, [N, N] or (N, N, O, O).
        targets: y, [N, O] or [N].
        ridge: variance of the targets' noise, from 0.
        jitter: as for ``kernel_regression``.

    Raises:
        ValueError: as ``kernel_regression`` does, and if A is singular, where the formula is 0/0.

    Example:
        >>> leave_one_out([[2.0, 1.0], [1.0, 2.0]], [1.0, 3.0]).round(6).tolist()
        [1.5, 0.5]

    Reference:
        Rasmussen & Williams, Gaussian Processes for Machine Learning, Eq. 5.12.
    """
    problem, factor = _fit(kernel, targets, None, ridge, jitter)
    _refuse_singular(factor, problem)
    size = len(problem.matrix)
    inverse = factor.solve(np.eye(size))
    block = size // problem.samples
    points = np.arange(problem.samples)
    blocks = inverse.reshape(problem.samples, block, problem.samples, block)[points, :, points, :]
    weighted = (inverse @ problem.targets).reshape(problem.samples, block, -1)
    away = np.linalg.solve(blocks, weighted).reshape(problem.targets.shape)
    return problem.restore(problem.targets - away)


def log_marginal_likelihood(
    kernel: ArrayLike, targets: ArrayLike, *, ridge: float = 0.0, jitter: float = 0.0
) -> float:
    r"""Returns the log density of the targets under the Gaussian process, ``log N(y; 0, A)``, in nats.

    ``-1/2 tr(y^T A^-1 y) - O/2 log det A - N O/2 log 2 pi`` with ``A = K + (ridge + jitter) 1``: outputs
    are independent draws where the kernel is [N, N].

    Args:
        kernel: K of the training points, [N, N] or (N, N, O, O), the NNGP for a Bayesian network.
        targets: y, [N, O] or [N].
        ridge: variance of the targets' noise, from 0.
        jitter: as for ``kernel_regression``.

    Raises:
        ValueError: as ``kernel_regression`` does, and if A is singular: no density exists.

    Example:
        >>> round(log_marginal_likelihood([[1.0]], [0.0]), 6)  # -log(2 pi)/2
        -0.918939

    Reference:
        Rasmussen & Williams, Gaussian Processes for Machine Learning, Eq. 2.30.
    """
    problem, factor = _fit(kernel, targets, None, ridge, jitter)
    _refuse_singular(factor, problem)
    fit = float(np.sum(factor.half(problem.targets) ** 2))
    rows, columns = problem.targets.shape
    return -0.5 * (fit + columns * (factor.log_determinant + rows * float(np.log(2.0 * np.pi))))


def _fit(
    kernel: ArrayLike, targets: ArrayLike, test: ArrayLike | None, ridge: float, jitter: float
) -> tuple[Problem, Factor]:
    """Checks, flattens and factorises."""
    shift = check_shift(ridge, "ridge") + check_shift(jitter, "jitter")
    problem = make_problem(kernel, targets, test=test)
    return problem, factorise(problem.matrix, shift, problem.eps)


def _refuse_singular(factor: Factor, problem: Problem) -> None:
    """Some formulas need the inverse itself."""
    if factor.rank < len(problem.matrix):
        raise ValueError(
            f"The kernel is singular: {len(problem.matrix) - factor.rank} of its {len(problem.matrix)} "
            "eigenvalues are rounding (duplicate inputs?). Pass a ridge, the variance of the targets' noise."
        )
