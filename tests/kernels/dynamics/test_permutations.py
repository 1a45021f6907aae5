"""Exact learning of permutations: mean and variance in closed form, against the ensemble's dynamics."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.kernels.permutations import PUBLISHED, closed_form
from widelimit.kernels import analytic
from widelimit.kernels.dynamics import descend, ensemble, largest_rate
from widelimit.models import MLPConfig
from widelimit.scaling import ntk


def relu_kernels(x):
    """NNGP and NTK of the two-layer ReLU network v.relu(W x / sqrt d) / sqrt n, all weights N(0, 1)."""
    norm = np.linalg.norm(x, axis=1)
    gram = x @ x.T / x.shape[1]
    cosine = np.clip(x @ x.T / np.outer(norm, norm), -1, 1)
    angle = np.arccos(cosine)
    np.fill_diagonal(angle, 0.0)
    nngp = np.outer(norm, norm) / x.shape[1] * (np.sin(angle) + (np.pi - angle) * cosine) / (2 * np.pi)
    return nngp, nngp + gram * (np.pi - angle) / (2 * np.pi)


def problem(k, m, order):
    """The k basis vectors with permuted targets, and one test input with m ones, of norm one."""
    star = (np.arange(k) < m) / np.sqrt(m)
    return np.concatenate([np.eye(k), star[None]]), np.eye(k)[order]


@pytest.mark.parametrize("k, m", [(5, 2), (10, 2), (6, 4), (4, 3)])
def test_mean_and_variance_are_the_closed_form(k, m):
    """The ensemble at t = inf, and after enough steps, has the moments of the formula at every output."""
    order = np.random.default_rng(k).permutation(k)
    x, y = problem(k, m, order)
    nngp, tangent = relu_kernels(x)
    mu_in, mu_out, variance = closed_form(k, m)
    if (k, m) in PUBLISHED:
        np.testing.assert_allclose((mu_in, mu_out, variance), PUBLISHED[k, m], rtol=0, atol=1e-7)
    expected = np.where(np.arange(k) < m, mu_in, mu_out) @ y
    rate = 0.9 * largest_rate(tangent[:k, :k])
    for found in (ensemble(nngp, tangent, y, np.inf), ensemble(nngp, tangent, y, rate=rate, steps=2000)):
        np.testing.assert_allclose(found.mean[0, -1], expected, atol=1e-12)
        np.testing.assert_allclose(found.covariance[0, -1, -1], variance, rtol=1e-11)
        np.testing.assert_allclose(found.mean[0, :k], y, atol=1e-12)
        np.testing.assert_allclose(found.covariance[0, :k], 0.0, atol=1e-12)


def trained(width, seeds, order, k=5, m=2):
    """Outputs at the test input of many trained networks, and the same without their own start, [S, k] each.

    The second is a control variate: the start's linear image has mean zero, so its mean is that of the limit
    plus the bias of the width, with a tenth of the scatter.
    """
    x, y = problem(k, m, order)
    tangent = relu_kernels(x)[1]
    rate = 0.8 * largest_rate(tangent[:k, :k])

    def apply(params, x):
        w, v = params
        return jax.nn.relu(x @ w / k**0.5) @ v / width**0.5

    def one(key):
        one, two = jax.random.split(key)
        params = (jax.random.normal(one, (k, width)), jax.random.normal(two, (width, k)))
        path = descend(apply, params, jnp.eye(k), jnp.asarray(y, "float32"), rate, 60)
        star = jnp.asarray(x[-1:], "float32")
        return apply(path.params, star)[0], apply(params, star)[0], path.train[0], path.train[-1]

    found = jax.lax.map(jax.jit(one), jax.random.split(jax.random.key(width), seeds), batch_size=32)
    star, start, train_start, train = (np.asarray(part, np.float64) for part in found)
    assert np.abs(train - y).max() < 1e-3
    image = np.einsum("j,sjo->so", tangent[k:, :k][0] @ np.linalg.inv(tangent[:k, :k]), train_start)
    return star, star - (start - image)


@pytest.mark.slow
def test_finite_networks_have_these_moments():
    """Ensembles at three widths: extrapolated to infinite width, the mean is the formula; so is the variance.

    The bias of the mean falls as n^-1/2 here, not 1/n: a relu unit that training pushes below zero at its one
    input stays there, and nothing moves up in exchange. At width 1024 it is ten standard errors.
    """
    k, m, order = 5, 2, np.array([2, 0, 4, 1, 3])
    mu_in, mu_out, variance = closed_form(k, m)
    expected = np.where(np.arange(k) < m, mu_in, mu_out) @ np.eye(k)[order]
    sizes, bias, error = {512: 2048, 1024: 2048, 4096: 512}, [], []
    for width, seeds in sizes.items():
        star, controlled = trained(width, seeds, order)
        bias.append(controlled.mean(0) - expected)
        error.append(controlled.std(0, ddof=1) / seeds**0.5)
    bias, error = np.array(bias), np.array(error)
    design = np.stack([np.ones(3), np.array(list(sizes)) ** -0.5], axis=1)
    for output in range(k):
        weight = design / error[:, [output]]
        covariance = np.linalg.inv(weight.T @ weight)
        limit, _ = covariance @ weight.T @ (bias[:, output] / error[:, output])
        assert abs(limit) < 3.5 * covariance[0, 0] ** 0.5 < 0.005  # mu_out is -0.015
    pooled = star.var(0, ddof=1).mean()
    assert abs(pooled / variance - 1) < 3 * np.sqrt(2 / (k * (512 - 1)))


def test_the_kernels_are_those_of_our_own_config():
    """analytic.kernel of the same network: input weights of std 1/sqrt(k) need a rate of 1/k."""
    x, _ = problem(6, 4, np.arange(6))
    config = MLPConfig(
        inputs=6,
        outputs=6,
        width=64,
        base_width=1,
        parametrization=ntk(),
        depth=1,
        activation="relu",
        bias=False,
    )
    rates = {"Dense_0": {"kernel": 1 / 6}, "Dense_1": {"kernel": 1.0}}
    found = analytic.kernel(config, x, rates=rates)
    for ours, closed in zip((found.nngp, found.ntk), relu_kernels(x), strict=True):
        np.testing.assert_allclose(ours, closed, atol=1e-9)  # arccos near 1 keeps half the digits
