"""Hard input: the right answer or one clear sentence, never NaN."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.kernels.analytic.support import conv, mlp, residual, samples
from widelimit import models
from widelimit.kernels import analytic


@pytest.mark.parametrize("name", ["relu", "erf", "gelu", "sin", "identity", "tanh"])
def test_duplicates_are_the_same_sample(name):
    """Equal samples have equal rows, and with each other the kernel of one with itself, to rounding."""
    config = mlp(activation=name, bias_std=0.3, depth=4)
    x = samples(4, 3)
    found = analytic.kernel(config, np.vstack([x, x]))
    for kernel in found:
        np.testing.assert_allclose(kernel[:4, :4], kernel[4:, :4], rtol=1e-12)
        np.testing.assert_allclose(kernel[:4, :4], kernel[4:, 4:], rtol=1e-12)


@pytest.mark.parametrize("scale", [1e-8, 3.0, 1e8])
@pytest.mark.parametrize("make", [mlp, residual])
def test_relu_is_homogeneous(make, scale):
    """Without biases K(c x, c x') = c^2 K(x, x'), of both kernels, over sixteen orders of magnitude."""
    config, x = make(activation="relu", bias=False), samples(5, 3)
    for one, other in zip(analytic.kernel(config, scale * x), analytic.kernel(config, x), strict=True):
        np.testing.assert_allclose(one, scale**2 * other, rtol=1e-12)


@pytest.mark.parametrize("name", ["erf", "gelu", "sin", "tanh", "sigmoid", "softplus", "silu"])
def test_tiny_inputs_see_the_tangent(name):
    """At scale 1e-8 one hidden layer is phi(0) + phi'(0) u, and its kernel that of a linear network."""
    x, one = samples(4, 3), np.ones((4, 4))
    at_zero, slope = {
        "erf": (0, 2 / np.pi**0.5),
        "gelu": (0, 0.5),
        "sigmoid": (0.5, 0.25),
        "silu": (0, 0.5),
        "sin": (0, 1),
        "softplus": (np.log(2), 0.5),
        "tanh": (0, 1),
    }[name]
    found = analytic.kernel(mlp(activation=name, bias=False, depth=1), 1e-8 * x)
    linear = 1e-16 * x @ x.T / 3
    value = at_zero**2 * one + slope**2 * linear
    np.testing.assert_allclose(found.nngp, value, rtol=1e-7)
    np.testing.assert_allclose(found.ntk, value + slope**2 * linear, rtol=1e-7)


@pytest.mark.parametrize("make", [mlp, residual])
@pytest.mark.parametrize("name", ["relu", "erf", "tanh", "gelu", "sin"])
def test_a_zero_sample(make, name):
    """Zero has kernel 0 with every sample if phi(0) = 0 and no bias is there; with biases all is finite."""
    x = np.vstack([np.zeros(3), samples(2, 3)])
    for kernel in analytic.kernel(make(activation=name, bias=False), x):
        np.testing.assert_array_equal(kernel[0], 0)
        assert (np.diag(kernel)[1:] > 0).all()
    for kernel in analytic.kernel(make(activation=name, bias_std=0.5), x):
        assert np.isfinite(kernel).all() and np.linalg.eigvalsh(kernel).min() > -1e-12


def test_relu_at_zero_is_that_of_jax():
    """A zero pre-activation has the derivative 0: only the readout's bias learns from a zero sample."""
    config = mlp(depth=1)
    assert analytic.kernel(config, np.zeros((1, 3)), get="ntk").item() == 1.0


DTYPES = ["float16", "float32", "int8", "bool"]


@pytest.mark.parametrize(  # NumPy has no bfloat16, and JAX has 64-bit integers off
    ("where", "dtype"), [*((np, d) for d in [*DTYPES, "int64"]), *((jnp, d) for d in [*DTYPES, "bfloat16"])]
)
def test_any_real_dtype(where, dtype):
    """Inputs are converted, not computed with: the kernel is that of the same numbers in float64."""
    x = where.asarray([[1, 0, 1], [0, 1, 1], [1, 1, 1]], dtype=dtype)
    found = analytic.kernel(mlp(), x)
    assert found.ntk.dtype == found.nngp.dtype == np.float64
    np.testing.assert_array_equal(found.ntk, analytic.kernel(mlp(), np.asarray(x).astype(np.float64)).ntk)


