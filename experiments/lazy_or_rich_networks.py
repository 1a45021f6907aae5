"""One network at any output scale: its descent, its kernel, and what the kernel of its start predicts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from widelimit.kernels import dynamics, empirical
from widelimit.models import MLP, MLPConfig, initialise, rules
from widelimit.scaling import ntk

PyTree = Any
Apply = Callable[[PyTree, Any], jax.Array]
# As kernel theory writes it: raw weights ~ N(0, 1), multipliers 1/sqrt(fan_in), one learning rate.
NTK = ntk(unit_variance=True)


class Schedule(NamedTuple):
    """Full-batch gradient descent on 1/(2N) sum |F - y|^2 with heavy-ball momentum.

    Attributes:
        rate: learning rate at output scale 1.
        momentum: from 0 to below 1.
        steps: how many.
    """

    rate: float
    momentum: float
    steps: int


class Descent(NamedTuple):
    """Where a descent ends.

    Attributes:
        offset: v = scale (w - w_0), a pytree like the parameters.
        train: F at the training points before every step and after the last.  # shape=(steps + 1, N, O)
    """

    offset: PyTree
    train: Array


def describe(width: int, depth: int, inputs: int = 64, outputs: int = 10) -> MLPConfig:
    """Returns the network that both parts share; erf is smooth and its kernels are known in closed form."""
    return MLPConfig(
        inputs=inputs,
        outputs=outputs,
        width=width,
        base_width=width,
        parametrization=NTK,
        depth=depth,
        activation="erf",
    )


@functools.cache
def forward(network: MLPConfig) -> Apply:
    """Returns h(w, x): the same object every time, by which compiled programs are found again."""
    model, multiplier = MLP(network), rules(network, "sgd").multiplier

    def apply(params: PyTree, x: Any) -> jax.Array:
        outputs: Any = model.apply({"params": params, "multipliers": multiplier}, x)
        return outputs

    return apply


def draw(network: MLPConfig, *seed: int) -> PyTree:
    """Returns initial weights, independent for every tuple of whole numbers."""
    key = functools.reduce(jax.random.fold_in, seed[1:], jax.random.key(seed[0]))
    return initialise(key, rules(network, "sgd"))


def descend(apply: Apply, start: PyTree, x: Any, y: Any, scale: float, schedule: Schedule) -> Descent:
    """Trains F = scale (h(w) - h(w_0)) from F = 0, at the learning rate ``rate / scale^2``.

    In the variable v = scale (w - w_0) the scale drops out of the step, ``v <- v - rate dL/dv``, and
    ``F(v) = scale (h(w_0 + v / scale) - h(w_0))`` tends to the linearisation ``J v`` as the scale grows.
    Returns at once: the arrays fill while the caller goes on.
    """
    x, y = jnp.asarray(x), jnp.asarray(y)
    numbers = (jnp.asarray(number, x.dtype) for number in (scale, schedule.rate))
    return _descend(apply, schedule.steps, schedule.momentum, start, x, y, *numbers)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _descend(
    apply: Apply, steps: int, momentum: float, start: PyTree, x: Array, y: Array, scale: Array, rate: Array
) -> Descent:
    """One program for all scales and rates."""
    first = apply(start, x)

    def scaled(offset: PyTree, inputs: Array) -> Array:
        return scale * (apply(_moved(start, offset, scale), inputs) - first)

    zero = jax.tree.map(jnp.zeros_like, start)
    path = dynamics.descend(scaled, zero, x, y, rate, steps, momentum=momentum)
    return Descent(path.params, path.train)


def losses(descent: Descent, y: Any) -> np.ndarray:
    """Returns 1/(2N) sum |F - y|^2 before every step and after the last, [steps + 1]."""
    residual = np.asarray(descent.train, np.float64) - np.asarray(y, np.float64)
    return 0.5 * np.mean(np.sum(residual**2, axis=2), axis=1)


def outputs(apply: Apply, start: PyTree, offset: PyTree, scale: float, x: Any) -> np.ndarray:
    """Returns F = scale (h(w) - h(w_0)) at any inputs, [N, O]."""
    x = jnp.asarray(x)
    return np.asarray(_outputs(apply, start, offset, jnp.asarray(scale, x.dtype), x), np.float64)


@functools.partial(jax.jit, static_argnums=0)
def _outputs(apply: Apply, start: PyTree, offset: PyTree, scale: Array, x: Array) -> Array:
    """Compiled once for all scales."""
    return scale * (apply(_moved(start, offset, scale), x) - apply(start, x))


def trace_kernel(apply: Apply, start: PyTree, offset: PyTree, scale: float, x: Any) -> np.ndarray:
    """Returns the NTK of h at w = w_0 + v / scale, summed over outputs, [N, N], in the dtype of x."""
    x = jnp.asarray(x)
    return np.asarray(_trace_kernel(apply, start, offset, jnp.asarray(scale, x.dtype), x))


@functools.partial(jax.jit, static_argnums=0)
def _trace_kernel(apply: Apply, start: PyTree, offset: PyTree, scale: Array, x: Array) -> Array:
    """Compiled once for all parameters."""
    kernel: Array = empirical.ntk(apply, _moved(start, offset, scale), x, form="trace")
    return kernel


@functools.partial(jax.jit, static_argnums=0)
def _full_kernel(apply: Apply, params: PyTree, x1: Array, x2: Array) -> Array:
    """[N1, N2, O, O]."""
    kernel: Array = empirical.ntk(apply, params, x1, x2)
    return kernel


def own_prediction(
    apply: Apply, start: PyTree, x: Any, y: Any, x_test: Any, schedule: Schedule
) -> np.ndarray:
    """Returns F at the test points after the same steps under the frozen kernel of the start, [P_test, O].

    Exact, in discrete steps and with momentum. It knows no scale: F = J v is what every scale tends to.
    """
    both = np.concatenate([x, x_test])
    kernel = np.asarray(_full_kernel(apply, start, jnp.asarray(both), jnp.asarray(x)))
    path = dynamics.gradient_descent(
        kernel[: len(x)],
        np.asarray(y),
        schedule.rate,
        [schedule.steps],
        momentum=schedule.momentum,
        test=kernel[len(x) :],
    )
    assert path.test is not None
    last: np.ndarray = path.test[0]
    return last


def _moved(start: PyTree, offset: PyTree, scale: Array) -> PyTree:
    """Returns w = w_0 + v / scale."""
    return jax.tree.map(lambda w, v: w + v / scale, start, offset)
