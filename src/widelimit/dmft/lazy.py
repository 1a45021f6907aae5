"""The lazy limit, gamma0 -> 0: kernels that stay what they are, and training that is linear in them."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np

from widelimit.dmft.labelled import Labelled
from widelimit.dmft.problem import Problem, ResidualProblem, check_kind
from widelimit.dmft.solution import Solution
from widelimit.dmft.steps import check_memory, float64_errors, outcome, wide
from widelimit.kernels.analytic.duals import Dual, dual


class _Kernels(NamedTuple):
    """Of one output, samples of all times side by side; the first layer's number differs with the network."""

    features: list[np.ndarray]
    gradients: list[np.ndarray]
    ntk: np.ndarray


def lazy(problem: Problem, *, tolerance: float = 1e-6, memory: str | float = 4 * 2**30) -> Solution:
    r"""Returns the limit gamma0 -> 0 of training, the NTK's, whatever gamma0 the problem has.

    ``Phi^l = E[phi(u) phi(u')]`` with ``u ~ N(0, Phi^{l-1})`` and
    ``G^l = E[phi'(u) phi'(u')] G^{l+1}`` do not move, and with ``Theta = sum_l G^{l+1} Phi^l``

    ``f_mu(t) = sum_{s<t} drive(t, s) sum_nu Theta_mu,nu share(s, nu) Delta_nu(s)``,

    exact for every step size, loss, momentum and order of batches. Weight decay shrinks the initial weights
    to ``keep(t)`` times themselves, and the network is linear around what is left: kernels then depend on
    both times, ``Phi^l(t, s) = E[phi(keep(t) u) phi(keep(s) u')]``, and so does Theta. Of several outputs,
    each has this Theta, and gradients of different outputs are uncorrelated.

    Args:
        problem: its network may be residual; then layers are 0..L, L the one that the readout sees, and
            ``Theta = G^0 K + (b^2 / L) sum_{k<L} G^{k+1} Phi^k + Phi^L``.
        tolerance: of activations without a closed form, as in ``kernels.analytic.kernel``.
        memory: bytes that may be used, or text such as "2GiB": kernels that depend on both times take
            (P T)^2 numbers each.

    Raises:
        Diverged: if the learning rate is beyond the kernel's stability and the loss blows up.
        ValueError: if the activation's kernel misses the tolerance, or memory does not suffice.

    Example:
        >>> problem = Problem(targets=[1.0], kernel=[[1.0]], steps=2, learning_rate=0.25, activation="relu")
        >>> solution = lazy(problem)  # Theta = K/2 + 1/2 = 1
        >>> solution.ntk.values[0].item(), solution.train.values[:, 0].tolist()
        (1.0, [0.0, 0.25, 0.4375])

    Reference:
        Jacot et al. (arXiv 1806.07572); Bordelon & Pehlevan (arXiv 2205.09653), Section 4.1.
    """
    check_kind(problem, "lazy")
    began = time.perf_counter()
    keep, drive = problem.memory()
    static = bool((keep == 1).all())
    side = problem.points * (1 if static else len(keep))
    held = check_memory((3 * problem.depth + 6) * side**2, memory)
    kernels = _kernels(problem, np.ones(1) if static else keep, tolerance)
    f = _train(problem, kernels.ntk, drive, static)
    predictions, loss = outcome(problem, f)
    first = 0 if isinstance(problem, ResidualProblem) else 1
    features = _layers(kernels.features, problem, first, outputs=False)
    gradients = _layers(kernels.gradients, problem, first, outputs=wide(problem))
    return Solution(
        problem=problem,
        solver="lazy",
        predictions=predictions,
        loss=loss,
        features=features,
        gradients=gradients,
        ntk=_equal_times(kernels.ntk, problem),
        diagnostics={"seconds": time.perf_counter() - began, "bytes": held},
    )


def at_gamma_zero(problem: Problem, memory: str | float = 4 * 2**30) -> Solution:
    """Returns ``lazy(problem)`` for another solver, whose caller must hear where a tolerance can be set."""
    try:
        return lazy(problem, memory=memory)
    except ValueError as error:
        raise ValueError(f"gamma0 = 0 is solved by dmft.lazy(problem, tolerance=...): {error}") from None


