"""The trace finds which axes of each parameter a program sums over, however the sum is written."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from widelimit.scaling import Role, probe
from widelimit.scaling.contraction import contractions

BASE, WIDTH = 8, 16
X = jnp.ones((2, 5))
N = "n"
IN, HID, OUT, FIX = Role.INPUT, Role.HIDDEN, Role.OUTPUT, Role.SCALAR


def roles(function, shapes, example=X, overrides=None):
    """Probes ``function(params, example)`` and returns {name: (role, fan_in)}; "n" stands for the width."""

    def init(width):
        sizes = {
            name: [size if isinstance(size, int) else eval(size, {"n": width}) for size in shape]
            for name, shape in shapes.items()
        }
        return {name: jnp.zeros(shape, jnp.float32) for name, shape in sizes.items()}

    leaves = probe(
        init, lambda _, p, e: function(p, e), example, width=WIDTH, base_width=BASE, overrides=overrides
    )
    return {name: (leaf.role, leaf.fan_in) for name, leaf in leaves.items()}


@jax.custom_vjp
def product(x, w):
    return x @ w


product.defvjp(lambda x, w: (x @ w, (x, w)), lambda saved, g: (g @ saved[1].T, saved[0].T @ g))


def normalised(h):
    return (h - h.mean(-1, keepdims=True)) * lax.rsqrt((h * h).mean(-1, keepdims=True) + 1e-6)


def recurrent(p, x):
    carry, _ = lax.scan(lambda h, t: (jnp.tanh(h @ p["w"] + t), None), p["h"], x @ p["i"])
    return carry @ p["o"]


def from_zero(p, x):
    zero = jnp.zeros(p["w"].shape[:1])
    carry, _ = lax.scan(lambda h, t: (jnp.tanh(h @ p["w"] + t @ p["i"]), None), zero, x)
    return carry @ p["o"]


def looped(p, x):
    body = lambda i, h: jnp.tanh(h @ p["w"][i] + p["b"][i][None])  # noqa: E731
    return lax.fori_loop(0, 2, body, x @ p["i"]) @ p["o"]


def while_loop(p, x):
    step = lambda c: (c[0] + 1, jnp.tanh(c[1] @ p["w"]))  # noqa: E731
    return lax.while_loop(lambda c: c[0] < 3, step, (0, x @ p["i"]))[1] @ p["o"]


def branches(p, x):
    return lax.cond(x.sum() > 0, lambda h: h @ p["w"], lambda h: h @ p["u"].T, x @ p["i"]) @ p["o"]


def low_rank(p, x):
    return jnp.tanh((x @ p["i"]) @ (p["w"] + p["a"] @ p["b"])) @ p["o"]


def weight_norm(p, x):
    norm = jnp.sqrt((p["v"] ** 2).sum(0, keepdims=True))
    return (x @ p["i"]) @ (p["g"][None] * p["v"] / norm) @ p["o"]


def gathered_experts(p, e):
    return jnp.einsum("bi,bij->bj", e[0] @ p["i"], p["w"][e[1]]) @ p["o"]


def masked(p, e):
    mask = lambda name: jax.random.bernoulli(e[1], 0.5, p[name].shape).astype(jnp.float32)  # noqa: E731
    return (e[0] @ (p["i"] * mask("i"))) @ (p["w"] * mask("w")) @ p["o"]


def sharded(p, x):
    mesh = jax.make_mesh((1,), ("d",), axis_types=(AxisType.Auto,))
    specs = (P(None, "d"), P("d", None), P())
    run = lambda i, o, x: lax.psum(jnp.tanh(x @ i) @ o, "d")  # noqa: E731
    return jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=P())(p["i"], p["o"], x)


def printed(p, x):
    jax.debug.print("{} {}", p["i"], p["o"].mean())
    return jnp.tanh(x @ p["i"]) @ p["o"]


def power_iteration(p, x):
    left = jnp.ones((2, p["w"].shape[0])) @ p["w"].T
    return (x @ p["i"]) @ (p["w"] / jnp.sum((left @ p["w"]) ** 2)) @ p["o"]


def convolved(p, x):
    y = lax.conv_general_dilated(x, p["w"], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))
    return y @ p["o"]


LAYERS = {"i": (5, N), "w": (N, N), "o": (N, 3)}
ENDS = {"i": (5, N), "o": (N, 3)}
MLP = {"i": (IN, 5), "w": (HID, 16), "o": (OUT, 16)}
EDGES = {"i": (IN, 5), "o": (OUT, 16)}
IDS = jnp.array([0, 1])

DECIDED = {
    "dot": (lambda p, x: jnp.tanh(x @ p["i"]) @ p["o"], ENDS, X, EDGES),
    "transposed": (lambda p, x: jnp.tanh(x @ p["i"].T) @ p["o"].T, {"i": (N, 5), "o": (3, N)}, X, EDGES),
    "hand-written dot": (
        lambda p, x: ((x[:, :, None] * p["i"][None]).sum(1)[:, :, None] * p["o"][None]).sum(1),
        ENDS,
        X,
        EDGES,
    ),
    "hand-written mean": (
        lambda p, x: jnp.mean((x @ p["i"]) * p["v"][None], -1),
        {"i": (5, N), "v": (N,)},
        X,
        {"i": (IN, 5), "v": (OUT, 16)},
    ),
    "gain before a norm": (
        lambda p, x: normalised((x @ p["i"]) * p["g"][None]) @ p["o"],
        {**ENDS, "g": (N,)},
        X,
        {**EDGES, "g": (IN, 1)},
    ),
    "three factors": (lambda p, x: jnp.einsum("bi,ij,jk->bk", x, p["i"], p["o"]), ENDS, X, EDGES),
    "gate": (
        lambda p, x: ((x @ p["i"]) * jax.nn.silu(x @ p["j"])) @ p["o"],
        {**ENDS, "j": (5, N)},
        X,
        {**EDGES, "j": (IN, 5)},
    ),
    "bilinear": (
        lambda p, x: jnp.einsum("bi,ij,bj->b", x @ p["i"], p["w"], x @ p["i"]),
        {"i": (5, N), "w": (N, N)},
        X,
        {"i": (IN, 5), "w": (HID, 16)},
    ),
    "low rank": (
        low_rank,
        {**LAYERS, "a": (N, 2), "b": (2, N)},
        X,
        {**MLP, "a": (OUT, 16), "b": (IN, 2)},
    ),
    "two matrices first": (
        lambda p, x: (x @ p["i"]) @ (p["w"] @ p["u"]) @ p["o"],
        {**LAYERS, "u": (N, N)},
        X,
        {**MLP, "u": (HID, 16)},
    ),
    "weight norm": (
        weight_norm,
        {**ENDS, "v": (N, N), "g": (N,)},
        X,
        {**EDGES, "v": (HID, 16), "g": (IN, 1)},
    ),
    "spectral norm": (
        lambda p, x: (x @ p["i"]) @ (p["w"] / jnp.linalg.norm(p["w"])) @ p["o"],
        LAYERS,
        X,
        MLP,
    ),
    "spectral norm by power iteration": (power_iteration, LAYERS, X, MLP),
    "printed": (printed, ENDS, X, EDGES),
    "norm by einsum": (
        lambda p, x: (
            (x @ p["i"]) @ (p["w"] / jnp.sqrt(jnp.einsum("ij,ij->j", p["w"], p["w"]))[None]) @ p["o"]
        ),
        LAYERS,
        X,
        MLP,
    ),
    "gain of the input": (
        lambda p, x: (x @ p["i"]) @ (p["g"][:, None] * p["w"]) @ p["o"],
        {**LAYERS, "g": (N,)},
        X,
        {**MLP, "g": (IN, 1)},
    ),
    "exponentiated gain": (
        lambda p, x: ((x @ p["i"]) * jnp.exp(p["g"])[None]) @ p["o"],
        {**ENDS, "g": (N,)},
        X,
        {**EDGES, "g": (IN, 1)},
    ),
    "one-hot": (
        lambda p, e: jnp.tanh(jax.nn.one_hot(e, 7) @ p["e"]) @ p["o"],
        {"e": (7, N), "o": (N, 3)},
        IDS,
        {"e": (IN, 7), "o": (OUT, 16)},
    ),
    "lookup": (
        lambda p, e: normalised(jnp.take(p["e"], e, axis=0)) @ p["o"],
        {"e": (7, N), "o": (N, 3)},
        IDS,
        {"e": (IN, 7), "o": (OUT, 16)},
    ),
    "positions by index": (
        lambda p, x: (x @ p["i"] + p["e"][jnp.arange(2)]) @ p["o"],
        {**ENDS, "e": (7, N)},
        X,
        {**EDGES, "e": (IN, 1)},
    ),
    "factorised positions": (
        lambda p, x: (x @ p["i"] + p["e"] @ p["f"]) @ p["o"],
        {**ENDS, "e": (2, 4), "f": (4, N)},
        X,
        {**EDGES, "e": (FIX, 1), "f": (IN, 4)},
    ),
    "class token": (
        lambda p, x: jnp.concatenate([jnp.tile(p["c"], (2, 1, 1)), (x @ p["i"])[:, None]], 1) @ p["o"],
        {**ENDS, "c": (1, 1, N)},
        X,
        {**EDGES, "c": (IN, 1)},
    ),
    "constant basis": (
        lambda p, x: x @ p["i"] + jnp.ones((2, 6)) @ p["c"],
        {"i": (5, N), "c": (6, N)},
        X,
        {"i": (IN, 5), "c": (IN, 6)},
    ),
    "network of constants": (
        lambda p, x: x @ p["w"] + jnp.tanh(jnp.ones((2, 6)) @ p["c"]) @ p["o"],
        {"w": (5, 3), "c": (6, N), "o": (N, 3)},
        X,
        {"w": (FIX, 5), "c": (IN, 6), "o": (OUT, 16)},
    ),
    "mixed inputs": (lambda p, x: x @ (jnp.ones((5, 5)) @ p["i"]) @ p["o"], ENDS, X, EDGES),
    "heads of a block matrix": (
        lambda p, x: (
            jnp.einsum("bhd,hde->bhe", (x @ p["i"]).reshape(2, -1, 4), p["w"]).reshape(2, -1) @ p["o"]
        ),
        {**ENDS, "w": ("n//4", 4, 4)},
        X,
        {**EDGES, "w": (IN, 4)},
    ),
    "fused and sliced": (
        lambda p, x: (x @ p["i"]) @ (p["w"][:, :16] - p["w"][:, 16:]) @ p["o"],
        {**ENDS, "w": (N, "2*n")},
        X,
        MLP,
    ),
    "stack by index": (
        lambda p, x: (x @ p["i"]) @ p["w"][0] @ p["w"][1] @ p["o"],
        {**ENDS, "w": (2, N, N)},
        X,
        MLP,
    ),
    "stack in a loop": (looped, {**ENDS, "w": (2, N, N), "b": (2, N)}, X, {**MLP, "b": (IN, 1)}),
    "while": (while_loop, LAYERS, X, MLP),
    "branches": (branches, {**LAYERS, "u": (N, N)}, X, {**MLP, "u": (HID, 16)}),
    "learned initial state": (recurrent, {**LAYERS, "h": (N,)}, X, {**MLP, "h": (IN, 1)}),
    "zero initial state": (from_zero, LAYERS, X, MLP),
    "rematerialised": (jax.checkpoint(lambda p, x: jnp.tanh(x @ p["i"]) @ p["o"]), ENDS, X, EDGES),
    "custom gradient": (lambda p, x: product(x @ p["i"], p["o"]), ENDS, X, EDGES),
    "ensemble": (
        lambda p, x: jax.vmap(lambda i, o: jnp.tanh(x @ i) @ o)(p["i"], p["o"]),
        {"i": (3, 5, N), "o": (3, N, 3)},
        X,
        EDGES,
    ),
    "mixture of experts": (
        gathered_experts,
        {**ENDS, "w": (4, N, N)},
        (X, IDS),
        MLP,
    ),
    "random mask from the example": (masked, LAYERS, (X, jax.random.key(0)), {**MLP, "i": (IN, 1)}),
    "sharded": (sharded, ENDS, X, EDGES),
    "convolution": (
        convolved,
        {"w": (3, 2, N), "o": (N, 3)},
        jnp.ones((2, 6, 2)),
        {"w": (IN, 6), "o": (OUT, 16)},
    ),
    "half precision": (
        lambda p, x: (x.astype(jnp.bfloat16) @ p["i"].astype(jnp.bfloat16)).astype(jnp.float32) @ p["o"],
        ENDS,
        X,
        EDGES,
    ),
    "penalty in the output": (lambda p, x: x @ p["i"] @ p["o"] + (p["o"] ** 2).sum(), ENDS, X, EDGES),
    "used both ways": (
        lambda p, x: (x @ p["i"]) @ p["w"] @ p["w"].T @ p["o"],
        LAYERS,
        X,
        MLP,
    ),
    "scalars": (
        lambda p, x: (x @ p["i"]) * p["s"] + p["t"][None],
        {"i": (5, N), "s": (), "t": (1,)},
        X,
        {"i": (IN, 5), "s": (FIX, 1), "t": (FIX, 1)},
    ),
    "hypernetwork": (
        lambda p, x: jnp.einsum("bi,bij->bj", x, (x @ p["h"]).reshape(2, 5, -1)) @ p["o"],
        {"h": (5, "5*n"), "o": (N, 3)},
        X,
        {"h": (IN, 5), "o": (OUT, 16)},
    ),
    "queries in the stream": (
        lambda p, x: (p["q"] @ p["w"] + x @ p["i"]) @ p["o"],
        {**LAYERS, "q": (2, N)},
        X,
        {**MLP, "q": (IN, 1)},
    ),
}


@pytest.mark.parametrize("name", DECIDED)
def test_decided(name):
    """Role and fan-in of every parameter of a small program are the ones known from its algebra."""
    function, shapes, example, expected = DECIDED[name]
    assert roles(function, shapes, example) == expected


UNDECIDED = {
    "merged readout": (lambda p, x: (x @ p["i"]) @ (p["w"] @ p["o"]), LAYERS, X, "o", "other parameters"),
    "projector": (
        lambda p, x: (x @ p["i"]) @ (p["a"] @ p["a"].T) @ p["o"],
        {**ENDS, "a": (N, 4)},
        X,
        "a",
        "with itself",
    ),
    "gain on a readout": (
        lambda p, x: (x @ p["i"]) @ (p["g"][:, None] * p["o"]),
        {**ENDS, "g": (N,)},
        X,
        "g",
        "both are summed",
    ),
    "distances": (
        lambda p, x: (((x @ p["i"])[:, None] - p["c"][None]) ** 2).sum(-1),
        {"i": (5, N), "c": (3, N)},
        X,
        "c",
        "distance",
    ),
    "sum that comes late": (
        lambda p, x: jnp.tanh((x @ p["i"])[:, :, None] * p["o"][None]).sum(1),
        ENDS,
        X,
        "o",
        "no sum follows",
    ),
    "factorisation": (
        lambda p, e: (p["u"][e] * p["v"][e]).sum(-1),
        {"u": (7, N), "v": (9, N)},
        IDS,
        "u",
        "looked up",
    ),
    "rows of one table": (
        lambda p, e: (p["u"][e] * p["u"][e + 1]).sum(-1),
        {"u": (7, N)},
        IDS,
        "u",
        "looked up",
    ),
    "part of a sum": (
        lambda p, x: ((x @ p["i"]) * p["v"][None]).reshape(2, -1, 4).sum(-1),
        {"i": (5, N), "v": (N,)},
        X,
        "v",
        "split",
    ),
    "repeated data": (
        lambda p, x: jnp.tanh(jnp.repeat((x @ p["i"])[:, :, None], 3, axis=2) * p["o"][None]).sum(1),
        ENDS,
        X,
        "o",
        "no sum follows",
    ),
    "masked readout": (
        lambda p, e: (e[0] @ p["i"]) @ (p["o"] * jax.random.normal(e[1], p["o"].shape)),
        ENDS,
        (X, jax.random.key(0)),
        "o",
        "entry by entry",
    ),
    "split axis": (
        lambda p, x: jnp.einsum("bhd,hde->bhe", (x @ p["i"]).reshape(2, -1, 4), p["w"].reshape(-1, 4, 4)),
        {"i": (5, N), "w": (N, 4)},
        X,
        "w",
        "split",
    ),
    "constant on the other side": (
        lambda p, x: (x @ p["i"]) @ (p["o"] @ jnp.ones((3, 4))),
        ENDS,
        X,
        "o",
        "constant array",
    ),
    "decomposition": (
        lambda p, x: (x @ p["i"]) @ jnp.linalg.cholesky(p["w"]) @ p["o"],
        LAYERS,
        X,
        "w",
        "cholesky",
    ),
    "not used": (lambda p, x: x @ p["i"], {"i": (5, N), "z": (N,)}, X, "z", "never brings"),
    "only its norm is used": (
        lambda p, x: (x @ p["i"]) * jnp.linalg.norm(p["z"]),
        {"i": (5, N), "z": (N,)},
        X,
        "z",
        "never brings",
    ),
    "matrix entry by entry": (
        lambda p, x: (x @ p["i"])[:, :, None] * p["w"][None],
        {"i": (5, N), "w": (N, N)},
        X,
        "w",
        "",
    ),
    "gain and readout at once": (
        lambda p, x: ((x @ p["i"]) * p["v"][None]) @ p["v"],
        {"i": (5, N), "v": (N,)},
        X,
        "v",
        "several ways",
    ),
    "lookup along the width": (
        lambda p, e: jnp.take(p["v"], e, axis=0),
        {"v": (N,)},
        IDS,
        "v",
        "along a growing axis",
    ),
}


@pytest.mark.parametrize("name", UNDECIDED)
def test_undecided(name):
    """What the algebra leaves open is refused, with the reason and the way out, and an entry settles it."""
    function, shapes, example, culprit, reason = UNDECIDED[name]
    with pytest.raises(ValueError, match=rf"{culprit} of shape.*{reason}.*overrides="):
        roles(function, shapes, example)
    entries = dict.fromkeys(shapes, Role.INPUT)
    assert all(role is Role.INPUT for role, _ in roles(function, shapes, example, entries).values())


def test_a_declared_source_decides_what_follows():
    """A learned query that is declared an input counts as data for the layer behind it."""

    def attend(p, x):
        query = normalised(p["q"]) * p["g"][None]
        return ((query @ p["w"]) @ (x @ p["i"]).T) @ (x @ p["i"]) @ p["o"]

    shapes = {**LAYERS, "q": (4, N), "g": (N,)}
    with pytest.raises(ValueError, match="q of shape"):
        roles(attend, shapes)
    assert roles(attend, shapes, overrides={"q": Role.INPUT}) == {**MLP, "q": (IN, 1), "g": (IN, 1)}


def test_a_finite_parameter_never_raises():
    """Without a growing axis there is nothing to decide, whatever operation it passes through."""
    found = roles(
        lambda p, x: (x @ p["i"]) @ p["o"] @ jnp.linalg.cholesky(p["c"]), {**ENDS, "c": (3, 3), "z": (2,)}
    )
    assert found["c"][0] is FIX and found["z"][0] is FIX


def test_nothing_is_computed():
    """The walk needs shapes only: a program too large for any machine is traced."""
    spec = jax.ShapeDtypeStruct((10**6, 10**6), jnp.float32)
    found = contractions(lambda w, x: x @ w, spec, spec, [(True, True)])
    assert found[0].contracted == (0,)
