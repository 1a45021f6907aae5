"""Whatever shapes, layouts and modes an operation has: the structured kernel is that of the Jacobians."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.kernels.empirical.reference import compare
from widelimit.kernels import empirical

KEYS = jax.random.split(jax.random.key(5), 8)
FEW = settings(deadline=None, max_examples=2, derandomize=True, phases=[Phase.explicit, Phase.generate])
small = st.integers(1, 4)


def normal(number, *shape):
    """An array that depends on its number."""
    return jax.random.normal(KEYS[number], shape)


def kinds(apply, params, x, form="full"):
    """Kind and contraction of each parameter by name."""
    return {path.name: path.kind for path in empirical.plan(apply, params, x, form=form).leaves()}


@FEW
@given(sizes=st.tuples(*[small] * 6), biased=st.booleans())
def test_dense_layers_of_any_shape(sizes, biased):
    """Several contracted and several free axes, positions, one sample, one output."""
    n, s, a, b, c, o = sizes
    params = {"first": normal(0, b, c, 3, a), "bias": normal(1, c, 3), "last": normal(2, 3, c, o)}

    def apply(p, x):
        h = jnp.einsum("nsab,bcda->nscd", x, p["first"])
        h = jnp.tanh(h + p["bias"][None, None] if biased else h)
        return jnp.einsum("nscd,dco->no", h, p["last"])

    x = normal(3, n, s, a, b)
    found = kinds(apply, params, x)
    assert found["first"] == found["last"] == "dense"
    assert found["bias"] == ("bias" if biased else "unused")
    compare(apply, params, x, normal(4, 2, s, a, b), forms=("full", "trace", "diagonal"))


@FEW
@given(
    window=st.tuples(small, small),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    dilation=st.integers(1, 2),
    padding=st.tuples(st.integers(-1, 2), st.integers(0, 2)),
    layout=st.sampled_from([("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NHWC"), ("NHWC", "OHWI", "NCHW")]),
)
def test_convolutions_of_any_shape(window, stride, dilation, padding, layout):
    """Windows, strides, dilations, padding (negative too) and layouts."""
    sizes = {"H": window[0], "W": window[1], "I": 2, "O": 3}
    params = {"kernel": normal(0, *(sizes[axis] for axis in layout[1])), "bias": normal(1, 3)}

    def apply(p, x):
        images = x if layout[0] == "NHWC" else x.transpose(0, 3, 1, 2)
        y = jax.lax.conv_general_dilated(
            images, p["kernel"], stride, (padding, padding), (dilation, 1), (1, dilation), layout
        )
        y = y if layout[2] == "NHWC" else y.transpose(0, 2, 3, 1)
        return jnp.tanh(y + p["bias"][None, None, None]).mean((1, 2))

    x = normal(2, 2, 9, 10, 2)
    found = kinds(apply, params, x)
    assert found["kernel"] == "conv"
    compare(apply, params, x, forms=("full", "trace"))


@pytest.mark.parametrize("mode", ["fill", "clip", "wrap", "promise_in_bounds"])
def test_lookups_beyond_the_table(mode):
    """Ids that are negative, repeated and too large, in every mode; integers of any kind."""
    beyond = [[0, 5, -1, 2], [7, 9, 3, 3]]
    ids = jnp.array([[0, 5, 5, 2], [3, 3, 3, 3]] if mode == "promise_in_bounds" else beyond)
    params = {"table": normal(0, 6, 4), "w": normal(1, 4, 2)}

    def apply(p, x):
        if mode == "promise_in_bounds":
            rows = p["table"].at[x].get(mode=mode)
        else:
            rows = jnp.take(p["table"], x, axis=0, mode=mode, fill_value=0 if mode == "fill" else None)
        return jnp.tanh(rows @ p["w"]).sum(1)

    found = kinds(apply, params, ids)
    assert found["table"] == "embedding"
    compare(apply, params, ids, forms=("full", "trace", "self"))
    compare(apply, params, ids.astype(jnp.int8), dtype="float32", forms=("full",))


def test_a_column_of_a_table_is_no_row():
    """Lookups along another axis, of part of a row, and of single entries."""
    params = {"columns": normal(0, 4, 6), "part": normal(1, 6, 4), "entry": normal(2, 6, 4)}

    def apply(p, ids):
        part = jax.vmap(lambda i: jax.lax.dynamic_slice(p["part"], (i, i), (2, 3)))(ids[:, 0])
        return (
            jnp.tanh(p["columns"][:, ids].sum((0, 2))[:, None] + part.sum((1, 2))[:, None])
            + (p["entry"][ids[:, 0], ids[:, 1]][:, None])
        )

    ids = jnp.array([[0, 3], [3, 3], [1, 2]])
    assert kinds(apply, params, ids)["columns"] == "embedding"
    compare(apply, params, ids)


def test_one_weight_both_ways_and_in_parts():
    """Transposed uses share all entries, disjoint slices none, and overlapping slices go by Jacobian."""
    params = {
        "tied": normal(0, 4, 4),
        "split": normal(1, 4, 6),
        "overlap": normal(2, 4, 5),
        "out": normal(3, 3, 2),
    }

    def apply(p, x):
        h = jnp.tanh(x @ p["tied"]) @ p["tied"].T
        q, k = jnp.split(p["split"], 2, axis=1)
        h = jnp.tanh(h @ q) * (x @ k) + jnp.tanh(x @ p["overlap"][:, :3]) + x @ p["overlap"][:, 2:]
        return h @ (p["out"] * 0.5) - h @ -p["out"] / 3

    found = kinds(apply, params, x := normal(4, 3, 4))
    assert found == {"tied": "tied", "split": "dense", "overlap": "jacobian", "out": "dense"}
    compare(apply, params, x, normal(5, 2, 4))


def test_factors_enter_squared():
    """Multipliers before and after the product: numbers, arrays, parameters and functions of the data."""
    params = {"w": normal(0, 3, 4), "b": normal(1, 4), "gain": jnp.array(1.5), "out": normal(2, 4, 2)}
    multiplier = jnp.array(0.3)

    def apply(p, x):
        size = jnp.sqrt((x * x).sum())
        h = -0.7 * (x @ (p["w"] * p["gain"] / size)) * multiplier + (multiplier * 2.0) * p["b"][None]
        return jnp.tanh(h) @ p["out"]

    def single(p, x):
        return jax.vmap(lambda sample: apply(p, sample[None])[0])(x)

    x = normal(3, 4, 3)
    assert kinds(apply, params, x) == {"w": "dense", "b": "bias", "gain": "gain", "out": "dense"}
    compare(single, params, x, normal(4, 2, 3), rates={"w": 0.5, "b": 2.0, "gain": 3.0, "out": 1.0})


@pytest.mark.slow
def test_what_has_no_structure_is_exact_too():
    """Grouped convolutions, batched products, custom derivatives, branches, long loops, sums of weights."""

    @jax.custom_vjp
    def odd(w):
        return w * 2.0

    odd.defvjp(lambda w: (w * 2.0, None), lambda _, g: (7.0 * g,))
    shapes = {"grouped": (3, 1, 4), "batched": (2, 3, 2), "custom": (4, 2), "branch": (4, 2), "loop": (2, 2)}
    shapes |= {
        "left": (4, 3),
        "right": (3, 2),
        "low": (4, 2),
        "unused": (3,),
        "stopped": (4, 2),
        "output": (2,),
    }
    params = {name: normal(n % 8, *shape) for n, (name, shape) in enumerate(shapes.items())}

    def apply(p, x):
        h = jax.lax.conv_general_dilated(
            x, p["grouped"], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=2
        )
        heads = h.reshape(-1, 12, 2)[..., None] * jnp.arange(1.0, 4.0, dtype=x.dtype)[None, None, None]
        y = jnp.tanh(jnp.einsum("nwhk,hkd->nhd", heads, p["batched"])).sum(1)
        h = h.sum(1)
        y = y + h @ odd(p["custom"]) + h @ (p["left"] @ p["right"] + jnp.tanh(p["low"]))
        y = y + h @ jax.lax.stop_gradient(p["stopped"])
        y = y + jax.lax.cond(x.sum() > 0, lambda w: h @ w, lambda w: jnp.sin(h) @ w, p["branch"])
        y, _ = jax.lax.scan(lambda y, _: (jnp.tanh(y @ p["loop"]), None), y, length=65)
        return y * p["output"][None]

    def single(p, x):
        return jnp.concatenate([apply(p, x[i : i + 1]) for i in range(x.shape[0])])

    x = normal(6, 2, 6, 2)
    found = kinds(single, params, x[:1])
    direct = {"grouped", "batched", "custom", "branch", "loop", "low"}
    assert {name for name, kind in found.items() if kind == "jacobian"} >= direct
    assert found["unused"] == found["stopped"] == "unused" and found["output"] == "gain"
    compare(single, params, x)


@pytest.mark.slow
def test_large_intermediate_arrays_are_cut_in_pieces(monkeypatch):
    """Rows of gradients, rows of Gram matrices and outputs, with pieces that do not divide them."""
    params = {"table": normal(0, 7, 4), "w": normal(1, 4, 5), "bias": normal(2, 5)}

    def apply(p, ids):
        h = jnp.tanh(p["table"][ids] @ p["w"] + p["bias"][None, None]).sum(1)
        return h[:, :4] @ p["table"].T

    ids = jnp.array([[0, 1, 1], [6, 2, 0], [3, 3, 3]])
    for piece in (40, 200, 600):
        for module in ("products", "ntk"):
            monkeypatch.setattr(sys.modules[f"widelimit.kernels.empirical.{module}"], "PIECE", piece)
        compare(apply, params, ids, ids[:2])


SLOW = [pytest.param(form, marks=pytest.mark.slow) for form in ("diagonal", "self")]


@pytest.mark.parametrize("way", ["gram", "gradient"])
@pytest.mark.parametrize("form", ["full", "trace", *SLOW])
def test_both_contractions_agree(monkeypatch, way, form):
    """Gram matrices and gradients are two ways to one kernel, tied and shared weights included."""
    params = {"table": normal(0, 5, 4), "w": normal(1, 4, 4), "bias": normal(2, 4)}

    def apply(p, ids):
        h = p["table"][ids]
        for _ in range(2):
            h = jnp.tanh(h @ p["w"] + p["bias"][None, None])
        return h[:, -1] @ p["table"].T

    ids = jnp.array([[0, 1, 1], [4, 2, 0]])
    module = sys.modules["widelimit.kernels.empirical.contract"]
    monkeypatch.setattr(module, "choose", lambda groups, clusters, size: [way] * len(groups))
    compare(apply, params, ids, ids[::-1], forms=(form,))


@pytest.mark.slow
def test_half_precision_accumulates_in_float32():
    """bfloat16 and float16 parameters and inputs: the kernel is float32, of the rounded network."""
    params = {"w": normal(0, 16, 64), "b": normal(1, 64), "out": normal(2, 64, 2) / 8}

    def apply(p, x):
        return jnp.tanh(x @ p["w"] + p["b"][None]) @ p["out"]

    for dtype, tolerance in ((jnp.bfloat16, 2**-7), (jnp.float16, 2**-10)):
        low = jax.tree.map(lambda a: a.astype(dtype), (params, normal(3, 3, 16)))  # noqa: B023
        theta = empirical.ntk(apply, *low, form="trace")
        exact = np.asarray(empirical.ntk(apply, *low, form="trace", dtype="float64"))
        assert theta.dtype == jnp.float32 and exact.dtype == np.float64
        # Roundings of activations and cotangents, a few per entry, average out over 64 units.
        assert abs(np.asarray(theta) - exact).max() < 4 * tolerance * exact.max()
