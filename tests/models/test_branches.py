"""Rules of depth for models that are not ours: branches declared, checked by trying, and folded."""

from __future__ import annotations

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from widelimit import optim
from widelimit.models import ResidualMLPConfig, initialise, rescale, rules
from widelimit.models import leaves as declared
from widelimit.models.foldable import refuse_wrong_branches
from widelimit.models.residual import ResidualMLP
from widelimit.scaling import completep, depth_mup, in_branches, make_rules, mup, probe

WIDTH, BASE, DEPTH, BASE_DEPTH, STEPS = 12, 4, 3, 1, 8
X = jnp.linspace(-1, 1, 35).reshape(1, 7, 5) ** 3
Y = np.sin(3 * np.asarray(X[..., :2], np.float64))
NUMBERS = ("init_std", "multiplier", "learning_rate", "epsilon", "weight_decay", "gradient_norm")
START = jax.random.key(0)


class Perceptron(nn.Module):
    """Somebody's residual network: no multiplier anywhere."""

    width: int

    @nn.compact
    def __call__(self, x):
        h = nn.Dense(self.width, name="into")(x)
        for block in range(DEPTH):
            inner = nn.Dense(self.width, name=f"up_{block}")(jnp.tanh(h))
            h = h + nn.Dense(self.width, name=f"down_{block}")(jnp.tanh(inner))
        return nn.Dense(2, name="out")(jnp.tanh(h))


class Block(nn.Module):
    """Pre-norm attention with heads of size 2, and a pre-norm perceptron."""

    width: int

    @nn.compact
    def __call__(self, h, _):
        normed = nn.LayerNorm(name="norm_1")(h)
        heads = {
            name: nn.Dense(self.width, name=name)(normed).reshape(*h.shape[:-1], -1, 2)
            for name in ("query", "key", "value")
        }
        weights = jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", heads["query"], heads["key"]) / 2**0.5)
        mixed = jnp.einsum("bhts,bshd->bthd", weights, heads["value"]).reshape(h.shape)
        h = h + nn.Dense(self.width, name="attended")(mixed)
        inner = nn.gelu(nn.Dense(2 * self.width, name="up")(nn.LayerNorm(name="norm_2")(h)))
        return h + nn.Dense(self.width, name="down")(inner), None


class Scanned(nn.Module):
    """A transformer whose blocks are one scanned module with stacked parameters."""

    width: int

    @nn.compact
    def __call__(self, x):
        h = nn.Dense(self.width, name="embed")(x)
        many = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=DEPTH)
        h, _ = many(self.width, name="blocks")(h, None)
        return nn.Dense(2, name="out")(nn.LayerNorm(name="norm")(h))


INSIDE = {
    Perceptron: (["up_*", "down_*"], "down_*"),
    Scanned: ("blocks/*", ["blocks/attended/*", "blocks/down/*"]),
}


def init(model, width):
    return model(width).init(START, X)["params"]


def apply(model, width, params, x):
    return model(width).apply({"params": params}, x)


def functions(model):
    """The two functions that probe and rescale ask for."""
    return functools.partial(init, model), functools.partial(apply, model)


@functools.cache
def probed(model):
    """What the trace finds, and initial parameters."""
    leaves = probe(*functions(model), X, width=WIDTH, base_width=BASE)
    return leaves, jax.jit(functools.partial(init, model, WIDTH))()


def known(model, **changes):
    """Its leaves, with its branches declared."""
    branches, ends = INSIDE[model]
    place = {"branches": branches, "ends": ends, "depth": DEPTH, "base_depth": BASE_DEPTH}
    return in_branches(**{"leaves": probed(model)[0], **place, **changes})


