"""A layer by itself: its formula written out by hand, its taps, and what it refuses."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from widelimit.models import ACTIVATIONS, Axis, Conv, Dense, LayerShape, activation, finite, growing
from widelimit.scaling import Role, dmft, mup, standard

DENSE = LayerShape(inputs=growing(6, 2), outputs=finite(3), width=6, base_width=2, bias_scale=0.5)
CONV = LayerShape(
    inputs=finite(2), outputs=growing(3, 1), width=3, base_width=1, window=(3, 3), bias_scale=0.5
)


def drawn(layer, x):
    """Initial variables of a layer, with multipliers that are not 1 so that leaving one out shows."""
    variables = layer.init(jax.random.key(1), x)
    return {"params": variables["params"], "multipliers": {"kernel": 0.7, "bias": -1.3}}


def convolve(x, kernel, stride):
    """A zero-padded convolution in loops: the padding is split evenly, the odd pixel goes to the far side."""
    size = [-(-length // stride) for length in x.shape[1:3]]
    pads = [max((out - 1) * stride + 3 - length, 0) for out, length in zip(size, x.shape[1:3], strict=True)]
    x = np.pad(x, ((0, 0), *((pad // 2, pad - pad // 2) for pad in pads), (0, 0)))
    y = np.zeros((x.shape[0], *size, kernel.shape[-1]))
    for i, j in np.ndindex(*size):
        patch = x[:, i * stride : i * stride + 3, j * stride : j * stride + 3]
        y[:, i, j] = np.tensordot(patch, kernel, axes=([1, 2, 3], [0, 1, 2]))
    return y


@pytest.mark.parametrize("batch", [(), (4,), (2, 4)])
def test_dense_is_its_formula(batch):
    """y = mult_kernel (x kernel) + mult_bias bias, for any batch shape, also with traced multipliers."""
    x = jax.random.normal(jax.random.key(0), (*batch, 6))
    layer = Dense(DENSE, mup())
    variables = drawn(layer, x)
    params = jax.tree.map(np.asarray, variables["params"])
    by_hand = 0.7 * np.asarray(x) @ params["kernel"] - 1.3 * params["bias"]
    np.testing.assert_allclose(layer.apply(variables, x), by_hand, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jax.jit(layer.apply)(variables, x), by_hand, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("stride", "size"), [(1, (5, 4)), (2, (5, 4))])
def test_convolution_is_its_formula(stride, size):
    """The sum over a 3 x 3 window and all channels, at odd and even image sizes."""
    x = jax.random.normal(jax.random.key(0), (2, *size, 2))
    layer = Conv(CONV, mup(), stride=stride)
    variables = drawn(layer, x)
    by_hand = 0.7 * convolve(np.asarray(x), np.asarray(variables["params"]["kernel"]), stride)
    by_hand = by_hand - 1.3 * np.asarray(variables["params"]["bias"])
    np.testing.assert_allclose(layer.apply(variables, x), by_hand, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer.apply(variables, x[0]), by_hand[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (Dense(DENSE, mup()), (4, 6)),
        (Conv(CONV, mup()), (2, 5, 4, 2)),
        (Conv(CONV, mup(), stride=2), (2, 5, 4, 2)),
    ],
    ids=["dense", "conv", "strided"],
)
def test_taps_give_the_kernels_gradient(layer, x):
    """The kernel's gradient is the multiplier times the input against the pre-activation's cotangent.

    This is how an empirical NTK is contracted without ever forming a Jacobian.
    """
    x = jax.random.normal(jax.random.key(0), x)
    variables = drawn(layer, x)
    out, taps = layer.apply(variables, x, mutable=["intermediates", "perturbations"])
    assert jnp.all(taps["intermediates"]["input"][0] == x)
    assert jnp.all(taps["intermediates"]["preactivation"][0] == out)
    zeros = taps["perturbations"]
    assert zeros["preactivation"].shape == out.shape and not jnp.any(zeros["preactivation"])

    def loss(params, perturbations):
        y = layer.apply({**variables, "params": params, "perturbations": perturbations}, x)
        return jnp.sum(jnp.tanh(y) ** 2)

    gradient, cotangent = jax.grad(loss, argnums=(0, 1))(variables["params"], zeros)
    cotangent = cotangent["preactivation"]
    np.testing.assert_allclose(cotangent, 2 * jnp.tanh(out) * (1 - jnp.tanh(out) ** 2), rtol=1e-5, atol=1e-6)
    if isinstance(layer, Dense):
        by_taps = x.T @ cotangent
    else:
        by_taps = sum(
            np.tensordot(window, cotangent, axes=([0, 1, 2], [0, 1, 2]))[None, None] * place
            for window, place in patches(np.asarray(x), cotangent.shape[1:3], layer.stride)
        )
    np.testing.assert_allclose(gradient["kernel"], 0.7 * by_taps, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradient["bias"], -1.3 * cotangent.sum(tuple(range(out.ndim - 1))), rtol=1e-4)


def patches(x, size, stride):
    """For each pixel of the window: what it sees from every output, and its place in the kernel as a mask."""
    pads = [max((out - 1) * stride + 3 - length, 0) for out, length in zip(size, x.shape[1:3], strict=True)]
    x = np.pad(x, ((0, 0), *((pad // 2, pad - pad // 2) for pad in pads), (0, 0)))
    for i, j in np.ndindex(3, 3):
        place = np.zeros((3, 3, 1, 1))
        place[i, j] = 1.0
        yield (
            x[:, i : i + stride * size[0] : stride, j : j + stride * size[1] : stride][
                :, : size[0], : size[1]
            ],
            place,
        )


def test_taps_cost_nothing_unless_asked_for():
    """Plain apply returns an array, and init parameters and multipliers alone."""
    layer, x = Dense(DENSE, mup()), jnp.ones((4, 6))
    variables = layer.init(jax.random.key(0), x)
    assert set(variables) == {"params", "multipliers"}
    assert isinstance(layer.apply(variables, x), jax.Array)


def test_multipliers_of_one_cost_no_operation():
    """At the base width the program is that of a plain dense layer: no multiplication is left in it."""
    layer = Dense(LayerShape(inputs=growing(4, 4), outputs=finite(2), width=4, base_width=4), mup(table=8))
    x = jnp.ones((3, 4))
    variables = layer.init(jax.random.key(0), x)
    program = jax.make_jaxpr(lambda p: layer.apply({**variables, "params": p}, x))(variables["params"])
    assert "mul" not in [str(equation.primitive) for equation in program.eqns]


def test_roles_come_from_axes_also_at_the_base_width():
    """One array shape is input-like, hidden or output-like as its axes grow; a readout's bias is scalar."""
    square = {
        Role.INPUT: (finite(8), growing(8, 8)),
        Role.HIDDEN: (growing(8, 8), growing(8, 8)),
        Role.OUTPUT: (growing(8, 8), finite(8)),
        Role.SCALAR: (finite(8), finite(8)),
    }
    for role, (inputs, outputs) in square.items():
        leaves = LayerShape(inputs=inputs, outputs=outputs, width=8, base_width=8, window=(3, 3)).leaves(
            "layer"
        )
        assert leaves["kernel"].role is role
        assert leaves["bias"].role is (Role.INPUT if outputs.grows else Role.SCALAR)
        assert (leaves["kernel"].fan_in, leaves["kernel"].fan_out, leaves["bias"].fan_in) == (72, 8, 1)
        assert leaves["bias"].path == "layer/bias"


