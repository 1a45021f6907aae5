"""What activations do to covariances: against plain integration, and what is said where it is inaccurate."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.analytic.support import mlp, samples
from widelimit.kernels import analytic
from widelimit.kernels.analytic.duals import dual
from widelimit.models import ACTIVATIONS, activation

COVARIANCES = [(0.3, 0.8, 0.6), (-0.6, 0.7, 0.9), (0.0, 0.5, 0.7), (0.89, 0.9, 0.9), (1e-9, 1e-8, 2e-8)]
SMOOTH = sorted(set(ACTIVATIONS) - {"relu"})


def integrate(function, c, q1, q2, nodes=120):
    """E[f(u) f(v)] by a product rule of Gauss-Hermite in two independent variables."""
    z, weight = np.polynomial.hermite_e.hermegauss(nodes)
    weight = weight / weight.sum()
    u = np.sqrt(q1) * z[:, None]
    v = c / np.sqrt(q1) * z[:, None] + np.sqrt(max(q2 - c**2 / q1, 0)) * z
    with jax.enable_x64(True):
        left, right = (np.asarray(function(jnp.asarray(part))) for part in (u, v))
    return float(weight @ (left * right) @ weight)


def derivative(name):
    """The derivative of an activation, entry by entry."""

    def slope(x):
        return jax.jvp(activation(name), (x,), (jnp.ones_like(x),))[1]

    return slope


def apply(name, c, q1, q2, tolerance=1e-6):
    """The two numbers that the package gives for one pair."""
    found = dual(name, tolerance)(*(np.array([[value]]) for value in (c, q1, q2)))
    return [part.item() for part in found]


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("name", SMOOTH)
def test_against_plain_integration(name, covariance):
    """Closed forms and series are the integrals that they stand for, of the function and its derivative."""
    found = apply(name, *covariance)
    for function, one in zip((activation(name), derivative(name)), found, strict=True):
        ends = [integrate(function, q, q, q) for q in covariance[1:]]
        expected = integrate(function, *covariance)
        # The product rule of 120 points is itself only good to about 1e-9 where tanh has its poles nearest.
        assert one == pytest.approx(expected, rel=0, abs=1e-9 * np.sqrt(np.prod(ends)))


@pytest.mark.parametrize("name", ["erf", "gelu", "sin", "identity"])
def test_series_equal_closed_forms(name):
    """The series for any function, given a function that has a closed form, finds that form."""
    x = samples(6, 3)
    known = mlp(activation=name, bias_std=0.3)
    unknown = mlp(activation=lambda x: activation(name)(x), bias_std=0.3)
    for one, other in zip(analytic.kernel(known, x), analytic.kernel(unknown, x), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
@settings(deadline=None, max_examples=15)
@given(
    rho=st.floats(-1, 1),
    q1=st.just(0.0) | st.floats(1e-6, 4),
    q2=st.just(0.0) | st.floats(1e-6, 4),
    small=st.sampled_from([1.0, 1e-3, 1e-12]),
)
def test_covariances_stay_covariances(name, rho, q1, q2, small):
    """Cauchy-Schwarz holds and nothing is NaN, at any correlation, at variance zero too."""
    q1, q2 = small * q1, small * q2
    c = rho * np.sqrt(q1 * q2)
    across, ones, twos = apply(name, c, q1, q2), apply(name, q1, q1, q1), apply(name, q2, q2, q2)
    for mixed, one, two in zip(across, ones, twos, strict=True):
        assert np.isfinite([mixed, one, two]).all()
        assert abs(mixed) <= np.sqrt(one * two) * (1 + 1e-9)


def test_the_derivative_is_the_slope():
    """By Price's theorem E[phi' phi'] is the derivative of E[phi phi] in the covariance."""
    step = 1e-5
    for name in ACTIVATIONS:
        up, down = (apply(name, 0.4 + sign * step, 0.9, 1.2)[0] for sign in (1, -1))
        assert (up - down) / (2 * step) == pytest.approx(apply(name, 0.4, 0.9, 1.2)[1], rel=1e-8)


def leaky(x):
    """Has a kink, which no series and no rule of integration gets to ten digits."""
    return jnp.where(x > 0, x, 0.1 * x)


def test_a_kink_is_not_passed_over():
    """A user's kinked function raises; with a tolerance that allows for it, the error is within the bound."""
    x = samples(5, 3)
    with pytest.raises(ValueError, match="only known to a relative .* exceeds tolerance=1e-06"):
        analytic.kernel(mlp(activation=leaky, bias=False), x)
    config = mlp(activation=leaky, bias=False, depth=1)
    found = analytic.kernel(config, x, tolerance=0.2)
    relu, linear = (
        analytic.kernel(mlp(activation=name, bias=False, depth=1), x) for name in ("relu", "identity")
    )
    # leaky = 0.9 relu + 0.1 identity, and E[relu(u) v] = c / 2
    exact = 0.81 * relu.nngp + (0.09 + 0.01) * linear.nngp
    diagonal = np.sqrt(np.diag(exact))
    assert np.max(np.abs(found.nngp - exact) / np.outer(diagonal, diagonal)) < 0.2


def test_saturation_is_not_passed_over():
    """tanh of inputs a hundred million times too large raises, as do the closed forms that saturate."""
    for name in ("tanh", "erf", "sin", "gelu"):
        with pytest.raises(ValueError, match="cale the inputs down"):
            analytic.kernel(mlp(activation=name), 1e8 * samples(3, 3))


def test_unfit_activations():
    """Functions that are not finite, or leave float64, are named."""
    with pytest.raises(ValueError, match="must be entrywise, float64 for float64, and finite"):
        analytic.kernel(mlp(activation=jnp.log), samples(3, 3))
    with pytest.raises(ValueError, match="must be entrywise, float64 for float64, and finite"):
        analytic.kernel(mlp(activation=lambda x: jnp.tanh(x.astype(jnp.float32))), samples(3, 3))
