"""Products of two activations over a growing axis are found, and nothing else is."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from widelimit.scaling import Role, growing_products, probe

KEY = jax.random.key(0)
X = jnp.ones((2, 3, 5))
BASE, WIDTH = 8, 32


@pytest.fixture(autouse=True)
def foreign_models():
    """Models of other packages promote ranks and dtypes."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def found(init, apply, example=X, overrides=None):
    """Sizes (target, base) and places of the products found."""
    leaves = probe(init, apply, example, width=WIDTH, base_width=BASE, overrides=overrides)
    products = growing_products(init, apply, example, leaves)
    return [(product.size, product.base_size) for product in products], [
        product.where for product in products
    ]


class Linen(nn.Module):
    n: int
    heads: int
    options: Any = None

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.n)(x)
        x = x + nn.MultiHeadDotProductAttention(self.heads, **(self.options or {}))(nn.LayerNorm()(x))
        return nn.Dense(4)(x)


def linen(heads, **options):
    make = lambda n: Linen(n, heads(n), options)  # noqa: E731
    return found(lambda n: make(n).init(KEY, X), lambda n, p, x: make(n).apply(p, x))


@pytest.mark.parametrize("options", [{}, {"normalize_qk": True}])
def test_linen_heads_of_growing_size(options):
    """With a fixed number of heads the logits grow; the product with the values runs over tokens."""
    sizes, places = linen(lambda n: 4, **options)
    assert sizes == [(8, 2)]
    assert "Linen/MultiHeadDotProductAttention_0" in places[0]
    assert "dot_product_attention_weights" in places[0]