def test_the_readouts_bias_is_never_divided_by_the_width():
    """A bias on the logits is no sum over neurons: 1/(gamma0 N) belongs to the kernel alone."""
    variables = Dense(DENSE, dmft(gamma0=2.0)).init(jax.random.key(0), jnp.ones((1, 6)))
    assert variables["multipliers"] == {"bias": 1.0, "kernel": 1 / (2.0 * 6)}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_keep_the_dtype(name):
    """An activation that promotes would make the next layer refuse its input."""
    x = jnp.linspace(-2.0, 2.0, 9)
    assert activation(name)(x).dtype == jnp.float32
    with jax.enable_x64(True):
        assert activation(name)(jnp.linspace(-2.0, 2.0, 9)).dtype == jnp.float64
    assert jnp.all(activation(name)(jnp.full(3, 30.0)) < 31) and jnp.isfinite(activation(name)(x)).all()


def test_activations_are_the_functions_of_their_names():
    """Values at 1 from tables of erf, exp and the Gaussian distribution function: gelu is the exact one."""
    values = {
        "erf": 0.84270079,
        "gelu": 0.84134475,
        "identity": 1.0,
        "relu": 1.0,
        "sigmoid": 0.73105858,
        "silu": 0.73105858,
        "sin": 0.84147098,
        "softplus": 1.31326169,
        "tanh": 0.76159416,
    }
    assert set(values) == set(ACTIVATIONS)
    for name, value in values.items():
        assert float(activation(name)(jnp.array(1.0))) == pytest.approx(value, abs=1e-6), name
    assert activation(jnp.cos) is jnp.cos


