"""Identities of the causal solver: what must hold exactly, or within the noise, at any depth."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from widelimit import dmft
from widelimit.dmft.causal.noise import draw
from widelimit.dmft.causal.settings import DEFAULTS, settings

TANH_4 = np.random.default_rng(5).standard_normal((20, 4))


def problem(**changes):
    """Two training points and a test point, two hidden layers."""
    x = TANH_4[:, :3]
    given = {
        "targets": [1.0, -1.0],
        "kernel": x.T @ x / 20,
        "steps": 6,
        "learning_rate": 0.3,
        "depth": 2,
        "gamma0": 1.5,
    }
    return dmft.Problem(**(given | changes))


@pytest.fixture(scope="module")
def full():
    """With Stein's responses."""
    return dmft.mlp(problem(), samples=2000, replicas=8)


@pytest.fixture(scope="module")
def independent():
    """Without responses: gradient independence."""
    return dmft.mlp(problem(), samples=2000, replicas=8, response="none")


def test_errors_of_a_step_change_nothing_before_it_bitwise():
    """Causality: other batches from step 3 on leave times 0..3 as they were, to the last bit (T10)."""
    batches = np.array([[0, 1]] * 6)
    other = batches.copy()
    other[3:] = [0, 0]
    one, two = (dmft.mlp(problem(batches=b), samples=64, replicas=2) for b in (batches, other))
    for name in ("predictions", "ntk"):
        a, b = (getattr(solution, name).values for solution in (one, two))
        assert np.array_equal(a[:4], b[:4]) and not np.array_equal(a[4], b[4]), name
    for name in ("features", "gradients", "feature_response", "gradient_response"):
        a, b = (getattr(solution, name).values for solution in (one, two))
        assert np.array_equal(a[:, :4, :, :4], b[:, :4, :, :4]), name
        assert not np.array_equal(a[:, 4:], b[:, 4:]), name


def test_starts_at_zero_and_kernels_are_kernels(full):
    """f(0) = 0 exactly, by antithetic pairs, and every kernel is symmetric and semi-definite (T11)."""
    assert (full.predictions.values[0] == 0).all()
    for kernel in [*full.features.values, *full.gradients.values]:
        matrix = kernel.reshape(21, 21)
        assert np.array_equal(matrix, matrix.T)
        assert np.linalg.eigvalsh(matrix).min() > -1e-5 * np.trace(matrix)


def test_pairing_holds_with_responses_and_fails_without(full, independent):
    """<z phi> = <g h> of the layer above (T7): exact theory keeps it, gradient independence does not."""
    assert full.diagnostics["pairing_residual"] < 0.01
    assert independent.diagnostics["pairing_residual"] > 0.05


def test_gradient_independence_is_wrong_beyond_one_hidden_layer(full, independent):
    """T12, depth 2: leaving out responses changes predictions of training points by many standard errors."""
    gap = np.abs(full.train.values - independent.train.values)[-1]
    error = np.hypot(full.train.stderr, independent.train.stderr)[-1]
    assert (gap > 10 * error).all()


def test_one_hidden_layer_has_no_responses():
    """T12, depth 1: with and without responses the numbers are the same to the last bit."""
    one, two = (
        dmft.mlp(problem(depth=1), samples=100, replicas=2, response=response)
        for response in ("stein", "none")
    )
    assert np.array_equal(one.predictions.values, two.predictions.values)
    assert one.feature_response is None and two.feature_response is None


def test_one_hidden_layer_is_a_cloud_of_particles():
    """Depth 1 equals, particle by particle, gradient descent of (h, z) as it is written: 1e-10 in float64."""
    p = problem(depth=1, learning_rate=[0.3, 0.2, 0.1, 0.3, 0.2, 0.1])
    options = {"samples": 200, "replicas": 2, "control_variate": False, "dtype": "float64"}
    solution = dmft.mlp(p, **options)
    found = []
    kernel, y = np.asarray(p.kernel), np.array([1.0, -1.0])
    values, vectors = np.linalg.eigh(kernel)
    for replica in range(2):
        with jax.enable_x64(True):
            noise = draw(settings(p, **{**DEFAULTS, **options}), replica)
        h = (vectors * np.sqrt(values)) @ vectors.T @ np.asarray(noise.first)
        h, z = np.hstack([h, h]), np.hstack([np.asarray(noise.last)[0], -np.asarray(noise.last)[0]])
        f = [(z * np.tanh(h)).mean(1) / 1.5]
        for eta in np.asarray(p.learning_rate):
            push = eta * 1.5 / 2 * (y - f[-1][:2])
            h, z = (
                h + kernel[:, :2] * push @ ((1 - np.tanh(h[:2]) ** 2) * z),
                z + push @ np.tanh(h[:2]),
            )
            f.append((z * np.tanh(h)).mean(1) / 1.5)
        found.append(f)
    np.testing.assert_allclose(solution.predictions.values, np.mean(found, axis=0), atol=1e-10)


