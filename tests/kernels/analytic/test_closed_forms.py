"""Analytic kernels against formulas written down independently, and against numbers fixed beforehand."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from tests.kernels.analytic.support import (
    PARAMETRIZATIONS,
    THEORY,
    arc_cosine,
    arcsine,
    conv,
    mlp,
    recursion,
    residual,
    samples,
)
from tests.kernels.permutations import closed_form
from widelimit import models, scaling
from widelimit.kernels import analytic, neural_tangents

TIGHT = {"rtol": 1e-12, "atol": 0.0}
# The reference takes an arccos near 1, which costs half of the digits where two samples are nearly parallel.
CLOSE = {"rtol": 1e-10, "atol": 0.0}


@pytest.mark.parametrize("width", [32, 128])
@pytest.mark.parametrize("name", PARAMETRIZATIONS)
def test_deep_relu_with_every_parametrization(name, width):
    """With biases, multipliers and per-layer rates, three layers follow the arc-cosine recursion."""
    config = mlp(PARAMETRIZATIONS[name], depth=3, width=width, bias_std=0.7)
    x = samples(5, 3)
    found = analytic.kernel(config, x)
    for one, other in zip(found, recursion(config, x, arc_cosine), strict=True):
        np.testing.assert_allclose(one, other, **CLOSE)


@pytest.mark.parametrize("bias", [False, True])
def test_erf(bias):
    """So does erf, with the arcsine kernel."""
    config, x = mlp(scaling.standard(), depth=2, activation="erf", bias=bias, bias_std=0.3), samples(5, 3)
    found = analytic.kernel(config, x)
    for one, other in zip(found, recursion(config, x, arcsine), strict=True):
        np.testing.assert_allclose(one, other, **CLOSE)


def test_deep_linear():
    """A deep linear network of L hidden layers has K = K_x and, with all rates 1, Theta = (L + 1) K_x."""
    x = samples(4, 3)
    found = analytic.kernel(mlp(depth=4, activation="identity", bias=False), x)
    np.testing.assert_allclose(found.nngp, x @ x.T / 3, **TIGHT)
    np.testing.assert_allclose(found.ntk, 5 * x @ x.T / 3, **TIGHT)


@pytest.mark.parametrize(
    ("first", "second"),
    [("mup 3", "mup 8"), ("mup 8", "mup 9"), ("mup 3", "mup 9")],
)
@pytest.mark.parametrize("make", [mlp, residual])
def test_equivalent_forms_have_one_kernel(make, first, second):
    """Tables 3, 8 and 9 are one network trained alike: with SGD's rates their kernels are equal."""
    x = samples(4, 3)
    one, two = (analytic.kernel(make(PARAMETRIZATIONS[name], bias_std=0.5), x) for name in (first, second))
    np.testing.assert_allclose(one.nngp, two.nngp, **TIGHT)
    np.testing.assert_allclose(one.ntk, two.ntk, **TIGHT)


def test_standard_and_ntk_differ_by_their_rates():
    """Same NNGP; as raw gradients, a layer counts for fan_in / base fan_in more without a multiplier."""
    x = samples(4, 3)
    configs = [mlp(p, width=64, base_width=16, bias=False) for p in (scaling.standard(), scaling.ntk())]
    kernels = [analytic.kernel(config, x) for config in configs]
    np.testing.assert_allclose(kernels[0].nngp, kernels[1].nngp, **TIGHT)
    weights = {name: {"kernel": 1.0 if name == "Dense_0" else 4.0} for name in configs[0].layers()}
    np.testing.assert_allclose(
        kernels[0].ntk, analytic.kernel(configs[1], x, get="ntk", rates=weights), **TIGHT
    )


def test_width_cancels_in_the_kernel_parametrization():
    """Where every layer is divided by the root of its fan-in, no width is left in any number."""
    x = samples(3, 3)
    narrow, wide = (analytic.kernel(mlp(width=width, bias_std=0.1), x) for width in (16, 1024))
    np.testing.assert_allclose(narrow.ntk, wide.ntk, **TIGHT)
    np.testing.assert_allclose(narrow.nngp, wide.nngp, **TIGHT)


