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
FUNCTIONS = ("nesterov", "adam", "adamw", "adam_atan2", "lion", "adafactor_momentum", "muon")
EACH = pytest.mark.parametrize("name", FUNCTIONS)
RATES = (0.01, 0.1, 0.3)


def same(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


def close(tree, other, rtol=1e-5):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=rtol, atol=1e-7), tree, other)


@functools.cache
def neutral_runs():
    """Trains every alias with neutral rules and with optax, in one program each: {name: path} twice."""

    def optimizer(alias, ours):
        decay = 0.1 if alias.family != "sgd" and alias.decays else 0.0
        if ours:
            rules = neutral(alias.family, "independent" if alias.family == "adafactor" else "coupled")
            return alias.ours(0.05, rules, **alias.options, **({"weight_decay": decay} if decay else {}))
        keyword = "weight_decay_rate" if alias.family == "adafactor" else "weight_decay"
        return alias.theirs(0.05, **alias.options, **({keyword: decay} if decay else {}))

    def run(ours, rows):
        rows_without_zeros = jax.tree.map(lambda g: jnp.where(g == 0, 1e-3, g), rows)  # 0/0 is nan in optax
        return {
            name: train(optimizer(alias, ours), arrays(9), rows_without_zeros if name == "adamw0" else rows)[
                0
            ]
            for name, alias in ALIASES.items()
            if alias.theirs
        }

    ours = jax.jit(functools.partial(run, True))(gradients())
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam needs it, ours does not
        return ours, jax.jit(functools.partial(run, False))(gradients())


@pytest.mark.parametrize("name", [name for name, alias in ALIASES.items() if alias.theirs])
def test_neutral_rules_are_optax(name):
    """At the base width nothing may differ but last bits, which move with how XLA fuses the two programs."""
    ours, theirs = (runs[name] for runs in neutral_runs())
    close(ours, theirs, rtol=1e-5 if name == "adamw0" else 1e-6)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(ours))


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
            "orthogonal": name == "muon" and array.shape == (8, 8),
        }


@functools.cache
def runs():
    """Trains each function at several rates: side by side by vmap, one by one, and on 8 devices."""

    def run(learning_rate, rules, params, rows):
        optimizers = {
            name: ALIASES[name].ours(learning_rate, rules[name], **ALIASES[name].options)
            for name in FUNCTIONS
        }
        return {name: train(optimizer, params, rows) for name, optimizer in optimizers.items()}

    rules = {name: uneven(ALIASES[name].family) for name in FUNCTIONS}
    compiled = jax.jit(run)
    together = jax.jit(jax.vmap(run, in_axes=(0, None, None, None)))(
        jnp.array(RATES), rules, arrays(9), gradients()
    )
    alone = [compiled(jnp.float32(rate), rules, arrays(9), gradients()) for rate in RATES]
    return together, alone


@EACH
def test_learning_rates_run_side_by_side(name):
    """vmap over the learning rate gives what separate runs give; rules are arguments of the program."""
    together, alone = runs()
    for index in range(len(RATES)):
        close(jax.tree.map(lambda leaf, i=index: leaf[i], together[name]), alone[index][name], rtol=1e-4)


@EACH
def test_constants_and_arguments_give_the_same_steps(name):
    """Plain numbers, folded into the program, and traced scalars, shared by all parametrizations, agree."""
    alias = ALIASES[name]
    path = train_eagerly(alias.ours(RATES[1], uneven(alias.family), **alias.options), arrays(9), gradients())
    close(path, runs()[1][1][name][0], rtol=1e-4)


@functools.cache
def sharded_runs(kind):
    """One step of each function with parameters spread over 8 devices: params, states, {name: results}."""
    mesh = jax.make_mesh((8,), ("model",), axis_types=(kind,))
    axes = {"hidden": {"kernel": ("model",)}, "input": {"bias": ("model",), "kernel": (None, "model")}}
    axes["output"] = {"kernel": ("model",)}
    shardings = jax.tree.map(
        lambda names: NamedSharding(mesh, PartitionSpec(*names)), axes, is_leaf=lambda x: isinstance(x, tuple)
    )
    params = jax.tree.map(jax.device_put, arrays(9), shardings)
    row = jax.tree.map(lambda g, s: jax.device_put(g[0], s), gradients(), shardings)
    optimizers = {
        name: ALIASES[name].ours(RATES[1], uneven(ALIASES[name].family), **ALIASES[name].options)
        for name in FUNCTIONS
    }
    states = {name: optimizer.init(params) for name, optimizer in optimizers.items()}

    @jax.jit
    def step(states):
        results = {name: optimizers[name].update(row, states[name], params) for name in FUNCTIONS}
        return {name: (optax.apply_updates(params, u), s) for name, (u, s) in results.items()}

    return params, states, step(states)


@pytest.mark.parametrize("kind", [jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit], ids=str)
@EACH
def test_state_is_sharded_like_the_parameters(name, kind):
    """On 8 devices moments live where their parameters live, and the numbers are those of one device."""
    params, states, results = sharded_runs(kind)
    placed = {leaf.shape: leaf.sharding for leaf in jax.tree.leaves(params)}
    after, state = results[name]
    for leaf in (*jax.tree.leaves(states[name]), *jax.tree.leaves(state), *jax.tree.leaves(after)):
        if leaf.ndim == 2:  # a moment; vectors may be factored rows, which have no counterpart
            assert leaf.sharding.is_equivalent_to(placed[leaf.shape], leaf.ndim)
    close(after, jax.tree.map(lambda leaf: leaf[0], runs()[1][1][name][0]), rtol=1e-4)


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
    static = {"adafactor": {"min_dim_size_to_factor"}, "muon": {"ns_steps"}}.get(alias.family, ())
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
