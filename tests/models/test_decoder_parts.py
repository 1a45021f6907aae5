"""What a decoder is made of, each part by itself: tables, norms, positions, grouped attention."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.decoders import compiled
from widelimit.models import Dense, Embedding, EmbeddingShape, LayerShape, Norm, NormShape, finite, growing
from widelimit.models.layers import wide_einsum
from widelimit.models.transformer import alibi_slopes, attend, rotary_angles
from widelimit.models.transformer.activations import feedforward_activation
from widelimit.models.transformer.fused import attend_fused
from widelimit.models.transformer.positions import rotate, signal
from widelimit.scaling import mup

SIZES = {"width": 6, "base_width": 3}
TABLE = EmbeddingShape(entries=5, outputs=growing(6, 3), std=0.5, **SIZES)
RANDOM = np.random.default_rng(0)


def test_a_table_looks_rows_up():
    """Rows times the multiplier, any integer dtype; a token outside gives NaN, which no loss overlooks."""
    table = RANDOM.normal(size=(5, 6)).astype(np.float32)
    layer = Embedding(TABLE, mup(table=9))
    variables = {"params": {"table": table}, "multipliers": {"table": 0.7}}
    for dtype in ("int32", "uint16", "uint8"):
        found = layer.apply(variables, jnp.array([[4, 0], [2, 2]], dtype))
        np.testing.assert_allclose(found, 0.7 * table[[[4, 0], [2, 2]]], rtol=1e-6)
    outside = layer.apply(variables, jnp.array([1, 5, -1]))
    assert np.isnan(outside).all(-1).tolist() == [False, True, True]
    np.testing.assert_allclose(layer.apply(variables, 3, method="first"), 0.7 * table[:3], rtol=1e-6)


def test_a_tables_gradient_counts_its_uses():
    """Each row's gradient is the sum over the places where it was looked up, zero for the others."""
    layer, tokens = Embedding(TABLE, mup()), np.array([[4, 0, 4], [4, 2, 0]])
    weight = RANDOM.normal(size=(2, 3, 6)).astype(np.float32)

    def loss(table):
        rows = layer.apply({"params": {"table": table}, "multipliers": {"table": 0.7}}, jnp.asarray(tokens))
        return jnp.sum(rows * weight)

    expected = np.zeros((5, 6))
    np.add.at(expected, tokens, 0.7 * weight)
    np.testing.assert_allclose(jax.grad(loss)(jnp.ones((5, 6))), expected, rtol=1e-5, atol=1e-6)


def test_a_table_declares_itself():
    """Input-like with its entries as fan-in, also at the base width; its std is what was given."""
    for width in (3, 6, 30):
        shape = EmbeddingShape(entries=5, outputs=growing(width, 3), std=0.5, width=width, base_width=3)
        leaf = shape.leaves("embedding")["table"]
        assert (leaf.path, leaf.role.value, leaf.fan_in) == ("embedding/table", "input", 5)
        assert leaf.init_scale / np.sqrt(leaf.fan_in) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="std is a standard deviation, 0 or more; got -1"):
        EmbeddingShape(entries=5, outputs=growing(6, 3), std=-1, **SIZES)
    layer = Embedding(TABLE, mup())
    with pytest.raises(ValueError, match="Embedding is no readout; declare it with EmbeddingShape"):
        layer.apply(
            {"params": {"table": jnp.ones((5, 6))}, "multipliers": {"table": 1.0}},
            jnp.ones((2, 6)),
            method="readout",
        )