def test_layers_add_up():
    """The kernel is linear in the rates: layers one by one, and weights apart from biases, sum to it."""
    config, x = residual(scaling.mup(), branch_depth=2, activation="erf", bias_std=0.2), samples(3, 3)
    rates = models.rules(config, "sgd").learning_rate
    leaves, treedef = jax.tree.flatten(rates)
    parts = []
    for index in range(len(leaves)):
        only = jax.tree.unflatten(treedef, [rate * (i == index) for i, rate in enumerate(leaves)])
        parts.append(analytic.kernel(config, x, get="ntk", rates=only))
    np.testing.assert_allclose(sum(parts), analytic.kernel(config, x, get="ntk"), **TIGHT)


def test_zero_readout():
    """A readout that starts at zero: f = 0, and only the readout learns at first, from the features below."""
    x = samples(4, 3)
    zero = analytic.kernel(mlp(bias=False, zero_readout=True), x)
    assert not zero.nngp.any()
    np.testing.assert_allclose(zero.ntk, analytic.kernel(mlp(bias=False), x, get="nngp"), **TIGHT)


@pytest.mark.parametrize("k", [5, 10])
def test_permutation_task(k):
    """Learning a permutation from basis vectors: mean and variance of the limit, arXiv 2502.16763."""
    config = mlp(inputs=k, outputs=k, depth=1, bias=False)
    point = np.zeros(k)
    point[:2] = 2**-0.5
    both = analytic.kernel(config, np.vstack([np.eye(k), point]))
    weights = np.linalg.solve(both.ntk[:k, :k], both.ntk[:k, k])
    cross = both.nngp[:k, k]
    variance = both.nngp[k, k] + weights @ both.nngp[:k, :k] @ weights - 2 * weights @ cross
    inside, outside, spread = closed_form(k, 2)
    np.testing.assert_allclose(weights, [inside] * 2 + [outside] * (k - 2), rtol=1e-10)
    np.testing.assert_allclose(variance, spread, rtol=1e-10)


@pytest.mark.parametrize(("depth", "value"), [(4, 6.835938), (16, 7.758613), (64, 8.050537), (256, 8.128418)])
def test_linear_residual_network(depth, value):
    """2 (1 + 1/L)^L + (1 + 1/L)^(L-1), on its way to 3e: the lazy limit of a linear residual network."""
    theory = scaling.with_depth(THEORY, "1/2")
    config = residual(theory, activation="identity", bias=False, depth=depth, branch_scale=1.0)
    found = analytic.kernel(config, np.ones((1, 3)), get="ntk").item()
    assert found == pytest.approx(value, abs=1e-6)
    assert found == pytest.approx(2 * (1 + 1 / depth) ** depth + (1 + 1 / depth) ** (depth - 1), rel=1e-12)


def unit_rates(config):
    """Rates at which every layer counts as in neural-tangents: the gradient of weights ~ N(0, 1)."""
    rules = models.rules(config, "sgd")
    return jax.tree.map(lambda std: std**2, rules.init_std)


def peer(*layers):
    """Returns the kernels that neural-tangents gives to a network, compiled as its own `batch` does."""
    nt = neural_tangents()
    _, _, kernel_fn = nt.stax.serial(*layers)

    def both(x):
        with (
            jax.enable_x64(True),
            jax.numpy_dtype_promotion("standard"),
            jax.numpy_rank_promotion("allow"),
        ):
            found = jax.jit(lambda x: kernel_fn(x, None, ("nngp", "ntk")))(jax.numpy.asarray(x))
            return [np.asarray(kernel) for kernel in found]

    return both


def assert_same(found, expected, rtol=1e-7):
    """The peer does not treat the diagonal apart, so that its NTK is off by the root of rounding there."""
    np.testing.assert_allclose(found.nngp, expected[0], rtol=rtol)
    np.testing.assert_allclose(found.ntk, expected[1], rtol=rtol)


