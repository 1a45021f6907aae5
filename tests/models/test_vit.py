"""The vision transformer: its formula, its roles, the set that patches are without positions, bad input."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.decoders import attention, compiled, dense, mlp, multipliers, norm, parameters
from widelimit.models import ViT, ViTConfig, leaves, rules, stack_blocks
from widelimit.scaling import Role, completep, depth_mup, mup, probe, standard

IMAGES = np.random.default_rng(3).normal(size=(2, 4, 6, 3))
FLAGS = {
    "learned, class token, gains, biases": {
        "pool": "token",
        "gains": True,
        "bias": True,
        "norm": "layer",
        "output_multiplier": 0.6,
        "parametrization": mup(table=9),
    },
    "sincos, mean, grouped, gated, scanned": {
        "positions": "sincos",
        "heads": None,
        "head_size": 2,
        "kv_heads": 2,
        "activation": "swiglu",
        "scan": True,
        "remat": True,
        "embedding_multiplier": 1.7,
    },
    "set, class token": {"positions": "none", "pool": "token", "init_std": 0.4, "branch_scale": 0.7},
}


def small(**changes):
    """A vision transformer of two blocks of width 8 at base shape 4 x 1, with two heads."""
    fields = {"image": (4, 6), "inputs": 3, "patch": 2, "outputs": 5, "width": 8, "base_width": 4}
    fields |= {"depth": 2, "base_depth": 1, "heads": 2, "parametrization": depth_mup()}
    return ViTConfig(**{**fields, **changes})


def apply(config, params, images):
    """The logits under the config's multipliers."""
    return ViT(config).apply({"params": params, "multipliers": multipliers(config)}, images)