def _kernels(problem: Problem, keep: np.ndarray, tolerance: float) -> _Kernels:
    """Static kernels of samples seen by weights that are kept to each of the factors, [times * points]."""
    phi = dual(problem.activation, tolerance)
    x = np.asarray(problem.kernel)
    factor = np.repeat(keep, len(x))
    kept = factor[:, None] * factor
    start = np.tile(x, (len(keep), len(keep)))
    if isinstance(problem, ResidualProblem):
        return _residual(problem, phi, start, kept)
    features, slopes, below = [], [], start
    for _ in range(problem.depth):
        below, slope = _behind(phi, kept * below)
        features.append(below)
        slopes.append(slope)
    gradients = [np.ones_like(start)]
    for slope in reversed(slopes):
        gradients.insert(0, slope * kept * gradients[0])
    ntk = sum(g * p for g, p in zip(gradients, [start, *features], strict=True))
    return _Kernels(features, gradients[:-1], np.asarray(ntk))


def _residual(problem: ResidualProblem, phi: Dual, start: np.ndarray, kept: np.ndarray) -> _Kernels:
    """The same of a stream to which branches add: independent weights leave no cross terms."""
    branch = (problem.branch_scale * problem.depth**-problem.branch_exponent) ** 2
    stream, features, slopes = kept * start, [], []
    for _ in range(problem.depth):
        feature, slope = _behind(phi, stream)
        stream = stream + branch * kept * feature
        features.append(feature)
        slopes.append(slope)
    last, slope = _behind(phi, stream) if problem.final_activation else (stream, np.ones_like(stream))
    gradients = [slope * kept]
    for slope in reversed(slopes):
        gradients.insert(0, gradients[0] * (1 + branch * slope * kept))
    inside = sum(g * p for g, p in zip(gradients[1:], features, strict=True))
    ntk = gradients[0] * start + branch * problem.branch_rate * inside + last
    return _Kernels([*features, last], gradients, ntk)


def _behind(phi: Dual, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Covariances of phi and of its derivative, symmetric to the last bit."""
    q = np.diagonal(covariance)
    value, slope = phi(covariance, q[:, None], q[None, :])
    return (value + value.T) / 2, (slope + slope.T) / 2


def _train(problem: Problem, ntk: np.ndarray, drive: np.ndarray, static: bool) -> np.ndarray:
    """Predictions at all times, [T + 1, P + M, C]."""
    steps, samples, points = problem.steps, problem.samples, problem.points
    times = len(ntk) // points
    theta = ntk.reshape(times, points, times, points)[..., :samples]
    errors, shares = float64_errors(problem), problem.shares()
    f = np.zeros((steps + 1, points, problem.outputs))
    pushes = np.zeros((steps, samples, problem.outputs))
    with np.errstate(over="ignore", invalid="ignore"):
        for t in range(steps):
            pushes[t] = shares[t, :, None] * errors(f[t, :samples])
            weighed = drive[t + 1, : t + 1, None, None] * pushes[: t + 1]
            if static:
                f[t + 1] = theta[0, :, 0] @ weighed.sum(0)
            else:
                f[t + 1] = np.tensordot(theta[t + 1, :, : t + 1], weighed, ((1, 2), (0, 1)))
    return f


def _layers(kernels: list[np.ndarray], problem: Problem, first: int, *, outputs: bool) -> Labelled:
    """Kernels by layer, with both times; those that do not depend on time are repeated without a copy."""
    points, times = problem.points, problem.steps + 1
    held = len(kernels[0]) // points
    stack = np.stack(kernels).reshape(len(kernels), held, points, held, points)
    axes: tuple[str, ...] = ("layer", "time", "sample", "time'", "sample'")
    shape: tuple[int, ...] = (len(kernels), times, points, times, points)
    if outputs:
        many = problem.outputs
        stack = np.einsum("ltmsn,ab->ltmasnb", stack, np.eye(many))
        axes = ("layer", "time", "sample", "output", "time'", "sample'", "output'")
        shape = (len(kernels), times, points, many, times, points, many)
    return Labelled(np.broadcast_to(stack, shape), axes, first_layer=first)


def _equal_times(ntk: np.ndarray, problem: Problem) -> Labelled:
    """The tangent kernel of each time with itself."""
    points, times = problem.points, problem.steps + 1
    held = len(ntk) // points
    equal = np.einsum("tmtn->tmn", ntk.reshape(held, points, held, points))
    if not wide(problem):
        return Labelled(np.broadcast_to(equal, (times, points, points)), ("time", "sample", "sample'"))
    many = problem.outputs
    equal = np.einsum("tmn,ab->tmanb", equal, np.eye(many))
    axes = ("time", "sample", "output", "sample'", "output'")
    return Labelled(np.broadcast_to(equal, (times, points, many, points, many)), axes)
