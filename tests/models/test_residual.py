"""The residual network: its formula, its roles, and what it is at the ends of its settings."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from widelimit.kernels.analytic import kernel
from widelimit.models import MLP, MLPConfig, ResidualMLP, ResidualMLPConfig, initialise, leaves, rules
from widelimit.scaling import Leaf, Role, depth_mup, mup, ntk, probe
from widelimit.scaling.rules import NUMBERS

PHI = np.tanh


def residual(**changes):
    """A small residual network, as wide as its inputs so that shapes could not tell its layers apart."""
    fields = {"inputs": 4, "outputs": 2, "width": 12, "base_width": 4, "parametrization": mup(table=8)}
    return ResidualMLPConfig(**{**fields, "bias_std": 0.5, **changes})


def parameters(config, seed=0):
    """Raw weights, float64 arrays of NumPy."""
    drawn = initialise(jax.random.key(seed), rules(config))
    return jax.tree.map(lambda array: np.asarray(array, np.float64), drawn)


@pytest.mark.parametrize(
    ("branch_depth", "final", "norm"),
    [(1, True, "none"), (1, False, "rms"), (2, True, "rms"), (2, False, "none")],
)
def test_the_formula(branch_depth, final, norm):
    """h <- h + s branch(h), branches of one and two layers, readout of phi(h) or h; s = 0.7 (3/2)^-1/2.

    With a norm, branches and readout see h / rms(h).
    """
    depth = {"depth": 3, "base_depth": 2, "branch_scale": 0.7, "parametrization": depth_mup(), "norm": norm}
    config = residual(branch_depth=branch_depth, final_activation=final, **depth)
    width_only = rules(residual(branch_depth=branch_depth, depth=3)).multiplier
    raw, multiplier = parameters(config), width_only
    x = np.random.default_rng(0).normal(size=(5, 4))

    def dense(index, h):
        w, m = raw[f"Dense_{index}"], multiplier[f"Dense_{index}"]
        return m["kernel"] * h @ w["kernel"] + m["bias"] * w["bias"]

    def seen(h):
        return h if norm == "none" else h / np.sqrt((h**2).mean(axis=1, keepdims=True) + 1e-6)

    h = dense(0, x)
    for block in range(3):
        branch = seen(h)
        for layer in range(branch_depth):
            branch = dense(1 + block * branch_depth + layer, PHI(branch))
        h = h + 0.7 * 1.5**-0.5 * branch
    expected = dense(1 + 3 * branch_depth, PHI(seen(h)) if final else seen(h))
    with jax.enable_x64(True):
        variables = {"params": jax.tree.map(jnp.asarray, raw), "multipliers": rules(config).multiplier}
        found = ResidualMLP(config).apply(variables, jnp.asarray(x))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize(
    "config", [residual(depth=3), residual(branch_depth=2, bias=False), residual(width=4)]
)
def test_declared_leaves_are_the_parameters(config):
    """Paths and shapes are those of the module's parameters, and probing it finds the same roles."""
    made = jax.eval_shape(ResidualMLP(config).init, jax.random.key(0), jnp.ones((1, 4)))["params"]
    declared = leaves(config)
    assert jax.tree.structure(made) == jax.tree.structure(declared)
    shapes = [leaf.shape for leaf in jax.tree.leaves(declared)]
    assert shapes == [array.shape for array in jax.tree.leaves(made)]

    def at(width):
        return dataclasses.replace(config, width=width)

    def init(width):
        return ResidualMLP(at(width)).init(jax.random.key(0), jnp.ones((1, 4)))["params"]

    def apply(width, params, x):
        return ResidualMLP(at(width)).apply({"params": params, "multipliers": rules(at(width)).multiplier}, x)

    if config.width != config.base_width:  # the probe tells growing axes apart by size
        found = probe(init, apply, jnp.ones((5, 4)), width=12, base_width=4)
        assert [leaf.role for leaf in jax.tree.leaves(found)] == [
            leaf.role for leaf in jax.tree.leaves(declared)
        ]
    assert all(isinstance(leaf, Leaf) for leaf in jax.tree.leaves(declared))


def test_roles():
    """The input layer is input-like, the stream's layers are hidden, the readout output-like."""
    kernels = [layer["kernel"].role for layer in leaves(residual(depth=2, branch_depth=2)).values()]
    assert kernels == [Role.INPUT, *[Role.HIDDEN] * 4, Role.OUTPUT]


