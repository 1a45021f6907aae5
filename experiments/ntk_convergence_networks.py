"""The finite networks of the NTK experiment: a compiled program per width, weights from numbered seeds."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from widelimit.kernels import dynamics, empirical
from widelimit.models import MLP, MLPConfig, initialise, rules
from widelimit.scaling import Parametrization, Rules, dmft, ntk

# As kernel theory writes them: raw weights ~ N(0, 1), multipliers 1/sqrt(fan-in). The mean-field form of muP
# is that network divided by a further sqrt(n), its learning rate times n: the same weights, the same kernel.
PARAMETRIZATIONS: Mapping[str, Parametrization] = {
    "ntk": ntk(unit_variance=True),
    "mup": dmft(gamma0=1.0),
}
_NUMBERS = ("init_std", "multiplier", "learning_rate")
# Halves the time to compile; the time to run is that of matrix products, which come from a library.
_COMPILER = {"xla_backend_optimization_level": 1}


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """What every network learns: by full-batch gradient descent on the mean of (f - y)^2 / 2.

    Args:
        inputs: training inputs, then test inputs, [N + M, D], each of norm sqrt(D).
        targets: -1 or +1, [N + M, 1].
        train: the number N of training samples.
        rate: learning rate; the kernel's eigenvalues times rate / N must stay below 2.
        steps: number of steps T; the physical time is rate * steps.
    """

    inputs: np.ndarray
    targets: np.ndarray
    train: int
    rate: float
    steps: int

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Training inputs, their targets, and test inputs."""
        return self.inputs[: self.train], self.targets[: self.train], self.inputs[self.train :]


def shape_of(task: Task, width: int, depth: int, parametrization: str) -> MLPConfig:
    """Returns the network of a width under a parametrization: tanh, no biases, one output."""
    return MLPConfig(
        inputs=task.inputs.shape[1],
        outputs=1,
        width=width,
        base_width=width,
        parametrization=PARAMETRIZATIONS[parametrization],
        depth=depth,
        bias=False,
    )


def keys(seed: int, stage: str, width: int, seeds: np.ndarray) -> jax.Array:
    """Returns a key per network: stages and widths are independent, whatever the number of networks."""
    stage_key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(stage.encode()) % 2**31)
    at_width = jax.random.fold_in(stage_key, width)
    return jax.vmap(lambda index: jax.random.fold_in(at_width, index))(np.asarray(seeds, np.uint32))


def numbers_of(shape: MLPConfig) -> dict[str, Any]:
    """Returns the rules of a network under SGD as numbers that a compiled program takes."""
    own = rules(shape, "sgd")
    return {name: jax.tree.map(lambda value: np.float32(value), getattr(own, name)) for name in _NUMBERS}


@functools.lru_cache(maxsize=8)
def measuring(shape: MLPConfig, rate: float, steps: int) -> Any:
    """Returns the compiled program ``(key, x, y, x_test, numbers) -> measured`` of one network.

    It returns by name: ``outputs`` [T + 1, N + M] before each step and at the end, the kernels ``kernel_0``
    and ``kernel_T`` [N + M, N + M], ``features``, the root mean square over hidden units and inputs of the
    change of the pre-activations, and ``motion``, the relative change of all parameters.

    Args:
        shape: of the network; only its sizes count, as ``numbers`` carry the parametrization.
        rate: learning rate.
        steps: number of steps.
    """
    template, model = rules(shape, "sgd"), MLP(shape)

    def measure(key: jax.Array, x: jax.Array, y: jax.Array, x_test: jax.Array, numbers: Any) -> Any:
        own: Rules = dataclasses.replace(template, **numbers)
        both = jnp.concatenate([x, x_test])

        def apply(params: Any, inputs: jax.Array) -> jax.Array:
            outputs: Any = model.apply({"params": params, "multipliers": own.multiplier}, inputs)
            return outputs

        def features(params: Any) -> jax.Array:
            variables = {"params": params, "multipliers": own.multiplier}
            taps = model.apply(variables, both, mutable=["intermediates"])[1]["intermediates"]
            return jnp.stack([taps[f"Dense_{layer}"]["preactivation"][0] for layer in range(shape.depth)])

        def kernel(params: Any) -> jax.Array:
            return empirical.ntk(apply, params, both, form="trace", rates=own.learning_rate)

        start = initialise(key, own)
        end, outputs = descend(apply, start, x, y, x_test, own.learning_rate, rate, steps)
        moved = sum(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum((b - a) ** 2), start, end)))
        size = sum(jax.tree.leaves(jax.tree.map(lambda a: jnp.sum(a**2), start)))
        return {
            "outputs": outputs,
            "kernel_0": kernel(start),
            "kernel_T": kernel(end),
            "features": jnp.sqrt(jnp.mean((features(end) - features(start)) ** 2)),
            "motion": jnp.sqrt(moved / size),
        }

    return jax.jit(measure, compiler_options=_COMPILER)


