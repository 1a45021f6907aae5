"""Problems that the sheet does not hold: every solver against finite networks extrapolated to infinite width.

A claim is fixed beforehand: the same few entries of every order parameter, at the same times.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from widelimit import compare, dmft
from widelimit.dmft import Labelled, Problem, ResidualProblem, Solution

STEPS = 20


def _data(seed: int, outputs: int = 0, binary: bool = False) -> dict[str, Any]:
    """Four training and two test points in seven dimensions, and targets that are no labels."""
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((6, 7))
    targets = rng.standard_normal((4, outputs) if outputs else 4)
    if binary:
        targets = np.sign(targets)
    return {"inputs": inputs[:4], "test_inputs": inputs[4:], "targets": targets, "steps": STEPS}


def own_activation(h):
    """Neither odd nor even, smooth, not bounded."""
    return 0.5 * h + jnp.cos(h)


def own_loss(f, y):
    """Huber's, smoothed."""
    return jnp.sqrt(1 + (f - y) ** 2) - 1


_BATCHES = np.random.default_rng(7).integers(0, 4, (STEPS, 2))
_ONE_HOT = np.eye(3)[[0, 1, 2, 1]]
PROBLEMS: dict[str, Problem] = {
    "erf, L=1": Problem(activation="erf", depth=1, learning_rate=0.4, gamma0=1.5, **_data(1)),
    "erf, L=2": Problem(activation="erf", depth=2, learning_rate=0.3, gamma0=2.0, **_data(2)),
    "erf, L=4": Problem(activation="erf", depth=4, learning_rate=0.3, gamma0=1.0, **_data(3)),
    "relu, L=1": Problem(activation="relu", depth=1, learning_rate=0.4, gamma0=1.5, **_data(4)),
    "relu, L=2": Problem(activation="relu", depth=2, learning_rate=0.15, gamma0=1.0, **_data(5)),
    "relu, L=3": Problem(activation="relu", depth=3, learning_rate=0.1, gamma0=1.0, **_data(6)),
    "gelu, L=1": Problem(activation="gelu", depth=1, learning_rate=0.4, gamma0=1.0, **_data(7)),
    "gelu, L=2": Problem(activation="gelu", depth=2, learning_rate=0.25, gamma0=1.5, **_data(8)),
    "gelu, L=4": Problem(activation="gelu", depth=4, learning_rate=0.2, gamma0=1.0, **_data(9)),
    "own, L=1": Problem(activation=own_activation, depth=1, learning_rate=0.1, gamma0=1.0, **_data(10)),
    "own, L=3": Problem(activation=own_activation, depth=3, learning_rate=0.1, gamma0=1.0, **_data(11)),
    "linear, L=3": Problem(activation="identity", depth=3, learning_rate=0.1, gamma0=1.0, **_data(12)),
    "small rate": Problem(activation="tanh", depth=2, learning_rate=0.1, gamma0=2.0, **_data(13)),
    "large rate": Problem(activation="tanh", depth=2, learning_rate=0.8, gamma0=2.0, **_data(13)),
    "schedule": Problem(
        activation="tanh", depth=2, learning_rate=np.linspace(0.1, 0.8, STEPS), gamma0=1.0, **_data(14)
    ),
    "momentum": Problem(
        activation="tanh", depth=2, learning_rate=0.15, momentum=0.6, gamma0=2.0, **_data(15)
    ),
    "momentum and decay": Problem(
        activation="tanh",
        depth=3,
        learning_rate=0.15,
        momentum=0.6,
        weight_decay=0.3,
        gamma0=1.5,
        **_data(16),
    ),
    "minibatch": Problem(
        activation="tanh", depth=2, learning_rate=0.3, batches=_BATCHES, gamma0=1.5, **_data(17)
    ),
    "two outputs": Problem(activation="tanh", depth=2, learning_rate=0.3, gamma0=1.5, **_data(18, 2)),
    "two outputs, momentum, batches, decay": Problem(
        activation="erf",
        depth=2,
        learning_rate=0.15,
        momentum=0.5,
        weight_decay=0.2,
        batches=_BATCHES,
        gamma0=1.5,
        **_data(19, 2),
    ),
    "logistic": Problem(
        activation="tanh", depth=2, learning_rate=0.8, gamma0=1.5, loss="logistic", **_data(20, 0, True)
    ),
    "cross-entropy": Problem(
        activation="tanh",
        depth=2,
        learning_rate=0.8,
        gamma0=1.5,
        loss="cross_entropy",
        **{**_data(21, 3), "targets": _ONE_HOT},
    ),
    "own loss": Problem(
        activation="relu", depth=2, learning_rate=0.3, gamma0=1.0, loss=own_loss, **_data(22)
    ),
    "residual tanh, 1/sqrt L": ResidualProblem(
        activation="tanh", depth=3, learning_rate=0.2, gamma0=1.5, **_data(23)
    ),
    "residual relu, 1/L": ResidualProblem(
        activation="relu", depth=3, learning_rate=0.1, gamma0=1.0, branch_exponent=1.0, **_data(24)
    ),
    "residual tanh, momentum, decay, final": ResidualProblem(
        activation="tanh",
        depth=2,
        learning_rate=0.1,
        momentum=0.5,
        weight_decay=0.2,
        gamma0=1.5,
        final_activation=True,
        **_data(25),
    ),
    "residual linear": ResidualProblem(
        activation="identity", depth=3, learning_rate=0.06, gamma0=1.0, **_data(26)
    ),
    "residual, two outputs": ResidualProblem(
        activation="erf", depth=2, learning_rate=0.15, gamma0=1.5, branch_scale=1.4, **_data(27, 2)
    ),
}


