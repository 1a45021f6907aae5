"""The plan names each parameter's path, its reason and its cost; bad input meets one sentence."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.kernels.empirical.reference import compare
from widelimit import models, scaling
from widelimit.kernels import empirical

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (4, 3))
PARAMS = {"w": jnp.ones((3, 5)), "b": jnp.ones(5), "out": jnp.ones((5, 2))}


def apply(p, x):
    """A two-layer network."""
    return jnp.tanh(x @ p["w"] + p["b"][None]) @ p["out"]


def curved(p, x):
    """The same with outputs that are not linear in anything."""
    return jnp.sin(apply(p, x))


def table(positions, samples, form="trace"):
    """The paths of a layer that is applied at every position."""

    def mean(p, x):
        return jnp.sin(apply(p, x.reshape(-1, 3)).reshape(*x.shape[:2], 2).mean(1))

    x = jax.ShapeDtypeStruct((samples, positions, 3), jnp.float32)
    return {path.name: path for path in empirical.plan(mean, PARAMS, x, form=form).leaves()}


def test_the_cost_is_the_formula():
    """2 N^2 (K + O^2 M) for the full form, 2 N^2 (K + O M) for the trace; a merged bias costs nothing."""
    for form, squared in (("full", 4), ("trace", 2), ("diagonal", 2)):
        paths = {path.name: path for path in empirical.plan(curved, PARAMS, X, form=form).leaves()}
        assert paths["w"].flops == 2 * 16 * (3 + squared * 5)
        assert paths["b"].flops == 0 and paths["b"].kind == "bias"
    other = empirical.plan(curved, PARAMS, X, X[:3], form="trace").leaves()
    assert {path.name: path.flops for path in other}["w"] == 2 * 12 * (3 + 2 * 5)


def test_the_cheaper_contraction_is_chosen():
    """Few positions: Gram matrices, N^2 S^2; many: gradients, whose cost in S is linear."""
    assert table(1, 16)["w"].way == "gram" and table(64, 16)["w"].way == "gradient"
    costs = [table(positions, 16)["w"].flops for positions in (128, 256, 512)]
    assert costs[2] - costs[1] == 2 * (costs[1] - costs[0])  # linear
    assert table(1, 16)["w"].flops == 2 * 16**2 * (3 + 2 * 5)


def test_bytes_follow_the_dtype():
    """4 bytes a number in float32 and in half precision, which is accumulated in float32; 8 in float64."""
    with jax.enable_x64(True):
        found = {}
        for dtype in ("float16", "float32", "float64"):
            shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), (PARAMS, X))  # noqa: B023
            found[dtype] = [path.bytes for path in empirical.plan(apply, *shapes).leaves()]
    assert found["float16"] == found["float32"] and found["float32"][-1] > 0
    assert found["float64"] == [2 * size for size in found["float32"]]


def test_describe_prints_every_parameter():
    """A line each with the reason of those without structure, and the total beside that of Jacobians."""
    config = models.MLPConfig(inputs=3, outputs=2, width=8, base_width=8, parametrization=scaling.ntk())
    rules = models.rules(config, "sgd")
    params = models.initialise(KEY, rules)
    net = models.MLP(config)

    def odd(p, x):
        y = net.apply({"params": p["net"], "multipliers": rules.multiplier}, x)
        return y * jnp.exp(p["temperature"])

    made = empirical.plan(odd, {"net": params, "temperature": jnp.zeros(())}, X)
    lines = made.describe().splitlines()
    assert len(lines) == 1 + 6 + 1 + 1 and lines[0].split()[:4] == [
        "parameter",
        "shape",
        "path",
        "contraction",
    ]
    assert any(line.split()[:4] == ["net/Dense_1/kernel", "8x8", "dense", "gram"] for line in lines)
    assert "temperature" in lines[-2] and lines[-2].endswith("enters exp")
    total = sum(path.flops for path in made.leaves())
    assert f"{total / 1e6:.4g} Mflop" in lines[-1]


@pytest.mark.slow
def test_features_are_cut_and_contracted_in_any_order():
    """Blocks of samples and of outputs of features are those of the blocks, and so are their kernels."""
    made = empirical.plan(apply, PARAMS, X)
    whole = empirical.features(made, PARAMS, X)
    part = jax.tree.map(lambda a: a[1:3], whole)
    again = empirical.features(made, PARAMS, X[1:3])
    for one, two in zip(jax.tree.leaves(part), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-7)
    theta = empirical.ntk(apply, PARAMS, X)
    # Entries near 0 are differences (1 - tanh^2) in float32: exact relative to the kernel, not to themselves.
    rounding = 1e-6 * float(abs(theta).max())
    np.testing.assert_allclose(empirical.contract(made, part, whole), theta[1:3], rtol=1e-5, atol=rounding)
    row = jnp.array([[1.0, -1.0]])
    signed = empirical.features(made, PARAMS, X, row)
    product = empirical.contract(made, signed, signed, "trace")
    np.testing.assert_allclose(
        product, jnp.einsum("ijop,o,p->ij", theta, *[row[0]] * 2), rtol=1e-4, atol=1e-4
    )


def last(p, x, mixed):
    """The last position's outputs of a network that sees its positions alone, or their mean."""
    h = jax.nn.relu(x @ p["in"] + p["b"][None, None])
    h = h - h.mean(1, keepdims=True) if mixed else h
    h = jax.nn.gelu(h @ p["mid"]) / (1.0 + (h * h).sum(-1, keepdims=True))
    return (h @ p["out"])[:, -1]


