"""Gradient flow: any solver's limit of small learning rates, and closed forms for one training point."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from widelimit.dmft.labelled import Labelled
from widelimit.dmft.problem import Problem, ResidualProblem
from widelimit.dmft.solution import Solution
from widelimit.dmft.steps import float64_losses, wide

_PARTS = ("predictions", "ntk", "features", "gradients", "feature_response", "gradient_response")


def gradient_flow(solve: Callable[[Problem], Solution], problem: Problem, *, levels: int = 3) -> Solution:
    r"""Extrapolates a solver to learning_rate -> 0 at fixed times ``t = learning_rate * steps``.

    The problem is solved at rates eta, eta/2, eta/4, ... with as many more steps. What a time holds is a
    series in eta, and Richardson's table, ``R_j(eta/2) + (R_j(eta/2) - R_j(eta)) / (2^j - 1)``, removes its
    first ``levels - 1`` terms. The result has the times of the problem as it was given.

    Error bars suppose a solver called with a fixed seed. Where noise belongs to neurons alone (two layers) it
    is the same at every rate, and errors are added up with their signs; where it belongs to times too (deep
    networks) rates have noise of their own, and squares are added.

    Args:
        solve: a solver of one argument, e.g. ``lambda p: dmft.two_layer(p, seed=1)``.
        problem: with the coarsest learning rate and its steps; no batches, which have no such limit.
        levels: rates used, 2 or more; the finest is ``learning_rate / 2^(levels - 1)``.

    Returns:
        A solution with extrapolated predictions, loss and order parameters, and in ``diagnostics``
        ``extrapolation_error``, the largest change of a prediction that the last level made.

    Raises:
        ValueError: for minibatches or too few levels.

    Example:
        >>> from widelimit.dmft.two_layer import two_layer
        >>> problem = Problem(
        ...     targets=[1.0], kernel=[[1.0]], steps=20, learning_rate=0.05, activation="identity"
        ... )
        >>> flow = gradient_flow(lambda p: two_layer(p, method="closed"), problem, levels=4)
        >>> exact = one_sample_flow(1.0, [1.0], activation="identity")
        >>> bool(abs(flow.train.values[-1] - exact) < 1e-5)
        True
    """
    if problem.batches is not None:
        raise ValueError(
            "gradient_flow needs full batches: a fixed order of batches has no limit of small rates."
        )
    if int(levels) != levels or levels < 2:
        raise ValueError(f"levels must be a whole number, 2 or more; got {levels!r}.")
    runs = [solve(_finer(problem, 2**level)) for level in range(levels)]
    parts = {name: _at_common_times(runs, name) for name in (*_PARTS, "loss")}
    shared = problem.depth == 1 and not isinstance(problem, ResidualProblem)
    found: dict[str, Any] = {name: _corner(part, shared) if part else None for name, part in parts.items()}
    predictions, loss = _corner(parts["predictions"], shared), _corner(parts["loss"], shared)
    f = predictions.values if wide(problem) else predictions.values[..., None]
    change = np.abs(predictions.values - _corner(parts["predictions"][1:], shared).values).max()
    diagnostics = dict(runs[-1].diagnostics)
    diagnostics |= {
        "seconds": sum(run.diagnostics.get("seconds", 0.0) for run in runs),
        "levels": levels,
        "extrapolation_error": float(change),
    }
    found |= {
        "predictions": predictions,
        "loss": loss._replace(values=float64_losses(problem, f[:, : problem.samples])),
    }
    return Solution(
        problem=problem,
        solver=f"gradient_flow of {runs[0].solver}",
        diagnostics=diagnostics,
        **found,
    )


def _finer(problem: Problem, factor: int) -> Problem:
    """The problem with so many times more, smaller steps."""
    rates = np.asarray(problem.learning_rate) / factor
    return dataclasses.replace(
        problem,
        steps=problem.steps * factor,
        learning_rate=np.repeat(rates, factor) if rates.ndim else rates,
        kernel=problem.kernel if problem.inputs is None else None,
    )


def _at_common_times(runs: list[Solution], name: str) -> list[Labelled]:
    """A part of every run at the coarsest run's times; empty where a run lacks it."""
    parts = [getattr(run, name) for run in runs]
    if any(part is None for part in parts):
        return []
    result = []
    for run, part in zip(runs, parts, strict=True):
        stride = run.problem.steps // runs[0].problem.steps
        index = tuple(slice(None, None, stride if axis in ("time", "time'") else 1) for axis in part.axes)
        stderr = None if part.stderr is None else part.stderr[index]
        result.append(part._replace(values=part.values[index], stderr=stderr))
    return result


