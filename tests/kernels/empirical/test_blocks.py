"""A kernel computed tile by tile is the kernel, in every form, for every size, in float32 and float64."""

from __future__ import annotations

import importlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType

from widelimit.kernels import empirical
from widelimit.kernels.empirical import tiling
from widelimit.kernels.empirical.budget import parse_bytes
from widelimit.kernels.empirical.programs import Network
from widelimit.kernels.empirical.results import InMemory, Rectangle
from widelimit.kernels.empirical.tiling import Job

ntk_module = importlib.import_module(
    "widelimit.kernels.empirical.ntk"
)  # the room exports a function of this name

FORMS = ["full", "trace", "diagonal", "self", "sum"]
RATES = {"inner": 0.5, "outer": 2.0}


def apply(params, x):
    """A two-layer network with 3 outputs."""
    return jnp.tanh(x @ params["inner"]) @ params["outer"]


def network(seed, n=24, dtype=np.float32):
    """Returns parameters and n inputs, NumPy arrays."""
    random = np.random.default_rng(seed)
    params = {"inner": random.normal(size=(5, 16)) / 5**0.5, "outer": random.normal(size=(16, 3)) / 4}
    return jax.tree.map(lambda a: a.astype(dtype), (params, random.normal(size=(n, 5))))


def relative(got, want):
    """Returns the largest error over the largest entry."""
    return np.abs(np.asarray(got) - np.asarray(want)).max() / np.abs(np.asarray(want)).max()


@pytest.fixture
def small(monkeypatch):
    """Tiles of at most 5 samples, so that a few samples make many tiles."""
    monkeypatch.setattr(tiling, "SMALLEST", 5)
    monkeypatch.setattr(tiling, "BLOCKS", 10**6)


@pytest.mark.parametrize("form", FORMS)
def test_tiles_make_the_kernel(small, form):
    """17 samples in 10 tiles of 5 x 5 (the last ones ragged), weighted by rates: the kernel to 1e-6."""
    params, x = network(0, 17)
    seen = []
    theta = empirical.ntk_in_blocks(
        apply, params, x, form=form, rates=RATES, progress=lambda done, total: seen.append((done, total))
    )
    assert isinstance(theta, np.ndarray)
    assert relative(theta, empirical.ntk(apply, params, x, form=form, rates=RATES)) < 1e-6
    assert len(seen) == (4 if form == "self" else 10)
    pairs = (
        17
        if form == "self"
        else sum((5, 5, 5, 2)[i] * (5, 5, 5, 2)[j] for i in range(4) for j in range(i, 4))
    )
    assert seen[-1] == (pairs, pairs) and seen == sorted(seen)


@pytest.mark.parametrize("form", ["full", "diagonal", "self"])
def test_rectangular_kernels(small, form):
    """Other samples in the columns, other block sizes there."""
    params, x = network(1, 20)
    x1, x2 = (x[:12], x[8:]) if form == "self" else (x[:13], x[13:])
    theta = empirical.ntk_in_blocks(apply, params, x1, x2, form=form)
    assert relative(theta, empirical.ntk(apply, params, x1, x2, form=form)) < 1e-6


@pytest.mark.parametrize("form", ["full", "trace"])
def test_float64_all_the_way(small, form):
    """Parameters in float64, or float32 with dtype="float64": to 1e-12, whatever JAX is set to."""
    params, x = network(2, 12, np.float64)
    wide = empirical.ntk_in_blocks(apply, params, x, form=form)
    narrow = empirical.ntk_in_blocks(*(apply, *network(2, 12)), form=form, dtype="float64")
    with jax.enable_x64(True):
        assert relative(wide, empirical.ntk(apply, params, x, form=form)) < 1e-12
        rounded = jax.tree.map(lambda a: np.asarray(a, np.float64), network(2, 12))
        assert relative(narrow, empirical.ntk(apply, *rounded, form=form)) < 1e-12
    assert wide.dtype == narrow.dtype == np.float64
    assert 1e-9 < relative(wide, narrow) < 1e-5  # the inputs were rounded, so the test can tell them apart


