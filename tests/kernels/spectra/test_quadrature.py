"""Traces of functions from random probes: exact cases, z-scores, and error bars as large as they say."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.kernels.spectra.problem import (
    POWER_LAW,
    inputs,
    jacobian_kernel,
    network,
    weights,
    with_spectrum,
)
from widelimit.kernels.spectra import (
    KernelOperator,
    degrees_of_freedom,
    effective_dimension,
    eigenvalues,
    from_matrix,
    log_determinant,
    operator,
    quadrature,
    spectral_density,
    trace,
)

KEY = jax.random.key(11)


def test_power_law_log_determinant():
    """200 x 200 with eigenvalues i^-1.5, ridge 0.1, 25 steps, 10 probes: |z| below 3.5."""
    kernel = from_matrix(with_spectrum(POWER_LAW))
    exact = np.log(POWER_LAW + 0.1).sum()
    estimate = log_determinant(kernel, 0.1, key=KEY, probes=10, steps=25)
    assert abs(estimate.value - exact) < 3.5 * estimate.stderr
    assert 0 < estimate.stderr < 0.05 * abs(exact)  # an error bar that decides something


def test_hutchinson_error_bar_is_the_known_variance():
    """Random signs have variance 2 (|K|^2 - sum K_ii^2) per probe; 4000 probes find both."""
    matrix = with_spectrum(POWER_LAW[:30])
    probes = 4000
    estimate = trace(from_matrix(matrix), key=KEY, probes=probes)
    variance = 2 * (np.sum(matrix**2) - np.sum(np.diag(matrix) ** 2))
    assert abs(estimate.value - np.trace(matrix)) < 4 * np.sqrt(variance / probes)
    # The sample variance has a relative spread of sqrt((kurtosis - 1) / probes), kurtosis below 9.
    np.testing.assert_allclose(probes * estimate.stderr**2 / variance, 1, atol=4 * np.sqrt(8 / probes))


def test_error_bars_are_calibrated():
    """z = (estimate - exact) / stderr over 200 keys is Student's t of 29 degrees: mean 0, variance 29/27."""
    values = POWER_LAW[:16]
    kernel = from_matrix(with_spectrum(values))
    ridge, keys = 0.1, jax.random.split(KEY, 200)
    rules = [quadrature(kernel, key=key, probes=30, steps=16) for key in keys]
    for function in (lambda lam: np.log(lam + ridge), lambda lam: lam / (lam + ridge), np.square):
        estimates = np.array([rule.trace_of(function) for rule in rules])
        z = (estimates[:, 0] - function(values).sum()) / estimates[:, 1]
        # Standard errors over 200 keys: 1/sqrt(200) of the mean, sqrt(2/200) = 0.1 of the variance.
        assert abs(z.mean()) < 4 / np.sqrt(200) and abs(z.var(ddof=1) - 29 / 27) < 0.4


def test_steps_are_enough_where_gauss_quadrature_is_exact():
    """m steps integrate polynomials of degree 2 m - 1 exactly: per probe z^T K^p z, against K^p itself."""
    matrix = with_spectrum(POWER_LAW[:20])
    rules = {steps: quadrature(from_matrix(matrix), key=KEY, probes=3, steps=steps) for steps in (3, 20)}
    for degree in range(7):
        few, all_of_them = (rules[steps].trace_of(lambda lam, d=degree: lam**d) for steps in (3, 20))
        if degree <= 5:
            np.testing.assert_allclose(few, all_of_them, rtol=1e-10, atol=1e-13)
        else:
            assert abs(few.value / all_of_them.value - 1) > 1e-8