def test_one_sample():
    """One sample has a kernel of shape [1, 1]; one against many one row."""
    x = samples(4, 3)
    assert analytic.kernel(mlp(), x[:1]).ntk.shape == (1, 1)
    assert analytic.kernel(mlp(), x[:1], x).ntk.shape == (1, 4)
    image = samples(1, 5, 4, 2)
    assert analytic.kernel(conv(), image, get="ntk").shape == (1, 1)


def test_kernels_are_positive():
    """Eigenvalues are not negative beyond rounding, with duplicates and parallel samples among the inputs."""
    x = samples(10, 3)
    x = np.vstack([x, x, 2 * x, -x])
    for kernel in analytic.kernel(mlp(activation="gelu", depth=3), x):
        values = np.linalg.eigvalsh(kernel)
        assert values.min() > -1e-7 * values.max()


def test_what_is_wrong_is_said():
    """Each wrong argument meets its sentence."""
    x, config = samples(4, 3), mlp()
    with pytest.raises(ValueError, match=r"x1 must be finite; got NaN or infinity in 1 of 4 samples"):
        analytic.kernel(config, np.where(np.arange(12).reshape(4, 3) == 5, np.nan, x))
    with pytest.raises(ValueError, match=r"x2 must have the shape \[N, 3\], N >= 1; got \(4, 2\)"):
        analytic.kernel(config, x, x[:, :2])
    with pytest.raises(ValueError, match=r"x1 must have the shape \[N, 3\], N >= 1; got \(0, 3\)"):
        analytic.kernel(config, x[:0])
    with pytest.raises(ValueError, match=r"the shape \[N, height, width, 2\]"):
        analytic.kernel(conv(), x)
    with pytest.raises(TypeError, match="x1 must hold real numbers; got dtype complex128"):
        analytic.kernel(config, x + 0j)
    with pytest.raises(TypeError, match="x1 must hold real numbers"):
        analytic.kernel(config, np.array([["a", "b", "c"]]))
    with pytest.raises(TypeError, match="known for MLPConfig, ConvConfig, ResidualMLPConfig; got str"):
        analytic.kernel("mlp", x)
    with pytest.raises(ValueError, match="the kernel of gradient descent; got rates of adam"):
        analytic.kernel(config, x, rates=models.rules(config, "adam"))
    with pytest.raises(ValueError, match="the kernel of gradient descent; got rates of 'adam'"):
        analytic.kernel(config, x, rates="adam")
    with pytest.raises(ValueError, match="rules of another network"):
        analytic.kernel(config, x, rates=models.rules(mlp(width=32), "sgd"))
    with pytest.raises(ValueError, match="rates must be a pytree of numbers shaped like the parameters"):
        analytic.kernel(config, x, rates={"Dense_0": 1.0})
    with pytest.raises(ValueError, match="get must be 'nngp', 'ntk' or both"):
        analytic.kernel(config, x, get="cov1")
    with pytest.raises(ValueError, match="leave x2 out"):
        analytic.kernel(config, x, x, diagonal=True)
    with pytest.raises(ValueError, match="batch_size must be a positive integer"):
        analytic.kernel(config, x, batch_size=0)
    for name, sizes in (("seeds", {"seeds": 0}), ("batch_size", {"seeds": 1, "batch_size": 0})):
        with pytest.raises(ValueError, match=f"{name} must be a positive integer"):
            analytic.monte_carlo(config, x, key=jax.random.key(0), **sizes)


def test_what_overflows_is_said():
    """Neither samples nor rates that float64 cannot hold become NaN in silence."""
    config = mlp(activation="relu")
    with pytest.raises(FloatingPointError, match="so large that float64 overflows"):
        analytic.kernel(config, np.full((2, 3), 1e160))
    rates = jax.tree.map(lambda _: np.nan, models.rules(config, "sgd").learning_rate)
    with pytest.raises(ValueError, match="one finite number for each parameter; got nan"):
        analytic.kernel(config, np.ones((2, 3)), rates=rates)