def training(predict, make, template, y):
    """Compiles (parameters, numbers of rules) -> losses of a few steps.

    Flax's norms need standard promotion in float64.
    """

    @jax.jit
    def program(params, numbers):
        rule = dataclasses.replace(template, **numbers)
        optimizer = make(rule)

        def step(carry, _):
            params, state = carry
            loss, gradient = jax.value_and_grad(lambda p: jnp.mean((predict(p, rule.multiplier) - y) ** 2))(
                params
            )
            updates, state = optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), loss

        return jax.lax.scan(step, (params, optimizer.init(params)), length=STEPS)[1]

    def run(params, rule):
        with jax.numpy_dtype_promotion("standard"):
            return np.asarray(program(params, {name: getattr(rule, name) for name in NUMBERS}))

    return run


@pytest.mark.slow
def test_declared_branches_are_those_of_our_own_network():
    """probe and in_branches find of Flax's network what our ResidualMLP declares; trained, they are one."""
    config = ResidualMLPConfig(
        inputs=5, outputs=2, width=WIDTH, base_width=BASE, parametrization=completep(), depth=DEPTH,
        base_depth=BASE_DEPTH, branch_depth=2,
    )  # fmt: skip
    names = ["into", *(f"{kind}_{block}" for block in range(DEPTH) for kind in ("up", "down")), "out"]
    rename = dict(zip(config.layers(), names, strict=True))
    leaves = known(Perceptron)
    for ours, theirs in rename.items():
        for name in ("kernel", "bias"):
            one, other = declared(config)[ours][name], leaves[theirs][name]
            for fact in ("role", "depth", "ends_branch", "fan_in", "fan_out", "width", "shape"):
                assert getattr(one, fact) == getattr(other, fact), (theirs, name, fact)
    rule = rules(config, "adam", weight_decay="undone")
    given, wanted = probed(Perceptron)[1], make_rules(leaves, completep(), "adam", weight_decay="undone")
    rescaled = rescale(given, wanted, *functions(Perceptron), X)
    for name in names[1:3]:
        grown = rescaled.params[name]["kernel"] / given[name]["kernel"]
        np.testing.assert_allclose(grown, 1 / 3 if "down" in name else 1.0, rtol=1e-6)
    with jax.enable_x64(True):
        raw, x = initialise(jax.random.key(1), rule, "float64"), X[0].astype("float64")
        effective = jax.tree.map(jnp.multiply, rule.multiplier, raw)
        make = functools.partial(optim.adamw, 0.01, eps=1e-3, weight_decay=0.1)

        def ours(p, multiplier):
            return ResidualMLP(config).apply({"params": p, "multipliers": multiplier}, x)

        def theirs(p, _):
            return apply(Perceptron, WIDTH, p, x)

        one = training(ours, make, rule, Y[0])(raw, rule)
        renamed = {rename[name]: layer for name, layer in effective.items()}
        other = training(theirs, make, rescaled.rules, Y[0])(renamed, rescaled.rules)
    assert one[-1] < 0.9 * one[0]
    np.testing.assert_allclose(one, other, rtol=1e-10)


@pytest.mark.slow
def test_a_scanned_transformer_trains_alike_folded_and_with_multipliers():
    """Stacked parameters, Muon: the code as it is with folded rules, or with multipliers on every weight."""
    leaves = known(Scanned)
    assert leaves["blocks"]["down"]["kernel"].shared == (0,)
    assert leaves["blocks"]["norm_1"]["scale"].depth == 3
    rule = make_rules(leaves, depth_mup(), "muon")
    assert rule.multiplier["blocks"]["down"]["bias"] == pytest.approx(3**-0.5)
    rescaled = rescale(probed(Scanned)[1], rule, *functions(Scanned), X)
    with jax.enable_x64(True):
        folded = jax.tree.map(lambda array: array.astype("float64"), rescaled.params)
        raw = jax.tree.map(lambda array, multiplier: array / multiplier, folded, rule.multiplier)

        def forward(p, multiplier):
            return apply(Scanned, WIDTH, jax.tree.map(jnp.multiply, multiplier, p), X.astype("float64"))

        train = training(forward, functools.partial(optim.muon, 0.02, eps=1e-3), rule, Y)
        one, other = train(folded, rescaled.rules), train(raw, rule)
    assert one[-1] < 0.9 * one[0]
    np.testing.assert_allclose(one, other, rtol=1e-10)