@functools.lru_cache(maxsize=16)
def training(shape: MLPConfig, rate: float, steps: int, batch: int) -> Any:
    """Returns the compiled program ``(keys [S], x, y, x_test, numbers) -> outputs [S, T + 1, N + M]``.

    Args:
        shape: of the networks.
        rate: learning rate.
        steps: number of steps.
        batch: how many networks are trained at once.
    """
    template, model = rules(shape, "sgd"), MLP(shape)

    def train(key: jax.Array, x: jax.Array, y: jax.Array, x_test: jax.Array, numbers: Any) -> jax.Array:
        own: Rules = dataclasses.replace(template, **numbers)

        def apply(params: Any, inputs: jax.Array) -> jax.Array:
            outputs: Any = model.apply({"params": params, "multipliers": own.multiplier}, inputs)
            return outputs

        return descend(apply, initialise(key, own), x, y, x_test, own.learning_rate, rate, steps)[1]

    def run(keys: jax.Array, x: jax.Array, y: jax.Array, x_test: jax.Array, numbers: Any) -> jax.Array:
        return jax.lax.map(lambda key: train(key, x, y, x_test, numbers), keys, batch_size=batch)

    return jax.jit(run, compiler_options=_COMPILER)


def descend(
    apply: Any,
    start: Any,
    x: jax.Array,
    y: jax.Array,
    x_test: jax.Array,
    rates: Any,
    rate: float,
    steps: int,
) -> tuple[Any, jax.Array]:
    """Returns the trained parameters, and the outputs on all inputs before each step and at the end."""
    path = dynamics.descend(apply, start, x, y, rate, steps, rates=rates, test=x_test)
    assert path.test is not None
    return path.params, jnp.concatenate([path.train, path.test], axis=1)[..., 0]


def measure(task: Task, width: int, depth: int, seed: int, index: int) -> dict[str, dict[str, np.ndarray]]:
    """Returns what ``measuring`` says of a network, by parametrization: both start from the same weights."""
    shapes = {name: shape_of(task, width, depth, name) for name in PARAMETRIZATIONS}
    program = measuring(shapes["ntk"], task.rate, task.steps)
    key = keys(seed, "rates", width, np.array([index]))[0]
    return {
        name: jax.tree.map(np.asarray, program(key, *task.arrays, numbers_of(shape)))
        for name, shape in shapes.items()
    }


def train(
    task: Task, width: int, depth: int, seed: int, stage: str, indices: np.ndarray, batch: int
) -> np.ndarray:
    """Returns the outputs of networks under the NTK parametrization, float64 [S, T + 1, N + M]."""
    shape = shape_of(task, width, depth, "ntk")
    program = training(shape, task.rate, task.steps, batch)
    outputs = program(keys(seed, stage, width, indices), *task.arrays, numbers_of(shape))
    return np.asarray(outputs, np.float64)
