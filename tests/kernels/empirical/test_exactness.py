"""The structured kernel is that of the Jacobians, to 1e-5 in float32, 1e-10 in float64: ours and Linen's."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from tests.kernels.empirical.reference import compare
from widelimit import models, scaling
from widelimit.kernels import empirical

KEYS = jax.random.split(jax.random.key(0), 4)


@pytest.fixture(autouse=True)
def foreign_models():
    """Linen's own layers promote ranks and dtypes."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def linen(model, x, **variables):
    """A Linen model as function and parameters; nothing is left at zero, where a mistake could hide."""
    params = model.init(KEYS[0], x, **variables)["params"]
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(KEYS[1], len(leaves))
    moved = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    return lambda p, x: model.apply({"params": p}, x), jax.tree.unflatten(treedef, moved)


def kinds(apply, params, x, form="full"):
    """The path of each parameter by name."""
    return {path.name: path.kind for path in empirical.plan(apply, params, x, form=form).leaves()}


def ours(config, dtype="float32"):
    """A network of ours, with its rules."""
    rules = models.rules(config, "sgd")
    model = models.MLP(config) if isinstance(config, models.MLPConfig) else models.ConvNet(config)
    params = models.initialise(KEYS[0], rules)
    return lambda p, x: model.apply({"params": p, "multipliers": rules.multiplier}, x), params, rules


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("parametrization", [scaling.ntk(), scaling.mup(table=8)], ids=["ntk", "mup"])
def test_our_mlp(dtype, parametrization):
    """Biases merged with their layers, multipliers squared, learning rates of SGD as weights."""
    config = models.MLPConfig(
        inputs=5, outputs=3, width=16, base_width=8, parametrization=parametrization, bias_std=0.3
    )
    apply, params, rules = ours(config)
    x1, x2 = jax.random.normal(KEYS[2], (4, 5)), jax.random.normal(KEYS[3], (3, 5))
    assert set(kinds(apply, params, x1).values()) == {"dense", "bias"}
    compare(apply, params, x1, x2, rates=rules, dtype=dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_our_convolutions(dtype):
    """Strides, global pooling, patches against per-sample gradients."""
    config = models.ConvConfig(
        inputs=2, outputs=3, width=8, base_width=4, parametrization=scaling.ntk(), stride=2, bias_std=0.3
    )
    apply, params, rules = ours(config)
    x = jax.random.normal(KEYS[2], (3, 6, 5, 2))
    assert set(kinds(apply, params, x).values()) == {"conv", "dense", "bias"}
    compare(apply, params, x, rates=rules, dtype=dtype)


class Pooled(nn.Module):
    """A CNN with max and mean pooling, unequal windows, dilation, padding, one and three image axes."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 2), strides=(1, 2), padding=((2, 1), (0, 3)))(x))
        x = nn.max_pool(x, (2, 2))
        x = nn.gelu(nn.Conv(5, (2, 2), kernel_dilation=2, input_dilation=2, padding=((1, 0), (0, 1)))(x))
        x = nn.ConvTranspose(3, (2, 2), strides=(2, 2))(x)
        x = nn.avg_pool(x, (2, 1))
        flat = x.reshape(x.shape[0], -1, x.shape[-1])
        x = nn.tanh(nn.Conv(4, 3, padding="CIRCULAR")(flat))
        x = nn.tanh(nn.Conv(2, (2, 2, 1))(x.reshape(x.shape[0], 2, -1, 2, 2)))
        return nn.Dense(3)(x.reshape(x.shape[0], -1))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_convolutional_network_with_pooling(dtype):
    """Every option of a convolution but groups."""
    x = jax.random.normal(KEYS[2], (3, 8, 8, 2))
    apply, params = linen(Pooled(), x)
    assert set(kinds(apply, params, x).values()) == {"conv", "dense", "bias"}
    compare(apply, params, x, jax.random.normal(KEYS[3], (2, 8, 8, 2)), dtype=dtype)


class Residual(nn.Module):
    """Residual blocks with LayerNorm, and a gain that is not one per column."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(6)(x)
        for _ in range(2):
            x = x + nn.Dense(6)(nn.tanh(nn.Dense(8, use_bias=False)(nn.LayerNorm()(x))))
        gate = self.param("gate", nn.initializers.ones, (1,))
        return nn.Dense(2)(nn.RMSNorm()(x) * nn.sigmoid(gate))


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "float64"])
def test_residual_network_with_layer_norm(dtype):
    """Norm gains and biases go by Jacobian, and say so; a parameter inside a function does too."""
    x = jax.random.normal(KEYS[2], (4, 5))
    apply, params = linen(Residual(), x)
    found = kinds(apply, params, x)
    assert found["LayerNorm_0/scale"] == "gain" and found["LayerNorm_0/bias"] == "bias"
    assert found["gate"] == "jacobian" and found["Dense_2/kernel"] == "dense"
    compare(apply, params, x, jax.random.normal(KEYS[3], (2, 5)), dtype=dtype)