@pytest.mark.parametrize("mixed, positions", [(False, (1, 1, 1)), (True, (6, 1, 1))])
def test_positions_that_do_not_matter_are_left_out(mixed, positions):
    """Where nothing before mixes the six positions, a layer is contracted at the last one alone."""
    params = {
        "in": PARAMS["w"],
        "b": PARAMS["b"],
        "mid": jax.random.normal(KEY, (5, 4)),
        "out": jnp.ones((4, 2)),
    }
    x = jax.random.normal(KEY, (3, 6, 3))
    net = functools.partial(last, mixed=mixed)
    made = empirical.plan(net, params, x)
    found = {made.paths[group.leaf]: group.terms[0].sizes[0] for group in made.groups}
    assert (found["in"], found["mid"], found["out"]) == positions
    compare(net, params, x, x[:2], forms=("full", "trace"))


@pytest.mark.parametrize(
    "change, error, match",
    [
        ({"form": "block"}, ValueError, "form must be one of full, trace"),
        ({"x1": X[0, 0]}, ValueError, "A single sample is x"),
        ({"x1": X[:0]}, ValueError, "at least 1 sample"),
        ({"x1": {"a": X, "b": X[:2]}}, ValueError, "the same for all its arrays"),
        ({"x1": [1.0, 2.0]}, TypeError, "got float"),
        ({"x1": {}}, ValueError, "must hold arrays"),
        ({"x2": X[:, :2]}, ValueError, "same shapes and dtypes"),
        ({"x2": X[:2], "form": "self"}, ValueError, "as many of both"),
        ({"params": {"n": jnp.arange(3)}}, TypeError, "n is of dtype int32.*close over"),
        ({"params": {}}, ValueError, "no array to differentiate by"),
        ({"rates": {"w": 1.0}}, ValueError, "structure of params"),
        ({"rates": {"w": X, "b": 1.0, "out": 1.0}}, ValueError, "one number for each"),
        ({"dtype": "float16"}, ValueError, "'float32' or 'float64'"),
        ({"apply": lambda p, x: (apply(p, x), 0)}, TypeError, "returned a tuple"),
        ({"apply": lambda p, x: apply(p, x).argmax(-1)}, TypeError, "returned int32"),
        ({"apply": lambda p, x: apply(p, x).sum()}, ValueError, r"shape \(\)"),
        ({"apply": lambda p, x: x}, ValueError, "depend on no parameter"),
    ],
)
def test_bad_input_meets_a_sentence(change, error, match):
    """What was expected, what came, what to do."""
    given = {"apply": apply, "params": PARAMS, "x1": X} | change
    with pytest.raises(error, match=match):
        empirical.ntk(given.pop("apply"), given.pop("params"), given.pop("x1"), **given)


def test_one_sample_one_output_and_plain_numpy():
    """Outputs [N] are one output; arrays may be NumPy's, parameters a bare array."""
    x = np.array([[1.0, 2.0, 3.0]], np.float32)
    theta = empirical.ntk(lambda w, x: x @ w, np.ones(3, np.float32), x)
    assert theta.shape == (1, 1, 1, 1) and theta[0, 0, 0, 0] == 14.0


def test_float64_on_request():
    """Outside a trace it is switched on for the call; inside it must be on already."""
    theta = empirical.ntk(apply, PARAMS, X, form="trace", dtype="float64")
    assert theta.dtype == np.float64 and jnp.ones(()).dtype == jnp.float32
    with pytest.raises(ValueError, match="enable_x64"):
        jax.jit(lambda p: empirical.ntk(apply, p, X, dtype="float64"))(PARAMS)


def test_a_kernel_that_is_not_finite_raises():
    """Never NaN in silence: a float16 network that overflows says so, and float64 is the way out."""
    params = jax.tree.map(lambda leaf: (300 * leaf).astype(jnp.float16), PARAMS)

    def overflows(p, x):
        return ((x @ p["w"] + p["b"][None]) ** 2) @ p["out"]

    x = X.astype(jnp.float16)
    with pytest.raises(FloatingPointError, match="dtype='float64'"):
        empirical.ntk(overflows, params, x)
    assert np.isfinite(empirical.ntk(overflows, params, x, dtype="float64")).all()
