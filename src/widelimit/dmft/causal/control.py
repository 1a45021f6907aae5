"""The lazy limit of the same noise as a control variate: what it is off by is known, and taken off."""

from __future__ import annotations

import numpy as np

from widelimit.dmft.lazy import lazy
from widelimit.dmft.problem import Problem
from widelimit.dmft.steps import float64_errors

LEAST = 4  # replicas: the coefficient of one is fitted on the others


def tangent_kernel(problem: Problem) -> np.ndarray:
    """Returns the exact tangent kernel before the first step, shape [p, p]; the same for every output.

    Args:
        problem: whose network it is.
    """
    start = Problem(
        targets=problem.targets,
        kernel=problem.kernel,
        steps=1,
        learning_rate=1e-6,
        depth=problem.depth,
        activation=problem.activation,
        loss=problem.loss,
    )
    ntk = np.asarray(lazy(start).ntk.values[0])  # type: ignore[union-attr]
    return ntk if ntk.ndim == 2 else ntk[:, 0, :, 0]


def lazy_curve(problem: Problem, ntk: np.ndarray) -> np.ndarray:
    """Returns the predictions that a tangent kernel which stays as it is would make, [T + 1, p, c].

    Args:
        problem: how it is trained.
        ntk: the kernel, shape [p, c, p, c].
    """
    _, drive = problem.memory()
    shares, errors, train = problem.shares(), float64_errors(problem), problem.samples
    p, c = ntk.shape[:2]
    theta = ntk[:, :, :train].reshape(p * c, train * c)
    f, pushes = np.zeros((problem.steps + 1, p, c)), np.zeros((problem.steps, train * c))
    with np.errstate(over="ignore", invalid="ignore"):
        for t in range(problem.steps):
            pushes[t] = (shares[t][:, None] * errors(f[t, :train])).ravel()
            f[t + 1] = (theta @ (drive[t + 1, : t + 1] @ pushes[: t + 1])).reshape(p, c)
    return f


def corrected(problem: Problem, f: np.ndarray, sampled: np.ndarray) -> tuple[np.ndarray, bool]:
    r"""Returns the replicas' predictions without the part that their initial tangent kernel explains.

    With c_b the lazy curve of replica b's own initial kernel less that of the exact one,
    ``f_b - beta_b(t) c_b``, where beta_b(t) is the regression of f on c over all other replicas, points and
    outputs: a coefficient that does not know its own replica leaves no bias but that of c, O(1/samples).

    Args:
        problem: what is solved.
        f: predictions, shape [replicas, T + 1, p, c].
        sampled: initial tangent kernels, shape [replicas, p, c, p, c].

    Returns:
        The predictions, and whether they were corrected: not with fewer than 4 replicas, nor where the exact
        kernel is not known to ``lazy``'s tolerance (an activation of one's own may be too wild).
    """
    if len(f) < LEAST:
        return f, False
    try:
        known = tangent_kernel(problem)
    except (ValueError, ArithmeticError):
        return f, False
    exact = np.einsum("mn,ab->manb", known, np.eye(problem.outputs))
    control = np.stack([lazy_curve(problem, ntk) for ntk in sampled]) - lazy_curve(problem, exact)
    usable = np.isfinite(control).all(axis=(0, 2, 3))
    control = np.where(usable[:, None, None], control, 0.0)
    product = np.einsum("btpc,btpc->bt", f - f.mean(0), control)
    size = np.einsum("btpc,btpc->bt", control, control)
    others = size.sum(0) - size
    beta = (product.sum(0) - product) / np.where(others > 0, others, 1.0)
    result: np.ndarray = f - beta[:, :, None, None] * control
    return result, True
