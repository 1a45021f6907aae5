"""Kernel regression and Gaussian processes: against plain inverses, refits, and linear regression."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests.kernels.dynamics.problems import linear
from widelimit.kernels.dynamics import (
    gp_inference,
    gradient_flow,
    kernel_regression,
    leave_one_out,
    log_marginal_likelihood,
)


def close(a, b, atol=1e-10):
    """Equal to 1e-10: the matrices here have condition numbers of at most 1e4."""
    np.testing.assert_allclose(a, b, rtol=1e-10, atol=atol)


def points(seed=0, samples=7, tests=3, features=20):
    """Random features of training and test points, and targets [N, 2]."""
    rng = np.random.default_rng(seed)
    phi = rng.normal(size=(samples + tests, features)) / features**0.5
    return phi[:samples], phi[samples:], rng.normal(size=(samples, 2))


def test_ridge_regression_is_that_of_a_linear_model():
    """(Phi Phi^T + r)^-1 in function space is (Phi^T Phi + r)^-1 in parameter space; jitter adds to r."""
    phi, star, y = points()
    w = np.linalg.solve(phi.T @ phi + 0.3 * np.eye(20), phi.T @ y)
    fit = kernel_regression(phi @ phi.T, y, test=star @ phi.T, ridge=0.2, jitter=0.1)
    close(fit.test, star @ w)
    close(fit.train, phi @ w)
    close(star @ phi.T @ fit.coefficients, fit.test)
    assert (fit.ridge, fit.jitter, fit.rank) == (0.2, 0.1, 7)


@pytest.mark.parametrize("features", [5, 30])
def test_without_ridge_it_is_the_end_of_gradient_flow(features):
    """For a full kernel over two outputs; with 5 features and 12 rows the kernel is singular and says so."""
    model = linear(features=features)
    fit = kernel_regression(model.kernel(), model.targets, test=model.cross())
    flow = gradient_flow(model.kernel(), model.targets, np.inf, test=model.cross())
    close(fit.test, flow.test[0])
    close(fit.train, flow.train[0])
    assert (fit.rank, fit.jitter) == (min(features, 12), 0.0)


@given(exponent=st.integers(-8, 8), ridge=st.sampled_from([0.0, 1e-3, 1.0]), singular=st.booleans())
@settings(deadline=None, max_examples=20)
def test_predictions_do_not_depend_on_the_scale_of_the_kernel(exponent, ridge, singular):
    """Kernel, ridge and variances scale together, from 1e-8 to 1e8: nothing in the solver has a unit."""
    phi, star, y = points(features=4 if singular else 20)
    scale, every = 10.0**exponent, np.concatenate([phi, star])
    kernel, cross = phi @ phi.T, star @ phi.T
    one = kernel_regression(kernel, y, test=cross, ridge=ridge)
    two = kernel_regression(scale * kernel, y, test=scale * cross, ridge=scale * ridge)
    close(one.test, two.test)
    close(one.coefficients, scale * two.coefficients)
    assert one.rank == two.rank
    gauss = gp_inference(every @ every.T, y, noise=ridge)
    scaled = gp_inference(scale * every @ every.T, y, noise=scale * ridge)
    close(gauss.mean, scaled.mean)
    close(gauss.covariance, scaled.covariance / scale)


def test_gp_posterior_is_bayesian_linear_regression():
    """Prior w ~ N(0, 1), noise s2: the posterior over w, mapped through the test features."""
    phi, star, y = points()
    precision = np.eye(20) + phi.T @ phi / 0.1
    every = np.concatenate([phi, star])
    posterior = gp_inference(every @ every.T, y, noise=0.1)
    close(posterior.mean, star @ np.linalg.solve(precision, phi.T @ y / 0.1))
    close(posterior.covariance, star @ np.linalg.solve(precision, star.T))


def test_gp_posterior_without_noise_knows_what_it_has_seen():
    """Fewer features than samples: w is known exactly, so variances vanish, and never fall below zero."""
    phi, star, _ = points(features=4)
    w = np.arange(4.0)
    every = np.concatenate([phi, star])
    posterior = gp_inference(every @ every.T, phi @ w)
    close(posterior.mean, star @ w)
    close(posterior.covariance, np.zeros((3, 3)))
    assert (np.diag(posterior.covariance) >= 0).all() and posterior.rank == 4


def test_leave_one_out_is_a_refit_without_the_point():
    """N refits; with a full kernel a point is left out with all its outputs."""
    phi, _, targets = points()
    model = linear(features=30)
    for kernel, y in ((phi @ phi.T, targets), (model.kernel(), model.targets)):
        found = leave_one_out(kernel, y, ridge=0.05)
        for i in range(len(y)):
            rest = np.arange(len(y)) != i
            refit = kernel_regression(kernel[rest][:, rest], y[rest], test=kernel[[i]][:, rest], ridge=0.05)
            close(found[i], refit.test[0])


def test_log_marginal_likelihood_is_the_density_of_the_targets():
    """Against SciPy's multivariate normal, two outputs: independent for [N, N], joint for the full kernel."""
    phi, _, y = points()
    kernel = phi @ phi.T + 0.1 * np.eye(7)
    expected = sum(stats.multivariate_normal(cov=kernel).logpdf(column) for column in y.T)
    close(log_marginal_likelihood(phi @ phi.T, y, ridge=0.06, jitter=0.04), expected)
    model = linear(features=30)
    matrix = model.kernel().transpose(0, 2, 1, 3).reshape(12, 12) + 0.1 * np.eye(12)
    expected = stats.multivariate_normal(cov=matrix).logpdf(model.targets.ravel())
    close(log_marginal_likelihood(model.kernel(), model.targets, ridge=0.1), expected)