@pytest.mark.parametrize("kind", ["rms", "layer"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_norm_is_its_formula(kind, bias):
    """Mean square one (after the mean is taken away), then 1 + multiplier gain, then multiplier bias."""
    x = RANDOM.normal(1.0, 2.0, size=(2, 4, 6)).astype(np.float32)
    params = {"gain": RANDOM.normal(size=6).astype(np.float32)}
    multipliers = {"gain": 0.3}
    shape = NormShape(axis=growing(6, 3), gains=True, bias=bias, **SIZES)
    centred = x - x.mean(-1, keepdims=True) if kind == "layer" else x
    expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 0.1) * (1 + 0.3 * params["gain"])
    if bias:
        params["bias"], multipliers["bias"] = RANDOM.normal(size=6).astype(np.float32), -2.0
        expected = expected - 2.0 * params["bias"]
    layer = Norm(shape, mup(), kind, epsilon=0.1)
    found = layer.apply({"params": params, "multipliers": multipliers}, jnp.asarray(x))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    made = layer.init(jax.random.key(0), jnp.asarray(x))["params"]
    assert set(made) == set(params) and not any(map(np.any, made.values()))


def test_a_norm_of_bfloat16_counts_in_float32():
    """Statistics of many entries would lose themselves in 8 bits; what comes out is rounded once."""
    x = (1000.0 + RANDOM.normal(size=(2, 4096))).astype(jnp.bfloat16)
    shape = NormShape(axis=growing(4096, 64), width=4096, base_width=64)
    for kind in ("rms", "layer"):
        narrow = Norm(shape, mup(), kind).apply({}, jnp.asarray(x))
        exact = Norm(shape, mup(), kind).apply({}, jnp.asarray(x, jnp.float32))
        assert narrow.dtype == jnp.bfloat16 and exact.dtype == jnp.float32
        np.testing.assert_array_equal(narrow, exact.astype(jnp.bfloat16))
    with pytest.raises(ValueError, match="Norm expects inputs whose last axis has size 4096; got shape"):
        Norm(shape, mup()).apply({}, jnp.ones((2, 5)))
    with pytest.raises(ValueError, match="a norm is one of rms, layer; got 'batch'"):
        Norm(shape, mup(), "batch").apply({}, jnp.asarray(x))


def test_rotated_products_know_the_distance_alone():
    """(R_t q).(R_s k) is the same for all t, s of equal t - s, keeps lengths, and does depend on t - s."""
    with jax.enable_x64(True):
        angles = rotary_angles(9, 6)
        cosine, sine = jnp.cos(angles), jnp.sin(angles)
        q, k = (jnp.broadcast_to(jnp.asarray(RANDOM.normal(size=6)), (9, 1, 6)) for _ in range(2))
        turned, other = rotate(q, cosine, sine)[:, 0], rotate(k, cosine, sine)[:, 0]
        products = np.asarray(turned @ other.T)
    np.testing.assert_allclose(np.linalg.norm(turned, axis=-1), np.linalg.norm(q[:, 0], axis=-1), rtol=1e-12)
    for distance in range(-8, 9):
        diagonal = products.diagonal(distance)
        np.testing.assert_allclose(diagonal, diagonal[0], rtol=0, atol=1e-12)
    assert np.ptp(products[0]) > 0.1


def test_slopes_of_linear_biases():
    """2^(-8 k / H); for other numbers of heads the published interpolation, here of 12 and of 6."""
    np.testing.assert_allclose(alibi_slopes(8), 2.0 ** -np.arange(1, 9), rtol=1e-15)
    np.testing.assert_allclose(alibi_slopes(16), 2.0 ** (-np.arange(1, 17) / 2), rtol=1e-14)
    np.testing.assert_allclose(alibi_slopes(12), [*2.0 ** -np.arange(1, 9), *2.0 ** -(np.arange(4) + 0.5)])
    np.testing.assert_allclose(alibi_slopes(6), [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3])
    np.testing.assert_allclose(alibi_slopes(1), [2.0**-8])


def test_grouped_heads_are_repeated_heads():
    """Keys and values of K heads serve consecutive query heads: as if each had been repeated H/K times."""
    draw = lambda heads: jnp.asarray(RANDOM.normal(size=(2, 5, heads, 4)), jnp.float32)  # noqa: E731
    query, key, value = draw(6), draw(2), draw(2)
    bias = jnp.asarray(RANDOM.normal(size=(6, 5, 5)), jnp.float32)
    repeated = [np.repeat(array, 3, axis=2) for array in (key, value)]
    mixed = compiled(lambda key, value: attend(query, key, value, 0.4, bias))
    grouped, swapped = mixed(key, value), mixed(key[:, :, ::-1], value)
    np.testing.assert_allclose(grouped, mixed(*repeated), rtol=1e-5, atol=1e-6)
    assert np.abs(grouped[:, :, 0] - swapped[:, :, 0]).max() > 0.01


@pytest.mark.parametrize(("length", "kind"), [(70, "alibi"), (131, "none")])
def test_causal_attention_in_parts(length, kind):
    """Sequences long enough to be cut: leaving out keys that are later than a part changes nothing."""
    query, key, value = (jnp.asarray(RANDOM.normal(size=(1, length, n, 2)), jnp.float32) for n in (4, 2, 2))
    bias = signal(kind, length=length, heads=4, head_size=2, causal=True, dtype="float32").bias

    def mixed(causal):
        return compiled(lambda *arrays: attend(*arrays, 0.4, bias, causal=causal))(query, key, value)

    np.testing.assert_allclose(mixed(True), mixed(False), rtol=1e-5, atol=1e-6)


def test_fused_attention_is_given_the_same_problem():
    """Masks, slopes, groups and the scale as they are handed to a fused kernel, here to XLA's own."""
    query, key, value = (
        jnp.asarray(RANDOM.normal(size=(2, 5, heads, 4)), jnp.float32) for heads in (4, 2, 2)
    )
    told = {"length": 5, "heads": 4, "head_size": 4, "dtype": "float32"}
    for kind in ("alibi", "none"):
        masked, bare = (signal(kind, causal=causal, **told).bias for causal in (True, False))
        own = compiled(lambda query, masked=masked: attend(query, key, value, 0.4, masked))(query)
        fused = compiled(
            lambda query, bare=bare: attend_fused(
                query, key, value, 0.4, bare, causal=True, implementation="xla"
            )
        )(query)
        np.testing.assert_allclose(fused, own, rtol=1e-5, atol=1e-6)
    with pytest.raises(RuntimeError, match="attention_kernel='cudnn' needs an NVIDIA GPU"):
        attend_fused(*(array.astype(jnp.bfloat16) for array in (query, key, value)), 0.4, None, causal=True)


def test_wide_products_of_narrow_arrays():
    """bfloat16 in, float32 out: each entry is the float32 sum of products, and tangents follow to 2^-8."""
    x, y = (jnp.asarray(RANDOM.normal(size=shape), jnp.bfloat16) for shape in ((3, 64), (64, 5)))
    exact = np.asarray(x, np.float32) @ np.asarray(y, np.float32)
    product = compiled(lambda x: wide_einsum("...i,ij->...j", "float32", x, y))
    np.testing.assert_allclose(product(x), exact, rtol=1e-5, atol=1e-5)
    slope = jax.grad(lambda x: wide_einsum("...i,ij->...j", "float32", x, y).sum())(x)
    assert slope.dtype == jnp.bfloat16
    expected = np.broadcast_to(np.asarray(y, np.float32).sum(1), (3, 64))
    np.testing.assert_allclose(np.asarray(slope, np.float32), expected, rtol=2**-7, atol=2**-7)


def test_a_dense_layer_in_bfloat16():
    """The multiplier keeps all digits: it is applied to the kernel before that is rounded."""
    shape = LayerShape(inputs=growing(6, 3), outputs=finite(1), **SIZES)
    layer = Dense(shape, mup(), compute_dtype="bfloat16", output_dtype="float32")
    variables = {
        "params": {"kernel": jnp.full((6, 1), 3.0), "bias": jnp.ones(1)},
        "multipliers": {"kernel": 1 / 3, "bias": 0.5},
    }
    x = jnp.ones((2, 6), jnp.bfloat16)
    np.testing.assert_array_equal(layer.apply(variables, x), np.full((2, 1), 6.5, np.float32))
    assert Dense(shape, mup(), compute_dtype="bfloat16").apply(variables, x).dtype == jnp.bfloat16
    with pytest.raises(TypeError, match="Dense has products of dtype bfloat16 and inputs of dtype float32"):
        layer.apply(variables, x.astype(jnp.float32))


def test_the_squared_rectifier():
    """max(x, 0)^2 and its slope 2 max(x, 0); names that it does not know are passed on or refused."""
    phi = feedforward_activation("relu_squared")
    x = jnp.array([-2.0, 0.0, 3.0])
    assert phi(x).tolist() == [0.0, 0.0, 9.0]
    assert jax.vmap(jax.grad(phi))(x).tolist() == [0.0, 0.0, 6.0]
    assert feedforward_activation("tanh") is jnp.tanh and feedforward_activation(phi) is phi
    with pytest.raises(TypeError, match="activation must be a function or the name of one; got 3"):
        feedforward_activation(3)
