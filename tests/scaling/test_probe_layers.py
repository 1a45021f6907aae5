"""Layers as libraries write them: attention, convolutions, norms, tables, stacks, states."""

from __future__ import annotations

import functools

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from widelimit.scaling import Role, probe

IN, HID, OUT, FIX = Role.INPUT, Role.HIDDEN, Role.OUTPUT, Role.SCALAR
KEY = jax.random.key(0)
X = jnp.ones((2, 5))
IDS = jnp.ones((2, 6), int)
IMAGE = jnp.ones((2, 8, 8, 3))


@pytest.fixture(autouse=True)
def foreign_models():
    """Models of other packages promote ranks and dtypes."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def facts(init, apply, example, **options):
    """Probes at target = base and at another width, where roles must agree; returns {path: leaf}."""
    wide = probe(init, apply, example, width=16, base_width=8, **options)
    same = probe(init, apply, example, width=8, base_width=8, **options)
    roles = [[(leaf.role, leaf.tied) for leaf in jax.tree.leaves(leaves)] for leaves in (wide, same)]
    assert roles[0] == roles[1]
    return {leaf.path: leaf for leaf in jax.tree.leaves(wide)}


def linen(make, example, call=None):
    """Probes a Linen model."""
    call = call or (lambda model, variables, x: model.apply(variables, x))
    return facts(lambda n: make(n).init(KEY, example), lambda n, p, x: call(make(n), p, x), example)


def check(leaves, expected):
    """Compares role and fan-in, by the end of the path."""
    for end, (role, fan_in) in expected.items():
        found = [leaf for path, leaf in leaves.items() if path.endswith(end)]
        assert found, f"no parameter ends in {end}: {list(leaves)}"
        assert {(leaf.role, leaf.fan_in) for leaf in found} == {(role, fan_in)}, end


class Transformer(nn.Module):
    """Every attention layout of Linen, positions, a class token, tied embeddings."""

    n: int

    @nn.compact
    def __call__(self, ids):
        heads = self.n // 4
        embed = nn.Embed(50, self.n)
        x = embed(ids) + self.param("positions", nn.initializers.normal(), (6, self.n))
        x = x + nn.Embed(6, self.n, name="learned")(jnp.arange(6))
        token = self.param("token", nn.initializers.normal(), (1, 1, self.n))
        x = jnp.concatenate([jnp.tile(token, (2, 1, 1)), x], axis=1)
        x = x + nn.MultiHeadDotProductAttention(num_heads=heads, normalize_qk=True)(nn.LayerNorm()(x))
        fused = nn.DenseGeneral((3, heads, 4), name="fused")(nn.RMSNorm()(x))
        x = x + self.attend(fused[:, :, 0], fused[:, :, 1], fused[:, :, 2], "heads_out")
        flat = nn.Dense(3 * self.n, name="flat")(x).reshape(2, 7, 3, heads, 4)
        x = x + self.attend(flat[:, :, 0], flat[:, :, 1], flat[:, :, 2], "flat_out")
        x = x + nn.Einsum((self.n, 4 * self.n), "btd,df->btf", name="up")(x)[..., : self.n]
        return embed.attend(nn.LayerNorm()(x))

    def attend(self, q, k, v, name):
        """Attention and the projection back."""
        return nn.DenseGeneral(self.n, axis=(-2, -1), name=name)(nn.dot_product_attention(q, k, v))


def test_linen_transformer():
    """Kernels (d, heads, d_head), (heads, d_head, d), (d, 3, heads, d_head), (d, 3d); vectors; the tie."""
    leaves = linen(Transformer, IDS)
    check(
        leaves,
        {
            "query/kernel": (HID, 16),
            "key/kernel": (HID, 16),
            "value/kernel": (HID, 16),
            "out/kernel": (HID, 16),
            "query/bias": (IN, 1),
            "query_ln/scale": (FIX, 1),
            "fused/kernel": (HID, 16),
            "fused/bias": (IN, 1),
            "flat/kernel": (HID, 16),
            "heads_out/kernel": (HID, 16),
            "up/kernel": (HID, 16),
            "LayerNorm_0/scale": (IN, 1),
            "LayerNorm_0/bias": (IN, 1),
            "RMSNorm_0/scale": (IN, 1),
            "positions": (IN, 1),
            "learned/embedding": (IN, 1),
            "token": (IN, 1),
            "Embed_0/embedding": (IN, 50),
        },
    )
    assert [path for path, leaf in leaves.items() if leaf.tied] == ["params/Embed_0/embedding"]


def grouped_query(kv_heads):
    """Attention whose keys and values have fewer heads than the queries."""

    def init(n):
        heads, kv = n // 4, kv_heads(n)
        shapes = {"i": (5, n), "q": (n, heads, 4), "k": (n, kv, 4), "v": (n, kv, 4), "b": (heads, 4)}
        return {name: jnp.zeros(shape) for name, shape in {**shapes, "o": (heads, 4, n), "r": (n, 3)}.items()}

    def apply(n, p, x):
        x = x @ p["i"]
        q, k, v = (jnp.einsum("btd,dhk->bthk", x, p[name]) for name in "qkv")
        y = jax.nn.dot_product_attention(q + p["b"], k, v)
        return jnp.einsum("bthk,hkd->btd", y, p["o"]) @ p["r"]

    return facts(init, apply, jnp.ones((2, 6, 5)))


def test_grouped_query_heads():
    """Keys map to width where their heads grow, and to finitely many numbers where they are fixed."""
    expected = {"i": (IN, 5), "q": (HID, 16), "b": (IN, 1), "o": (HID, 16), "r": (OUT, 16)}
    check(grouped_query(lambda n: n // 8), {**expected, "k": (HID, 16), "v": (HID, 16)})
    check(grouped_query(lambda n: 1), {**expected, "k": (OUT, 16), "v": (OUT, 16)})


class Convolutions(nn.Module):
    """Convolutions of all kinds, with norms."""

    n: int
    train: bool = False

    @nn.compact
    def __call__(self, x):
        n, conv = self.n, functools.partial(nn.Conv, kernel_size=(3, 3))
        x = nn.BatchNorm(not self.train)(conv(n, name="stem")(x))
        x = conv(n, feature_group_count=n, name="depthwise")(nn.relu(x))
        x = conv(2 * n, feature_group_count=2, name="two_groups")(nn.relu(x))
        x = conv(n, feature_group_count=n // 2, name="many_groups")(nn.GroupNorm(2)(x))
        x = nn.ConvTranspose(n, (2, 2), strides=(2, 2), name="transposed")(nn.relu(x))
        return nn.Dense(3, name="head")(x.mean((1, 2)))


CONVOLUTIONS = {
    "stem/kernel": (IN, 27),
    "depthwise/kernel": (IN, 9),
    "two_groups/kernel": (HID, 72),
    "many_groups/kernel": (IN, 36),
    "transposed/kernel": (HID, 64),
    "stem/bias": (IN, 1),
    "head/kernel": (OUT, 16),
    "head/bias": (FIX, 1),
    "BatchNorm_0/scale": (IN, 1),
    "BatchNorm_0/mean": (IN, 1),
    "BatchNorm_0/var": (IN, 1),
    "GroupNorm_0/scale": (IN, 1),
}


@pytest.mark.parametrize("mode", ["eval", "train", "train, statistics dropped"])
def test_linen_convolutions(mode):
    """2-d, grouped and depthwise kernels, and batch statistics in every mode."""
    calls = {
        "eval": None,
        "train": lambda model, p, x: model.apply(p, x, mutable=["batch_stats"]),
        "train, statistics dropped": lambda model, p, x: model.apply(p, x, mutable=["batch_stats"])[0],
    }
    check(linen(lambda n: Convolutions(n, mode != "eval"), IMAGE, calls[mode]), CONVOLUTIONS)


class Layer(nn.Module):
    """One layer of a scanned stack."""

    n: int

    @nn.compact
    def __call__(self, x, _):
        return x + nn.Dense(self.n)(nn.LayerNorm()(x)), None


class Stack(nn.Module):
    """Layers stacked along the leading axis of their parameters, rematerialised."""

    n: int

    @nn.compact
    def __call__(self, x):
        stacked = nn.scan(nn.remat(Layer), variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        x, _ = stacked(self.n, name="layers")(nn.Dense(self.n, name="first")(x), None)
        return nn.Dense(2, name="last")(x)


def test_linen_stack():
    """The axis of the layers belongs to no fan."""
    leaves = linen(Stack, X)
    expected = {"first/kernel": (IN, 5), "layers/Dense_0/kernel": (HID, 16), "layers/Dense_0/bias": (IN, 1)}
    check(leaves, {**expected, "layers/LayerNorm_0/scale": (IN, 1), "last/kernel": (OUT, 16)})
    assert leaves["params/layers/Dense_0/kernel"].fan_out == 16
    assert leaves["params/layers/Dense_0/bias"].fan_out == 16


class Normed(nn.Module):
    """Weight-normalised layers, and a recurrence."""

    n: int

    @nn.compact
    def __call__(self, x):
        x = nn.WeightNorm(nn.Dense(self.n, name="a"))(x)
        x = nn.WeightNorm(nn.Dense(self.n, name="b"))(nn.tanh(x))
        x = nn.RNN(nn.GRUCell(self.n))(x[:, None])[:, 0]
        return nn.WeightNorm(nn.Dense(2, name="c"))(x)


def test_linen_weight_norm_and_recurrence():
    """The factor of a normalised weight is a gain; a recurrent kernel is hidden."""
    leaves = linen(Normed, X)
    check(leaves, {"a/kernel": (IN, 5), "b/kernel": (HID, 16), "c/kernel": (OUT, 16)})
    check(leaves, {"a/kernel/scale": (IN, 1), "b/kernel/scale": (IN, 1), "c/kernel/scale": (FIX, 1)})
    check(leaves, {"hn/kernel": (HID, 16), "in/kernel": (HID, 16), "hn/bias": (IN, 1)})


class NnxModel(nnx.Module):
    """NNX layers, a stack made by vmap and run by scan, random state."""

    def __init__(self, n):
        rngs = nnx.Rngs(0)
        self.embed = nnx.Embed(11, n, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(n // 4, n, decode=False, rngs=rngs)
        self.norm = nnx.BatchNorm(n, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.narrow = nnx.LinearGeneral(n, (2, 4), rngs=rngs)
        self.wide = nnx.LinearGeneral((2, 4), n, axis=(-2, -1), rngs=rngs)
        self.conv = nnx.Conv(n, n, (3,), feature_group_count=2, rngs=rngs)
        self.lora = nnx.LoRA(n, 2, n, rngs=rngs)
        stacked = nnx.split_rngs(splits=3)(nnx.vmap(lambda r: nnx.Linear(n, n, rngs=r)))
        self.layers = stacked(rngs)

    def __call__(self, ids):
        x = self.embed(ids)
        x = self.dropout(x + self.attention(self.norm(x)))
        x = self.conv(x + self.wide(self.narrow(x))) + self.lora(x)
        step = nnx.scan(lambda x, layer: jnp.tanh(layer(x)), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        return self.embed.attend(step(x, self.layers))


def test_nnx_layers():
    """The whole state of an NNX model: parameters, statistics, random counters."""

    def apply(n, state, ids):
        model = NnxModel(n)
        nnx.update(model, state)
        return model(ids)

    leaves = facts(lambda n: nnx.state(NnxModel(n)), apply, IDS)
    expected = {
        "query/kernel/value": (HID, 16),
        "out/kernel/value": (HID, 16),
        "norm/scale/value": (IN, 1),
        "norm/mean/value": (IN, 1),
        "norm/var/value": (IN, 1),
        "narrow/kernel/value": (OUT, 16),
        "wide/kernel/value": (IN, 8),
        "conv/kernel/value": (HID, 24),
        "lora_a/value": (OUT, 16),
        "lora_b/value": (IN, 2),
        "layers/kernel/value": (HID, 16),
        "embedding/value": (IN, 11),
        "dropout/rngs/count/value": (FIX, 1),
    }
    check(leaves, expected)
    assert leaves["embed/embedding/value"].tied


class EquinoxModel(eqx.Module):
    """Equinox layers: kernels are (out, in)."""

    embed: eqx.nn.Embedding
    attention: eqx.nn.MultiheadAttention
    norm: eqx.nn.LayerNorm
    mlp: eqx.nn.MLP
    conv: eqx.nn.Conv1d
    cell: eqx.nn.GRUCell
    batch: eqx.nn.BatchNorm
    head: eqx.nn.Linear

    def __init__(self, n, key):
        keys = jax.random.split(key, 6)
        self.embed = eqx.nn.Embedding(50, n, key=keys[0])
        self.attention = eqx.nn.MultiheadAttention(2, n, key=keys[1])
        self.norm = eqx.nn.LayerNorm(n)
        self.mlp = eqx.nn.MLP(n, n, 3 * n, 1, key=keys[2])
        self.conv = eqx.nn.Conv1d(n, n, 3, padding=1, groups=2, key=keys[3])
        self.cell = eqx.nn.GRUCell(n, n, key=keys[4])
        self.batch = eqx.nn.BatchNorm(n, "batch", mode="batch")
        self.head = eqx.nn.Linear(n, "scalar", key=keys[5])

    def __call__(self, ids, state):
        x = jax.vmap(self.embed)(ids)
        x = x + self.attention(x, x, x)
        x = self.conv(jax.vmap(self.mlp)(jax.vmap(self.norm)(x)).T)
        x, state = self.batch(x[:, 0], state)
        return self.head(self.cell(x, jnp.zeros_like(x))), state


def test_equinox_layers():
    """Equinox modules, state kept apart, mapped over the batch."""
    make = eqx.nn.make_with_state(EquinoxModel)

    def apply(n, params, ids):
        model, state = make(n, KEY)
        model = eqx.combine(params, eqx.filter(model, eqx.is_array, inverse=True))
        return jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(ids, state)[0]

    leaves = facts(lambda n: eqx.filter(make(n, KEY)[0], eqx.is_array), apply, IDS)
    expected = {
        "embed/weight": (IN, 50),
        "query_proj/weight": (HID, 16),
        "output_proj/weight": (HID, 16),
        "norm/weight": (IN, 1),
        "mlp/layers/0/weight": (HID, 16),
        "mlp/layers/1/weight": (HID, 48),
        "mlp/layers/0/bias": (IN, 1),
        "conv/weight": (HID, 24),
        "conv/bias": (IN, 1),
        "cell/weight_hh": (HID, 16),
        "cell/bias_n": (IN, 1),
        "batch/weight": (IN, 1),
        "head/weight": (OUT, 16),
        "head/bias": (FIX, 1),
    }
    check(leaves, expected)


def haiku_forward(n):
    """Haiku layers, a layer stack, and the embedding as the readout."""

    def forward(ids):
        embed = hk.Embed(50, n)
        x = embed(ids) + hk.get_parameter("positions", (6, n), init=jnp.zeros)
        x = x + hk.MultiHeadAttention(n // 4, 4, w_init=hk.initializers.VarianceScaling())(x, x, x)
        x = hk.Conv1D(n, 3)(hk.LayerNorm(-1, True, True)(x))
        x = hk.layer_stack(3)(lambda x: jnp.tanh(hk.Linear(n, name="inner")(x)))(x)
        return x @ embed.embeddings.T

    return hk.transform(forward)


def test_haiku_layers():
    """Haiku modules."""
    leaves = facts(
        lambda n: haiku_forward(n).init(KEY, IDS), lambda n, p, x: haiku_forward(n).apply(p, None, x), IDS
    )
    expected = {
        "query/w": (HID, 16),
        "attention/linear/w": (HID, 16),
        "query/b": (IN, 1),
        "positions": (IN, 1),
        "conv1_d/w": (HID, 48),
        "layer_norm/scale": (IN, 1),
        "inner/w": (HID, 16),
        "inner/b": (IN, 1),
        "embed/embeddings": (IN, 50),
    }
    check(leaves, expected)
    assert [path for path, leaf in leaves.items() if leaf.tied] == ["embed/embeddings"]


def test_haiku_statistics_in_training():
    """Parameters alone, with the state inside apply; state that is only written needs an entry."""

    def make(n):
        def forward(x):
            x = hk.BatchNorm(True, True, 0.9)(hk.Linear(n, name="first")(x), is_training=True)
            return hk.Linear(3, name="last")(x)

        return hk.transform_with_state(forward)

    def init(n):
        return make(n).init(KEY, X)

    leaves = facts(lambda n: init(n)[0], lambda n, p, x: make(n).apply(p, init(n)[1], None, x), X)
    check(leaves, {"first/w": (IN, 5), "scale": (IN, 1), "last/w": (OUT, 16)})
    whole = (init, lambda n, p, x: make(n).apply(*p, None, x), X)
    with pytest.raises(ValueError, match="ema/average of shape .* never brings it together"):
        facts(*whole)
    leaves = facts(*whole, overrides={"*/average": Role.INPUT})
    check(leaves, {"mean_ema/average": (IN, 1), "mean_ema/hidden": (IN, 1), "last/w": (OUT, 16)})


def test_mixed_kernel_of_a_recurrence():
    """Haiku's LSTM stacks input and state: 5 + n rows are no multiple of the width, and it says so."""

    def make(n):
        def forward(x):
            cell = hk.LSTM(n)
            return cell(x, cell.initial_state(2))[0]

        return hk.transform(forward)

    with pytest.raises(ValueError, match="lstm/linear/w: axis 0 has size 13 at width 8 and 21 at width 16"):
        facts(lambda n: make(n).init(KEY, X), lambda n, p, x: make(n).apply(p, None, x), X)


