"""The convolutional residual network: its formula, its roles, its sizes at the start, what it refuses."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.kernels.empirical.reference import QUICK
from tests.models.test_layers import convolve
from widelimit.models import ResNet, ResNetConfig, leaves, rules
from widelimit.scaling import Leaf, Role, completep, depth_mup, mup, probe, standard, with_depth

STAGES = {"strides": (1, 2), "growth": 2, "depth": 4, "base_depth": 2}
NETWORKS = {
    "stages": {**STAGES, "gains": True, "bias": True},
    "group norm": {**STAGES, "norm": "group", "groups": 2, "branch_depth": 1, "gains": True},
    "no norm": {"norm": "none", "strides": (2,), "depth": 3, "base_depth": 2, "bias": True},
}
IMAGES = np.random.default_rng(7).normal(size=(2, 6, 5, 4))


def resnet(**changes):
    """A small network, as wide as its images have channels so that shapes could not tell its layers apart."""
    fields = {"inputs": 4, "outputs": 4, "width": 8, "base_width": 4, "parametrization": depth_mup()}
    return ResNetConfig(**{**fields, "activation": "tanh", **changes})


def drawn(config, size=None):
    """Parameters in NumPy, of which none is left at zero, to hide a mistake; or so many ~ N(0, 1)."""
    generator = np.random.default_rng(0)

    def draw(leaf):
        if size is None:
            return generator.normal(size=leaf.shape) / leaf.fan_in**0.5
        return generator.normal(size=(size, *leaf.shape))

    return jax.tree.map(draw, leaves(config), is_leaf=lambda node: isinstance(node, Leaf))


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def apply(config, params, x):
    """The outputs under the config's multipliers."""
    return ResNet(config).apply({"params": params, "multipliers": rules(config).multiplier}, x)


def normalised(config, h, raw, scale):
    """A norm written out: over the channels of each pixel, or over pixels and channels of each group."""
    if config.norm == "none":
        return h
    if config.norm == "layer":
        h = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-5)
    else:
        size, parts = h.shape[-1] // config.groups, []
        for begin in range(0, h.shape[-1], size):
            part = h[..., begin : begin + size]
            mean, var = part.mean((1, 2, 3), keepdims=True), part.var((1, 2, 3), keepdims=True)
            parts.append((part - mean) / np.sqrt(var + 1e-5))
        h = np.concatenate(parts, -1)
    if config.gains:
        h = h * (1 + scale["gain"] * raw["gain"])
    return h + scale["bias"] * raw["bias"] if "bias" in raw else h