def test_a_symmetric_kernel_is_symmetric_to_the_last_bit(small):
    """One triangle is computed and mirrored, outputs swapped; tiles on the diagonal are made symmetric."""
    params, x = network(3, 13)
    theta = empirical.ntk_in_blocks(apply, params, x)
    np.testing.assert_array_equal(theta, theta.transpose(1, 0, 3, 2))
    matrix = theta.transpose(0, 2, 1, 3).reshape(39, 39)
    assert np.linalg.eigvalsh(matrix.astype(np.float64)).min() > -1e-5 * np.abs(matrix).max()


@settings(max_examples=4, deadline=None)
@given(n1=st.integers(1, 9), n2=st.integers(1, 9), size=st.integers(1, 5), same=st.booleans())
def test_any_sizes(n1, n2, size, same):
    """Any number of samples, any size of tile."""
    params, x = network(4, n1 + n2)
    x1, x2 = x[:n1], None if same else x[n1:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiling, "SMALLEST", size)
        patch.setattr(tiling, "BLOCKS", 10**6)
        theta = empirical.ntk_in_blocks(apply, params, x1, x2)
    assert relative(theta, empirical.ntk(apply, params, x1, x2)) < 1e-6


@pytest.mark.parametrize(
    "shape, kind", [((8, 1), AxisType.Auto), ((2, 4), AxisType.Explicit), ((4,), AxisType.Auto)]
)
def test_a_mesh_shares_each_tile(small, shape, kind):
    """Tiles over 8 devices, and the same kernel."""
    params, x = network(5, 19)
    names = ("rows", "columns")[: len(shape)]
    devices = jax.devices()[: math.prod(shape)]
    mesh = jax.make_mesh(shape, names, axis_types=(kind,) * len(shape), devices=devices)
    theta = empirical.ntk_in_blocks(apply, params, x, mesh=mesh, rates=RATES)
    assert relative(theta, empirical.ntk(apply, params, x, rates=RATES)) < 1e-6


@pytest.mark.parametrize("form", ["trace", "self", "sum"])
def test_a_mesh_takes_other_forms(small, form):
    """Also of two sets of samples, in float64."""
    params, x = network(6, 22, np.float64)
    mesh = jax.make_mesh((4, 2), ("rows", "columns"))
    theta = empirical.ntk_in_blocks(apply, params, x[:11], x[11:], mesh=mesh, form=form)
    with jax.enable_x64(True):
        assert relative(theta, empirical.ntk(apply, params, x[:11], x[11:], form=form)) < 1e-12


def test_features_that_do_not_fit_are_computed_again(small, monkeypatch):
    """A memory that holds few features: the same kernel from the same programs, which run more often."""
    params, x = network(7, 40)
    made = []
    original = tiling.block
    monkeypatch.setattr(tiling, "block", lambda *arguments: made.append(0) or original(*arguments))
    monkeypatch.setattr(tiling, "LARGEST", 4 * 9 * 25)
    theta, often = empirical.ntk_in_blocks(apply, params, x), len(made)
    again = empirical.ntk_in_blocks(apply, params, x, memory=2 * (theta.nbytes + 8_000))
    np.testing.assert_allclose(again, theta, rtol=1e-5, atol=1e-5)
    assert often == 8 and len(made) - often > often


@pytest.mark.parametrize("form, mesh", [("trace", None), ("diagonal", (4, 2))])
def test_many_outputs_are_taken_in_pieces(small, monkeypatch, form, mesh):
    """Cotangents of 50 outputs that do not fit for a few samples: in pieces, and never kept."""
    params, x = network(11, 9)
    params["outer"] = np.random.default_rng(12).normal(size=(16, 50)).astype(np.float32)
    calls, original = [], Network.in_one
    monkeypatch.setattr(Network, "in_one", lambda self: calls.append(0) or original(self))
    monkeypatch.setattr(ntk_module, "PIECE", 10_000)
    mesh = mesh and jax.make_mesh(mesh, ("rows", "columns"))
    theta = empirical.ntk_in_blocks(apply, params, x, form=form, memory="500KiB", mesh=mesh)
    assert calls == [0]
    assert relative(theta, empirical.ntk(apply, params, x, form=form)) < 1e-6