class Decoder(nn.Module):
    """Causal attention with several heads, fused or not, learned positions, a readout tied to the table."""

    fused: bool = False
    last: bool = True

    @nn.compact
    def __call__(self, ids):
        embed = nn.Embed(11, 8)
        x = embed(ids) + nn.Embed(6, 8)(jnp.arange(ids.shape[1]))[None]
        x = x + self.param("offset", nn.initializers.normal(), (6, 8))
        for _ in range(2):
            x = x + self.attention(nn.LayerNorm()(x), nn.make_causal_mask(ids))
            x = x + nn.Dense(8)(nn.gelu(nn.Dense(12)(nn.LayerNorm()(x))))
        logits = embed.attend(nn.LayerNorm()(x))
        return logits[:, -1] if self.last else logits

    def attention(self, x, mask):
        if not self.fused:
            return nn.MultiHeadDotProductAttention(num_heads=2)(x, mask=mask)
        q, k, v = jnp.split(nn.Dense(24)(x).reshape(*x.shape[:2], 2, 12), 3, axis=-1)
        return nn.DenseGeneral(8, axis=(-2, -1))(nn.dot_product_attention(q, k, v, mask=mask))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("fused", [False, True])
def test_decoder_with_a_tied_readout(fused, dtype):
    """The table's gradient as embedding and as readout are added before they are squared: cross terms."""
    ids = jax.random.randint(KEYS[2], (3, 6), 0, 11)
    apply, params = linen(Decoder(fused), ids)
    found = kinds(apply, params, ids)
    assert found["Embed_0/embedding"] == "tied" and found["Embed_1/embedding"] == "embedding"
    assert "jacobian" not in found.values()
    forms = ("full", "trace", "self") if dtype == "float64" else ("trace",)
    compare(apply, params, ids, jax.random.randint(KEYS[3], (2, 6), 0, 11), forms=forms, dtype=dtype)


@pytest.mark.slow
def test_every_logit_of_a_decoder():
    """Outputs [N, T, V] count as T V outputs; repeated tokens in one sample meet themselves."""
    ids = jnp.array([[0, 3, 3, 0, 1, 3], [2, 2, 2, 2, 2, 2]])
    apply, params = linen(Decoder(last=False), ids)
    compare(apply, params, ids, forms=("diagonal", "trace"))


class Stacked(nn.Module):
    """Layers in a scan, rematerialised: every leaf has a leading axis of layers."""

    remat: bool

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(6)(x)
        block = nn.remat(Block) if self.remat else Block
        scanned = nn.scan(block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return nn.Dense(2)(scanned()(x, None)[0])


class Block(nn.Module):
    """One layer of a stack."""

    @nn.compact
    def __call__(self, x, _):
        return x + nn.Dense(6)(nn.tanh(nn.Dense(5)(nn.LayerNorm()(x)))), None


@pytest.mark.slow
@pytest.mark.parametrize("remat", [False, True], ids=["kept", "rematerialised"])
def test_scanned_layers(remat):
    """A stacked leaf is a weight for each layer, and these do not overlap."""
    x = jax.random.normal(KEYS[2], (3, 4))
    apply, params = linen(Stacked(remat), x)
    paths = {path.name.split("/", 1)[-1]: path for path in empirical.plan(apply, params, x).leaves()}
    assert paths["Dense_0/kernel"].kind == "dense" and paths["Dense_0/kernel"].why == "3 uses"
    compare(apply, params, x)


class Recurrent(nn.Module):
    """One weight at every step of a sequence."""

    @nn.compact
    def __call__(self, x):
        cell = nn.RNN(nn.SimpleCell(5, param_dtype=x.dtype))
        return nn.Dense(2)(cell(x)[:, -1])


def test_recurrent_network():
    """Uses at all steps are stacked along positions; the recurrent weight is shared by all of them."""
    x = jax.random.normal(KEYS[2], (3, 4, 3))
    apply, params = linen(Recurrent(), x)
    assert "jacobian" not in kinds(apply, params, x).values()
    compare(apply, params, x, forms=("full", "trace"))


def test_map_over_parameters_and_compile():
    """The kernels of an ensemble in one call."""
    config = models.MLPConfig(inputs=3, outputs=2, width=8, base_width=8, parametrization=scaling.ntk())
    apply, params, rules = ours(config)
    stack = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)
    x = jax.random.normal(KEYS[2], (3, 3))
    many = jax.vmap(lambda p: empirical.ntk(apply, p, x, rates=rules))(stack)
    single = empirical.ntk(apply, params, x, rates=rules)
    assert jnp.allclose(many[0], single, rtol=1e-5, atol=1e-5 * abs(single).max())
    double = empirical.ntk(apply, jax.tree.map(lambda leaf: leaf[1], stack), x, rates=rules)
    assert jnp.allclose(many[1], double, rtol=1e-5, atol=1e-5 * abs(double).max())
