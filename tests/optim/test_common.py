"""What every optimizer of the room must do."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.optim import reference
from tests.optim.support import ALIASES, arrays, gradients, neutral, train, train_eagerly, uneven

DECAYS = ("coupled", "undone", "independent", "sqrt_width")
EVERY = pytest.mark.parametrize("name", ALIASES)
# One of each function, for the tests that compile large programs.
EACH = pytest.mark.parametrize(
    "name", ["nesterov", "adam", "adamw", "adam_atan2", "lion", "adafactor_momentum"]
)


@functools.cache
def program(name):
    """One compiled training run per alias: learning rate and rules are arguments, so tests share it."""
    alias = ALIASES[name]

    def run(params, rows, learning_rate, rules):
        return train(alias.ours(learning_rate, rules, **alias.options), params, rows)

    return jax.jit(run)


def same(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


def close(tree, other, rtol=1e-5):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=rtol, atol=1e-7), tree, other)


@pytest.mark.parametrize("name", [name for name, alias in ALIASES.items() if alias.theirs])
def test_neutral_rules_are_optax_bit_for_bit(name):
    """At the base width nothing may differ, not even a rounding: a proxy run is an ordinary run."""
    alias = ALIASES[name]
    decay = {"weight_decay": 0.1} if alias.decays and alias.family == "adam" else {}
    rules = neutral(alias.family)
    ours = alias.ours(0.05, rules, **alias.options, **decay)
    if alias.family == "adafactor":
        decay = {"weight_decay_rate": 0.1}
        rules = neutral(alias.family, "independent")  # what optax's own adafactor does
        ours = alias.ours(0.05, rules, **alias.options, weight_decay=0.1)
    theirs = alias.theirs(0.05, **alias.options, **decay)
    rows = gradients()
    if name == "adamw0":  # optax's result at 0/0 is not a number
        rows = jax.tree.map(lambda g: np.where(g == 0, np.float32(1e-3), g), rows)
    path, _ = jax.jit(functools.partial(train, ours))(arrays(9), rows)
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam needs it, ours does not
        expected, _ = jax.jit(functools.partial(train, theirs))(arrays(9), rows)
    # Without an epsilon the program differs by a selection, which is enough to move the last bit.
    (close if name == "adamw0" else same)(path, expected)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(path))


@pytest.mark.parametrize("decay", DECAYS)
@EVERY
def test_steps_follow_the_formulas(name, decay):
    """Steps with schedules for the rate and the decay agree with plain numpy, in every decay convention."""
    alias = ALIASES[name]
    rules = uneven(alias.family, decay)

    def rate(t):
        return 0.02 * jnp.asarray(t + 1, float)

    def coefficient(t):
        return 0.3 / jnp.asarray(t + 1, float)

    options = alias.options | ({"weight_decay": coefficient} if alias.decays else {})
    with jax.enable_x64(True):
        params, rows = arrays(9, np.float64, 0.02), gradients(np.float64)
        params["input"]["bias"][:] = 0.0  # trains from Adafactor's smallest scale
        path = train_eagerly(alias.ours(rate, rules, **options), *jax.tree.map(jnp.asarray, (params, rows)))
    rates, coefficients = ([0.02, 0.04, 0.06], [0.3, 0.15, 0.1] if alias.decays else [0.0] * 3)
    for leaf, param, row, rule in zip(
        *map(jax.tree.leaves, (path, params, rows)), rules_per_parameter(rules, name), strict=True
    ):
        expected = reference.run(
            name, alias.options, param, row, rates, coefficients, rule | {"decay": decay}
        )
        np.testing.assert_allclose(leaf, expected, rtol=1e-11, atol=1e-15)


def rules_per_parameter(rules, name):
    """The rules as a list of dicts, with Adafactor's facts worked out by hand from the tree's shapes."""
    # Under SP weights shrink like m^-1/2 where their fan-in grows; raw weights are that over the multiplier.
    sizes = {"hidden": {"kernel": 0.5}, "input": {"bias": 1.0, "kernel": 1.0}, "output": {"kernel": 0.5}}
    for r, e, k, multiplier, size, array in zip(
        *map(
            jax.tree.leaves,
            (rules.learning_rate, rules.epsilon, rules.weight_decay, rules.multiplier, sizes, arrays(0)),
        ),
        strict=True,
    ):
        yield {
            "learning_rate": r,
            "epsilon": e,
            "weight_decay": k,
            "smallest": 1e-3 * size / multiplier,
            "factored": name == "adafactor_momentum" and array.ndim == 2,
        }


@EACH
def test_learning_rates_run_side_by_side(name):
    """vmap over the learning rate gives what separate runs give; rules may be arguments of the program."""
    alias = ALIASES[name]
    rules = uneven(alias.family)
    rates = jnp.array([0.01, 0.1, 0.3])
    together, _ = jax.jit(jax.vmap(program(name), in_axes=(None, None, 0, None)))(
        arrays(9), gradients(), rates, rules
    )
    for index, rate in enumerate(rates):
        alone, _ = program(name)(arrays(9), gradients(), rate, rules)
        close(jax.tree.map(lambda leaf, i=index: leaf[i], together), alone, rtol=1e-4)


@EACH
def test_constants_and_arguments_give_the_same_steps(name):
    """Plain numbers, folded into the program, and traced scalars, shared by all parametrizations, agree."""
    alias = ALIASES[name]
    rules = uneven(alias.family)
    traced, _ = program(name)(arrays(9), gradients(), jnp.float32(0.1), rules)
    close(train_eagerly(alias.ours(0.1, rules, **alias.options), arrays(9), gradients()), traced, rtol=1e-4)


@EACH
def test_state_is_sharded_like_the_parameters(name):
    """On 8 devices moments live where their parameters live, and the numbers are those of one device."""
    alias = ALIASES[name]
    mesh = jax.make_mesh((8,), ("model",))
    specs = {
        "hidden": {"kernel": PartitionSpec("model", None)},
        "input": {"bias": PartitionSpec("model"), "kernel": PartitionSpec(None, "model")},
        "output": {"kernel": PartitionSpec("model", None)},
    }
    shardings = jax.tree.map(
        lambda spec: NamedSharding(mesh, spec), specs, is_leaf=lambda x: isinstance(x, PartitionSpec)
    )
    params = jax.tree.map(jax.device_put, arrays(9), shardings)
    optimizer = alias.ours(0.1, uneven(alias.family), **alias.options)
    state = optimizer.init(params)
    shapes = {leaf.shape: leaf.sharding for leaf in jax.tree.leaves(params)}
    for leaf in jax.tree.leaves(state):
        if leaf.shape in shapes:  # (8,) is also a factored row, replicated or not
            assert leaf.ndim < 2 or leaf.sharding.is_equivalent_to(shapes[leaf.shape], leaf.ndim)
    row = jax.tree.map(lambda g, s: jax.device_put(g[0], s), gradients(), shardings)
    updates, state = jax.jit(optimizer.update)(row, state, params)
    for update, param in zip(jax.tree.leaves(updates), jax.tree.leaves(params), strict=True):
        assert update.sharding.is_equivalent_to(param.sharding, param.ndim)
    expected, _ = program(name)(arrays(9), gradients(), jnp.float32(0.1), uneven(alias.family))
    close(optax.apply_updates(params, updates), jax.tree.map(lambda leaf: leaf[0], expected), rtol=1e-4)


@EVERY
def test_bfloat16_parameters_stay_bfloat16(name):
    """Under strict promotion, with the rate as a number, an array or a schedule."""
    alias = ALIASES[name]
    params, row = arrays(9, jnp.bfloat16), jax.tree.map(lambda g: g[0], gradients(jnp.bfloat16))
    decay = {"weight_decay": lambda count: 0.1} if alias.decays else {}
    for rate in (0.1, jnp.float32(0.1), optax.linear_schedule(0.1, 0.0, 10)):
        optimizer = alias.ours(rate, uneven(alias.family), **alias.options, **decay)
        updates, _ = jax.eval_shape(lambda p, g, o=optimizer: o.update(g, o.init(p), p), params, row)
        assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.bfloat16.dtype}


def test_states_survive_a_checkpoint(tmp_path):
    """Orbax gives every state back bit for bit, schedule counts included."""
    checkpoint = pytest.importorskip("orbax.checkpoint")
    optimizers = {
        name: alias.ours(
            optax.linear_schedule(0.1, 0.0, 10),
            uneven(alias.family),
            **alias.options,
            **({"weight_decay": lambda count: 0.1} if alias.decays else {}),
        )
        for name, alias in ALIASES.items()
    }
    row = jax.tree.map(lambda g: g[0], gradients())

    def one_step(params):
        return {name: o.update(row, o.init(params), params)[1] for name, o in optimizers.items()}

    states = jax.jit(one_step)(arrays(9))
    with checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "states", states)
        checkpointer.wait_until_finished()
        empty = jax.tree.map(jnp.zeros_like, states)
        same(checkpointer.restore(tmp_path / "states", empty), states)


@EACH
def test_optimizers_nest_in_optax(name):
    """chain, masked, partition, MultiSteps, apply_if_finite and inject_hyperparams, one inside the other."""
    alias = ALIASES[name]
    rules, params = uneven(alias.family), arrays(9)
    rows = jax.tree.map(lambda g: g[:2], gradients())
    static = {"min_dim_size_to_factor"} if alias.family == "adafactor" else ()
    injected = optax.inject_hyperparams(alias.ours, static_args=static)(0.1, rules, **alias.options)
    nested = optax.partition(
        {
            "ours": optax.apply_if_finite(optax.MultiSteps(injected, 2), 3),
            "theirs": optax.masked(optax.sgd(1.0), lambda tree: jax.tree.map(lambda _: True, tree)),
        },
        {"hidden": "ours", "input": {"bias": "theirs", "kernel": "ours"}, "output": "ours"},
    )

    def step(carry, row):
        params, state = carry
        updates, state = nested.update(row, state, params)
        return (optax.apply_updates(params, updates), state), None

    with jax.numpy_dtype_promotion("standard"):  # optax's wrappers need it
        (result, state), _ = jax.jit(lambda p: jax.lax.scan(step, (p, nested.init(p)), rows))(params)
    plain = alias.ours(0.1, rules, **alias.options)
    mean = jax.tree.map(lambda g: g.mean(0), rows)
    expected = optax.apply_updates(params, plain.update(mean, plain.init(params), params)[0])
    expected["input"]["bias"] = params["input"]["bias"] - rows["input"]["bias"].sum(0)
    close(result, expected, rtol=1e-3)
    rates = [rate for _, rate in optax.tree.get_all_with_path(state, "learning_rate")]
    np.testing.assert_allclose(rates, [0.1], rtol=1e-6)