def test_inputs_may_be_a_tree(small):
    """Several arrays per sample, of several types."""
    table = np.random.default_rng(8).normal(size=(7, 4)).astype(np.float32)
    x = {"token": np.arange(11) % 7, "scale": np.linspace(0.5, 2.0, 11, dtype=np.float32)}

    def embed(table, x):
        return jnp.tanh(table[x["token"]] * x["scale"][:, None]) @ jnp.ones((4, 2))

    theta = empirical.ntk_in_blocks(embed, jnp.asarray(table), x)
    assert relative(theta, empirical.ntk(embed, jnp.asarray(table), jax.tree.map(jnp.asarray, x))) < 1e-6


def test_a_class_like_tqdm_shows_progress(small, capsys):
    """progress=True is a bar on standard error, which counts pairs of samples and says how long it takes."""
    params, x = network(9, 12)
    empirical.ntk_in_blocks(apply, params, x, progress=True)
    shown = capsys.readouterr().err
    assert "NTK: 100%" in shown and "<00:00" in shown and "pair/s" in shown


def test_memory_is_text_or_bytes():
    """Binary and decimal units, any case; else a sentence."""
    assert [parse_bytes(m) for m in ("2GiB", "200 MiB", "1.5kb", "12", 7)] == [
        2**31,
        200 * 2**20,
        1500,
        12,
        7,
    ]
    for wrong in ("", "2 TiB or so", "-1GiB", 0, "1.2.3GB", None):
        with pytest.raises(ValueError, match="'200MiB'"):
            parse_bytes(wrong)


def test_bad_requests_meet_a_sentence(small):
    """What does not fit, is unknown, or is not finite."""
    params, x = network(10, 30)
    with pytest.raises(ValueError, match=r"takes 31.6 KiB.*the 30 KiB that memory='60KiB' has.*pass file="):
        empirical.ntk_in_blocks(apply, params, x, memory="60KiB")
    with pytest.raises(ValueError, match="smallest tile, 1 x 1 samples, takes .* more memory"):
        empirical.ntk_in_blocks(apply, params, x, memory="64KiB")
    with pytest.raises(ValueError, match="form must be one of"):
        empirical.ntk_in_blocks(apply, params, x, form="half")
    with pytest.raises(ValueError, match="dtype must be"):
        empirical.ntk_in_blocks(apply, params, x, dtype="int32")
    with pytest.raises(ValueError, match="structure of params"):
        empirical.ntk_in_blocks(apply, params, x, rates={"inner": 1.0})
    with pytest.raises(TypeError, match="make_mesh"):
        empirical.ntk_in_blocks(apply, params, x, mesh=(4, 2))
    with pytest.raises(ValueError, match="every sample alone"):
        empirical.ntk_in_blocks(lambda p, x: apply(p, x - x.mean(0, keepdims=True)), params, x)
    x[17, 2] = np.inf
    with pytest.raises(FloatingPointError, match=r"samples 15\.\.19"):
        empirical.ntk_in_blocks(apply, params, x, x[:2])


@pytest.mark.parametrize("entry", [(), (2,), (2, 2)], ids=["trace", "diagonal", "full"])
def test_a_tile_of_the_diagonal_is_symmetric_to_the_last_bit(entry):
    """Whatever rounding left in the product: the mean with its mirror image, entry by entry."""
    tile = np.random.default_rng(0).normal(size=(3, 3, *entry)).astype(np.float32)
    x, form = np.zeros((3, 1)), {(): "trace", (2,): "diagonal", (2, 2): "full"}[entry]
    result = InMemory(tile.shape, tile.shape, np.float32)
    job = Job(network=None, x1=x, x2=x, n1=3, n2=3, form=form, mesh=None)
    job._store(result, Rectangle(0, 3, 0, 3), tile)
    kernel = result.close()
    mirrored = tile.transpose(1, 0, 3, 2) if form == "full" else tile.swapaxes(0, 1)
    np.testing.assert_array_equal(kernel, (tile + mirrored) / 2)
    assert np.any(kernel != tile)
