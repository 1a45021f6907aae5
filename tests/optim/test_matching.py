"""Rules meet parameters by path; what does not fit is refused by name; holes and empty trees pass."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.core import freeze

from tests.optim.support import ALIASES, arrays, neutral, uneven
from widelimit import optim
from widelimit.scaling import leaf_from_axes, make_rules, mup

PARTS = {
    "scale_by_layer": optim.scale_by_layer,
    "scale_gradients": optim.scale_gradients,
    "add_decayed_weights": lambda rules: optim.add_decayed_weights(0.1, rules),
    "clip_by_global_norm": lambda rules: optim.clip_by_global_norm(1.0, rules),
    "scale_by_parameter_rms": optim.scale_by_parameter_rms,
    "scale_by_factored_rms": optim.scale_by_factored_rms,
}
EVERY_PART = pytest.mark.parametrize("name", PARTS)


def without(tree, layer):
    return {key: value for key, value in tree.items() if key != layer}


@EVERY_PART
def test_a_parameter_without_a_rule_is_named(name):
    params = arrays(0) | {"extra": np.zeros(3, np.float32)}
    with pytest.raises(ValueError, match="'extra' is in the parameters and not in the rules"):
        PARTS[name](uneven("adam")).init(params)


@EVERY_PART
def test_a_rule_without_a_parameter_is_named(name):
    with pytest.raises(ValueError, match="'hidden/kernel' is in the rules and not in the parameters"):
        PARTS[name](uneven("adam")).init(without(arrays(0), "hidden"))


@EVERY_PART
def test_rules_of_another_width_are_refused(name):
    """The same model at another width has the same paths: only shapes tell."""
    params = arrays(0) | {"hidden": {"kernel": np.zeros((16, 16), np.float32)}}
    with pytest.raises(ValueError, match=r"'hidden/kernel' of shape \(8, 8\), but .* shape \(16, 16\)"):
        PARTS[name](uneven("adam")).init(params)


def test_update_names_a_mismatch_too():
    transform = optim.scale_by_layer(uneven("adam"))
    with pytest.raises(ValueError, match="'output/kernel' is in the rules"):
        transform.update(without(arrays(0), "output"), optax.EmptyState())


def test_containers_may_differ():
    """A FrozenDict of parameters meets rules in plain dicts (say, from JSON): paths decide."""
    transform, updates = optim.scale_by_layer(uneven("adam")), arrays(0)
    expected, _ = transform.update(updates, transform.init(updates))
    result, _ = transform.update(freeze(updates), transform.init(freeze(updates)))
    assert isinstance(result, type(freeze({})))
    jax.tree.map(np.testing.assert_array_equal, result.unfreeze(), expected)


@pytest.mark.parametrize("name", ["adamw", "adafactor_momentum"])
def test_nnx_models_train_in_place(name):
    """nnx.Optimizer calls init with variables and update with their arrays; one set of rules serves both."""
    alias = ALIASES[name]
    model = nnx.Linear(3, 8, rngs=nnx.Rngs(0))
    width = {"width": Fraction(4), "base_width": 2}
    leaves = {
        "bias": leaf_from_axes("bias", (8,), (2,), contracted=(), **width),
        "kernel": leaf_from_axes("kernel", (3, 8), (3, 2), contracted=(0,), **width),
    }
    facts = jax.tree.unflatten(jax.tree.structure(nnx.state(model, nnx.Param)), list(leaves.values()))
    before = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    gradients = jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param))
    for tree in (facts, leaves):
        rules = make_rules(tree, mup(), alias.family)
        optimizer = nnx.Optimizer(model, alias.ours(0.1, rules, **alias.options), wrt=nnx.Param)
        optimizer.update(model, gradients)
    plain = alias.ours(0.1, rules, **alias.options)
    for _ in range(2):  # each optimizer above took a first step
        updates, _ = plain.update(jax.tree.map(jnp.ones_like, before), plain.init(before), before)
        before = optax.apply_updates(before, updates)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
        nnx.to_pure_dict(nnx.state(model, nnx.Param)),
        before,
    )


@pytest.mark.parametrize("hole", [None, optax.MaskedNode()], ids=["None", "MaskedNode"])
@EVERY_PART
def test_holes_are_passed_by(name, hole):
    """A frozen parameter or a whole masked layer needs no update and hides its rules."""
    transform, full = PARTS[name](uneven("adam")), arrays(0)
    tree = full | {"input": hole, "hidden": {"kernel": hole}}
    updates, _ = transform.update(tree, transform.init(tree), tree)
    assert updates["input"] == updates["hidden"]["kernel"] == hole
    if name != "clip_by_global_norm":  # whose factor the holes change, rightly
        expected, _ = transform.update(full, transform.init(full), full)
        np.testing.assert_array_equal(updates["output"]["kernel"], expected["output"]["kernel"])


def test_rules_may_have_the_holes_of_the_parameters():
    """A model with None among its parameters has None in its rules."""
    rules = uneven("adam")
    kept = without(rules.learning_rate, "input") | {"input": None}
    holed = dataclasses.replace(
        rules, learning_rate=kept, leaves=tuple(leaf for leaf in rules.leaves if "input" not in leaf.path)
    )
    params = without(arrays(0), "input") | {"input": None}
    transform = optim.scale_by_layer(holed)
    updates, _ = transform.update(params, transform.init(params))
    np.testing.assert_allclose(updates["hidden"]["kernel"], 1.3 * params["hidden"]["kernel"], rtol=1e-6)


@pytest.mark.parametrize("name", ALIASES)
def test_optax_can_map_over_the_state(name):
    """optax.tree.map_params calls init with a placeholder, and must still tell moments from counts."""
    alias = ALIASES[name]
    optimizer = alias.ours(0.1, uneven(alias.family), **alias.options)
    state = optimizer.init(arrays(0))
    marked = optax.tree.map_params(
        optimizer, lambda _: "parameter", state, transform_non_params=lambda _: "other"
    )
    stateless = name == "sgd"
    assert ("parameter" in jax.tree.leaves(marked)) != stateless


@pytest.mark.parametrize("name", ALIASES)
def test_an_empty_tree_trains(name):
    """As optax: nothing in, nothing out."""
    alias = ALIASES[name]
    optimizer = alias.ours(0.1, neutral(alias.family), **alias.options)
    assert optimizer.update({}, optimizer.init({}), {})[0] == {}


def test_rules_of_another_optimizer_are_refused():
    with pytest.raises(ValueError, match="sgd needs the learning rates of optimizer 'sgd'.* made for 'adam'"):
        optim.sgd(0.1, uneven("adam"))
    for alias in (optim.adam, optim.adamw, optim.lion, optim.adam_atan2):
        with pytest.raises(ValueError, match="made for 'sgd'; call make_rules"):
            alias(0.1, uneven("sgd"))
    with pytest.raises(ValueError, match="'adafactor'"):
        optim.adafactor(0.1, uneven("adam"))


def test_something_else_than_rules_is_refused():
    with pytest.raises(TypeError, match="adam takes rules made by widelimit.scaling.make_rules; got dict"):
        optim.adam(0.1, {"w": 1.0})


def test_a_plain_one_costs_nothing():
    """Neutral rules leave no trace in the program: not a multiplication more than optax."""
    rules, params = neutral("adam"), arrays(0)
    transform = optax.chain(optim.scale_gradients(rules), optim.scale_by_layer(rules))
    state = transform.init(params)
    assert not jax.make_jaxpr(lambda g: transform.update(g, state))(params).eqns
    plain = optax.chain(optim.scale_by_adam(), optax.scale(-0.1))
    ours = optim.adam(0.1, rules)
    count = lambda o: len(jax.make_jaxpr(lambda p: o.update(p, o.init(p), p))(params).eqns)  # noqa: E731
    assert count(ours) == count(plain)


def test_buffers_can_be_donated():
    """State and parameters are updated in place."""
    optimizer = optim.adamw(0.1, uneven("adam"), weight_decay=0.1)
    params = jax.tree.map(jnp.asarray, arrays(0))
    state = optimizer.init(params)

    def step(params, state):
        updates, state = optimizer.update(params, state, params)
        return optax.apply_updates(params, updates), state

    kept = jax.tree.map(np.array, params)
    expected = step(kept, optimizer.init(kept))[0]
    new, state = jax.jit(step, donate_argnums=(0, 1))(params, state)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), new, expected)