def by_hand(config, raw, x, alpha=0.5):
    """The network in NumPy, with the multipliers of width and the power of depth put in by hand."""
    plain = rules(dataclasses.replace(config, parametrization=mup(table=8))).multiplier

    def conv(h, name, group, scale, stride):
        y = scale[name]["kernel"] * convolve(h, group[name]["kernel"], stride)
        return y + scale[name]["bias"] * group[name]["bias"] if "bias" in group[name] else y

    h = conv(x, "stem", raw, plain, 1)
    for block in range(config.depth):
        group, scale = raw[f"block_{block}"], plain[f"block_{block}"]
        stage, place = divmod(block, config.depth // len(config.strides))
        stride, branch = (1 if place else config.strides[stage]), h
        for layer in range(config.branch_depth):
            norm = f"norm_{layer}"
            branch = np.tanh(normalised(config, branch, group.get(norm, {}), scale.get(norm, {})))
            branch = conv(branch, f"conv_{layer}", group, scale, 1 if layer else stride)
        if "shortcut" in group:
            h = h[:, ::stride, ::stride] @ group["shortcut"]["kernel"][0, 0]
        h = h + config.branch_scale * (config.depth / config.base_depth) ** -alpha * branch
    features = np.tanh(normalised(config, h, raw.get("norm", {}), plain.get("norm", {}))).mean((1, 2))
    f = plain["readout"]["kernel"] * features @ raw["readout"]["kernel"]
    return f + raw["readout"]["bias"] if config.bias else f


@pytest.mark.parametrize("name", NETWORKS)
def test_the_formula(name):
    """Stages, shortcuts, norms with gains, branches times 0.7 m_L^-1/2: as written out in NumPy."""
    config = resnet(branch_scale=0.7, **NETWORKS[name])
    raw, x = drawn(config), IMAGES
    with jax.enable_x64(True):
        found = apply(config, raw, x)
        assert found.dtype == jnp.float64
    np.testing.assert_allclose(found, by_hand(config, raw, x), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_declared_leaves_are_the_parameters_and_probing_finds_them(name):
    """Paths, shapes and roles are the module's; tracing finds all but depth, which no trace shows."""
    config = resnet(**NETWORKS[name])
    images = jax.ShapeDtypeStruct((1, 6, 6, 4), "float32")

    def init(width):
        model = ResNet(dataclasses.replace(config, width=width))
        return model.init(jax.random.key(0), jnp.zeros(images.shape))["params"]

    def forward(width, params, x):
        ones = jax.tree.map(lambda _: 1.0, params)
        model = ResNet(dataclasses.replace(config, width=width))
        return model.apply({"params": params, "multipliers": ones}, x)

    found, declared = probe(init, forward, images, width=8, base_width=4), leaves(config)
    assert jax.tree.structure(found) == jax.tree.structure(declared)
    for traced, leaf in zip(jax.tree.leaves(found), jax.tree.leaves(declared), strict=True):
        summed = tuple(axis for axis in leaf.contracted if leaf.shape[axis] > 1)  # the others leave no trace
        assert traced == dataclasses.replace(leaf, depth=None, ends_branch=False, contracted=summed)


def test_where_depth_is():
    """In branches, norms included, and at their ends; stem, shortcuts, last norm and readout are outside."""
    config = resnet(**STAGES, gains=True)
    tree = leaves(config)
    block, deep = tree["block_2"], 4 / 2
    inside = ["norm_0", "conv_0", "norm_1", "conv_1"]
    assert sorted(block) == sorted([*inside, "shortcut"]) and "shortcut" not in tree["block_0"]
    assert [leaf.depth for name in inside for leaf in block[name].values()] == [deep] * 4
    assert block["shortcut"]["kernel"].depth is None and block["shortcut"]["kernel"].role is Role.HIDDEN
    outside = [tree[name] for name in ("stem", "norm", "readout")]
    assert [leaf.depth for layer in outside for leaf in layer.values()] == [None] * 3
    ends = [leaf.path for leaf in jax.tree.leaves(tree) if leaf.ends_branch]
    assert ends == [f"block_{index}/conv_1/kernel" for index in range(4)]


def test_at_the_base_shape_every_parametrization_is_the_standard_one():
    """At the base width and depth rules are all 1, and outputs the same to the last bit."""
    settings = {**STAGES, "depth": 2, "width": 4, "gains": True, "bias": True}
    x, stds, found = np.asarray(IMAGES, "float32"), [], []
    for parametrization in (standard(), mup(table=8), depth_mup(), completep(), with_depth(mup(table=3), 1)):
        config = resnet(parametrization=parametrization, **settings)
        for optimizer in ("sgd", "adam"):
            rule = rules(config, optimizer, weight_decay="undone")
            numbers = (rule.multiplier, rule.learning_rate, rule.epsilon, rule.weight_decay)
            assert set(jax.tree.leaves((*numbers, rule.gradient_norm))) == {1.0}
        stds.append(rule.init_std)
        found.append(apply(config, jax.tree.map(np.float32, drawn(config)), x))
    assert all(stds[0] == other for other in stds[1:])
    assert all(jnp.array_equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize("width, depth, norm", [(8, 8, "none"), (8, 8, "layer"), (32, 2, "layer")])
def test_sizes_at_initialisation(width, depth, norm):
    r"""Of a linear network the mean squares are known at every width and depth, to be met by 256 seeds.

    Independent weights add squares: with a norm each of L branches adds ``s^2 m_L^(-2 alpha)``, without one
    it multiplies by 1 plus that; outputs have the stream's (1 behind a norm) over m, as muP wants.
    """
    alphas, x = {"0": mup(), "1/2": depth_mup(), "1": completep()}, jnp.ones((1, 1, 1, 4))
    settings = {"width": width, "base_width": 8, "depth": depth, "norm": norm, "window": 1}
    configs = {
        name: resnet(activation="identity", branch_scale=0.5, parametrization=rule, **settings)
        for name, rule in alphas.items()
    }
    model = ResNet(configs["0"])
    seeds = drawn(configs["0"], size=256)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def measured(multipliers, stds):
        def one(raw):
            variables = {"params": jax.tree.map(jnp.multiply, raw, stds), "multipliers": multipliers}
            f, taps = model.apply(variables, x, mutable=["intermediates"])
            return jnp.mean(taps["intermediates"]["stream"][-1] ** 2), jnp.mean(f**2)

        return jax.lax.map(one, jax.tree.map(jnp.float32, seeds))

    for name, config in configs.items():
        rule = rules(config)
        stream, outputs = measured(*jax.tree.map(jnp.asarray, (rule.multiplier, rule.init_std)))
        share = 0.25 * (depth / 2) ** (-2 * float(config.parametrization.branch))
        size = 1 + depth * share if norm == "layer" else (1 + share) ** depth
        seen = size if norm == "none" else 1.0
        for found, expected in ((stream, size), (outputs, seen * 8 / width)):
            error = found.std(ddof=1) / len(found) ** 0.5
            assert abs(found.mean() - expected) < 4 * error, name


def test_narrow_products_and_recomputed_blocks():
    """In bfloat16 the outputs are float32 and near; with remat the gradient is the same."""
    config = resnet(**{**STAGES, "depth": 2}, gains=True, bias=True)
    params, x = jax.tree.map(np.float32, drawn(config)), jnp.asarray(IMAGES, "float32")

    def gradient(**changes):
        other = dataclasses.replace(config, **changes)

        def loss(params):
            f = ResNet(other).apply({"params": params, "multipliers": rules(other).multiplier}, x)
            return jnp.sum(f**2)

        return jax.jit(jax.grad(loss), compiler_options=QUICK)(params)

    for one, two in zip(jax.tree.leaves(gradient()), jax.tree.leaves(gradient(remat=True)), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)
    narrow = dataclasses.replace(config, compute_dtype="bfloat16")
    f, near = apply(config, params, x), apply(narrow, params, x)
    assert near.dtype == jnp.float32 and 1e-4 < jnp.linalg.norm(near - f) / jnp.linalg.norm(f) < 0.05


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 0}, "depth must be a positive integer; got 0"),
        ({"depth": 3, "strides": (1, 2)}, "depth must be a multiple of the number of stages, 2 .* got 3"),
        ({"depth": 4, "base_depth": 3, "strides": (1, 2)}, "base_depth must be a multiple"),
        ({"strides": ()}, "strides must be a tuple, one stride a stage"),
        ({"strides": (1, 0)}, "a stride must be a positive integer; got 0"),
        ({"branch_depth": 3}, "branch_depth must be 1 or 2; got 3"),
        ({"branch_scale": -1.0}, "branch_scale is a number, 0 or more; got -1"),
        ({"norm": "batch"}, "norm must be one of layer, group, none; got 'batch'"),
        ({"norm": "none", "gains": True}, "gains=True needs a norm"),
        ({"norm": "group", "groups": 3}, "must be multiples of groups = 3; got 8 and 4"),
        ({"activation": "swish"}, "activation must be a function or one of"),
        ({"window": 0}, "window must be a positive integer; got 0"),
    ],
)
def test_bad_configs_are_refused(changes, message):
    """The config is checked when it is made."""
    with pytest.raises(ValueError, match=message):
        resnet(**changes)


def test_bad_images_are_refused():
    """Other channels, no images, numbers that are not scaled: one sentence each."""
    config = resnet()
    params = jax.tree.map(np.float32, drawn(config))
    with pytest.raises(
        ValueError, match=r"stem expects inputs whose last axis has size 4; got .*\(1, 6, 6, 3\)"
    ):
        apply(config, params, jnp.ones((1, 6, 6, 3)))
    with pytest.raises(TypeError, match="images must have a floating dtype; got uint8: scale and convert"):
        apply(config, params, jnp.ones((1, 6, 6, 4), "uint8"))
    with pytest.raises(ValueError, match="compute_dtype must be one of bfloat16, float32, or None"):
        resnet(compute_dtype="int8")
    with pytest.raises(ValueError, match="groups is for norm=.group.; got groups=2"):
        resnet(groups=2, norm="layer")
