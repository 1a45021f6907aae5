"""Models that none of our code built take the same path: Linen packages, NNX, Equinox, Haiku."""

from __future__ import annotations

import equinox as eqx
import haiku as hk
import jax
import pytest
from flax import nnx

from tests.kernels.empirical.reference import compare
from widelimit.kernels import empirical

KEYS = jax.random.split(jax.random.key(11), 4)


@pytest.fixture(autouse=True)
def foreign_models():
    """Models of other packages promote ranks and dtypes."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def moved(params):
    """Parameters away from zero, where a mistake could hide."""
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(KEYS[1], len(leaves))
    noise = [0.1 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(treedef, [leaf + part for leaf, part in zip(leaves, noise, strict=True)])


def kinds(apply, params, x):
    """The path of each parameter by name."""
    return {path.name: path.kind for path in empirical.plan(apply, params, x).leaves()}


@pytest.mark.slow
def test_a_published_residual_network():
    """jax-resnet in evaluation mode, its running statistics closed over."""
    resnet = pytest.importorskip("jax_resnet", reason="needs the package jax-resnet")
    model = resnet.ResNet(block_cls=resnet.ResNetBlock, stage_sizes=[1, 1], hidden_sizes=(4, 6), n_classes=3)
    x = jax.random.normal(KEYS[0], (2, 16, 16, 3))
    variables = model.init(KEYS[2], x)

    def apply(params, x):
        return model.apply({"params": params, "batch_stats": variables["batch_stats"]}, x, mutable=False)

    params = moved(variables["params"])
    assert "jacobian" not in kinds(apply, params, x).values()
    for dtype in ("float32", "float64"):
        compare(apply, params, x, dtype=dtype, forms=("full",))


@pytest.mark.slow
def test_a_published_language_model():
    """A gated linear recurrence, with an associative scan inside."""
    gated = pytest.importorskip("flax_gated_linear_rnn", reason="needs the package flax-gated-linear-rnn")
    fixed = {"n_layer": 1, "eps": 1e-6, "max_seq_length": 4, "use_word_embedding": True, "use_head": True}
    fixed |= {"input_vocab_size": 5, "output_vocab_size": 5, "positional_encoding_mode": "none"}
    fixed |= dict.fromkeys(["channel_mixing_dropout", "time_mixing_dropout", "embedding_dropout"], 0.0)
    model = gated.GatedLinearRNNLM(d_model=6, d_h=6, d_channel_mixing=8, **fixed)
    ids = jax.random.randint(KEYS[0], (3, 4), 0, 5)
    params = moved(model.init(KEYS[2], ids, False))

    def apply(params, ids):
        return model.apply(params, ids, False)[1][:, -1]

    for dtype in ("float32", "float64"):
        compare(apply, params, ids, ids[:2], dtype=dtype, forms=("trace",))


class Block(nnx.Module):
    """A transformer block between two linear maps."""

    def __init__(self, dtype, rngs):
        self.embed = nnx.Embed(7, 8, dtype=dtype, rngs=rngs)  # looks its dtype up when it is made
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
        self.up = nnx.Linear(8, 12, rngs=rngs)
        self.down = nnx.Linear(12, 8, rngs=rngs)

    def __call__(self, ids):
        x = self.embed(ids)
        x = x + self.attention(self.norm(x))
        x = x + self.down(nnx.gelu(self.up(x)))
        return self.embed.attend(x)[:, -1]


@pytest.mark.slow
def test_nnx():
    """The clean route: split once, merge inside apply; nothing is tapped or patched."""
    ids = jax.random.randint(KEYS[0], (3, 4), 0, 7)
    for dtype in ("float32", "float64"):
        with jax.enable_x64(dtype == "float64"):
            graph, params = nnx.split(Block(jax.numpy.dtype(dtype), nnx.Rngs(0)), nnx.Param)
            params = moved(params)

        def apply(params, ids):
            return nnx.merge(graph, params)(ids)  # noqa: B023

        with jax.enable_x64(dtype == "float64"):
            found = kinds(apply, params, ids)
        assert sorted(set(found.values())) == ["bias", "dense", "gain", "tied"]
        compare(apply, params, ids, ids[:2], dtype=dtype, forms=("full",))


def test_equinox():
    """Modules for one sample, mapped over the batch, weights on the left of their inputs."""

    class Net(eqx.Module):
        conv: eqx.nn.Conv2d
        norm: eqx.nn.LayerNorm
        mlp: eqx.nn.MLP

        def __call__(self, x):
            x = jax.nn.relu(self.conv(x)).mean((1, 2))
            return self.mlp(self.norm(x))

    keys = jax.random.split(KEYS[2])
    net = Net(
        eqx.nn.Conv2d(2, 6, 3, stride=2, key=keys[0]),
        eqx.nn.LayerNorm(6),
        eqx.nn.MLP(6, 3, 5, 2, key=keys[1]),
    )
    params, static = eqx.partition(net, eqx.is_inexact_array)
    x = jax.random.normal(KEYS[0], (3, 2, 8, 8))

    def apply(params, x):
        return jax.vmap(eqx.combine(params, static))(x)

    assert "jacobian" not in kinds(apply, params, x).values()
    for dtype in ("float32", "float64"):
        compare(apply, params, x, dtype=dtype, forms=("full", "trace"))


def test_haiku():
    """A transformed function."""
    net = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([6, 5, 2])(x)))
    x = jax.random.normal(KEYS[0], (3, 4))
    params = moved(net.init(KEYS[2], x))
    assert set(kinds(net.apply, params, x).values()) == {"dense", "bias"}
    compare(net.apply, params, x, forms=("full", "sum"))