def test_diagonal_kernels_are_exact():
    """For a diagonal matrix z^T g(K) z = tr g(K) for every vector of signs: no error, no error bar."""
    values = np.array([0.5, 1, 2, 4, 8])
    kernel = from_matrix(np.diag(values))
    for estimate, exact in (
        (trace(kernel, key=KEY), values.sum()),
        (log_determinant(kernel, 0.0, key=KEY, steps=5), np.log(values).sum()),
        (effective_dimension(kernel, 2.0, key=KEY, steps=5), degrees_of_freedom(values, 2.0)),
    ):
        np.testing.assert_allclose(estimate.value, exact, rtol=1e-12)
        assert estimate.stderr < 1e-12


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_kernel_of_a_network(dtype):
    """Trace, log-determinant and effective dimension of an empirical NTK within 4 standard errors."""
    with jax.enable_x64(dtype == "float64"):
        params, x = weights(dtype), inputs(dtype)
        exact = np.clip(eigenvalues(jacobian_kernel(network, params, x)), 0, None)
    theta, ridge = operator(network, params, x, batch_size=10), 1.0
    rule = quadrature(theta, key=KEY, probes=30, steps=30)
    for function in (lambda lam: lam, lambda lam: np.log(lam + ridge), lambda lam: lam / (lam + ridge)):
        estimate, truth = rule.trace_of(function), function(exact).sum()
        assert abs(estimate.value - truth) < 4 * estimate.stderr and estimate.stderr < 0.2 * truth
    dimension = effective_dimension(theta, ridge, key=KEY, probes=30, steps=30)
    np.testing.assert_allclose(dimension, estimate, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("values", [np.ones(8), np.zeros(8), [4.0, 4, 4, 4, 1, 1, 1, 1], [3.0] + [0.0] * 7])
def test_exhausted_subspaces_add_nothing(values, dtype):
    """With more steps than distinct eigenvalues, Lanczos runs into rounding or 0/0: it has no weight."""
    values = np.asarray(values, float)
    kernel = from_matrix(with_spectrum(values).astype(dtype))
    rule = quadrature(kernel, key=KEY, probes=20, steps=8)
    np.testing.assert_allclose(rule.weights.sum(axis=1), 1, rtol=1e-6)
    nearest = np.abs(rule.nodes[:, :, None] - values).min(axis=2)[rule.weights > 1e-9]
    assert nearest.max() < 1e-4 if dtype == np.float32 else 1e-12
    estimate = rule.trace_of(lambda lam: np.exp(-lam))
    np.testing.assert_allclose(estimate.value, np.exp(-values).sum(), atol=4 * estimate.stderr + 1e-5)


def test_density_is_the_histogram_of_the_eigenvalues():
    """Bells at the exact eigenvalues within 4.5 standard errors everywhere; integrates to 1; counts below."""
    values = np.concatenate([np.linspace(0, 1, 60), [4.0, 5.0]])
    kernel = from_matrix(with_spectrum(values))
    found = spectral_density(kernel, key=KEY, probes=40, steps=40, width=0.3)
    bells = np.exp(-(((found.grid[:, None] - values) / 0.3) ** 2) / 2) / (0.3 * np.sqrt(2 * np.pi))
    assert (np.abs(found.density - bells.mean(axis=1)) < 4.5 * found.density_stderr + 1e-6).all()
    np.testing.assert_allclose(np.trapezoid(found.density, found.grid), 1, atol=1e-3)
    between = spectral_density(kernel, key=KEY, probes=40, steps=40, grid=[-1.0, 2.5, 4.5, 6.0])
    shares = np.array([0, 60, 61, 62]) / 62
    assert (np.abs(between.below - shares) < 4.5 * between.below_stderr + 1e-12).all()
    assert between.below_stderr[1] < 0.05 and (np.diff(found.below) >= 0).all()


def test_more_probes_shrink_the_error_bar():
    """Standard errors fall as probes^-1/2: 16 times the probes, a quarter of it, within its own spread."""
    kernel = from_matrix(with_spectrum(POWER_LAW[:40]))
    few, many = (log_determinant(kernel, 0.1, key=KEY, probes=probes).stderr for probes in (100, 1600))
    np.testing.assert_allclose(4 * many / few, 1, atol=4 * np.sqrt(4 / 100))


def not_finite():
    """An operator whose products are NaN."""
    return KernelOperator(lambda _, v: v * jnp.nan, (), (5,), "float32")


EYE = from_matrix(np.eye(3))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: trace(EYE, key=KEY, probes=1), "probes must be 2 or more"),
        (lambda: quadrature(EYE, key=KEY, steps=4), "steps must be from 1 to 3"),
        (lambda: trace(not_finite(), key=KEY), "products .* must be finite"),
        (
            lambda: log_determinant(EYE, -0.5, key=KEY, steps=3),
            "must be finite and 0 or more; got -0.5",
        ),
        (
            lambda: effective_dimension(EYE, 0.0, key=KEY, steps=3),
            "must be finite and positive; got 0.0",
        ),
        (
            lambda: effective_dimension(EYE, np.nan, key=KEY, steps=3),
            "must be finite and positive; got nan",
        ),
        (
            lambda: log_determinant(from_matrix(np.diag([1.0, -2.0])), 1.0, key=KEY, steps=2),
            "ridge must be above 2, .* smallest Ritz value is -2; got 1",
        ),
        (
            lambda: quadrature(EYE, key=KEY, steps=1).trace_of(lambda lam: np.inf * lam),
            "at 1 it is not",
        ),
        (lambda: spectral_density(EYE, key=KEY, width=0.0), "width must be positive"),
        (lambda: spectral_density(EYE, key=KEY, grid=[1.0, 0.0]), "grid must be finite rising"),
    ],
)
def test_bad_input_is_one_sentence(call, sentence):
    """What cannot be estimated says why, and NaN never passes."""
    with pytest.raises(ValueError, match=sentence), np.errstate(divide="ignore"):
        call()
