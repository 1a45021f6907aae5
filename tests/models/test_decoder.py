"""The decoder transformer: its formula, its causality, its roles, and what it refuses."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.decoders import TOKENS, compiled, logits, multipliers, parameters, reference, small
from widelimit.models import Decoder, leaves, rules, stack_blocks
from widelimit.scaling import Role, completep, depth_mup, mup, ntk, probe, standard, uniform

FLAGS = {
    "rope, squared rectifier": {"activation": "relu_squared", "zero_query": True, "init_std": 0.4},
    "learned, layer norm, gains, biases": {
        "positions": "learned",
        "norm": "layer",
        "gains": True,
        "bias": True,
        "parametrization": mup(table=9),
        "embedding_multiplier": 1.7,
        "output_multiplier": 0.6,
    },
    "alibi, swiglu, grouped, tied": {
        "positions": "alibi",
        "activation": "swiglu",
        "kv_heads": 2,
        "tied": True,
        "branch_scale": 0.7,
        "parametrization": depth_mup(),
    },
    "multi-query, growing heads, scanned": {
        "heads": 2,
        "kv_heads": 1,
        "gains": True,
        "mlp_ratio": 8 / 3,
        "scan": True,
        "norm_epsilon": 0.1,
    },
}
FLAGS["learned, layer norm, gains, biases"]["init_std"] = 0.5


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
def test_the_formula(flags):
    """Every flag against a second decoder that is written in NumPy, one head and one query at a time."""
    config = small(**flags)
    raw = parameters(dataclasses.replace(config, scan=False))
    expected = reference(dataclasses.replace(config, scan=False), raw)
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, raw)
        params = stack_blocks(params, config) if config.scan else params
        found = compiled(lambda params: logits(config, params))(params)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("positions", ["rope", "learned", "alibi"])
def test_the_future_is_not_seen(positions):
    """d logits_t / d embedding_s is exactly zero for s > t, and not for any s <= t."""
    config = small(positions=positions, depth=1, kv_heads=1)
    params = jax.tree.map(lambda array: jnp.asarray(array, jnp.float32), parameters(config))

    def jacobian(params):
        def mixed(rows):
            taps = {"embedding": {"preactivation": rows}}
            blank = jax.tree.map(lambda tap: jnp.zeros(tap.shape, tap.dtype), shapes)
            return logits(config, params, TOKENS[0], perturbations={**blank, **taps}) @ jnp.arange(1.0, 8.0)

        return jax.jacrev(mixed)(jnp.zeros((5, 8)))

    model = Decoder(config)
    shapes = jax.eval_shape(
        lambda: model.apply(
            {"params": params, "multipliers": multipliers(config)},
            jnp.asarray(TOKENS[0]),
            mutable=["perturbations"],
        )[1]["perturbations"]
    )
    size = np.abs(compiled(jacobian)(params)).max(-1)
    assert (size[np.triu_indices(5, 1)] == 0).all()
    assert (size[np.tril_indices(5)] > 1e-5).all()


def abstract(config):
    """Shapes of the variables that init makes; nothing is computed."""
    return jax.eval_shape(Decoder(config).init, jax.random.key(0), jnp.asarray(TOKENS))


COMBINATIONS = [
    *FLAGS.values(),
    {"positions": "none", "gains": True, "norm": "layer"},
    {"kv_heads": 1, "bias": True},
    {"kv_heads": 1, "heads": 2, "gains": True, "bias": True, "activation": "swiglu"},
    {"tied": True, "positions": "learned"},
    {"width": 4, "heads": 2},
]


@pytest.mark.parametrize("layout", [{}, {"scan": True}, {"remat": True}, {"scan": True, "remat": True}])
@pytest.mark.parametrize("flags", COMBINATIONS)
def test_declared_leaves_are_the_parameters(flags, layout):
    """Paths, shapes and multipliers are those of the module's variables, in every layout."""
    config = small(**{**flags, **layout})
    made = abstract(config)
    declared = leaves(config)
    assert jax.tree.structure(made["params"]) == jax.tree.structure(declared)
    assert jax.tree.structure(made["multipliers"]) == jax.tree.structure(multipliers(config))
    for (path, array), leaf in zip(
        jax.tree.leaves_with_path(made["params"]), jax.tree.leaves(declared), strict=True
    ):
        assert leaf.path == jax.tree_util.keystr(path, simple=True, separator="/")
        assert leaf.shape == array.shape


