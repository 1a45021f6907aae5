"""Networks as wholes: declared leaves against real parameters, known formulas, and dtypes."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from widelimit.models import MLP, ConvConfig, ConvNet, MLPConfig, initialise, leaves, rules
from widelimit.scaling import Leaf, dmft, mean_field, mup, ntk, probe, standard

RELATIVE = {
    "standard": standard(),
    "ntk": ntk(),
    "mean_field": mean_field(),
    "mup 3": mup(table=3),
    "mup 8": mup(table=8),
    "mup 9": mup(table=9),
}


def mlp(**changes) -> MLPConfig:
    """A small MLP, inputs = outputs so that shapes alone could not tell the input kernel from the readout."""
    fields = {"inputs": 4, "outputs": 4, "width": 12, "base_width": 4, "parametrization": mup(table=8)}
    return MLPConfig(**{**fields, **changes})


def conv(**changes) -> ConvConfig:
    """A small convolutional network."""
    fields = {
        "inputs": 2,
        "outputs": 2,
        "width": 6,
        "base_width": 2,
        "parametrization": mup(table=8),
        "window": 3,
    }
    return ConvConfig(**{**fields, **changes})


def drawn(rule, dtype="float32", seed=0):
    """Initial weights."""
    return initialise(jax.random.key(seed), rule, dtype)


NETWORKS = {
    "mlp": (MLP, mlp(), (5, 4)),
    "no bias": (MLP, mlp(bias=False, depth=3), (5, 4)),
    "base width": (MLP, mlp(width=4), (5, 4)),
    "deep": (MLP, mlp(depth=11), (5, 4)),
    "linear": (MLP, mlp(activation="identity", bias=False), (5, 4)),
    "conv": (ConvNet, conv(), (5, 6, 6, 2)),
    "conv base": (ConvNet, conv(width=2, depth=3), (5, 6, 6, 2)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_declared_leaves_are_the_parameters(name):
    """Paths, order and shapes of the declared leaves are those of the parameters that the module makes."""
    model, config, shape = NETWORKS[name]
    made = jax.eval_shape(model(config).init, jax.random.key(0), jnp.ones(shape))
    declared = leaves(config)
    assert jax.tree.structure(made["params"]) == jax.tree.structure(declared)
    assert jax.tree.structure(made["multipliers"]) == jax.tree.structure(declared)
    for (path, param), leaf in zip(
        jax.tree.leaves_with_path(made["params"]), jax.tree.leaves(declared), strict=True
    ):
        assert isinstance(leaf, Leaf)
        assert leaf.path == jax.tree_util.keystr(path, simple=True, separator="/")
        assert leaf.shape == param.shape


@pytest.mark.parametrize("name", NETWORKS)
def test_probing_finds_what_the_layers_declare(name):
    """Tracing the forward pass, which knows nothing of our layers, gives the same leaves."""
    model, config, shape = NETWORKS[name]

    def at(width):
        return model(dataclasses.replace(config, width=width))

    def init(width):
        return at(width).init(jax.random.key(0), jnp.ones(shape))["params"]

    def apply(width, params, x):
        ones = jax.tree.map(lambda _: 1.0, params)
        return at(width).apply({"params": params, "multipliers": ones}, x)

    found = probe(init, apply, jnp.ones(shape), width=config.width, base_width=config.base_width)
    assert found == leaves(config)


@pytest.mark.parametrize("name", RELATIVE)
def test_at_the_base_width_every_parametrization_is_the_standard_one(name):
    """Relative forms are neutral at the base width: same bits out, no rule but 1."""
    x = jax.random.normal(jax.random.key(1), (5, 4))
    made = {}
    for key in ("standard", name):
        config = mlp(width=4, parametrization=RELATIVE[key])
        rule = rules(config, "sgd", weight_decay="undone")
        neutral = (rule.multiplier, rule.learning_rate, rule.epsilon, rule.weight_decay, rule.gradient_norm)
        assert set(jax.tree.leaves(neutral)) == {1.0}
        variables = MLP(config).init(jax.random.key(0), x)
        own = {"params": drawn(rule), "multipliers": rule.multiplier}
        made[key] = [MLP(config).apply(v, x) for v in (variables, own)]
    assert all(jnp.array_equal(a, b) for a, b in zip(made["standard"], made[name], strict=True))


def test_dmft_is_the_formula_of_the_papers():
    """f = w.phi(W phi(W0 x / sqrt D) / sqrt N) / (gamma0 N), every weight ~ N(0, 1); written out in numpy."""
    gamma0, width = 1.7, 24
    config = mlp(width=width, outputs=1, parametrization=dmft(gamma0=gamma0), bias=False)
    rule = rules(config, "sgd")
    assert set(jax.tree.leaves(rule.init_std)) == {1.0}
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(1), (5, 4))
        params = drawn(rule, "float64")
        f = MLP(config).apply({"params": params, "multipliers": rule.multiplier}, x)
        assert f.dtype == jnp.float64
    w0, w1, w = (np.asarray(params[f"Dense_{i}"]["kernel"]) for i in range(3))
    by_hand = np.tanh(np.tanh(np.asarray(x) @ w0 / np.sqrt(4)) @ w1 / np.sqrt(width)) @ w / (gamma0 * width)
    np.testing.assert_allclose(f, by_hand, rtol=1e-13)


def test_a_deep_linear_network_is_the_product_of_its_matrices():
    """With the identity as activation, f(x) = x W0 W1 W2."""
    config = mlp(activation="identity", bias=False, parametrization=standard())
    params = drawn(rules(config))
    x = jax.random.normal(jax.random.key(1), (5, 4))
    f = MLP(config).apply({"params": params, "multipliers": rules(config).multiplier}, x)
    product = np.linalg.multi_dot([np.asarray(params[f"Dense_{i}"]["kernel"]) for i in range(3)])
    np.testing.assert_allclose(f, np.asarray(x) @ product, rtol=1e-4, atol=1e-6)


def test_the_convolutional_network_averages_over_pixels():
    """On constant images and with a window of one pixel (no border) it is an MLP on the channels."""
    config = conv(window=1, activation="tanh")
    rule = rules(config)
    params = drawn(rule)
    pixel = jax.random.normal(jax.random.key(1), (5, 2))
    images = jnp.broadcast_to(pixel[:, None, None], (5, 3, 4, 2))
    f = ConvNet(config).apply({"params": params, "multipliers": rule.multiplier}, images)
    w0, w1 = (params[f"Conv_{i}"]["kernel"][0, 0] for i in range(2))
    by_hand = jnp.tanh(jnp.tanh(pixel @ w0) @ w1) @ params["Dense_0"]["kernel"] / 3
    np.testing.assert_allclose(f, by_hand, rtol=1e-5, atol=1e-6)


def test_a_perturbation_anywhere_gives_the_cotangent_there():
    """In the middle of the network: the gradient is that of the rest of the network, written out by hand."""
    config = mlp()
    rule = rules(config)
    variables = {"params": drawn(rule), "multipliers": rule.multiplier}
    x = jax.random.normal(jax.random.key(1), (5, 4))
    model = MLP(config)
    _, taps = model.apply(variables, x, mutable=["intermediates", "perturbations"])
    cotangents = jax.grad(lambda p: jnp.sum(model.apply({**variables, "perturbations": p}, x) ** 3))(
        taps["perturbations"]
    )

    def rest(h):
        hidden = jnp.tanh(jnp.tanh(h) @ variables["params"]["Dense_1"]["kernel"])
        return jnp.sum((hidden @ variables["params"]["Dense_2"]["kernel"] / 3) ** 3)

    h = taps["intermediates"]["Dense_0"]["preactivation"][0]
    np.testing.assert_allclose(
        cotangents["Dense_0"]["preactivation"], jax.grad(rest)(h), rtol=1e-4, atol=1e-7
    )
    inputs = taps["intermediates"]["Dense_1"]["input"][0]
    assert jnp.array_equal(inputs, jnp.tanh(h))


def test_a_zero_readout_starts_the_network_at_zero():
    """And the rules say so: its initial std is 0, the others' are not."""
    for model, config, shape in (
        (MLP, mlp(zero_readout=True), (5, 4)),
        (ConvNet, conv(zero_readout=True), (5, 6, 6, 2)),
    ):
        f, variables = jax.jit(model(config).init_with_output)(jax.random.key(0), jnp.ones(shape))
        assert not jnp.any(f) and not jnp.any(drawn(rules(config))["Dense_0"]["bias"])
        assert min(jnp.std(layer["kernel"]) > 0 for layer in list(variables["params"].values())[:-1])


