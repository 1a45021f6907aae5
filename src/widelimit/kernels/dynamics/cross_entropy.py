"""Cross-entropy in function space, by the dual variables a: f = f_0 + K a, f_* = f_*0 + K_* a."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from widelimit.kernels.dynamics.problem import Problem
from widelimit.kernels.matrices import as_float64

TOLERANCE = 1e-9


def as_probabilities(kernel: Any, targets: Any, initial: Any) -> np.ndarray:
    """Returns targets as probabilities [N, O]; labels need the number of classes from elsewhere."""
    y, _ = as_float64(targets, "targets")
    labels = y.ndim == 1 and np.asarray(targets).dtype.kind in "iu"
    if labels:
        classes = np.shape(kernel)[-1] if np.ndim(kernel) == 4 else (np.shape(initial) or (0,))[-1]
        if np.ndim(kernel) != 4 and np.ndim(initial) != 2:
            raise ValueError(
                "Labels do not say how many classes there are; pass probabilities, np.eye(classes)[labels]."
            )
        check_labels(y, classes)
        return np.eye(classes)[y.astype(np.int64)]
    if (
        y.ndim != 2
        or y.shape[1] < 2
        or (y < 0).any()
        or not np.allclose(y.sum(axis=1), 1.0, rtol=0, atol=1e-6)
    ):
        raise ValueError(
            "targets of cross-entropy must be probabilities [N, O], O >= 2, rows that sum to 1, or integer "
            f"labels [N]; got shape {y.shape} and dtype {np.asarray(targets).dtype}."
        )
    return y


def check_labels(labels: np.ndarray, classes: int) -> None:
    """Refuses labels of classes that do not exist."""
    if labels.size and not (0 <= labels.min() and labels.max() < classes):
        raise ValueError(
            f"labels must lie in 0..{classes - 1}; got {int(labels.min())} to {int(labels.max())}."
        )


def _log_softmax(problem: Problem, values: np.ndarray) -> np.ndarray:
    """Log-probabilities of logits [..., n, C], reshaped to [..., N, O]."""
    logits = problem.restore(values)
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def dual_trajectory(
    problem: Problem, duals: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray, np.ndarray]:
    """Returns train, test, loss, diverged for dual variables [T, n, C]."""
    train = problem.initial + problem.matrix @ duals
    test = None
    if problem.test is not None:
        test = problem.restore(problem.initial_test + problem.test @ duals)
    log_p = _log_softmax(problem, train)
    loss = -np.sum(problem.restore(problem.targets) * log_p, axis=(1, 2)) / problem.samples
    finite = np.isfinite(loss)
    return problem.restore(train), test, loss, ~finite


def flow_dual(problem: Problem, times: np.ndarray) -> np.ndarray:
    """Integrates ``da/dt = (y - softmax(f_0 + K a)) / N``, [T, n, C]."""
    from scipy.integrate import solve_ivp
    from tqdm import tqdm

    shape, order = problem.targets.shape, np.argsort(times, kind="stable")
    end = float(times.max(initial=0.0))
    duals = np.zeros((len(times), *shape))
    if end == 0.0:
        return duals
    with tqdm(total=end, desc="gradient flow", delay=2.0, disable=None, bar_format=_BAR) as bar:

        def slope(time: float, flat: np.ndarray) -> np.ndarray:
            bar.update(max(0.0, time - bar.n))
            logits = problem.initial + problem.matrix @ flat.reshape(shape)
            probabilities = np.exp(_log_softmax(problem, logits)).reshape(shape)
            return ((problem.targets - probabilities) / problem.samples).ravel()

        start = np.zeros(duals[0].size)
        grid = np.unique(times)
        found = solve_ivp(
            slope,
            (0.0, end),
            start,
            "DOP853",
            t_eval=grid,
            rtol=TOLERANCE,
            atol=TOLERANCE * end / problem.samples,
        )
    if not found.success:
        raise ValueError(f"The integration of the flow failed at time {found.t[-1]:.3g}: {found.message}")
    duals[order] = found.y.T[np.searchsorted(grid, times[order])].reshape(-1, *shape)
    return duals


_BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed} so far, {remaining} to go"


def descend_dual(
    problem: Problem, rate: float, steps: np.ndarray, momentum: float, nesterov: bool
) -> np.ndarray:
    """Takes the steps: ``v <- momentum v + (softmax(f) - y)/N``, ``a <- a - rate v``."""
    from tqdm import tqdm

    duals = np.zeros((len(steps), *problem.targets.shape))
    with jax.enable_x64(True):
        constants = [jnp.asarray(array) for array in (problem.matrix, problem.initial, problem.targets)]
        state = (jnp.zeros(problem.targets.shape), jnp.zeros(problem.targets.shape))
        done = 0
        total = int(steps.max(initial=0))
        with tqdm(total=total, desc="gradient descent", delay=2.0, disable=None, bar_format=_BAR) as bar:
            for index in np.argsort(steps, kind="stable"):
                while done < steps[index]:
                    chunk = min(int(steps[index]) - done, 1000)
                    settings = jnp.array([rate, momentum])
                    state = _advance(*constants, settings, state, chunk, nesterov, problem.shape)
                    done += chunk
                    bar.update(chunk)
                duals[index] = np.asarray(state[0])
    return duals


@partial(jax.jit, static_argnums=(6, 7))
def _advance(
    kernel: jax.Array,
    initial: jax.Array,
    targets: jax.Array,
    settings: jax.Array,
    state: tuple[jax.Array, jax.Array],
    count: int,
    nesterov: bool,
    shape: tuple[int, ...],
) -> tuple[jax.Array, jax.Array]:
    """Count steps in one compiled loop."""
    rate, momentum = settings
    samples = targets.size // shape[0]

    def step(_: Any, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        dual, velocity = state
        logits = (initial + kernel @ dual).reshape(-1, *shape)
        gradient = (jax.nn.softmax(logits).reshape(targets.shape) - targets) / samples
        velocity = momentum * velocity + gradient
        move = gradient + momentum * velocity if nesterov else velocity
        return dual - rate * move, velocity

    return jax.lax.fori_loop(0, count, step, state)