def test_one_hidden_layer_agrees_with_the_particle_solver():
    """Depth 1, ReLU, momentum: the two-layer solver's answer within joint standard errors."""
    p = problem(depth=1, activation="relu", momentum=0.5)
    one, two = dmft.mlp(p, samples=4000, replicas=8), dmft.two_layer(p, samples=4000, replicas=8, seed=7)
    error = np.hypot(one.predictions.stderr, two.predictions.stderr)[1:]
    z = (one.predictions.values - two.predictions.values)[1:] / error
    assert np.abs(z).max() < 5 and np.sqrt((z**2).mean()) < 2


def test_agrees_with_the_reference():
    """T9 of the sheet at reduced statistics, depth 3: squared error at steps 1..5, within 4 joint errors."""
    kernel, y = TANH_4.T @ TANH_4 / 20, [1.0, 1.0, -1.0, -1.0]
    p = dmft.Problem(targets=y, kernel=kernel, steps=5, learning_rate=0.2, depth=3, gamma0=2.0)
    found = dmft.mlp(p, samples=2000, replicas=8)
    reference = np.array([0.92772, 0.85736, 0.78067, 0.69479, 0.60142])
    error = np.hypot(2 * found.loss.stderr[1:], [22e-5, 40e-5, 57e-5, 71e-5, 80e-5])
    assert (np.abs(2 * found.loss.values[1:] - reference) < 4 * error).all()
    assert error[-1] < 2e-3


def test_each_reduction_of_noise_reduces_it_and_moves_nothing(full):
    """Plain noise has several times the error, most at the first step, which the lazy limit explains."""
    plain = dmft.mlp(
        problem(), samples=2000, replicas=8, antithetic=False, moments=False, control_variate=False, seed=1
    )
    a, b = full.predictions, plain.predictions
    assert np.sqrt((b.stderr**2).mean()) > 3 * np.sqrt((a.stderr**2).mean())
    assert (b.stderr[1] > 20 * a.stderr[1]).all()
    z = (a.values - b.values)[1:] / np.hypot(a.stderr, b.stderr)[1:]
    assert np.abs(z).max() < 5


def test_the_same_seed_is_the_same_noise_for_any_problem_of_a_shape():
    """Common random numbers: neither gamma0 nor the number of steps changes the noise of a time."""
    one, two, other = (
        draw(settings(p, **{**DEFAULTS, "samples": 400, "seed": seed}), 0)
        for p, seed in ((problem(), 0), (problem(gamma0=0.3, steps=9, activation="erf"), 0), (problem(), 1))
    )
    assert np.array_equal(one.first, two.first) and np.array_equal(one.last, two.last)
    np.testing.assert_allclose(one.forward[0], two.forward[0][: 7 * 3], atol=1e-5)
    assert not np.allclose(one.first, other.first)


def test_noise_is_matched_within_a_time_and_to_the_first():
    """Over the draws of every time mean 0 and covariance 1, and no covariance with the first times."""
    noise = np.asarray(draw(settings(problem(steps=20), **{**DEFAULTS, "samples": 400}), 3).forward[0])
    assert np.abs(noise.mean(1)).max() < 1e-6
    covariance = noise @ noise.T / 200
    blocks = covariance.reshape(21, 3, 21, 3)
    for t in range(21):
        assert np.abs(blocks[t, :, t] - np.eye(3)).max() < 1e-5
    assert np.abs(blocks[8:, :, :8]).max() < 1e-5
    assert np.abs(blocks[20, :, 19]).max() > 1e-3
