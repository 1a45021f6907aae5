"""We train as microsoft/mup 1.0.0 does: its recorded losses, step by step, from the same weights."""

from __future__ import annotations

import dataclasses
import json
from fractions import Fraction
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.reference import problem
from widelimit import optim
from widelimit.scaling import leaf_from_axes, make_rules, mup

REFERENCE = json.loads(Path(__file__).with_name("mup_losses.json").read_text())
# The two sides agree to 1e-15. A single rule of a single array that is wrong by 1% shows as 6e-5 or more.
TOLERANCE = 1e-11


def mlp_leaves(multiple: int, bias: bool, fixed_in: int, base: int, fixed_out: int):
    """The leaf tree of the three-layer network; which axes grow is declared, as multiple 1 cannot tell."""
    growing = {"input": (False, True), "hidden": (True, True), "readout": (True, False)}
    fans = {"input": (fixed_in, base), "hidden": (base, base), "readout": (base, fixed_out)}

    def leaf(path, axes, shape, contracted):
        target = tuple(size * multiple if grows else size for size, grows in zip(shape, axes, strict=True))
        return leaf_from_axes(
            path,
            target,
            shape,
            contracted=contracted,
            growing=axes,
            width=Fraction(multiple),
            base_width=base,
        )

    return {
        name: {
            "kernel": leaf(f"{name}/kernel", growing[name], fans[name], (0,)),
            **({"bias": leaf(f"{name}/bias", growing[name][1:], fans[name][1:], ())} if bias else {}),
        }
        for name in problem.LAYERS
    }


def forward(params, multiplier, x):
    """The network: every raw weight times its forward multiplier, tanh between layers."""
    for name in problem.LAYERS:
        effective = jax.tree.map(jnp.multiply, params[name], multiplier[name])
        x = x @ effective["kernel"]
        if "bias" in effective:
            x = x + effective["bias"][None]
        x = x if name == "readout" else jnp.tanh(x)
    return x


def our_optimizer(name: str, rules) -> tuple:
    """Our alias for an optimizer of the reference, with the rules it reads."""
    hp = problem.OPTIMIZERS[name]
    if "eps" not in hp:
        return optim.sgd(hp["learning_rate"], rules, momentum=hp.get("momentum"))
    if not hp["scale_eps"]:  # microsoft/mup leaves epsilon alone
        rules = dataclasses.replace(rules, epsilon=jax.tree.map(lambda _: 1.0, rules.epsilon))
    common = {"b1": hp["b1"], "b2": hp["b2"], "eps": hp["eps"]}
    if "weight_decay" in hp:
        return optim.adamw(hp["learning_rate"], rules, weight_decay=hp["weight_decay"], **common)
    return optim.adam(hp["learning_rate"], rules, **common)


def train(name: str, params, rules, x, y) -> jax.Array:
    """Losses of every step, before its update."""
    transform = our_optimizer(name, rules)

    def loss_fn(p, batch):
        return jnp.mean((forward(p, rules.multiplier, x[batch]) - y[batch]) ** 2)

    def step(carry, index):
        p, state = carry
        loss, gradient = jax.value_and_grad(loss_fn)(p, index % problem.BATCHES)
        updates, state = transform.update(gradient, state, p)
        return (jax.tree.map(jnp.add, p, updates), state), loss

    return jax.lax.scan(step, (params, transform.init(params)), jnp.arange(problem.STEPS))[1]


def rules_for(name: str, multiple: int, bias: bool, table: int = 8):
    """muP rules for an optimizer of the reference; AdamW in the decay convention of microsoft/mup."""
    leaves = mlp_leaves(multiple, bias, problem.INPUTS, problem.BASE_WIDTH, problem.OUTPUTS)
    family = "adam" if "eps" in problem.OPTIMIZERS[name] else "sgd"
    return make_rules(leaves, mup(table=table), family, weight_decay="undone")


def test_both_sides_draw_the_same_problem():
    """If this fails, numpy's frozen stream is not frozen, and the losses say nothing about our rules."""
    assert problem.fingerprint() == pytest.approx(REFERENCE["fingerprint"], rel=1e-14)
    assert problem.OPTIMIZERS == REFERENCE["optimizers"]
    assert REFERENCE["versions"]["mup"] == "1.0.0"
    assert len(REFERENCE["runs"]) == len(problem.OPTIMIZERS) * len(problem.MULTIPLES) * 2


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("multiple", problem.MULTIPLES)
def test_losses_agree_with_microsoft_mup(multiple, bias):
    """All 50 losses agree for every optimizer: multiplier, learning rates and decay are the reference's."""
    runs = {
        run["optimizer"]: np.array(run["losses"])
        for run in REFERENCE["runs"]
        if (run["multiple"], run["bias"]) == (multiple, bias)
    }
    rules = {name: rules_for(name, multiple, bias) for name in runs}
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, problem.weights(multiple, bias))
        x, y = map(jnp.asarray, problem.batches())
        ours = jax.jit(lambda p: {name: train(name, p, rules[name], x, y) for name in runs})(params)
    for name, theirs in runs.items():
        np.testing.assert_allclose(ours[name], theirs, rtol=TOLERANCE, err_msg=name)


@pytest.mark.parametrize("scheme", ["set_base_shapes", "mup.init.normal_", "mup.init.kaiming_normal_"])
def test_initial_std_scales_as_microsoft_mup(scheme):
    """From width 128 to 1024 the std of every layer changes by the factor that our Table 8 says."""
    record = REFERENCE["init"]
    fixed, base = record["fixed"], record["base_width"]
    stds = {row["multiple"]: row for row in record["stds"] if row["scheme"] == scheme}
    rules = {m: make_rules(mlp_leaves(m, True, fixed, base, fixed), mup(table=8)) for m in stds}
    for name in problem.LAYERS:
        ours = rules[8].init_std[name]["kernel"] / rules[1].init_std[name]["kernel"]
        # The smallest layer has 128 * 256 entries: 1 sigma of its measured std is 1/sqrt(2 * 32768) = 0.4%.
        assert stds[8][name] / stds[1][name] == pytest.approx(ours, rel=0.02), name