def test_duplicates_with_equal_targets_change_nothing():
    """A sample counted twice leaves the interpolant where it was; a slightly negative eigenvalue included."""
    phi, star, y = points()
    twice = np.concatenate([phi, phi[:3]])
    once = kernel_regression(phi @ phi.T, y, test=star @ phi.T)
    fit = kernel_regression(twice @ twice.T, np.concatenate([y, y[:3]]), test=star @ twice.T)
    close(fit.test, once.test)
    assert fit.rank == 7
    kernel = twice @ twice.T - 1e-14 * np.eye(10)
    assert np.linalg.eigvalsh(kernel)[0] < -5e-15
    fit = kernel_regression(kernel, np.concatenate([y, y[:3]]), test=star @ twice.T)
    np.testing.assert_allclose(fit.test, once.test, atol=1e-11)  # 1e-14 times the inverse of the kernel
    assert fit.rank == 7


def test_contradictory_targets_of_duplicates_are_averaged():
    """At zero ridge the least-squares fit of smallest norm; so says the ridge that goes to zero."""
    phi, star, y = points()
    twice, both = np.concatenate([phi, phi[:2]]), np.concatenate([y, y[:2] + 1.0])
    averaged = y + 0.5 * (np.arange(7) < 2)[:, None]
    fit = kernel_regression(twice @ twice.T, both, test=star @ twice.T)
    close(fit.test, kernel_regression(phi @ phi.T, averaged, test=star @ phi.T).test)
    small = kernel_regression(twice @ twice.T, both, test=star @ twice.T, ridge=1e-9)
    np.testing.assert_allclose(small.test, fit.test, atol=1e-6)
    assert fit.rank == 7 and small.rank == 9


def test_rounding_in_a_float32_kernel_is_judged_as_float32():
    """A singular kernel computed in float32: its noise is not inverted, errors stay near its precision."""
    phi, star, _ = points(features=4, samples=30)
    w = np.arange(4.0)
    y = phi @ w + 1e-3 * np.random.default_rng(1).normal(size=30)  # noise that an inverse would amplify
    kernel = (phi.astype(np.float32) @ phi.T.astype(np.float32)).astype(np.float32)
    fit = kernel_regression(kernel, y, test=star @ phi.T)
    exact = kernel_regression(phi @ phi.T, y, test=star @ phi.T)
    assert fit.rank == exact.rank == 4
    np.testing.assert_allclose(fit.test, exact.test, atol=1e-5)