def _corner(parts: list[Labelled], shared: bool) -> Labelled:
    """Richardson's best value of what was found at every rate, coarsest first; noise is shared or not."""
    weights = _weights(len(parts))
    values = sum(w * part.values for w, part in zip(weights, parts, strict=True))
    errors = [part.stderr for part in parts if part.stderr is not None]
    stderr = None
    if errors:
        weighted = np.stack([w * error for w, error in zip(weights, errors, strict=True)])
        stderr = np.abs(weighted.sum(0)) if shared else np.sqrt((weighted**2).sum(0))
    return parts[-1]._replace(values=np.asarray(values), stderr=stderr)


def _weights(levels: int) -> np.ndarray:
    """What each rate, coarsest first, counts in Richardson's corner."""
    table = np.eye(levels)
    for power in range(1, levels):
        table = table[1:] + (table[1:] - table[:-1]) / (2**power - 1)
    return table[0]


def one_sample_flow(
    target: float,
    times: ArrayLike,
    *,
    activation: str = "relu",
    gamma0: float = 1.0,
    kernel: float = 1.0,
) -> np.ndarray:
    r"""Returns f(t) of gradient flow on one training point with ``"mse"``: a two-layer network, solved.

    With ``theta' = gamma0 sqrt(K) (y - f)`` the neurons have moved by theta along hyperbolas, and
    ``f = sqrt(K) m(theta) / gamma0`` with, for ``"identity"``, ``m = sinh 2 theta``, and for ``"relu"``
    ``m = [(cosh 2 theta - 1) / 2 + (pi - arctan tanh theta) sinh 2 theta] / (2 pi)``, odd in theta.

    Args:
        target: y.
        times: learning rate times steps, 0 or more, any shape.
        activation: ``"relu"`` or ``"identity"``.
        gamma0: feature-learning strength, positive.
        kernel: K = |x|^2 / D of the point, positive.

    Raises:
        ValueError: for other activations or numbers.

    Example:
        >>> one_sample_flow(1.0, [0.5, 1.0, 3.0]).round(8).tolist()
        [0.40993484, 0.7117863, 0.99497291]
    """
    from scipy.integrate import solve_ivp

    moments = {"relu": _relu_moment, "identity": lambda theta: math.sinh(2 * theta)}
    at = np.asarray(times, np.float64)
    if activation not in moments:
        raise ValueError(f'activation must be "relu" or "identity"; got {activation!r}.')
    if not (0 < gamma0 < math.inf and 0 < kernel < math.inf and math.isfinite(target)):
        raise ValueError(
            f"gamma0 and kernel must be positive; got {gamma0!r}, {kernel!r}; target {target!r}."
        )
    if not at.size or not (np.isfinite(at).all() and (at >= 0).all()):
        raise ValueError(f"times must be finite, 0 or more; got {times!r}.")
    scale = math.sqrt(kernel)

    def f(theta: float) -> float:
        return scale * moments[activation](theta) / gamma0

    def slope(_: float, theta: np.ndarray) -> list[float]:
        return [gamma0 * scale * (target - f(float(theta[0])))]

    order, back = np.unique(at.ravel(), return_inverse=True)
    end = max(float(order[-1]), 1e-300)
    path = solve_ivp(slope, (0.0, end), [0.0], method="LSODA", t_eval=order, rtol=1e-12, atol=1e-14)
    if not path.success:
        raise ValueError(f"The flow could not be followed: {path.message}")
    return np.asarray([f(float(theta)) for theta in path.y[0]])[back].reshape(at.shape)


def _relu_moment(theta: float) -> float:
    """<z phi(h)> of ReLU neurons that moved by theta, for K = 1."""
    size = abs(theta)
    angle = math.pi - math.atan(math.tanh(size))
    moment = ((math.cosh(2 * size) - 1) / 2 + angle * math.sinh(2 * size)) / (2 * math.pi)
    return math.copysign(moment, theta)
