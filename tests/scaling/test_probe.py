"""probe: widths, shapes, entries and errors; and the same network in four libraries."""

from __future__ import annotations

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from widelimit.scaling import Leaf, Role, make_rules, mup, probe

IN, HID, OUT, FIX = Role.INPUT, Role.HIDDEN, Role.OUTPUT, Role.SCALAR
X = jnp.ones((2, 10))
KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def foreign_models():
    """Models of other packages promote ranks and dtypes."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def by_path(leaves):
    return {leaf.path: leaf for leaf in jax.tree.leaves(leaves)}


def plain_init(width):
    return {"i": jnp.zeros((10, width)), "b": jnp.zeros(width), "o": jnp.zeros((width, 10))}


def plain_apply(width, params, x):
    return jnp.tanh(x @ params["i"] + params["b"]) @ params["o"]


# One network, 10 -> n -> n -> 10, in four libraries.


def linen_mlp():
    make = lambda n: nn.Sequential([nn.Dense(n), nn.tanh, nn.Dense(n), nn.tanh, nn.Dense(10)])  # noqa: E731
    return lambda n: make(n).init(KEY, X), lambda n, p, x: make(n).apply(p, x)


def equinox_mlp():
    make = lambda n: eqx.nn.MLP(10, 10, n, 2, activation=jnp.tanh, key=KEY)  # noqa: E731
    static = lambda n: eqx.filter(make(n), eqx.is_array, inverse=True)  # noqa: E731
    apply = lambda n, p, x: jax.vmap(eqx.combine(p, static(n)))(x)  # noqa: E731
    return lambda n: eqx.filter(make(n), eqx.is_array), apply


def haiku_mlp():
    make = lambda n: hk.transform(lambda x: hk.nets.MLP([n, n, 10], activation=jnp.tanh)(x))  # noqa: E731
    return lambda n: make(n).init(KEY, X), lambda n, p, x: make(n).apply(p, None, x)


class Network(nnx.Module):
    def __init__(self, n):
        rngs = nnx.Rngs(0)
        self.a = nnx.Linear(10, n, rngs=rngs)
        self.b = nnx.Linear(n, n, rngs=rngs)
        self.c = nnx.Linear(n, 10, rngs=rngs)

    def __call__(self, x):
        return self.c(jnp.tanh(self.b(jnp.tanh(self.a(x)))))


def nnx_mlp():
    def apply(n, params, x):
        model = Network(n)
        nnx.update(model, params)
        return model(x)

    return lambda n: nnx.state(Network(n), nnx.Param), apply


LIBRARIES = {"linen": linen_mlp, "nnx": nnx_mlp, "equinox": equinox_mlp, "haiku": haiku_mlp}


@pytest.mark.parametrize("width", [10, 40])
@pytest.mark.parametrize("library", LIBRARIES)
def test_the_same_network_in_every_library(library, width):
    """(in, out) or (out, in), inputs = outputs = base width, target = base or not: the same leaves."""
    init, apply = LIBRARIES[library]()
    leaves = probe(init, apply, X, width=width, base_width=10)
    weights = [leaf for leaf in jax.tree.leaves(leaves) if len(leaf.shape) == 2]
    found = sorted((leaf.role.value, leaf.fan_in, leaf.fan_out, leaf.base_fan_in) for leaf in weights)
    n = width
    assert found == [("hidden", n, n, 10), ("input", 10, n, 10), ("output", n, 10, 10)]
    biases = sorted(leaf.role.value for leaf in jax.tree.leaves(leaves) if len(leaf.shape) == 1)
    assert biases == ["input", "input", "scalar"]


@pytest.mark.parametrize("library", LIBRARIES)
def test_leaves_have_the_structure_of_the_parameters(library):
    """A tree of leaves goes with the parameters through tree.map, and makes rules."""
    init, apply = LIBRARIES[library]()
    leaves = probe(init, apply, X, width=20, base_width=10)
    params = jax.eval_shape(lambda: init(20))
    assert jax.tree.structure(leaves) == jax.tree.structure(params)
    jax.tree.map(lambda leaf, array: leaf.shape == array.shape or pytest.fail(leaf.path), leaves, params)
    rules = make_rules(leaves, mup(table=3), "adam")
    assert jax.tree.structure(rules.learning_rate) == jax.tree.structure(params)
    assert sorted(jax.tree.leaves(rules.learning_rate)) == [0.5, 0.5, 1.0, 1.0, 1.0, 1.0]


def test_leaf_facts():
    """Shapes, fans and the ratio are those of the two widths asked for, not of a width tried besides."""
    leaf = by_path(probe(plain_init, plain_apply, X, width=48, base_width=16))["i"]
    assert leaf == Leaf("i", IN, (10, 48), (10, 16), 10, 48, 10, 16, leaf.width, 16, contracted=(0,))
    assert leaf.width == 3
    narrower = by_path(probe(plain_init, plain_apply, X, width=8, base_width=16))["o"]
    assert (narrower.shape, narrower.base_shape, narrower.width) == ((8, 10), (16, 10), 0.5)


@pytest.mark.parametrize("width", [1, 3, 10, 11])
def test_target_equal_to_base(width):
    """At target = base the shapes coincide, and the roles are found all the same."""
    leaves = by_path(probe(plain_init, plain_apply, X, width=width, base_width=width))
    assert {path: leaf.role for path, leaf in leaves.items()} == {"b": IN, "i": IN, "o": OUT}
    assert all(leaf.shape == leaf.base_shape and leaf.width == 1 for leaf in leaves.values())


def test_models_that_exist_at_few_widths_only():
    """Where twice the width does not exist, three times is tried; where none does, it says so."""

    def init(width, allowed=(6, 18)):
        if width not in allowed:
            raise ValueError("no such model")
        return plain_init(width)

    assert by_path(probe(init, plain_apply, X, width=6, base_width=6))["o"].role is OUT
    assert by_path(probe(lambda n: init(n, (6, 12)), plain_apply, X, width=12, base_width=6))["o"].role is OUT
    with pytest.raises(ValueError, match="failed at 10, 15 and 20; make init work at one of them"):
        probe(lambda n: init(n, (5,)), plain_apply, X, width=5, base_width=5)
    with pytest.raises(ValueError, match="no such model"):
        probe(init, plain_apply, X, width=7, base_width=6)


def test_no_memory_is_taken():
    """A model of a billion units is probed: nothing is ever made or computed."""
    leaves = by_path(probe(plain_init, plain_apply, X, width=10**9, base_width=10**3))
    assert leaves["i"].fan_out == 10**9 and leaves["i"].width == 10**6


@pytest.mark.parametrize(
    ("widths", "error", "words"),
    [
        ({"width": 8}, ValueError, "base_width is missing: pass base_width="),
        ({"width": 0, "base_width": 8}, ValueError, "width must be a positive integer"),
        ({"width": -8, "base_width": 8}, ValueError, "width must be a positive integer"),
        ({"width": 8, "base_width": -1}, ValueError, "base_width must be a positive integer"),
        ({"width": True, "base_width": 8}, ValueError, "width must be a positive integer"),
        ({"width": 8.0, "base_width": 8}, TypeError, r"width must be an integer; got 8.0. Pass width=int"),
        (
            {"width": 8, "base_width": 8, "tolerance": 1.5},
            ValueError,
            "tolerance must be a relative",
        ),
        (
            {"width": 8, "base_width": 8, "tolerance": -0.1},
            ValueError,
            "tolerance must be a relative",
        ),
        ({"width": 8, "base_width": 8, "tolerance": np.nan}, ValueError, "tolerance must be a relative"),
    ],
)
def test_bad_widths(widths, error, words):
    """Widths that are none are refused before anything is traced."""
    with pytest.raises(error, match=words):
        probe(pytest.fail, pytest.fail, X, **widths)


def test_numpy_integers_are_widths():
    """Widths often come out of arrays."""
    leaves = probe(plain_init, plain_apply, X, width=np.int64(8), base_width=np.int32(4))
    assert by_path(leaves)["o"].base_width == 4


def padded(multiple, shift=0):
    """A network whose second layer is 8/3 times as wide, rounded up."""

    def init(width):
        inner = -(-8 * width // (3 * multiple)) * multiple + shift
        return {"i": jnp.zeros((10, width)), "w": jnp.zeros((width, inner)), "o": jnp.zeros((inner, 3))}

    return init, lambda n, p, x: jnp.tanh(x @ p["i"] @ p["w"]) @ p["o"]


def test_multiples_of_the_width():
    """A layer of any multiple of the width is hidden; a rounded multiple needs a tolerance."""
    leaves = by_path(probe(*padded(8), X, width=48, base_width=24))
    assert {path: leaf.role for path, leaf in leaves.items()} == {"i": IN, "o": OUT, "w": HID}
    assert leaves["w"].fan_out == 128
    words = "o: axis 0 has size 128 at width 32 and 256 at width 80, which is 20.0% off proportional; make"
    with pytest.raises(ValueError, match=words):
        probe(*padded(64), X, width=80, base_width=32)
    with pytest.raises(ValueError, match="tolerance=0.21 if it is a rounded one"):
        probe(*padded(64), X, width=80, base_width=32, tolerance=0.19)
    leaves = by_path(probe(*padded(64), X, width=80, base_width=32, tolerance=0.2))
    assert {path: leaf.role for path, leaf in leaves.items()} == {"i": IN, "o": OUT, "w": HID}


def test_the_suggested_tolerance_is_enough():
    """What the error proposes works."""
    with pytest.raises(ValueError) as caught:
        probe(*padded(64), X, width=96, base_width=32)
    tolerance = float(str(caught.value).split("tolerance=")[1].split()[0])
    probe(*padded(64), X, width=96, base_width=32, tolerance=tolerance)


def test_a_rounded_axis_is_not_taken_for_a_fixed_one():
    """Rounded to 64, a layer has one size at widths 16 and 24; the further width tells that it grows."""
    with pytest.raises(ValueError, match="o: axis 0 has size 64 at width 16 and 64 at width 24"):
        probe(*padded(64), X, width=24, base_width=16)


def test_axes_that_grow_otherwise():
    """Width plus one, or squared, is no width, also at target = base."""
    for width in (8, 32):
        with pytest.raises(ValueError, match="off proportional"):
            probe(*padded(3, shift=1), X, width=width, base_width=8)
    square = lambda n: {"w": jnp.zeros((10, n * n))}  # noqa: E731
    with pytest.raises(ValueError, match="w: axis 1 has size 64 at width 8 and 256 at width 16"):
        probe(square, lambda n, p, x: x @ p["w"], X, width=16, base_width=8)


def test_trees_that_change_with_width():
    """Depth, rank and names must not depend on the width."""
    deeper = lambda n: {f"w{k}": jnp.zeros((10, n)) for k in range(n // 4)}  # noqa: E731
    with pytest.raises(ValueError, match="'w2' is not at both 8 and 16.*depth included"):
        probe(deeper, plain_apply, X, width=16, base_width=8)
    ranks = lambda n: {"w": jnp.zeros((10,) * (n // 4))}  # noqa: E731
    with pytest.raises(ValueError, match="same number of axes at every width"):
        probe(ranks, plain_apply, X, width=8, base_width=4)
    with pytest.raises(ValueError, match="init returned no parameters"):
        probe(lambda n: {}, plain_apply, X, width=8, base_width=4)


def test_leaves_that_are_no_arrays():
    """A tree with functions in it, or flags in the example, give a note on what to do."""
    with pytest.raises(TypeError) as caught:
        probe(lambda n: {"f": jnp.tanh}, plain_apply, X, width=8, base_width=4)
    assert any("equinox.filter(model, equinox.is_array)" in note for note in caught.value.__notes__)
    flagged = lambda n, p, e: plain_apply(n, p, e[0]) if e[1] else e[0]  # noqa: E731
    with pytest.raises(TypeError) as caught:
        probe(plain_init, flagged, (X, True), width=8, base_width=4)
    assert any("keep flags and the like inside apply" in note for note in caught.value.__notes__)


def test_entries_win():
    """A role or axes by path or pattern, an exact path over a pattern, always over the trace."""

    def roles(overrides, base=8):
        leaves = probe(plain_init, plain_apply, X, width=16, base_width=base, overrides=overrides)
        return {path: (leaf.role, leaf.fan_in) for path, leaf in by_path(leaves).items()}

    traced = {"b": (IN, 1), "i": (IN, 10), "o": (OUT, 16)}
    assert roles({}) == traced
    assert roles({"o": HID}) == {**traced, "o": (HID, 16)}
    assert roles({"o": FIX}) == {**traced, "o": (FIX, 1)}
    assert roles({"i": OUT}) == {**traced, "i": (OUT, 16)}
    assert roles({"i": (1,), "o": (-1,)}) == {**traced, "i": (OUT, 16), "o": (IN, 10)}
    assert roles({"[io]": IN, "o": OUT}) == {**traced, "i": (IN, 10), "o": (OUT, 16)}
    assert roles({"o": OUT, "*": IN}) == {"b": (IN, 1), "i": (IN, 10), "o": (OUT, 16)}
    assert roles({"o": (0, 1)}, base=16) == {**traced, "o": (OUT, 160)}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"kernel": IN}, r"overrides\['kernel'\] matches no parameter; the paths are b, i, o"),
        ({"i": "input"}, r"overrides\['i'\] must be a Role or a tuple of contracted axes; got 'input'"),
        ({"i": (2,)}, r"overrides for i: axes must lie in 0..1; got \(2,\)"),
        ({"b": HID}, "does not say which axes are contracted"),
        ({"[io]": IN, "[bo]": OUT}, "disagree on o; add an entry for exactly this path"),
    ],
)
def test_bad_entries(overrides, words):
    """An entry that fits nothing is an error, not ignored."""
    with pytest.raises(ValueError, match=words):
        probe(plain_init, plain_apply, X, width=16, base_width=8, overrides=overrides)
