"""The kernel of our decoder, vision transformer and ResNet goes by structure, and is exact."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.kernels.empirical.reference import BOUND, QUICK, compare, contracted, convert, distance, jacobians
from tests.models import decoders, test_resnet, test_vit
from tests.models.decoders import parameters
from widelimit import models
from widelimit.kernels import empirical
from widelimit.scaling import completep, depth_mup, mup

TOKENS = np.array([[3, 1, 4, 1], [2, 6, 5, 3], [5, 0, 5, 5]])
SMALL = {"depth": 1, "base_depth": 2, "context": 4}
DECODERS = {
    "tied, learned, layer norm, gains, biases, gated, grouped": {
        "tied": True,
        "positions": "learned",
        "norm": "layer",
        "gains": True,
        "bias": True,
        "kv_heads": 2,
        "activation": "swiglu",
        "parametrization": completep(),
        "embedding_multiplier": 1.7,
        "output_multiplier": 0.6,
    },
    "multi-query, growing heads, scanned": {
        "heads": 2,
        "kv_heads": 1,
        "activation": "relu_squared",
        "scan": True,
        "remat": True,
        "gains": True,
        "depth": 2,
        "parametrization": mup(table=9),
    },
    "alibi": {"positions": "alibi", "depth": 2, "parametrization": depth_mup(), "bias": True},
}
FORMS = dict(zip(DECODERS, (("full", "sum"), ("trace",), ("full", "trace")), strict=True))
SLOW = [pytest.param(name, marks=pytest.mark.slow) if name == "alibi" else name for name in DECODERS]
VISION = list(test_vit.FLAGS.values())


def network(model, config, **options):
    """``apply`` of a config's model under its multipliers, and SGD's rules."""
    rules = models.rules(config, "sgd")

    def apply(params, x, last=False):
        logits = model(config).apply({"params": params, "multipliers": rules.multiplier}, x)
        return logits[:, -1] if last else logits

    return functools.partial(apply, **options), rules


def paths(apply, params, x, form="trace"):
    """The path of each parameter by name."""
    return {path.name: path for path in empirical.plan(apply, params, x, form=form).leaves()}


def drawn(config):
    """Raw weights, none of them zero; blocks stacked for a network that scans."""
    params = parameters(dataclasses.replace(config, scan=False))
    return models.stack_blocks(params, config) if config.scan else params


def assert_exact(apply, params, x, rules, forms):
    """The kernel of each parameter, weighted by its rate, against the explicit Jacobian: to 1e-10."""
    rates = jax.tree.leaves(rules.learning_rate)
    with jax.enable_x64(True):
        params, x = convert(params, "float64"), convert(x, "float64")

        @functools.partial(jax.jit, compiler_options=QUICK)
        def kernels(params, x):
            make = functools.partial(empirical.ntk, apply, rates=rules, per_layer=True)
            return {form: jax.tree.leaves(make(params, x, form=form)) for form in forms}

        found, slopes = jax.tree.map(np.asarray, kernels(params, x)), jacobians(apply, params, x)
    for form in forms:
        want = contracted(slopes, slopes, form, rates)
        for one, two in zip(found[form], want, strict=True):
            assert np.linalg.norm(one - two) < BOUND["float64"] * np.linalg.norm(sum(want)), form
        assert distance(sum(found[form]), sum(want)) < BOUND["float64"], form


@pytest.mark.parametrize("name", SLOW)
def test_decoder(name):
    """Every matrix and table by structure, norms and positions as they are; with SGD's rates of depth."""
    config = decoders.small(**{**SMALL, **DECODERS[name]})
    apply, rules = network(models.Decoder, config, last=config.scan)
    params = drawn(config)
    found = paths(apply, params, TOKENS)
    table = found["embedding/table"]
    assert (table.kind, table.why) == (("tied", "2 uses") if config.tied else ("embedding", ""))
    for leaf, path in found.items():
        if leaf.endswith("kernel"):
            assert path.kind == "dense", leaf
            assert path.why == ("2 uses" if leaf.startswith("blocks") else ""), leaf
        if leaf.endswith("gain"):
            assert (path.kind, path.why) == ("gain", "multiplies entry by entry"), leaf
        if leaf.endswith("bias") or leaf == "positions/table":
            assert path.kind == "bias", leaf
    assert_exact(apply, params, TOKENS, rules, FORMS[name])


@pytest.mark.parametrize(
    "flags",
    [VISION[0], pytest.param(VISION[1], marks=pytest.mark.slow)],
    ids=["learned, class token", "sincos, mean"],
)
def test_vision_transformer(flags):
    """Patches are a dense layer with positions; the class token is an entry of the sequence."""
    config = test_vit.small(**{**flags, "depth": 1})
    apply, rules = network(models.ViT, config)
    params, images = drawn(config), test_vit.IMAGES
    found = paths(apply, params, images)
    kinds = {name: path.kind for name, path in found.items() if name.endswith("kernel")}
    assert set(kinds.values()) == {"dense"} and "patches/kernel" in kinds
    if config.pool == "token":
        assert found["token/table"].why == "enters concatenate" and found["positions/table"].kind == "bias"
    assert_exact(apply, params, images, rules, ("trace",) if config.scan else ("full",))


def test_residual_convolutions():
    """Convolutions of branches and shortcuts by patches, gains of group norms as they are."""
    config = test_resnet.resnet(**{**test_resnet.NETWORKS["group norm"], "depth": 2})
    apply, rules = network(models.ResNet, config)
    params, images = test_resnet.drawn(config), test_resnet.IMAGES
    kinds = {name: path.kind for name, path in paths(apply, params, images).items()}
    windows = {kinds[name] for name in ("stem/kernel", "block_1/conv_0/kernel", "block_1/shortcut/kernel")}
    assert windows == {"conv"}
    assert kinds["norm/gain"] == kinds["block_0/norm_0/gain"] == "gain"
    assert_exact(apply, params, images, rules, ("trace",))


def test_a_long_loop_says_how_to_keep_the_structure():
    """65 scanned blocks go by their Jacobian, and the report names what unrolls them."""
    config = decoders.small(**{**SMALL, "depth": 65}, scan=True, parametrization=mup(table=8))
    apply, _ = network(models.Decoder, config, last=True)
    shapes = jax.eval_shape(lambda: models.initialise(jax.random.key(0), models.rules(config)))
    found = paths(apply, shapes, TOKENS)["blocks/mlp/up/kernel"]
    assert found.kind == "jacobian" and "more than 64 steps" in found.why and "unstack_blocks" in found.why


def test_a_weight_stored_as_its_offset_keeps_its_structure():
    """Derivatives by w of x (I + w / 3), and of a gain 1 - w: the fixed part changes no path and no kernel.

    Factors that float32 does not hold, before a bias and a lookup too, are exact to float64.
    """
    generator = np.random.default_rng(0)
    params = {"w": generator.normal(size=(3, 3)), "gain": generator.normal(size=3)}
    params |= {"bias": generator.normal(size=3), "table": generator.normal(size=(7, 3))}

    def apply(params, ids):
        x = (params["table"] / 3)[ids]
        h = x @ (jnp.eye(3, dtype=x.dtype) + params["w"] / 3) + (params["bias"] / 3)[None]
        return jnp.sin(h) * (1 - params["gain"])[None]

    found = paths(apply, params, TOKENS[0])
    assert [found[name].kind for name in sorted(params)] == ["bias", "gain", "embedding", "dense"]
    assert found["bias"].way == "gram"
    compare(apply, params, TOKENS[0], forms=("full", "trace"))
