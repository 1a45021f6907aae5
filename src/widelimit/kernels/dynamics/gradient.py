"""Training in function space under a fixed kernel: gradient flow, and descent in discrete steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from widelimit.kernels.dynamics.cross_entropy import (
    as_probabilities,
    descend_dual,
    dual_trajectory,
    flow_dual,
)
from widelimit.kernels.dynamics.factors import (
    check_rate,
    check_steps,
    check_times,
    descent_factors,
    flow_factors,
)
from widelimit.kernels.dynamics.problem import Problem, Spectrum, make_problem, spectrum
from widelimit.kernels.matrices import square

Loss = Literal["mse", "cross_entropy"]


@dataclass(frozen=True)
class Trajectory:
    """Predictions while training, float64.

    Args:
        train: at the training points, [T, N, O] ([T, N] where targets are [N]).
        test: at the test points, [T, M, O], or None.
        loss: of the training points, [T], with the normalisation of the function that made it.
        diverged: [T], True where predictions have overflowed: they are infinite there, never NaN.

    Example:
        >>> gradient_flow([[1.0]], [2.0], times=[0.0, np.inf]).train.tolist()
        [[0.0], [2.0]]
    """

    train: np.ndarray
    test: np.ndarray | None
    loss: np.ndarray
    diverged: np.ndarray


def gradient_flow(
    kernel: ArrayLike,
    targets: ArrayLike,
    times: ArrayLike,
    *,
    loss: Loss = "mse",
    initial: ArrayLike | None = None,
    test: ArrayLike | None = None,
    initial_test: ArrayLike | None = None,
) -> Trajectory:
    r"""Returns the predictions of kernel gradient flow, ``df/dt = -K dL/df``.

    With ``loss="mse"``, ``L = 1/(2N) sum_i |f_i - y_i|^2`` and in closed form, from the eigenvectors of K:

    ``f(t) = y + e^(-K t/N) (f_0 - y)``,
    ``f_*(t) = f_*0 - K_* K^-1 (1 - e^(-K t/N)) (f_0 - y)``.

    Zero eigenvalues are no trouble, the inverse is taken together with the bracket. At ``t = inf`` (and when
    ``t`` is so late that rounding would decide) directions whose eigenvalue is rounding are not learned:
    the limit is the least-squares fit closest to the start.

    With ``loss="cross_entropy"``, ``L = -1/N sum_i sum_o y_io log softmax(f_i)_o``. The dual variables a,
    ``f = f_0 + K a`` and ``f_* = f_*0 + K_* a``, are integrated numerically to relative tolerance 1e-9.
    A progress bar appears on a terminal after two seconds.

    Args:
        kernel: K of the training points, [N, N] (the same for every output) or (N, N, O, O). Rounding may
            make eigenvalues negative by ``sqrt(eps)`` of the largest, eps that of the kernel's own dtype.
        targets: y, [N, O] or [N]; for cross-entropy probabilities [N, O] or labels [N].
        times: t, [T], from 0 to infinity (cross-entropy: finite), learning rate times steps.
        loss: ``"mse"`` or ``"cross_entropy"``.
        initial: f_0 at the training points; None is 0.
        test: K_*, the kernel of test with training points, [M, N] or (M, N, O, O).
        initial_test: f_0 at the test points; None is 0.

    Raises:
        ValueError: if shapes disagree, a number is not finite, or the kernel is not positive semi-definite.
        TypeError: if an array holds no real numbers.

    Example:
        >>> path = gradient_flow(np.diag([1.0, 4.0]), [1.0, 1.0], times=[0.0, 1.0], test=[[0.5, 0.0]])
        >>> path.train.round(3).tolist(), path.test.round(3).tolist()
        ([[0.0, 0.0], [0.393, 0.865]], [[0.0], [0.197]])

    Reference:
        Jacot et al., arXiv 1806.07572, Section 5; Lee et al., arXiv 1902.06720, Eq. 10-11.
    """
    clock = check_times(times)
    if _is_mse(loss):
        problem = make_problem(kernel, targets, initial=initial, test=test, initial_test=initial_test)
        modes = spectrum(problem.matrix, problem.eps)
        return _trajectory(problem, modes, *flow_factors(modes, problem.samples, clock))
    if np.isinf(clock).any():
        raise ValueError(
            "Cross-entropy has no limit at infinite time when labels are certain; pass finite times."
        )
    probabilities = as_probabilities(kernel, targets, initial)
    problem = make_problem(kernel, probabilities, initial=initial, test=test, initial_test=initial_test)
    return Trajectory(*dual_trajectory(problem, flow_dual(problem, clock)))


def gradient_descent(
    kernel: ArrayLike,
    targets: ArrayLike,
    rate: float,
    steps: ArrayLike,
    *,
    momentum: float = 0.0,
    nesterov: bool = False,
    loss: Loss = "mse",
    initial: ArrayLike | None = None,
    test: ArrayLike | None = None,
    initial_test: ArrayLike | None = None,
) -> Trajectory:
    r"""Returns the predictions after steps of full-batch gradient descent, ``f <- f - rate K dL/df``.

    With ``loss="mse"``, ``L = 1/(2N) sum_i |f_i - y_i|^2``, a step is ``f <- f - rate/N K (f - y)``, and
    without momentum t of them are, exactly, for any rate and any t,

    ``f = y + (1 - rate/N K)^t (f_0 - y)``,
    ``f_* = f_*0 - K_* K^-1 (1 - (1 - rate/N K)^t) (f_0 - y)``.

    Momentum is ``optax.sgd``'s: ``v <- momentum v + g``, ``w <- w - rate v`` (heavy ball) or
    ``w <- w - rate (g + momentum v)`` (Nesterov). Each eigenvalue then has its own two-term recursion, which
    is advanced by powers of its matrix, so that many steps cost no more than a few.

    With ``loss="cross_entropy"``, ``L = -1/N sum_i sum_o y_io log softmax(f_i)_o``; the steps are carried
    out one by one on the dual variables.

    Args:
        kernel: K of the training points, [N, N] (the same for every output) or (N, N, O, O).
        targets: y, [N, O] or [N]; for cross-entropy probabilities [N, O] or labels [N].
        rate: learning rate of the loss above.
        steps: after how many steps, [T].
        momentum: from 0 to below 1.
        nesterov: Nesterov's form of it.
        loss: ``"mse"`` or ``"cross_entropy"``.
        initial: f_0 at the training points; None is 0.
        test: K_*, the kernel of test with training points, [M, N] or (M, N, O, O).
        initial_test: f_0 at the test points; None is 0.

    Returns:
        The predictions; above ``largest_rate`` they grow without bound, and where they have overflowed they
        are infinite and marked as diverged.

    Raises:
        ValueError: if shapes disagree, a number is not finite, or the kernel is not positive semi-definite.
        TypeError: if an array holds no real numbers.

    Example:
        >>> gradient_descent([[1.0]], [2.0], rate=0.5, steps=[0, 1, 2]).train[:, 0].tolist()
        [0.0, 1.0, 1.5]
        >>> gradient_descent([[1.0]], [2.0], rate=9.0, steps=[0, 1000]).diverged.tolist()
        [False, True]

    Reference:
        Lee et al., arXiv 1902.06720, Section 2.2; Polyak, 1964, for momentum.
    """
    counts = check_steps(steps)
    check_rate(rate, momentum)
    if _is_mse(loss):
        problem = make_problem(kernel, targets, initial=initial, test=test, initial_test=initial_test)
        modes = spectrum(problem.matrix, problem.eps)
        factors = descent_factors(modes, problem.samples, float(rate), counts, float(momentum), nesterov)
        return _trajectory(problem, modes, *factors)
    probabilities = as_probabilities(kernel, targets, initial)
    problem = make_problem(kernel, probabilities, initial=initial, test=test, initial_test=initial_test)
    duals = descend_dual(problem, float(rate), counts, float(momentum), nesterov)
    return Trajectory(*dual_trajectory(problem, duals))


def largest_rate(kernel: ArrayLike, *, momentum: float = 0.0, nesterov: bool = False) -> float:
    r"""Returns the learning rate above which gradient descent on the mean squared error diverges.

    ``2 (1 + momentum) N / lam_max``, and ``2 (1 + momentum) N / ((1 + 2 momentum) lam_max)`` for Nesterov's
    form, for the loss ``1/(2N) sum_i |f_i - y_i|^2``. Infinite for a kernel that is zero. For cross-entropy,
    whose curvature is at most one half, twice this rate is still safe.

    Args:
        kernel: of the training points, [N, N] or (N, N, O, O).
        momentum: from 0 to below 1.
        nesterov: Nesterov's form of it.

    Raises:
        ValueError: if the kernel is no kernel, or the momentum out of range.

    Example:
        >>> largest_rate(np.diag([1.0, 4.0])), largest_rate(np.diag([1.0, 4.0]), momentum=0.5)
        (1.0, 1.5)

    Reference:
        Polyak, 1964; Lee et al., arXiv 1902.06720, Section 2.3, without momentum.
    """
    check_rate(1.0, momentum)
    matrix, samples, _, eps = square(kernel)
    largest = float(spectrum(matrix, eps).values[-1])
    if largest == 0.0:
        return float("inf")
    slack = 1.0 + 2.0 * momentum if nesterov else 1.0
    return 2.0 * (1.0 + momentum) * samples / (slack * largest)


def _is_mse(loss: Any) -> bool:
    """True for the squared error, False for cross-entropy, an error for anything else."""
    if loss not in ("mse", "cross_entropy"):
        raise ValueError(f'loss must be "mse" or "cross_entropy"; got {loss!r}.')
    return bool(loss == "mse")


def _trajectory(problem: Problem, modes: Spectrum, left: np.ndarray, dual: np.ndarray) -> Trajectory:
    """Predictions from the share of each eigendirection's residual that is left, and its dual variable."""
    residual = modes.vectors.T @ (problem.initial - problem.targets)

    def scaled(factor: np.ndarray) -> np.ndarray:
        return np.where(residual == 0.0, 0.0, factor[:, :, None] * residual)

    with np.errstate(over="ignore", invalid="ignore"):
        kept = scaled(left)
        loss = 0.5 * np.sum(kept**2, axis=(1, 2)) / problem.samples
        train = problem.targets + modes.vectors @ kept
        finite = np.isfinite(train).all(axis=(1, 2)) & np.isfinite(loss)
        test = None
        if problem.test is not None:
            test = problem.initial_test - (problem.test @ modes.vectors) @ scaled(dual)
            finite &= np.isfinite(test).all(axis=(1, 2))
    train[~finite], loss[~finite] = np.inf, np.inf
    if test is not None:
        test[~finite] = np.inf
        test = problem.restore(test)
    return Trajectory(problem.restore(train), test, loss, ~finite)
