"""Synthetic tasks: the moments that theory is told, and streams that do not disturb each other."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from widelimit.training.data import gaussian_teacher, power_law, single_index

TASKS = {
    "gaussian_teacher": gaussian_teacher,
    "single_index": functools.partial(single_index, coefficients=(0.5, -1.0, 0.0, 2.0)),
    "power_law": power_law,
}


@pytest.fixture(params=TASKS)
def task(request):
    """Each task in turn."""
    return TASKS[request.param]


def test_smaller_sets_begin_larger_ones(task):
    """More samples, or fewer test samples, change none of those there were."""
    small = task(seed=2, samples=10, dimension=6, test_samples=5)
    large = task(seed=2, samples=50, dimension=6, test_samples=9)
    np.testing.assert_array_equal(small.train_inputs, large.train_inputs[:10])
    np.testing.assert_array_equal(small.test_inputs, large.test_inputs[:5])
    np.testing.assert_allclose(small.train_targets, large.train_targets[:10], rtol=1e-5)


def test_training_and_test_inputs_are_independent(task):
    """Sharing a stream between the two parts would make the test set a copy of the training set."""
    data = task(seed=0, samples=400, dimension=8, test_samples=400)
    x, z = (part[:, 0] / part[:, 0].std() for part in (data.train_inputs, data.test_inputs))
    assert abs((x * z).mean()) < 4 / np.sqrt(400)


def test_noise_is_added_to_training_targets_alone(task):
    """Its std is what was asked for, it has mean 0, and neither inputs nor test targets feel it."""
    options = {"seed": 4, "samples": 4000, "dimension": 5}
    clean, noisy = task(**options), task(**options, noise=0.3)
    difference = (noisy.train_targets - clean.train_targets).astype(np.float64)
    assert abs(difference.std() - 0.3) < 4 * 0.3 / np.sqrt(2 * 4000)
    assert abs(difference.mean()) < 4 * 0.3 / np.sqrt(4000)
    np.testing.assert_array_equal(clean.train_inputs, noisy.train_inputs)
    np.testing.assert_array_equal(clean.test_targets, noisy.test_targets)


def test_seeds_differ(task):
    """Another seed is another draw."""
    same = {task(seed=seed, samples=4, dimension=3).fingerprint() for seed in (0, 0, 1, 2)}
    assert len(same) == 3


def test_the_linear_teacher_has_unit_norm():
    """Least squares on noise-free data recovers beta_k exactly; |beta_k| = 1 makes E[y_k^2] = 1."""
    data = gaussian_teacher(seed=1, samples=40, dimension=12, outputs=3)
    beta = np.linalg.lstsq(data.train_inputs.astype(np.float64), data.train_targets, rcond=None)[0]
    np.testing.assert_allclose(np.linalg.norm(beta, axis=0), 1, atol=1e-5)
    np.testing.assert_allclose(data.test_inputs @ beta, data.test_targets, atol=1e-5)
    assert np.linalg.matrix_rank(beta) == 3


def test_single_index_moments():
    """In the orthonormal Hermite basis E[y] = c_0, E[y^2] = sum c_k^2; bounds are 5 standard errors."""
    c = (0.5, 0.0, -1.0, 0.7)
    data = single_index(seed=0, samples=200_000, dimension=2, coefficients=c)
    y = data.train_targets[:, 0].astype(np.float64)
    assert abs(y.mean() - 0.5) < 5 * y.std() / np.sqrt(len(y))
    assert abs((y**2).mean() - sum(k * k for k in c)) < 5 * (y**2).std() / np.sqrt(len(y))


def test_single_index_depends_on_one_direction():
    """A linear task (c_1 alone) reveals w; the default is (z^3 - 3 z) / sqrt(6) of that z = w . x."""
    linear = single_index(seed=9, samples=30, dimension=7, coefficients=(0, 1))
    w = np.linalg.lstsq(linear.train_inputs.astype(np.float64), linear.train_targets[:, 0], rcond=None)[0]
    assert np.linalg.norm(w) == pytest.approx(1, abs=1e-5)
    cubic = single_index(seed=9, samples=30, dimension=7)
    z = cubic.train_inputs @ w
    np.testing.assert_allclose(cubic.train_targets[:, 0], (z**3 - 3 * z) / np.sqrt(6), atol=1e-4)


def test_power_law_spectrum_and_target():
    """Input j has std j^-alpha, and the coefficients j^-beta are recovered exactly from noise-free data."""
    alpha, beta, dimension = 0.8, 0.4, 30
    data = power_law(seed=3, samples=20_000, dimension=dimension, alpha=alpha, beta=beta)
    j = np.arange(1, dimension + 1)
    relative = data.train_inputs.astype(np.float64).std(axis=0) * j**alpha
    np.testing.assert_allclose(relative, 1, atol=5 / np.sqrt(2 * 20_000))
    x = data.train_inputs[:200].astype(np.float64)
    b = np.linalg.lstsq(x, data.train_targets[:200, 0], rcond=None)[0]
    np.testing.assert_allclose(b, j**-beta, atol=1e-4)


SIZE = {"samples": 5, "dimension": 2}


@pytest.mark.parametrize(
    ("task", "change", "error", "message"),
    [
        (gaussian_teacher, {"samples": 0}, ValueError, "samples must be .* at least 1; got 0"),
        (gaussian_teacher, {"dimension": 2.0}, TypeError, "dimension must be a whole number; got 2.0"),
        (gaussian_teacher, {"outputs": 0}, ValueError, "outputs must be a whole number of at least 1"),
        (gaussian_teacher, {"noise": -1}, ValueError, "noise must be a finite standard deviation"),
        (power_law, {"noise": np.nan}, ValueError, "noise must be a finite .*; got nan"),
        (power_law, {"alpha": -1}, ValueError, "alpha must be a finite exponent of at least 0; got -1"),
        (power_law, {"beta": np.inf}, ValueError, "beta must be .*; got inf"),
        (power_law, {"test_samples": 0}, ValueError, "test_samples must be a whole number"),
        (single_index, {"coefficients": (3,)}, ValueError, "one beyond c_0 is not 0; got"),
        (single_index, {"coefficients": (0, np.nan)}, ValueError, "finite numbers c_0"),
        (single_index, {"coefficients": "cubic"}, ValueError, "finite numbers c_0.*; got 'cubic'"),
    ],
)
def test_bad_numbers_are_named(task, change, error, message):
    """One sentence says which number is wrong."""
    with pytest.raises(error, match=message):
        task(**(SIZE | change))