def test_without_branches_it_is_one_hidden_layer():
    """At branch_scale 0 the branches fall away: f = W_out phi(W_in x + b) + b, an MLP of depth 1."""
    config = residual(branch_scale=0.0, depth=2, parametrization=ntk())
    plain = MLPConfig(
        inputs=4, outputs=2, width=12, base_width=4, parametrization=ntk(), depth=1, bias_std=0.5
    )
    params, x = initialise(jax.random.key(0), rules(config)), jnp.ones((3, 4))
    kept = {"Dense_0": params["Dense_0"], "Dense_1": params["Dense_3"]}
    one = ResidualMLP(config).apply({"params": params, "multipliers": rules(config).multiplier}, x)
    two = MLP(plain).apply({"params": kept, "multipliers": rules(plain).multiplier}, x)
    np.testing.assert_allclose(one, two, rtol=1e-6)


def stacked(config, params):
    """The same parameters in the layout of ``scan``: the branches' layers along a leading axis."""
    blocks = {
        f"Dense_{place}": jax.tree.map(
            lambda *of_blocks: jnp.stack(of_blocks), *(params[branch[place]] for branch in config.branches())
        )
        for place in range(config.branch_depth)
    }
    last = f"Dense_{1 + config.depth * config.branch_depth}"
    return {"Dense_0": params["Dense_0"], "blocks": blocks, "readout": params[last]}


@pytest.mark.parametrize("norm", ["none", "rms"])
def test_scanned_is_unrolled(norm):
    """One loop over stacked blocks and a block after the other: one function, with one gradient."""
    config = residual(depth=3, branch_depth=2, norm=norm, parametrization=depth_mup(), activation="relu")
    looped = dataclasses.replace(config, scan=True)
    params = initialise(jax.random.key(0), rules(config))
    x = jax.random.normal(jax.random.key(1), (5, 4))

    def loss(config, params):
        outputs = ResidualMLP(config).apply({"params": params, "multipliers": rules(config).multiplier}, x)
        return jnp.sum(jnp.sin(outputs))

    one, slopes = jax.value_and_grad(lambda p: loss(config, p))(params)
    two, others = jax.value_and_grad(lambda p: loss(looped, p))(stacked(config, params))
    np.testing.assert_allclose(one, two, rtol=1e-6)
    expected = stacked(config, slopes)
    assert jax.tree.structure(expected) == jax.tree.structure(leaves(looped))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), expected, others)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_scanning_changes_no_rule(optimizer):
    """A stacked layer has the rules of each of the layers in it."""
    config = residual(depth=3, branch_depth=2, base_depth=2, parametrization=depth_mup())
    one, two = rules(config, optimizer), rules(dataclasses.replace(config, scan=True), optimizer)
    for numbers in NUMBERS:
        each, of_stack = getattr(one, numbers), getattr(two, numbers)
        for branch in config.branches():
            assert [each[name] for name in branch] == list(of_stack["blocks"].values())
        assert each["Dense_7"] == of_stack["readout"]


def test_stacked_layers_are_drawn_and_tapped_one_by_one():
    """Declared shapes are the module's, blocks have weights of their own, and taps gain the blocks' axis."""
    config = residual(depth=3, branch_depth=2, scan=True)
    model, x = ResidualMLP(config), jnp.ones((5, 4))
    variables = model.init(jax.random.key(0), x)
    shapes = [leaf.shape for leaf in rules(config).leaves]
    assert shapes == [array.shape for array in jax.tree.leaves(variables["params"])]
    kernel = variables["params"]["blocks"]["Dense_0"]["kernel"]
    assert not np.allclose(kernel[0], kernel[1])
    _, taps = jax.eval_shape(lambda v: model.apply(v, x, mutable=["intermediates"]), variables)
    assert taps["intermediates"]["blocks"]["Dense_1"]["preactivation"][0].shape == (3, 5, 12)


def test_analytic_kernels_refuse_what_they_do_not_know():
    """A norm has no walk there; a scanned config is the unrolled network's, and the sentence says so."""
    with pytest.raises(ValueError, match="norm='none'; got 'rms'"):
        kernel(residual(norm="rms"), np.ones((1, 4)))
    with pytest.raises(ValueError, match="scan=False"):
        kernel(residual(scan=True), np.ones((1, 4)))


def test_what_is_wrong_is_said():
    """Wrong settings raise at once, in one sentence."""
    with pytest.raises(ValueError, match="branch_depth must be 1 or 2; got 3"):
        residual(branch_depth=3)
    with pytest.raises(ValueError, match="branch_scale is a number, 0 or more; got -1"):
        residual(branch_scale=-1)
    with pytest.raises(ValueError, match="depth must be a positive integer; got 0"):
        residual(depth=0)
    with pytest.raises(ValueError, match="norm must be 'none' or 'rms'; got 'batch'"):
        residual(norm="batch")
    with pytest.raises(ValueError, match="activation must be a function or one of"):
        residual(activation="swishy")
