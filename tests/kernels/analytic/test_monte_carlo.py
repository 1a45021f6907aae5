"""Finite networks approach the limit as theory says: -1/2 for one network, -1 for the mean of many."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from scipy import stats

from tests.kernels.analytic.support import PARAMETRIZATIONS, conv, mlp, residual, samples
from widelimit.compare import fit_exponent
from widelimit.kernels import analytic
from widelimit.scaling import completep

SEEDS = 512
COMPLETEP = completep()  # muP in width; depth is in multipliers of branches and in the rates of SGD


def finite(config, x, seeds=SEEDS, seed=0):
    """Kernels of finite networks and of the infinite one."""
    key = jax.random.key(seed + config.width)
    return analytic.monte_carlo(config, x, key=key, seeds=seeds, batch_size=64), analytic.kernel(config, x)


def worst_score(finite, limit):
    """Returns the largest t statistic of the distinct entries, and what chance allows at 1e-4."""
    upper = np.triu_indices(len(limit))
    error = (finite - limit)[:, *upper]
    scores = error.mean(0) / (error.std(0, ddof=1) / len(error) ** 0.5)
    return np.abs(scores).max(), stats.t.ppf(1 - 0.5e-4 / scores.size, len(error) - 1)


def relative_errors(finite, limit):
    """Frobenius error of each seed's kernel."""
    return np.linalg.norm(finite - limit, axis=(1, 2)) / np.linalg.norm(limit)


def assert_rate(widths, configs, x):
    """One network's error falls as width^-1/2: within three standard errors, which are below 0.04."""
    errors, scores = [], []
    for config in configs:
        found, limit = finite(config, x)
        errors.append(relative_errors(found.ntk, limit.ntk))
        scores.append(worst_score(found.nngp, limit.nngp))
    law = fit_exponent(widths, np.array(errors).T, mean="rms", paired=False)
    assert law.stderr < 0.04
    assert abs(law.exponent + 0.5) < 3 * law.stderr
    # At the largest width the bias of the mean, of order 1/width, is below its noise.
    assert scores[-1][0] < scores[-1][1]


@pytest.mark.slow
def test_one_network_errs_as_the_root_of_width():
    """A standard-parametrized relu network with biases and its SGD rates, over a factor of 16 in width."""
    widths = [64, 256, 1024]
    configs = [mlp(PARAMETRIZATIONS["standard"], width=n, bias_std=0.5, outputs=4) for n in widths]
    assert_rate(widths, configs, samples(4, 3))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ntk", "mean_field", "mup 3", "mup 9"])
def test_and_so_does_every_parametrization(name):
    """With tanh, whose limit is a series."""
    widths = [64, 128, 256, 512]
    configs = [mlp(PARAMETRIZATIONS[name], width=n, bias_std=0.5, activation="tanh") for n in widths]
    assert_rate(widths, configs, samples(4, 3))


@pytest.mark.slow
def test_and_a_residual_network():
    """Two-layer branches on a stream."""
    widths = [64, 128, 256, 512]
    configs = [residual(PARAMETRIZATIONS["ntk"], width=n, branch_depth=2, activation="erf") for n in widths]
    assert_rate(widths, configs, samples(4, 3))


@pytest.mark.slow
def test_and_a_convolutional_network():
    """Strided convolutions and pooling, whose width is the number of channels."""
    widths = [32, 64, 128, 256]
    configs = [conv(PARAMETRIZATIONS["ntk"], width=n, activation="gelu", bias_std=0.3) for n in widths]
    assert_rate(widths, configs, samples(3, 6, 5, 2))


@pytest.mark.parametrize(
    "config",
    [
        residual(COMPLETEP, width=512, base_depth=2, activation="erf", bias_std=0.5, branch_scale=0.7),
        conv(PARAMETRIZATIONS["standard"], width=128, bias_std=0.5),
    ],
    ids=["residual", "conv"],
)
def test_the_mean_of_many_is_the_limit(config):
    """At one large width every entry of both kernels is within chance of the limit, seeds' means taken."""
    x = samples(3, 6, 5, 2) if "Conv" in type(config).__name__ else samples(3, 3)
    found, limit = finite(config, x, seeds=128)
    for one, exact in zip(found, limit, strict=True):
        score, allowed = worst_score(one, exact)
        assert score < allowed


@pytest.mark.slow
def test_the_mean_errs_as_the_inverse_of_width():
    """The bias of the mean NTK of tanh networks falls as 1/width, measured with 131 072 seeds a width.

    The bias is projected on the limit, so that one number per width is left, with a standard error.
    """
    widths, x, points = np.array([8, 16, 32, 64]), samples(3, 3), []
    for n in widths:
        config = mlp(PARAMETRIZATIONS["ntk"], width=int(n), base_width=8, activation="tanh", bias=False)
        found, limit = finite(config, x, seeds=131_072)
        bias = ((found.ntk - limit.ntk) * limit.ntk).sum((1, 2)) / (limit.ntk**2).sum()
        points.append((bias.mean(), bias.std(ddof=1) / len(bias) ** 0.5))
    mean, error = np.abs(np.array(points)).T
    weight = (mean / error) ** 2
    at = np.log(widths) - np.average(np.log(widths), weights=weight)
    slope, noise = (weight * at) @ np.log(mean) / (weight @ at**2), (weight @ at**2) ** -0.5
    assert noise < 0.1
    assert abs(slope + 1) < 3 * noise