def test_what_a_layer_refuses():
    """Each mistake is one sentence that names the layer and says what came."""
    layer, x = Dense(DENSE, standard()), jnp.ones((4, 6))
    variables = layer.init(jax.random.key(0), x)
    with pytest.raises(
        ValueError, match=r"Dense expects inputs whose last axis has size 6; got shape \(4, 5\)"
    ):
        layer.apply(variables, x[:, :5])
    with pytest.raises(TypeError, match="dtype float32 and inputs of dtype float16; convert"):
        layer.apply(variables, jnp.ones((4, 6), jnp.float16))
    with pytest.raises(ValueError, match="no forward multiplier; apply the model to"):
        layer.apply({"params": variables["params"]}, x)
    with pytest.raises(ValueError, match="float64 is off in JAX"):
        Dense(DENSE, standard(), dtype="float64").init(jax.random.key(0), x)
    with pytest.raises(TypeError, match="floating dtype such as 'float32'; got 'int32'"):
        Dense(DENSE, standard(), dtype="int32").init(jax.random.key(0), x)
    with pytest.raises(
        ValueError, match=r"window of 2 sizes; got inputs of shape \(5, 4, 6\) and window \(\)"
    ):
        Conv(DENSE, standard()).init(jax.random.key(0), jnp.ones((5, 4, 6)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: finite(0), "positive integer; got 0"),
        (lambda: growing(8, 2.5), "base size of an axis must be a positive integer; got 2.5"),
        (lambda: Axis(8, 4, False), "does not grow has one size; got 8"),
        (
            lambda: LayerShape(inputs=finite(2), outputs=finite(2), width=4, base_width=0),
            "base_width must be",
        ),
        (
            lambda: LayerShape(inputs=finite(2), outputs=finite(2), width=4, base_width=2, bias_scale=-1.0),
            "bias_scale is a standard deviation",
        ),
        (lambda: activation("swish"), "one of erf, gelu, .*; got 'swish'"),
    ],
)
def test_bad_shapes_are_refused(make, message):
    """Nonsense is found where it is written, not in the first forward pass."""
    with pytest.raises(ValueError, match=message):
        make()


def test_an_activation_must_be_callable():
    """Neither a name nor a function: the type is wrong."""
    with pytest.raises(TypeError, match="got 3"):
        activation(3)


def test_an_activation_that_cannot_be_hashed_is_refused_in_one_sentence():
    """Programs are kept by it; a dataclass with equality and no hash is a likely one."""

    @dataclasses.dataclass
    class Swish:
        def __call__(self, h):
            return h

    with pytest.raises(TypeError, match="activation must be hashable.*got a Swish"):
        activation(Swish())