def roles(config):
    """Roles of a config's parameters by path, blocks under one name."""
    return {leaf.path: leaf.role for leaf in jax.tree.leaves(leaves(config))}


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"heads": 2, "kv_heads": 1, "activation": "swiglu", "bias": True},
        {"positions": "learned", "gains": True, "norm": "layer", "bias": True},
        {"tied": True, "positions": "alibi"},
        {"scan": True},
    ],
    ids=["plain", "growing heads, gated", "learned, gains", "tied", "scanned"],
)
def test_tracing_finds_the_roles(flags):
    """What the layers declare is what the probe finds from a trace and the shapes at several widths."""

    def at(width):
        return small(**flags, width=width, depth=1)

    found = probe(
        lambda width: jax.eval_shape(Decoder(at(width)).init, jax.random.key(0), jnp.asarray(TOKENS))[
            "params"
        ],
        lambda width, params, tokens: logits(at(width), params, tokens),
        jnp.asarray(TOKENS),
        width=8,
        base_width=4,
    )
    assert {leaf.path: (leaf.role, leaf.tied) for leaf in jax.tree.leaves(found)} == {
        leaf.path: (leaf.role, leaf.tied) for leaf in jax.tree.leaves(leaves(at(8)))
    }


@pytest.mark.parametrize("width", [4, 8])
def test_roles_of_a_few_heads(width):
    """Keys and values of one head of fixed size have a finite axis; they are hidden, at every width."""
    found = roles(small(kv_heads=1, width=width, depth=1, gains=True, positions="learned"))
    hidden = [f"block_0/attention/{name}/kernel" for name in ("key", "query", "value", "output")]
    hidden += [f"block_0/mlp/{name}/kernel" for name in ("up", "down")]
    inputs = ["embedding/table", "positions/table", "norm/gain", "block_0/attention/norm/gain"]
    expected = dict.fromkeys(hidden, Role.HIDDEN) | dict.fromkeys(inputs, Role.INPUT)
    expected |= {"readout/kernel": Role.OUTPUT, "block_0/mlp/norm/gain": Role.INPUT}
    assert found == expected


def test_branches_end_in_output_and_down():
    """Their multipliers alone hold m_L^-alpha, biases included; all of a block knows its depth."""
    config = small(depth=6, base_depth=2, bias=True, gains=True, width=4)
    for leaf, multiplier in zip(
        jax.tree.leaves(leaves(config)), jax.tree.leaves(multipliers(config)), strict=True
    ):
        ends = leaf.path.split("/")[-2] in ("output", "down")
        assert multiplier == (1 / 3 if ends else 1.0)
        assert leaf.depth == (3 if leaf.path.startswith("block_") else None)


@pytest.mark.parametrize(
    ("parametrization", "exponent"),
    [(mup(), 1), (completep(), 1), (standard(), 0.5), (ntk(), 0.5), (uniform(Fraction(1, 4)), 0.75)],
)
def test_the_temperature_of_attention(parametrization, exponent):
    """d0^(e - 1/2) / d^e: sqrt(d0)/d under muP; exactly 1/sqrt(d0) at the base and for fixed head sizes."""
    wide, base = ({"parametrization": parametrization, "heads": 2, "width": width} for width in (48, 4))
    assert small(**wide).temperature() == pytest.approx(2 ** (exponent - 0.5) / 24**exponent, rel=1e-14)
    assert small(**base).temperature() == 1 / np.sqrt(2)
    assert small(parametrization=parametrization, width=48).temperature() == 1 / np.sqrt(2)
    assert small(**wide, attention_scale="sqrt").temperature() == pytest.approx(24**-0.5, rel=1e-14)


