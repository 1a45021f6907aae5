"""Cotangents that depend on the output alike for all samples: the trace needs their squares only."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.ntk_flops import count
from tests.kernels.empirical.reference import BOUND, compare, contracted, convert, distance, jacobians
from widelimit.kernels import empirical

N, INPUTS, WIDTH, OUTPUTS = 4, 3, 5, 6
KEYS = jax.random.split(jax.random.key(0), 8)
PARAMS = {
    "in": jax.random.normal(KEYS[0], (INPUTS, WIDTH)),
    "bias": jax.random.normal(KEYS[1], (WIDTH,)),
    "mid": jax.random.normal(KEYS[2], (WIDTH, WIDTH)),
    "out": jax.random.normal(KEYS[3], (WIDTH, OUTPUTS)),
    "shift": jax.random.normal(KEYS[4], (OUTPUTS,)),
}
X = jax.random.normal(KEYS[5], (N, INPUTS))


def hidden(p, x):
    """What the readout sees."""
    h = jnp.tanh(x @ p["in"] + p["bias"][None])
    return jax.nn.gelu(h @ p["mid"])


def plain(p, x):
    return 0.3 * (hidden(p, x) @ p["out"]) + p["shift"][None]


def residual(p, x):
    h = jnp.tanh(x @ p["in"] + p["bias"][None])
    return (h + jax.nn.relu(h @ p["mid"])) @ p["out"] + p["shift"][None]


def halves(p, x):
    y = hidden(p, x) @ p["out"]
    return jnp.concatenate(
        [y[:, :2] - y[:, 2:4], y[:, ::2].sum(1, keepdims=True), p["shift"][None, :1] + y[:, :1]], 1
    )


def squared(p, x):
    return jnp.square(hidden(p, x) @ p["out"] + p["shift"][None])


def scaled(p, x):
    return x[:, :1] * (hidden(p, x) @ p["out"]) + p["shift"][None]


def normed(p, x):
    h = hidden(p, x)
    return (h - h.mean(1, keepdims=True)) @ p["out"] + p["shift"][None]


def gated(p, x):
    h = hidden(p, x)
    return (h * h.sum(1, keepdims=True)) @ p["out"] + p["shift"][None]


def twice(p, x):
    h = hidden(p, x)
    return h @ p["out"] + jnp.tanh(h) @ p["out"] + p["shift"][None]


def pooled(p, x):
    y = x[:, None] * jnp.arange(1, 5, dtype=x.dtype)[None, :, None]
    h = jnp.tanh(y @ p["in"] + p["bias"][None, None])
    return jax.nn.gelu(h @ p["mid"]).mean(1) @ p["out"] + p["shift"][None]


def alike(apply):
    """The parameters whose cotangents are alike."""
    made = empirical.plan(apply, PARAMS, X, form="trace")
    assert ("gradient" in made.ways) == (apply is pooled)  # both ways of contracting are met
    return {made.paths[group.leaf] for group in made.groups if group.terms[0].alike}


@pytest.mark.parametrize(
    ("apply", "found"),
    [
        (plain, {"mid", "out", "shift"}),
        (residual, {"mid", "out", "shift"}),
        (halves, {"mid", "out"}),  # the shift is added to a part, so it has no layer
        (squared, {"out", "shift"}),  # a function of single outputs, but not linear for what is before
        (scaled, {"out"}),
        (normed, {"out", "shift"}),  # linear, but no entry of the layer goes one way alone
        (gated, {"out", "shift"}),
        (twice, set()),  # one weight used twice: its gradients are added first
        (pooled, {"mid", "out", "shift"}),
    ],
)
def test_the_kernel_is_that_of_jacobians(apply, found):
    """Linear behind functions of single entries, whatever its form: folded. What sees the sample: not."""
    assert alike(apply) - {"bias"} == found
    compare(apply, PARAMS, X, X[:2], forms=("trace",))


@pytest.mark.slow
def test_other_forms_and_blocks_of_outputs_are_the_same():
    """A plan for the trace serves every form; its features hold no array without the samples' axis."""
    made = empirical.plan(plain, PARAMS, X, form="trace")
    found = empirical.features(made, PARAMS, X)
    assert {a.shape[0] for a in jax.tree.leaves(found)} == {N}
    for form in ("full", "diagonal", "self", "trace"):
        np.testing.assert_allclose(
            empirical.contract(made, found, found, form),
            empirical.ntk(plain, PARAMS, X, form=form),
            rtol=2e-5,
            atol=2e-5,
        )
    rows = jnp.eye(OUTPUTS)
    parts = [empirical.features(made, PARAMS, X, rows[some]) for some in (slice(0, 2), slice(2, OUTPUTS))]
    total = sum(empirical.contract(made, part, part) for part in parts)
    np.testing.assert_allclose(total, empirical.ntk(plain, PARAMS, X, form="trace"), rtol=2e-5, atol=2e-5)