def test_a_gain_that_ends_a_branch_takes_the_multiplier():
    """h + gain norm(h W): the gain starts from a constant, which the fold must shrink all the same."""

    def start(width):
        rows = jax.random.normal(START, (3, width, width)) / width**0.5
        return {"gain": jnp.ones((width,)), "inside": rows[1], "into": rows[2, :4], "out": rows[0, :, :2]}

    def forward(width, params, x):
        h = x[0, :, :4] @ params["into"]
        f = h @ params["inside"]
        f = f / jnp.sqrt(jnp.mean(f**2, axis=-1, keepdims=True))
        return (h + params["gain"][None] * f) @ params["out"]

    leaves = probe(start, forward, X, width=WIDTH, base_width=BASE)
    leaves = in_branches(leaves, ["gain", "inside"], "gain", depth=3, base_depth=1)
    new, _ = rescale(start(WIDTH), make_rules(leaves, completep(), "adam"), start, forward, X)
    np.testing.assert_allclose(new["gain"], 1 / 3, rtol=1e-6)


@functools.cache
def scanned_forward():
    """The compiled forward pass of the transformer on fixed data."""
    return jax.jit(lambda params: apply(Scanned, WIDTH, params, X))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ends": "blocks/down/*"}, "blocks/attended/.*: a branch has an end that was not named"),
        ({"ends": ["blocks/attended/*", "blocks/down/kernel"]}, "blocks/down/bias .*a bias, perhaps"),
        ({"branches": ["blocks/[!n]*"]}, "blocks/norm_1/.* acts through residual branches only"),
        ({"branches": ["blocks/*", "norm/*"]}, "norm/.* or norm/.* is in none"),
        ({}, None),
    ],
)
def test_a_wrong_declaration_is_found_by_trying(changes, message):
    """A forgotten end, bias or norm, and a parameter in no branch, are named; the right one passes."""
    leaves, params = jax.tree.leaves(known(Scanned, **changes)), probed(Scanned)[1]
    if message is None:
        refuse_wrong_branches(scanned_forward(), params, leaves)
        return
    with pytest.raises(ValueError, match=message):
        refuse_wrong_branches(scanned_forward(), params, leaves)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"branches": "layer_*"}, "branches: 'layer_\\*' matches no parameter; the paths are"),
        ({"ends": ["down_*", "last"]}, "ends: 'last' matches no parameter"),
        ({"branches": "up_*"}, "down_0/bias is to end a branch, but no pattern in branches"),
        ({"ends": []}, "ends must name the last layer of every branch"),
        ({"depth": 0}, "depth is a number of blocks, a positive integer; got 0"),
        ({"base_depth": 1.5}, "base_depth is a number of blocks, a positive integer; got 1.5"),
        ({"leaves": {"w": 3}}, "leaves must be a pytree of Leaf"),
    ],
)
def test_what_is_wrong_is_said(changes, message):
    """One sentence each."""
    with pytest.raises(ValueError, match=message):
        known(Perceptron, **changes)


def test_branches_are_declared_once_and_checked_by_rescale():
    """Twice is once too often; rescale runs the check, unless told that the declaration is right."""
    with pytest.raises(ValueError, match="depth ratio 3 already; say it once"):
        known(Perceptron, leaves=known(Perceptron))
    wrong = known(Perceptron, branches=["up_*", "down_*", "into/*"])
    given, rule = probed(Perceptron)[1], make_rules(wrong, mup(), "adam")
    with pytest.raises(
        ValueError, match=r"into/.* was said to lie in a residual branch.*accept=\['branches'\]"
    ):
        rescale(given, rule, *functions(Perceptron), X)
    accepted = rescale(given, rule, *functions(Perceptron), X, accept=["branches"])
    # muP alone has no rule of depth: what is folded does not depend on what was declared.
    plain = rescale(given, make_rules(probed(Perceptron)[0], mup(), "adam"), *functions(Perceptron), X)
    jax.tree.map(np.testing.assert_array_equal, accepted.params, plain.params)
