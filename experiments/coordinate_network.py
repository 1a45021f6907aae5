"""The measurement of the coordinate check: one compiled program per width and optimizer."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.coordinate_theory import CASES, layers
from widelimit.compare import contributions, coordinate_sizes
from widelimit.models import MLP, MLPConfig, initialise, rules
from widelimit.optim import adam, sgd
from widelimit.scaling import Rules
from widelimit.scaling.rules import NUMBERS
from widelimit.training import cross_entropy

OPTIMIZERS: Mapping[str, Callable[..., Any]] = {
    "sgd": sgd,
    # No epsilon: it would make the first update something between the gradient and its sign.
    "adam": lambda rate, rules: adam(rate, rules, eps=0.0),
}
# Halves the time to compile; the time to run is that of matrix products, which come from a library.
_COMPILER = {"xla_backend_optimization_level": 1}


def rules_of(case: str, shape: MLPConfig, optimizer: str) -> Rules:
    """Returns the rules of a network of this shape under another parametrization."""
    parametrization, alignment = CASES[case]
    return rules(dataclasses.replace(shape, parametrization=parametrization), optimizer, alignment)


def stacked(cases: Sequence[str], shape: MLPConfig, optimizer: str) -> dict[str, Any]:
    """Returns the numbers of several parametrizations' rules as arrays, one entry a parametrization."""
    each = [rules_of(case, shape, optimizer) for case in cases]
    numbers = [{name: getattr(one, name) for name in NUMBERS} for one in each]
    return jax.tree.map(lambda *values: np.array(values, np.float32), *numbers)


@functools.lru_cache(maxsize=16)
def drawing(shape: MLPConfig) -> Callable[[jax.Array], Any]:
    """Returns the compiled drawing of unit normals for keys [networks]: all cases of a width share them."""
    template = rules_of("standard", shape, "sgd")
    unit = dataclasses.replace(template, init_std=jax.tree.map(lambda std: float(std > 0), template.init_std))
    return jax.jit(
        lambda keys: jax.lax.map(lambda key: initialise(key, unit), keys), compiler_options=_COMPILER
    )


@functools.lru_cache(maxsize=16)
def program(shape: MLPConfig, optimizer: str) -> Callable[..., dict[str, jax.Array]]:
    """Returns the compiled measurement of a shape and an optimizer, for any parametrizations.

    It takes unit normals [networks, ...], batches (inputs [T, B, D] and labels [T, B]), the learning rate,
    the stacked rule numbers [P] and the trials [P, K, parameters]: all start from the same numbers. It
    returns geometric means over the networks: ``initial`` [P, layers], ``change`` [P, layers, T] at the
    ordinary rate, and ``first`` [P, layers, K] of small first steps; all measured on the first batch.

    Args:
        shape: of the network; its own parametrization is not looked at.
        optimizer: ``"sgd"`` or ``"adam"``.
    """
    template, names, model = rules_of("standard", shape, optimizer), layers(shape.depth), MLP(shape)
    structure = jax.tree.structure(template.init_std)

    def measure(
        normals: Any, batches: Any, rate: jax.Array, numbers: dict[str, Any], shares: jax.Array
    ) -> dict[str, Any]:
        own = dataclasses.replace(template, **numbers)
        params = jax.tree.map(lambda std, normal: std * normal, own.init_std, normals)
        first = jax.tree.map(lambda array: array[0], batches)

        def activations(params: Any) -> dict[str, jax.Array]:
            variables = {"params": params, "multipliers": own.multiplier}
            _, state = model.apply(variables, first[0], mutable=["intermediates"])
            taps = state["intermediates"]
            return {name: taps[f"Dense_{i}"]["preactivation"][0] for i, name in enumerate(names)}

        def loss(params: Any, batch: Any) -> jax.Array:
            inputs, labels = batch
            outputs: Any = model.apply({"params": params, "multipliers": own.multiplier}, inputs)
            return cross_entropy(outputs, labels)

        transform = OPTIMIZERS[optimizer](rate, own)
        sizes = coordinate_sizes(params, activations, loss, transform, batches)
        updates, _ = transform.update(jax.grad(loss)(params, first), transform.init(params), params)
        parts = contributions(params, updates, activations, jax.tree.unflatten(structure, list(shares.T)))
        found = {"initial": sizes.initial, "change": sizes.change, "first": parts}
        return {kind: jnp.stack([by_layer[name] for name in names]) for kind, by_layer in found.items()}

    def run(
        normals: Any, batches: Any, rate: jax.Array, numbers: Any, shares: jax.Array
    ) -> dict[str, jax.Array]:
        def network(own: Any) -> dict[str, jax.Array]:
            return jax.lax.map(lambda case: measure(own, batches, rate, *case), (numbers, shares))

        return jax.tree.map(lambda size: jnp.exp2(jnp.log2(size).mean(axis=0)), jax.lax.map(network, normals))

    return jax.jit(run, compiler_options=_COMPILER)