def test_features_of_two_sets_of_parameters():
    """The products of gradients at two points take the rows of both: sum_o R_o(m) R'_o(m)."""
    with jax.enable_x64(True):
        params, x = convert(PARAMS, "float64"), convert(X, "float64")
        other = jax.tree.map(lambda leaf: leaf[::-1] + 0.5, params)
        made = empirical.plan(plain, params, x, form="trace")
        one, two = (empirical.features(made, p, x) for p in (params, other))
        found = np.asarray(empirical.contract(made, one, two))
        want = sum(contracted(jacobians(plain, params, x), jacobians(plain, other, x), "trace"))
    assert distance(found, want) < BOUND["float64"]


def test_a_readout_of_zeros_is_differentiated_through():
    """Weights enter as squares, not as norms: the kernel's gradient is finite where the readout is zero."""
    params = PARAMS | {"out": jnp.zeros((WIDTH, OUTPUTS))}
    slopes = jax.grad(lambda p: empirical.ntk(plain, p, X, form="trace").sum())(params)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(slopes))


def test_the_outputs_are_not_paid_for():
    """A network with one hidden layer: pairs of samples cost 2 (K + M + M + O), with no factor O anywhere."""
    params = {"in": jnp.ones((7, 16)), "out": jnp.ones((16, 9))}
    x = jnp.ones((32, 7))

    def apply(p, x):
        return jnp.tanh(x @ p["in"]) @ p["out"]

    def spent(rows):
        return count(lambda p: empirical.ntk(apply, p, x[:rows], x[:rows], form="trace"), params)

    few, more, most = (spent(rows) - rows**2 * 2 * (7 + 16 + 16 + 9) for rows in (8, 16, 32))
    assert most - more == 2 * (more - few)  # what is left is linear in the samples
    table = {path.name: path.flops for path in empirical.plan(apply, params, x, form="trace").leaves()}
    assert table == {"in": 2 * 32**2 * (7 + 16), "out": 2 * 32**2 * (16 + 9)}


@jax.custom_jvp
def relu(x):
    """Its derivative, wrong on purpose, mixes the positions that the function keeps apart."""
    return jnp.maximum(x, 0)


@relu.defjvp
def _mixing(primals, tangents):
    slope = (primals[0] > 0).astype(tangents[0].dtype)
    return relu(primals[0]), slope * tangents[0].mean(1, keepdims=True)


@pytest.mark.parametrize(("act", "positions"), [(relu, 4), (jax.nn.relu, 1), (jax.nn.softplus, 1)])
def test_a_derivative_of_ones_own_is_traced_not_trusted(act, positions):
    """What the derivative needs counts, whatever the function is called: relu here means a name, no more."""

    def apply(p, x):
        y = x[:, None] * jnp.arange(1, 5, dtype=x.dtype)[None, :, None]
        return act(act(y @ p["in"] + p["bias"][None, None]) @ p["mid"])[:, -1] @ p["out"] + p["shift"][None]

    made = empirical.plan(apply, PARAMS, X)
    sizes = {made.paths[group.leaf]: group.terms[0].sizes[0] for group in made.groups}
    assert sizes["mid"] == positions
    compare(apply, PARAMS, X, X[:2], forms=("trace", "full"))


@jax.custom_jvp
def slope(x):
    """Entry by entry, but its derivative adds up all columns."""
    return jnp.sin(x)


@slope.defjvp
def _sum(primals, tangents):
    return slope(primals[0]), jnp.cos(primals[0]) * tangents[0].sum(-1, keepdims=True)


def test_a_derivative_that_mixes_columns_is_not_folded():
    """The layer before it keeps its cotangents, and the kernel is that of Jacobians."""

    def apply(p, x):
        return slope(jnp.tanh(x @ p["in"] + p["bias"][None]) @ p["mid"]) @ p["out"] + p["shift"][None]

    assert "mid" not in alike(apply)
    compare(apply, PARAMS, X, forms=("trace",))
