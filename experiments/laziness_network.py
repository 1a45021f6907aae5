"""The measurement of laziness: how much of a branch's change in one step is not linear in the step."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.depth_check_network import COMPILER, OPTIMIZERS, observer, rms, rules_of, unit_normals
from experiments.depth_check_theory import inside
from widelimit.models import ResidualMLPConfig, leaves
from widelimit.scaling import Leaf
from widelimit.training import cross_entropy

PARTS = ("own", "first layer", "below")


def masks(shape: ResidualMLPConfig) -> dict[str, Any]:
    """Returns for each part which entries of which parameter it moves, shaped like the parameters.

    ``own`` is the middle block, ``first layer`` the first layer of its branch, and ``below`` all blocks below
    it and the input layer.
    """
    declared, middle = leaves(shape), shape.depth // 2
    blocks = jnp.arange(shape.depth)
    first = {name for name in inside(declared) if name.startswith("Dense_0/")}

    def mask(leaf: Leaf, part: str) -> jax.Array:
        if leaf.depth is None:
            chosen = jnp.full((1,), part == "below" and leaf.role.value == "input")
        elif part == "below":
            chosen = blocks < middle
        else:
            named = part == "own" or leaf.path.partition("/")[2] in first
            chosen = (blocks == middle) & named
        return chosen.astype(jnp.float32).reshape(-1, *(1 for _ in leaf.shape[1:]))

    def is_leaf(node: Any) -> bool:
        return isinstance(node, Leaf)

    return {
        part: jax.tree.map(functools.partial(mask, part=part), declared, is_leaf=is_leaf) for part in PARTS
    }


@functools.lru_cache(maxsize=32)
def program(shape: ResidualMLPConfig, optimizer: str) -> Callable[..., dict[str, jax.Array]]:
    """Returns the compiled measurement of a shape and an optimizer, for any parametrizations.

    It takes keys [networks], a batch (inputs and labels), the learning rate and the stacked rule numbers [P],
    and returns the root mean squares ``linear`` and ``nonlinear`` [networks, P, parts] of what the first step
    changes in the middle branch, on that batch, when only a part of it is made: the change that is linear in
    the step, from the exact derivative, and all the rest.

    Args:
        shape: of the network, scanned; its own parametrization is not looked at.
        optimizer: key of ``depth_check_network.OPTIMIZERS``.
    """
    template, observe, parts = rules_of("mup", shape, optimizer), observer(shape), masks(shape)

    def measure(normals: Any, batch: Any, rate: jax.Array, numbers: dict[str, Any]) -> dict[str, jax.Array]:
        own = dataclasses.replace(template, **numbers)
        params = jax.tree.map(lambda std, normal: std * normal, own.init_std, normals)

        def branch(params: Any) -> jax.Array:
            return observe(params, own.multiplier, batch[0])[1]["branch"]

        def loss(params: Any) -> jax.Array:
            return cross_entropy(observe(params, own.multiplier, batch[0])[0], batch[1])

        transform = OPTIMIZERS[optimizer](rate, own)
        updates, _ = transform.update(jax.grad(loss)(params), transform.init(params), params)

        def trial(mask: Any) -> tuple[jax.Array, jax.Array]:
            return split(branch, params, jax.tree.map(jnp.multiply, mask, updates))

        stacked = jax.tree.map(lambda *each: jnp.stack(each), *(parts[part] for part in PARTS))
        linear, nonlinear = jax.lax.map(trial, stacked)
        return {"linear": linear, "nonlinear": nonlinear}

    def run(keys: jax.Array, batch: Any, rate: jax.Array, numbers: Any) -> dict[str, jax.Array]:
        def network(key: jax.Array) -> dict[str, jax.Array]:
            normals = unit_normals(key, template)
            return jax.lax.map(lambda case: measure(normals, batch, rate, case), numbers)

        return jax.lax.map(network, keys)

    return jax.jit(run, compiler_options=COMPILER)


def split(function: Callable[[Any], jax.Array], params: Any, step: Any) -> tuple[jax.Array, jax.Array]:
    """Returns the root mean squares of what is linear in the step (an exact derivative) and of the rest.

    Args:
        function: of the parameters.
        params: where the step begins.
        step: shaped like the parameters.
    """
    before, linear = jax.jvp(function, (params,), (step,))
    after = function(jax.tree.map(jnp.add, params, step))
    return rms(linear), rms(after - before - linear)
