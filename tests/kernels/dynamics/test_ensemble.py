"""Ensembles of infinitely wide networks: moments against those of a model linear in its initial weights."""

from __future__ import annotations

import numpy as np
import pytest

from widelimit.kernels.dynamics import ensemble, gp_inference, gradient_flow, largest_rate

SAMPLES, POINTS = 5, 8


def close(a, b, atol=1e-10):
    """Equal to 1e-10 of moments of order one."""
    np.testing.assert_allclose(a, b, rtol=1e-10, atol=atol)


def random_kernels(seed=0, features=12):
    """Returns features A of the initial function, B of the tangent, targets [N, 2]."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, POINTS, features)) / features**0.5
    return a, b, rng.normal(size=(SAMPLES, 2))


def simulate(a, b, y, rate, steps, momentum):
    """Moments of f = A u + B v, u ~ N(0, 1), v trained from 0: f_t is affine in u, so run each u = e_i."""

    def run(u, target):
        v, velocity = np.zeros(b.shape[1]), np.zeros(b.shape[1])
        for _ in range(steps):
            residual = a[:SAMPLES] @ u + b[:SAMPLES] @ v - target
            velocity = momentum * velocity + b[:SAMPLES].T @ residual / SAMPLES
            v = v - rate * velocity
        return a @ u + b @ v

    mean = np.stack([run(np.zeros(a.shape[1]), column) for column in y.T], axis=1)
    responses = np.stack([run(u, np.zeros(SAMPLES)) for u in np.eye(a.shape[1])])
    return mean, responses.T @ responses


@pytest.mark.parametrize("momentum", [0.0, 0.8])
@pytest.mark.parametrize("features", [3, 12])
def test_moments_after_steps_are_those_of_a_linear_model(momentum, features):
    """All points at once, training and test, for a tangent kernel that differs from the covariance."""
    a, b, y = random_kernels(features=features)
    rate = 0.6 * largest_rate(b[:SAMPLES] @ b[:SAMPLES].T, momentum=momentum)
    run = {"rate": rate, "steps": [0, 1, 25], "momentum": momentum}
    found = ensemble(a @ a.T, b @ b.T, y, **run)
    for index, steps in enumerate([0, 1, 25]):
        mean, covariance = simulate(a, b, y, rate, steps, momentum)
        close(found.mean[index], mean)
        close(found.covariance[index], covariance)
    only = ensemble(a @ a.T, b @ b[:SAMPLES].T, y, **run, form="diagonal")
    close(only.covariance, np.diagonal(found.covariance, axis1=1, axis2=2))
    close(only.mean, found.mean)


def test_flow_is_the_limit_of_small_steps():
    """Error of first order in the rate: a hundred times smaller steps, a hundred times closer."""
    a, b, y = random_kernels()
    flow = ensemble(a @ a.T, b @ b.T, y, 2.0)
    gaps = []
    for steps in (1000, 100000):
        path = ensemble(a @ a.T, b @ b.T, y, rate=2.0 / steps, steps=steps)
        gaps.append((np.abs(path.mean - flow.mean).max(), np.abs(path.covariance - flow.covariance).max()))
    np.testing.assert_allclose(np.array(gaps[0]) / np.array(gaps[1]), 100.0, rtol=0.01)


def test_mean_is_the_flow_of_the_mean():
    """The mean function starts at zero and follows the kernel flow, on test points too."""
    a, b, y = random_kernels()
    k, times = b @ b.T, [0.5, 3.0, np.inf]
    found = ensemble(a @ a.T, k, y, times)
    flow = gradient_flow(k[:SAMPLES, :SAMPLES], y, times, test=k[SAMPLES:, :SAMPLES])
    close(found.mean, np.concatenate([flow.train, flow.test], axis=1))


def test_training_only_the_readout_samples_the_posterior():
    """NTK = NNGP, t = inf: the ensemble is the Gaussian process posterior; nothing is left at seen points."""
    a, _, y = random_kernels()
    k = a @ a.T
    trained, posterior = ensemble(k, k, y, np.inf), gp_inference(k, y)
    close(trained.mean[0, SAMPLES:], posterior.mean)
    close(trained.covariance[0, SAMPLES:, SAMPLES:], posterior.covariance)
    close(trained.mean[0, :SAMPLES], y)
    close(trained.covariance[0, :SAMPLES], np.zeros((SAMPLES, POINTS)))


def test_an_ensemble_that_diverges_is_infinite():
    """Above the largest rate moments overflow: infinite, never NaN, and no warning."""
    a, b, y = random_kernels()
    found = ensemble(a @ a.T, b @ b.T, y, rate=1e3, steps=[0, 10**6])
    assert np.isfinite(found.mean[0]).all()
    assert np.isposinf(found.mean[1]).all() and np.isposinf(found.covariance[1]).all()


def test_units_of_the_kernels_are_free():
    """K by 1e8 scales the covariance at the start, Theta by 1e-8 only the time."""
    a, b, y = random_kernels()
    one = ensemble(a @ a.T, b @ b.T, y, [1.0, np.inf])
    two = ensemble(1e8 * a @ a.T, 1e-8 * b @ b.T, y, [1e8, np.inf])
    close(one.mean, two.mean)
    close(one.covariance, two.covariance / 1e8)
