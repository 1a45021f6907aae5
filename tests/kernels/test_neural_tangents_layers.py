"""Layers of neural-tangents that move, join and repeat, against kernels written down in NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels.analytic.support import arc_cosine, samples
from tests.kernels.peer import analytic_kernels, assert_covariances, peer_style
from widelimit.kernels import neural_tangents


def moved(name, x):
    """A fixed linear layer, its call's options, and what it makes of inputs [N, S, C], in NumPy."""
    stax, mix = neural_tangents().stax, samples(5, 4, seed=2)
    graph = (samples(3, 5, 5, seed=3) > 0).astype(float)
    along = (((1,), (0,)), ((), ()))  # contracts S and puts the new axis last
    old, new = np.arange(5), (np.arange(10) + 0.5) / 2 - 0.5  # the centres of pixels, twice as many
    resize = np.stack([np.interp(new, old, row) for row in np.eye(5)])
    return {
        "SumPool": (stax.SumPool((2,), (3,)), {}, np.stack([x[:, :2].sum(1), x[:, 3:].sum(1)], 1)),
        "AvgPool": (stax.AvgPool((3,)), {}, np.stack([x[:, i : i + 3].mean(1) for i in range(3)], 1)),
        "Index": (stax.Index(stax.Slice[:, 3:0:-2]), {}, x[:, [3, 1]]),
        "ImageResize": (stax.ImageResize((-1, 10, -1), "linear"), {}, np.einsum("st,nsc->ntc", resize, x)),
        "Aggregate": (stax.Aggregate(1), {"pattern": (graph,) * 2}, np.einsum("nst,nsc->ntc", graph, x)),
        "DotGeneral": (
            stax.DotGeneral(rhs=mix, dimension_numbers=along),
            {},
            np.einsum("st,nsc->ntc", mix, x),
        ),
    }[name]


@pytest.mark.parametrize("name", ["SumPool", "AvgPool", "Index", "ImageResize", "Aggregate", "DotGeneral"])
def test_fixed_linear_layers(name):
    """Between dense layers, the NNGP is the covariance of the moved inputs at all pixels, the NTK twice."""
    stax, x = neural_tangents().stax, samples(3, 5, 4)
    with peer_style():  # a layer keeps its constants in the precision of the time that it is made
        layer, options, y = moved(name, x)
    last = stax.Dense(1, channel_axis=1 if name == "DotGeneral" else -1)
    nngp, ntk = analytic_kernels(stax.Dense(1), layer, last, x=x, diagonal_spatial=False, **options)
    covariance = np.einsum("nsc,mtc->nmst", y, y) / 4
    np.testing.assert_allclose(nngp, covariance, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(ntk, 2 * covariance, rtol=1e-10, atol=1e-13)
    assert_covariances(nngp, ntk)


@pytest.mark.parametrize("name", ["Conv", "ConvLocal", "ConvTranspose"])
def test_kinds_of_convolution(name):
    """A pixel of the output sees pixels of the input through three taps, shared by all pixels or by none."""
    stax, x = neural_tangents().stax, samples(3, 5, 4)
    layers = (getattr(stax, name)(1, (3,), (2,)), stax.Relu(), stax.Dense(1))
    nngp, ntk = analytic_kernels(*layers, x=x, diagonal_spatial=False)
    sees = np.stack([np.eye(5)[tap : tap + 3 : 2] for tap in range(3)])  # [tap, pixel of output, of input]
    if name == "ConvTranspose":
        sees = np.stack([np.eye(11)[:, tap : tap + 9 : 2] for tap in range(3)])
    size = sees.shape[1]
    windows = np.einsum("kps,nsc->npkc", sees, x).reshape(3 * size, -1)
    below = windows @ windows.T / 12
    if name == "ConvLocal":
        below *= np.tile(np.eye(size), (3, 3))
    value, slope = arc_cosine(below)
    for kernel, expected in ((nngp, value), (ntk, value + below * slope)):
        expected = expected.reshape(3, size, 3, size).transpose(0, 2, 1, 3)
        np.testing.assert_allclose(kernel, expected, rtol=1e-7, atol=1e-12)
    assert_covariances(nngp, ntk)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["FanInSum", "FanInProd", "FanInConcat", "repeat", "Dropout"])
def test_compositions(name):
    """Branches add, multiply or are averaged; loops repeat; dropout scales the diagonal."""
    stax, x = neural_tangents().stax, samples(4, 5)
    c = x @ x.T / 5
    (relu, slope), dense = arc_cosine(c), stax.Dense(1)
    deep = (relu, c * slope)
    for _ in range(3):  # relu after weights of variance 2, which keeps the diagonal
        value, tangent = arc_cosine(2 * deep[0])
        deep = (value, 2 * (deep[0] + deep[1]) * tangent)
    dropped = 1 + np.eye(4) / 4  # each sample with itself: 1 / 0.8
    fan = (stax.FanOut(2), stax.parallel(stax.serial(dense, stax.Relu(), dense), stax.Dense(1, W_std=2.0)))
    one, two = (relu, relu + c * slope), (4 * c, 4 * c)
    layers, expected = {
        "FanInSum": ((*fan, stax.FanInSum()), (one[0] + two[0], one[1] + two[1])),
        "FanInProd": ((*fan, stax.FanInProd()), (one[0] * two[0], one[1] * two[0] + one[0] * two[1])),
        "FanInConcat": ((*fan, stax.FanInConcat(-1)), ((one[0] + two[0]) / 2, (one[1] + two[1]) / 2)),
        "repeat": (
            (dense, stax.Relu(), stax.repeat(stax.serial(stax.Dense(1, W_std=2**0.5), stax.Relu()), 3)),
            deep,
        ),
        "Dropout": ((dense, stax.Relu(), stax.Dropout(0.8), dense), (dropped * relu, dropped * one[1])),
    }[name]
    kernels = analytic_kernels(*layers, x=x)
    np.testing.assert_allclose(kernels, expected, rtol=1e-7)
    assert_covariances(*kernels)