def test_initial_sizes():
    """1/sqrt(fan_in) and tables of 1; or one number for all at the base width, and hidden ones less."""
    flags = {"parametrization": mup(table=8), "positions": "learned", "depth": 1}
    plain = rules(small(**flags)).init_std
    given = rules(small(**flags, init_std=0.02, zero_query=True)).init_std
    block = plain["block_0"]
    assert plain["embedding"]["table"] == pytest.approx(1) == plain["positions"]["table"]
    assert block["attention"]["query"]["kernel"] == pytest.approx(8**-0.5)
    assert block["mlp"]["down"]["kernel"] == pytest.approx(32**-0.5)
    assert plain["readout"]["kernel"] == pytest.approx(4**-0.5)  # Table 8: at every width that of the base
    block = given["block_0"]
    assert given["embedding"]["table"] == pytest.approx(0.02) == given["positions"]["table"]
    assert given["readout"]["kernel"] == pytest.approx(0.02)
    assert block["attention"]["query"]["kernel"] == 0
    for name, layer in [*block["mlp"].items(), ("key", block["attention"]["key"])]:
        assert layer["kernel"] == pytest.approx(0.02 * 2**-0.5), name
    tied = rules(small(**{**flags, "tied": True})).init_std
    assert tied["embedding"]["table"] == pytest.approx(4**-0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_size": 3}, "width must be a multiple of head_size = 3; got 8"),
        ({"width": 12, "heads": 3}, "base_width must be a multiple of heads = 3; got 4"),
        ({"kv_heads": 3}, "kv_heads must divide the number of heads, 4 and at the base width 2; got 3"),
        ({"kv_heads": 4}, "kv_heads must divide the number of heads, 4 and at the base width 2; got 4"),
        ({"heads": 2, "head_size": 2}, "give exactly one of head_size .* got head_size=2 and heads=2"),
        ({"head_size": None}, "give exactly one of head_size"),
        ({"head_size": 1}, "rotary positions turn pairs of entries; got the odd head size 1"),
        ({"tied": True, "zero_readout": True}, "a tied readout is the embedding, which cannot start at zero"),
        ({"tied": True, "parametrization": mup(table=9)}, "use mup\\(table=8\\), or untie the readout"),
        ({"vocabulary": 0}, "vocabulary must be a positive integer; got 0"),
        ({"context": 2.5}, "context must be a positive integer; got 2.5"),
        ({"depth": 0}, "depth must be a positive integer; got 0"),
        ({"positions": "rotary"}, "positions must be one of rope, learned, alibi, none; got 'rotary'"),
        ({"norm": "batch"}, "norm must be one of rms, layer; got 'batch'"),
        ({"attention_scale": "1/d"}, "attention_scale must be one of parametrization, sqrt; got '1/d'"),
        (
            {"activation": "glu"},
            "activation must be a function or one of .*relu_squared.*; got 'glu'",
        ),
        ({"mlp_ratio": 0.01}, "mlp_ratio must leave the MLP a hidden layer; got 0.01"),
        ({"attention_kernel": "flash"}, "attention_kernel must be one of xla, cudnn; got 'flash'"),
        (
            {"attention_kernel": "cudnn"},
            "attention_kernel='cudnn' computes in 16 bits; .*=None",
        ),
        ({"init_std": -0.1}, "init_std must be a number, 0 or more; got -0.1"),
    ],
)
def test_what_a_config_refuses(changes, message):
    """One sentence for each: what was expected, and what came."""
    with pytest.raises(ValueError, match=message):
        rules(small(**changes))


def test_what_a_decoder_refuses():
    """Dtypes that are none, sequences longer than the table of positions, and tokens that are no integers."""
    with pytest.raises(ValueError, match="compute_dtype must be one of bfloat16, float32, or None"):
        small(compute_dtype="int8")
    config = small(positions="learned")
    made = abstract(config)["params"]
    with pytest.raises(ValueError, match="positions has 6 rows, .* got one of length 7"):
        jax.eval_shape(lambda params: logits(config, params, np.zeros((2, 7), int)), made)
    with pytest.raises(TypeError, match="embedding looks up integers; got tokens of dtype float32"):
        jax.eval_shape(lambda params: logits(config, params, np.zeros((2, 5), np.float32)), made)