def by_hand(config, params, image):
    """The logits of one image: patches in loops, blocks without a mask, fixed positions entry by entry."""
    scale, rows = multipliers(config), []
    for r in range(0, image.shape[0], config.patch):
        for c in range(0, image.shape[1], config.patch):
            pixels = image[r : r + config.patch, c : c + config.patch].ravel()
            rows.append(dense(params, scale, "patches", pixels))
    places = [(r, c) for r in range(2) for c in range(3)]
    if config.pool == "token":
        rows.insert(0, scale["token"]["table"] * params["token"]["table"][0])
        places.insert(0, None)
    x = np.array(rows)
    if config.positions == "learned":
        x = x + scale["positions"]["table"] * params["positions"]["table"]
    if config.positions == "sincos":
        for row, place in enumerate(places):
            for i in range(config.width):
                part, number = divmod(i, config.width // 4)
                angle = place[part // 2] * 10_000.0 ** (-4 * number / config.width)
                x[row, i] += (np.sin, np.cos)[part % 2](angle)
    x = config.embedding_multiplier * x
    for index in range(config.depth):
        weights, factors = params[f"block_{index}"], scale[f"block_{index}"]
        branch = attention(config, weights["attention"], factors["attention"], x, causal=False)
        x = x + config.branch_scale * branch
        x = x + config.branch_scale * mlp(config, weights["mlp"], factors["mlp"], x)
    x = norm(config, params, scale, x)
    x = x[0] if config.pool == "token" else x.mean(0)
    return config.output_multiplier * scale["readout"]["kernel"] * x @ params["readout"]["kernel"]


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
def test_the_formula(flags):
    """Every flag against a second network that is written in NumPy, one patch, head and query at a time."""
    config = small(**flags)
    unrolled = dataclasses.replace(config, scan=False)
    raw = parameters(unrolled)
    expected = np.stack([by_hand(unrolled, raw, image) for image in IMAGES])
    with jax.enable_x64(True):
        params = stack_blocks(raw, config) if config.scan else raw
        found = compiled(lambda params, images: apply(config, params, images))(params, IMAGES)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("flags", [*FLAGS.values(), {"width": 4}], ids=[*FLAGS, "base width"])
def test_declared_leaves_are_the_parameters(flags):
    """Paths, shapes and multipliers are the module's; what feeds the stream is input-like."""
    config = small(**flags)
    images = jax.ShapeDtypeStruct(IMAGES.shape, "float32")
    made, declared = jax.eval_shape(ViT(config).init, jax.random.key(0), images), leaves(config)
    assert jax.tree.structure(made["params"]) == jax.tree.structure(declared)
    assert jax.tree.structure(made["multipliers"]) == jax.tree.structure(multipliers(config))
    for array, leaf in zip(jax.tree.leaves(made["params"]), jax.tree.leaves(declared), strict=True):
        assert leaf.shape == array.shape
        if leaf.path.split("/")[0] in ("patches", "token", "positions"):
            assert leaf.role is Role.INPUT and leaf.depth is None


@pytest.mark.parametrize("flags", list(FLAGS.values())[:2], ids=list(FLAGS)[:2])
def test_tracing_finds_the_roles(flags):
    """What the layers declare is what the probe finds from a trace and the shapes at several widths."""
    images = jax.ShapeDtypeStruct(IMAGES.shape, "float32")

    def at(width):
        return small(**{**flags, "width": width, "depth": 1, "kv_heads": None})

    def init(width):
        return jax.eval_shape(ViT(at(width)).init, jax.random.key(0), images)["params"]

    found = probe(init, lambda width, params, x: apply(at(width), params, x), images, width=8, base_width=4)
    roles, declared = (
        {leaf.path: leaf.role for leaf in jax.tree.leaves(tree)} for tree in (found, leaves(at(8)))
    )
    assert roles == declared


@pytest.mark.parametrize("pool", ["mean", "token"])
def test_without_positions_patches_are_a_set(pool):
    """Exchanged patches exchange the stream's rows and leave the logits; with positions they do not."""
    order = np.array([4, 2, 0, 5, 1, 3])
    patches = IMAGES[:1].reshape(1, 2, 2, 3, 2, 3).swapaxes(2, 3).reshape(6, 2, 2, 3)
    mixed = patches[order].reshape(1, 2, 3, 2, 2, 3).swapaxes(2, 3).reshape(1, 4, 6, 3)
    for positions in ("none", "learned"):
        config = small(positions=positions, pool=pool)
        params = jax.tree.map(np.float32, parameters(config))

        @compiled
        def both(params, images, config=config):
            variables = {"params": params, "multipliers": multipliers(config)}
            return ViT(config).apply(variables, images, mutable=["intermediates"])

        (f, taps), (g, other) = (both(params, jnp.asarray(x, "float32")) for x in (IMAGES[:1], mixed))
        streams = [t["intermediates"]["block_1"]["stream"][0][0, -6:] for t in (taps, other)]
        same = np.allclose(f, g, rtol=1e-4, atol=1e-5)
        moved = np.allclose(streams[0][order], streams[1], rtol=1e-4, atol=1e-4)
        assert (same, moved) == (positions == "none", positions == "none")


def test_at_the_base_shape_every_parametrization_is_the_standard_one():
    """At the base width and depth all rules are 1, so that the program and its numbers are the same."""
    programs = []
    for parametrization in (standard(), mup(table=8), depth_mup(), completep()):
        config = small(width=4, depth=1, parametrization=parametrization, pool="token", gains=True, bias=True)
        for optimizer in ("sgd", "adam"):
            rule = rules(config, optimizer, weight_decay="undone")
            numbers = (rule.multiplier, rule.learning_rate, rule.epsilon, rule.weight_decay)
            assert set(jax.tree.leaves((*numbers, rule.gradient_norm))) == {1.0}
        params = jax.tree.map(np.float32, parameters(config))
        program = jax.make_jaxpr(lambda p, x, c=config: apply(c, p, x))(params, np.float32(IMAGES))
        programs.append((str(program), rule.init_std))
    assert all(program == programs[0] for program in programs[1:])


def test_narrow_products_keep_wide_logits():
    """In bfloat16 the logits are float32, and off by the rounding of products to eight bits, no more."""
    config = small(pool="token", scan=True, bias=True)
    params = jax.tree.map(np.float32, parameters(config))
    exact, near = (
        compiled(lambda p, x, c=other: apply(c, p, x))(params, np.float32(IMAGES))
        for other in (config, dataclasses.replace(config, compute_dtype="bfloat16"))
    )
    error = float(jnp.linalg.norm(near - exact) / jnp.linalg.norm(exact))
    assert near.dtype == jnp.float32 and 1e-4 < error < 0.05


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch": 3}, "images of 4 x 6 pixels do not divide into patches of 3 x 3; crop or resize"),
        ({"image": (4, 7)}, "images of 4 x 7 pixels do not divide into patches of 2 x 2"),
        ({"image": 4}, "image must be a tuple of height and width; got 4"),
        ({"patch": 0}, "patch must be a positive integer; got 0"),
        ({"outputs": 0}, "outputs must be a positive integer; got 0"),
        ({"pool": "max"}, "pool must be one of mean, token; got 'max'"),
        ({"positions": "rope"}, "positions must be one of learned, sincos, none; got 'rope'"),
        ({"positions": "sincos", "width": 6, "base_width": 6}, "must be multiples of 4; got 6 and 6"),
        ({"heads": 3}, "width must be a multiple of heads = 3; got 8"),
    ],
)
def test_what_a_config_refuses(changes, message):
    """One sentence for each: what was expected, and what came."""
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_what_a_network_refuses():
    """Images of another size, and pixels that are no floating numbers."""
    config = small()
    made = jax.tree.map(np.float32, parameters(config))
    with pytest.raises(ValueError, match=r"expects images .* of \(4, 6, 3\); got \(2, 6, 4, 3\)"):
        apply(config, made, jnp.zeros((2, 6, 4, 3)))
    with pytest.raises(TypeError, match="images must have a floating dtype; got uint8: scale and convert"):
        apply(config, made, jnp.zeros((2, 4, 6, 3), "uint8"))