def test_one_program_serves_seeds_and_parametrizations():
    """Parameters and multipliers are arguments: vmap over both, compile once, and change either freely."""
    configs = [mlp(parametrization=p) for p in RELATIVE.values()]
    stack = {
        "params": [drawn(rules(config), seed=i) for i, config in enumerate(configs)],
        "multipliers": [jax.tree.map(jnp.asarray, rules(config).multiplier) for config in configs],
    }
    x = jax.random.normal(jax.random.key(1), (5, 4))
    stacked = {name: jax.tree.map(lambda *rows: jnp.stack(rows), *rows) for name, rows in stack.items()}
    together = jax.jit(jax.vmap(MLP(configs[0]).apply, in_axes=(0, None)))(stacked, x)
    for row, config in enumerate(configs):
        alone = MLP(config).apply(
            {"params": stack["params"][row], "multipliers": rules(config).multiplier}, x
        )
        np.testing.assert_allclose(together[row], alone, rtol=1e-5, atol=1e-6)


def test_dtypes_are_kept_and_never_mixed():
    """float32 stays float32 also where float64 is on; mixing is an error, not a promotion."""
    config = mlp()
    multipliers = rules(config).multiplier
    with jax.enable_x64(True):
        for dtype in ("float32", "float64"):
            x = jnp.ones((5, 4), dtype)
            params = jax.jit(MLP(dataclasses.replace(config, dtype=dtype)).init)(jax.random.key(0), x)[
                "params"
            ]
            assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
            variables = {"params": params, "multipliers": multipliers}
            assert MLP(config).apply(variables, x).dtype == dtype
            assert jax.jit(MLP(config).apply)(variables, x).dtype == dtype
        with pytest.raises(
            TypeError, match="Dense_0 has parameters of dtype float64 and inputs of dtype float32"
        ):
            MLP(config).apply(variables, jnp.ones((5, 4), jnp.float32))


def test_configs_are_values():
    """Equal configs are equal and hashable, so that jit and dictionaries may know a network by its config."""
    assert mlp() == mlp() and hash(mlp()) == hash(mlp()) and mlp(width=8) != mlp()
    assert hash(MLP(mlp())) == hash(MLP(mlp()))
    with pytest.raises(dataclasses.FrozenInstanceError):
        mlp().width = 3
    with pytest.raises(TypeError, match="base_width"):
        MLPConfig(inputs=4, outputs=4, width=12, parametrization=mup())


@pytest.mark.parametrize("make", [mlp, conv])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 0}, "width must be a positive integer; got 0|size of an axis .* got 0"),
        ({"width": -8}, "got -8"),
        ({"base_width": 1.5}, "positive integer; got 1.5"),
        ({"depth": 0}, "depth must be a positive integer; got 0"),
        ({"outputs": True}, "positive integer; got True"),
        ({"activation": "swish"}, "activation must be a function or one of .*; got 'swish'"),
        ({"bias_std": -0.1}, "standard deviation"),
    ],
)
def test_bad_configs_are_refused(make, changes, message):
    """The config is checked when it is made."""
    with pytest.raises(ValueError, match=message):
        make(**changes)
