"""The measurement of the depth check: one compiled program per shape and optimizer."""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.depth_check_theory import CASES, FIELDS, inside, shares
from widelimit.compare import contributions
from widelimit.models import Decoder, DecoderConfig, ResidualMLP, ResidualMLPConfig, leaves, rules
from widelimit.optim import adam, muon, sgd
from widelimit.scaling import Rules
from widelimit.scaling.rules import NUMBERS
from widelimit.training import cross_entropy

Shape = ResidualMLPConfig | DecoderConfig

OPTIMIZERS: Mapping[str, Callable[..., Any]] = {
    "sgd": sgd,
    # No epsilon: it would make the first update something between the gradient and its sign.
    "adam": lambda rate, rules: adam(rate, rules, eps=0.0),
    "muon": lambda rate, rules: muon(rate, rules, ns_eps=0.0, eps=0.0),
}
# Halves the time to compile; the time to run is that of matrix products, which come from a library.
COMPILER = {"xla_backend_optimization_level": 1}


def block_parameters(shape: Shape) -> list[str]:
    """Returns the names of the parameters inside a block."""
    return inside(leaves(shape))


def stacked(cases: Sequence[str], shape: Shape, optimizer: str) -> dict[str, Any]:
    """Returns the numbers of several parametrizations' rules as arrays, one entry a parametrization."""
    each = [rules_of(case, shape, optimizer) for case in cases]
    numbers = [{name: getattr(one, name) for name in NUMBERS} for one in each]
    return jax.tree.map(lambda *values: np.array(values, np.float32), *numbers)


def rules_of(case: str, shape: Shape, optimizer: str) -> Rules:
    """Returns the rules of a network of this shape under another parametrization."""
    return rules(dataclasses.replace(shape, parametrization=CASES[case]), optimizer)


def unit_normals(key: jax.Array, own: Rules) -> Any:
    """Returns standard normals shaped like the parameters, zeros where those start at zero.

    One draw for all, whose parts scaled by ``init_std`` are what ``initialise`` gives in law: a draw for each
    array takes as long to compile as the forward pass.
    """
    stds, structure = jax.tree.flatten(own.init_std)
    ends = np.cumsum([math.prod(leaf.shape) for leaf in own.leaves])
    parts = jnp.split(jax.random.normal(key, (int(ends[-1]),)), ends[:-1])
    drawn = zip(parts, stds, own.leaves, strict=True)
    return jax.tree.unflatten(
        structure, [float(std > 0) * part.reshape(leaf.shape) for part, std, leaf in drawn]
    )


def observer(shape: Shape) -> Callable[..., tuple[jax.Array, dict[str, jax.Array]]]:
    """Returns ``(params, multipliers, inputs) -> (logits, fields)``: what is looked at of a scanned network.

    The last stream, the sum of all branches, the middle block's (last) branch with its multiplier, logits.
    """
    middle = shape.depth // 2
    ends: list[tuple[str, ...]] = [("attention", "output"), ("mlp", "down")]
    model: Any = ResidualMLP(shape) if isinstance(shape, ResidualMLPConfig) else Decoder(shape)
    if isinstance(shape, ResidualMLPConfig):
        ends = [(f"Dense_{shape.branch_depth - 1}",)]

    def observe(params: Any, multipliers: Any, inputs: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        variables = {"params": params, "multipliers": multipliers}
        logits, state = model.apply(variables, inputs, mutable=["intermediates"])
        taps = state["intermediates"]
        blocks = taps["blocks"]
        outputs = [functools.reduce(operator.getitem, path, blocks) for path in ends]
        branches = [shape.branch_scale * tap["preactivation"][0] for tap in outputs]
        added = sum(branch.sum(axis=0) for branch in branches)
        # The MLP does not record its stream, which is all that was added to it.
        stream = (
            blocks["stream"][0][-1] if "stream" in blocks else taps["Dense_0"]["preactivation"][0] + added
        )
        return logits, {"stream": stream, "branches": added, "branch": branches[-1][middle], "logits": logits}

    return observe


@functools.lru_cache(maxsize=32)
def program(shape: Shape, optimizer: str) -> Callable[..., dict[str, jax.Array]]:
    """Returns the compiled measurement of a shape and an optimizer, for any parametrizations.

    It takes keys [networks], batches (inputs [T, ...] and labels [T, ...]), the learning rate, the stacked
    rule numbers [P] and the sizes [P, K] of the trial steps: all parametrizations start from the same
    numbers. It returns for each network ``initial`` [networks, P, fields], ``change`` [networks, P, fields,
    T] at the ordinary rate, and ``first`` [networks, P, fields, K] of small first steps, on the first batch.

    Args:
        shape: of the network, scanned; its own parametrization is not looked at.
        optimizer: key of ``OPTIMIZERS``.
    """
    template, observe = rules_of("mup", shape, optimizer), observer(shape)
    masks = shares(leaves(shape), shape.depth)

    def measure(
        normals: Any, batches: Any, rate: jax.Array, numbers: dict[str, Any], sizes: jax.Array
    ) -> dict[str, Any]:
        own = dataclasses.replace(template, **numbers)
        params = jax.tree.map(lambda std, normal: std * normal, own.init_std, normals)
        first = jax.tree.map(lambda array: array[0], batches)

        def activations(params: Any) -> dict[str, jax.Array]:
            return observe(params, own.multiplier, first[0])[1]

        def loss(params: Any, batch: Any) -> jax.Array:
            logits = observe(params, own.multiplier, batch[0])[0]
            return cross_entropy(logits.reshape(-1, logits.shape[-1]), batch[1].reshape(-1))

        transform, start = OPTIMIZERS[optimizer](rate, own), activations(params)

        # As compare.coordinate_sizes does it, but keeping the first update: a gradient less to compile.
        def step(carry: tuple[Any, Any], batch: Any) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
            weights, state = carry
            updates, state = transform.update(jax.grad(loss)(weights, batch), state, weights)
            weights = jax.tree.map(jnp.add, weights, updates)
            now = activations(weights)
            return (weights, state), ({name: rms(now[name] - start[name]) for name in start}, updates)

        _, (change, updates) = jax.lax.scan(step, (params, transform.init(params)), batches)
        trials = jax.tree.map(lambda mask: sizes.reshape(-1, *(1,) * (mask.ndim - 1)) * mask, masks)
        parts = contributions(params, jax.tree.map(lambda update: update[0], updates), activations, trials)
        kinds = {"initial": {name: rms(start[name]) for name in start}, "change": change, "first": parts}
        return {kind: jnp.stack([by_field[name] for name in FIELDS]) for kind, by_field in kinds.items()}

    def run(keys: jax.Array, batches: Any, rate: jax.Array, numbers: Any, sizes: jax.Array) -> Any:
        def network(key: jax.Array) -> dict[str, jax.Array]:
            normals = unit_normals(key, template)
            return jax.lax.map(lambda case: measure(normals, batches, rate, *case), (numbers, sizes))

        return jax.lax.map(network, keys)

    return jax.jit(run, compiler_options=COMPILER)


def rms(array: jax.Array) -> jax.Array:
    """Returns the root mean square of all entries."""
    return jnp.sqrt(jnp.mean(jnp.square(array)))
