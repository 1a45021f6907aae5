"""The catapult: a two-layer linear network at large rates, against its two-number recursion."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from widelimit.kernels.dynamics import descend, largest_rate, linearise, quadratic

WIDTH, STEPS = 512, 400


def product(params, x):
    """f = u.v / sqrt(n), times inputs [N] of one."""
    u, v = params
    return jnp.dot(u, v) / np.sqrt(len(u)) * x


def start(width=WIDTH, output=1.014**0.5, kernel=1.894):
    """Parameters with f_0 and lam_0 as asked: |u|^2 = |v|^2 = n lam_0 / 2, their angle from f_0."""
    rng = np.random.default_rng(0)
    q, _ = np.linalg.qr(rng.normal(size=(width, 2)))
    length, cosine = (width * kernel / 2) ** 0.5, output / (width**0.5 * kernel / 2)
    return length * q[:, 0], length * (cosine * q[:, 0] + (1 - cosine**2) ** 0.5 * q[:, 1])


def recursion(rate, width=WIDTH, f=1.014**0.5, kernel=1.894):
    """f' = f (1 - eta lam + eta^2 f^2/n), lam' = lam + (eta f^2/n)(eta lam - 4), target 0."""
    path = [(f, kernel)]
    for _ in range(STEPS):
        moved = f * (1 - rate * kernel + rate**2 * f**2 / width)
        kernel += rate * f**2 / width * (rate * kernel - 4)
        f = moved
        path.append((f, kernel))
    return np.array(path).T


@functools.cache
def train(rate, model=None):
    """Outputs at every step and the kernel at the end, in float64, of the network or a model of it."""
    with jax.enable_x64(True):
        params = tuple(jnp.asarray(leaf) for leaf in start())
        apply = product if model is None else model(product, params)
        path = descend(apply, params, jnp.ones(1), jnp.zeros(1), rate, STEPS)
        end = sum(float(jnp.sum(leaf**2)) for leaf in path.params) / WIDTH
        return np.asarray(path.train)[:, 0], end


@pytest.mark.parametrize("rate", [0.75, 1.1, 1.75])
def test_training_follows_the_recursion(rate):
    """400 steps of 1024 parameters are two numbers, to 1e-12 of the largest output."""
    outputs, end = train(rate)
    f, kernel = recursion(rate)
    np.testing.assert_allclose(outputs, f, rtol=0, atol=1e-12 * np.abs(f).max())
    np.testing.assert_allclose(end, kernel[-1], rtol=1e-12)


@pytest.mark.parametrize("rate, peak, end", [(0.75, 0.507, 1.889), (1.1, 1.28, 1.714), (1.75, 126.0, 0.189)])
def test_the_regimes_have_the_published_numbers(rate, peak, end):
    """Below 2/lam_0 the loss falls; up to 4/lam_0 it rises first, and the kernel shrinks below 2/eta."""
    outputs, kernel = train(rate)
    loss = 0.5 * outputs**2
    assert f"{loss.max():.3g}" == f"{peak:.3g}" and round(kernel, 3) == end
    assert loss[-1] < 1e-12 and kernel < 2 / rate
    if rate < 2 / 1.894:
        assert (np.diff(loss) <= 0).all()
    else:
        assert loss.argmax() in range(2, 12)


def test_above_four_it_diverges():
    """At eta lam_0 = 4.2 the kernel grows with the loss instead of shrinking, and training is lost."""
    with np.errstate(over="ignore", invalid="ignore"):
        f, _ = recursion(4.2 / 1.894, f=np.float64(1.0))
    assert not np.isfinite(f[-1])
    assert not np.isfinite(train(4.2 / 1.894)[0][-1])


def test_the_quadratic_model_is_the_network():
    """f is of second degree in its parameters: the model catapults too, a linear one explodes."""
    for rate in (0.75, 1.75):
        exact, end = train(rate)
        model, model_end = train(rate, quadratic)
        np.testing.assert_allclose(model, exact, rtol=0, atol=1e-9 * np.abs(exact).max())
        np.testing.assert_allclose(model_end, end, rtol=1e-9)
    assert np.abs(train(1.75, linearise)[0][-1]) > 1e100
    assert largest_rate([[1.894]]) == pytest.approx(2 / 1.894)  # what the linear model is bound to


def test_the_peak_scales_with_the_width():
    """Peak of f^2/n at the same eta lam_0: a width times (eta lam_0 - 1)^2 is one step further from the peak.

    While f^2 is small against n it grows by that factor a step: the peak is periodic in log n, not constant.
    """
    period = (1.75 * 1.894 - 1) ** 2
    widths = 1e6 * np.array([1.0, period**0.5, period, period**2])
    peaks = np.array([np.max(recursion(1.75, width=n)[0] ** 2) / n for n in widths])
    np.testing.assert_allclose(peaks[2:], peaks[0], rtol=1e-4)  # corrections are f_0^2/n = 1e-6, ten steps
    assert abs(peaks[1] / peaks[0] - 1) > 0.02