def solve(problem: Problem, samples: int, replicas: int, seed: int = 0) -> list[Solution]:
    """What every solver that applies says of a problem."""
    if isinstance(problem, ResidualProblem):
        found = [dmft.residual(problem, samples=samples, replicas=replicas, seed=seed)]
    else:
        found = [dmft.mlp(problem, samples=samples, replicas=replicas, seed=seed)]
        if problem.depth == 1:
            found += [dmft.two_layer(problem, samples=samples, replicas=replicas, seed=seed)]
    if problem.activation == "identity":
        found += [dmft.linear(problem)]
    return found


def networks(problem: Problem, seeds: list[int], widths=(64, 128, 256), **settings: Any) -> Solution:
    """The ensemble's extrapolation; order parameters at the start, in the middle and at the end."""
    times = (0, problem.steps // 2, problem.steps)
    return compare.richardson(compare.finite_ensemble(problem, widths, seeds, times=times, **settings))


def claims(limit: Solution, solution: Solution) -> dict[str, float]:
    """z-scores of the fixed entries: losses and predictions at three times, kernels of two pairs at two."""
    found = {}
    for name, z in compare.agreement(solution, limit).items():
        steps = limit.problem.steps
        if name == "loss":
            found |= {f"loss t={t}": float(z.values[t]) for t in (steps // 4, steps // 2, steps)}
        elif name == "predictions":
            last = z.values.reshape(steps + 1, limit.problem.points, -1)[..., 0]
            found |= {f"f_{mu} t={t}": float(last[t, mu]) for t in (steps // 2, steps) for mu in (0, 4, 5)}
        else:
            found |= _kernel(name, z)
    return found


def _kernel(name: str, z: Labelled) -> dict[str, float]:
    """Entries (0, 0) and (0, 1) of a kernel in the middle and at the end, in every layer."""
    found = {}
    layers = z.values.shape[0] if z.axes[0] == "layer" else 1
    for layer in range(layers):
        one = z.values[layer] if z.axes[0] == "layer" else z.values
        if one.ndim == 5:  # of outputs, the first two
            one = one[:, :, 0, :, -1]
        label = f"{name}^{layer + z.first_layer}" if layers > 1 or z.axes[0] == "layer" else name
        places = [(t, when, nu) for t, when in ((1, "T/2"), (2, "T")) for nu in (0, 1)]
        found |= {f"{label}_0{nu} {when}": float(one[t, 0, nu]) for t, when, nu in places}
    return found