def test_published_models():
    """Two published Flax models, as their packages ship them."""
    resnet = pytest.importorskip("jax_resnet", reason="needs the package jax-resnet")
    make = lambda n: resnet.ResNet(  # noqa: E731
        resnet.ResNetBlock,
        stage_sizes=[1, 1],
        n_classes=10,
        hidden_sizes=(n, 2 * n),
        stem_cls=functools.partial(resnet.ResNetDStem, stem_width=n),
    )
    leaves = linen(make, IMAGE)
    kernels = {path: leaf for path, leaf in leaves.items() if path.endswith("kernel")}
    roles = [leaf.role for leaf in kernels.values()]
    assert (roles[0], roles[-1], set(roles[1:-1])) == (IN, OUT, {HID})
    assert {leaf.role for path, leaf in leaves.items() if "BatchNorm" in path} == {IN}

    gated = pytest.importorskip("flax_gated_linear_rnn", reason="needs the package flax-gated-linear-rnn")
    fixed = {"n_layer": 2, "eps": 1e-6, "max_seq_length": 6, "use_word_embedding": True, "use_head": True}
    fixed |= {"input_vocab_size": 11, "output_vocab_size": 11, "positional_encoding_mode": "sinusoidal"}
    fixed |= dict.fromkeys(["channel_mixing_dropout", "time_mixing_dropout", "embedding_dropout"], 0.0)
    make = lambda n: gated.GatedLinearRNNLM(d_model=n, d_h=n, d_channel_mixing=4 * n, **fixed)  # noqa: E731
    leaves = facts(lambda n: make(n).init(KEY, IDS, False), lambda n, p, x: make(n).apply(p, x, False), IDS)
    check(leaves, {"input_function/embedding": (IN, 11), "head/kernel": (OUT, 16), "proj/kernel": (HID, 16)})
    check(leaves, {"dense_layers_1/kernel": (HID, 64), "scale": (IN, 1)})