@pytest.mark.parametrize("name", ["erf", "gelu", "identity", "relu", "sin"])
def test_activations_against_neural_tangents(name):
    """Every closed form, two layers deep with biases, equals the peer's."""
    layers = neural_tangents().stax
    phi = {
        "erf": layers.Erf,
        "gelu": layers.Gelu,
        "identity": layers.Identity,
        "relu": layers.Relu,
        "sin": layers.Sin,
    }[name]()
    dense = layers.Dense(1, W_std=1.0, b_std=0.5)
    config = mlp(activation=name, bias_std=0.5)
    found = analytic.kernel(config, samples(6, 3), rates=unit_rates(config))
    assert_same(found, peer(dense, phi, dense, phi, dense)(samples(6, 3)))


@pytest.mark.parametrize(("size", "stride"), [((6, 5), 2), ((5, 4), 1)])
def test_convolutions_against_neural_tangents(size, stride):
    """Zero padding, strides, odd and even images, global pooling, biases: as the peer has it."""
    layers = neural_tangents().stax
    first, second = (
        layers.Conv(1, (3, 3), (step, step), "SAME", W_std=1.0, b_std=0.5) for step in (1, stride)
    )
    network = (first, layers.Relu(), second, layers.Relu(), layers.GlobalAvgPool())
    config = conv(stride=stride, bias_std=0.5)
    x = samples(2, *size, 2)
    found = analytic.kernel(config, x, rates=unit_rates(config))
    assert_same(found, peer(*network, layers.Dense(1, W_std=1.0, b_std=0.5))(x))


@pytest.mark.filterwarnings("ignore:`FanIn` layers assume independent inputs")
@pytest.mark.parametrize(("branch_depth", "final"), [(1, True), (2, False)])
def test_residual_networks_against_neural_tangents(branch_depth, final):
    """Streams and scaled branches, of one and two layers, read out with and without activation."""
    layers = neural_tangents().stax
    dense, scale = layers.Dense(1, W_std=1.0, b_std=0.5), 0.6
    ends = layers.Dense(1, W_std=scale, b_std=0.5 * scale)
    inner = [layers.Erf(), dense] * (branch_depth - 1) + [layers.Erf(), ends]
    block = layers.serial(
        layers.FanOut(2), layers.parallel(layers.Identity(), layers.serial(*inner)), layers.FanInSum()
    )
    config = residual(
        branch_depth=branch_depth,
        branch_scale=scale,
        final_activation=final,
        bias_std=0.5,
        activation="erf",
        depth=2,
    )
    found = analytic.kernel(config, samples(4, 3), rates=unit_rates(config))
    network = [dense, block, block, *([layers.Erf()] if final else []), dense]
    assert_same(found, peer(*network)(samples(4, 3)))


def test_blocks_and_the_diagonal():
    """Computed in blocks, as two sets, or only on the diagonal: the same numbers, and symmetric exactly."""
    config, x = mlp(scaling.mup(), activation="tanh", bias_std=0.4), samples(7, 3)
    whole = analytic.kernel(config, x)
    for one, other in zip(whole, analytic.kernel(config, x, batch_size=3), strict=True):
        np.testing.assert_allclose(one, other, **TIGHT)
        np.testing.assert_array_equal(other, other.T)
    for one, other in zip(whole, analytic.kernel(config, x[:2], x[2:], batch_size=2), strict=True):
        np.testing.assert_allclose(one[:2, 2:], other, **TIGHT)
    for one, other in zip(whole, analytic.kernel(config, x, diagonal=True, batch_size=2), strict=True):
        np.testing.assert_allclose(np.diag(one), other, **TIGHT)


def test_rules_bring_their_own_numbers():
    """Rules with other stds and multipliers stand for the network that they initialise."""
    config, x = mlp(scaling.standard(), bias=False), samples(3, 3)
    rules = models.rules(config, "sgd")
    np.testing.assert_array_equal(analytic.kernel(config, x).ntk, analytic.kernel(config, x, rates=rules).ntk)
    other = models.rules(mlp(THEORY, bias=False), "sgd")
    np.testing.assert_allclose(
        analytic.kernel(config, x, rates=other).ntk, analytic.kernel(mlp(bias=False), x).ntk, **TIGHT
    )