def test_linen_heads_of_fixed_size():
    """More heads of one size need nothing."""
    assert linen(lambda n: n // 4)[0] == []


class Nnx(nnx.Module):
    def __init__(self, n, heads):
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(5, n, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(heads, n, decode=False, rngs=rngs)
        self.last = nnx.Linear(n, 4, rngs=rngs)

    def __call__(self, x):
        return self.last(self.attention(self.first(x)))


def nnx_attention(heads):
    def apply(n, params, x):
        model = Nnx(n, heads(n))
        nnx.update(model, params)
        return model(x)

    return found(lambda n: nnx.state(Nnx(n, heads(n)), nnx.Param), apply)


def equinox_attention(heads):
    def make(n):
        keys = jax.random.split(KEY, 3)
        return [
            eqx.nn.Linear(5, n, key=keys[0]),
            eqx.nn.MultiheadAttention(heads(n), n, key=keys[1]),
            eqx.nn.Linear(n, 4, key=keys[2]),
        ]

    def apply(n, params, x):
        first, attention, last = eqx.combine(params, eqx.filter(make(n), eqx.is_array, inverse=True))

        def one(x):
            h = jax.vmap(first)(x)
            return jax.vmap(last)(attention(h, h, h))

        return jax.vmap(one)(x)

    return found(lambda n: eqx.filter(make(n), eqx.is_array), apply)


def haiku_attention(heads):
    def make(n):
        def forward(x):
            h = hk.Linear(n)(x)
            attention = hk.MultiHeadAttention(
                heads(n), n // heads(n), w_init=hk.initializers.TruncatedNormal()
            )
            return hk.Linear(4)(attention(h, h, h))

        return hk.transform(forward)

    return found(lambda n: make(n).init(KEY, X), lambda n, p, x: make(n).apply(p, None, x))


@pytest.mark.parametrize("attention", [nnx_attention, equinox_attention, haiku_attention])
def test_other_libraries(attention):
    """The same in NNX, Equinox and Haiku."""
    assert attention(lambda n: 4)[0] == [(8, 2)]
    assert attention(lambda n: n // 4)[0] == []


SHAPES = {
    "q": (5, "n"),
    "k": (5, "n"),
    "v": (5, "n"),
    "w": ("n", "n"),
    "g": ("n",),
    "o": ("n", 4),
    "t": (3, "n"),
}


def plain(function, *names, overrides=None, example=X):
    """Sizes found in ``function(p, x)`` with the named parameters."""

    def init(n):
        return {name: jnp.ones([n if size == "n" else size for size in SHAPES[name]]) for name in names}

    return found(init, lambda n, p, x: function(p, x), example, overrides)[0]


def scanned(p, x):
    """Attention inside a loop over layers and a rematerialised function."""

    @jax.checkpoint
    def layer(h, _):
        logits = jnp.einsum("btd,bsd->bts", jnp.tanh(h) @ p["w"], h)
        return jax.nn.softmax(logits) @ h, None

    return jax.lax.scan(layer, x @ p["q"], None, length=2)[0] @ p["o"]


PROGRAMS = {
    "a loop": (scanned, "qwo", [(WIDTH, BASE)]),
    "linear attention": (
        lambda p, x: (x @ p["q"]) @ (jnp.swapaxes(x @ p["k"], -1, -2) @ (x @ p["v"])) @ p["o"],
        "qkvo",
        [(WIDTH, BASE)],
    ),
    "a gain on the queries": (
        lambda p, x: jnp.einsum("btd,bsd->bts", x @ p["q"] * p["g"], x @ p["k"]),
        "qkg",
        [(WIDTH, BASE)],
    ),
    "a kernel made from the data": (
        lambda p, x: jax.lax.conv_general_dilated(
            jnp.swapaxes(x @ p["q"], 1, 2), jnp.swapaxes(x @ p["k"], 1, 2), (1,), "SAME"
        ),
        "qk",
        [(3 * WIDTH, 3 * BASE)],
    ),
    "a norm": (
        lambda p, x: (h := x @ p["q"]) / jnp.linalg.norm(h, axis=-1, keepdims=True) @ p["o"],
        "qo",
        [],
    ),
    "a gate": (lambda p, x: (x @ p["q"]) * jnp.tanh(x @ p["k"]) @ p["o"], "qko", []),
    "a matrix masked by the data": (lambda p, x: x @ p["q"] @ (p["w"] * (x.sum() > 0)) @ p["o"], "qwo", []),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs(name):
    """Loops, data as kernels, and what only looks like a product of activations."""
    function, names, expected = PROGRAMS[name]
    assert plain(function, *names) == expected


def test_a_masked_readout_is_no_activation():
    """Multiplied by the data entry by entry it is still a weight; probe wants to be told its role."""
    masked = lambda p, x: (x @ p["q"]) @ (p["o"] * (x.sum() > 0))  # noqa: E731
    assert plain(masked, "q", "o", overrides={"o": Role.OUTPUT}) == []


def test_learned_queries_are_activations():
    """A table that layers act on, declared an input, counts as an activation."""
    attend = lambda p, x: (p["t"] @ p["w"]) @ jnp.swapaxes(x @ p["k"], -1, -2)  # noqa: E731
    assert plain(attend, "t", "w", "k", overrides={"t": Role.INPUT}) == [(WIDTH, BASE)]


def test_the_embedding_as_readout_is_no_activation():
    """h @ E.T is a readout."""
    tied = lambda p, ids: jnp.tanh(p["t"][ids] @ p["w"]) @ p["t"].T  # noqa: E731
    assert plain(tied, "t", "w", example=jnp.ones((2, 3), int)) == []


def test_bad_input():
    init = lambda n: {"q": jnp.ones((5, n)), "o": jnp.ones((n, 4))}  # noqa: E731
    apply = lambda n, p, x: x @ p["q"] @ p["o"]  # noqa: E731
    leaves = probe(init, apply, X, width=WIDTH, base_width=BASE)
    with pytest.raises(ValueError, match="holds no Leaf"):
        growing_products(init, apply, X, None)
    with pytest.raises(ValueError, match="belong to another model"):
        growing_products(lambda n: {"q": jnp.ones((5, n))}, apply, X, leaves)
    same = probe(init, apply, X, width=BASE, base_width=BASE)
    assert growing_products(init, apply, X, same) == ()
