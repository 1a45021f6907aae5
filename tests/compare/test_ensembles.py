"""Ensembles against a Gaussian process: calibrated scores, a mean's length without noise, enough samples."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from widelimit.compare import (
    chi_square_score,
    family_quantile,
    samples_for_slope,
    second_moment_scores,
    squared_length_of_mean,
)

SIZE, SAMPLES = 3, 2000


def gaussian(seed=0):
    """A mean and a covariance that no symmetry hides, and draws from it."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(SIZE, SIZE)) + np.diag([1.0, 2.0, 3.0])
    mean = np.array([1.0, -2.0, 0.5])
    return mean, root @ root.T, lambda count: mean + rng.normal(size=(count, SIZE)) @ root.T


def test_scores_of_the_right_gaussian_are_independent_standard_normal():
    """Over 800 ensembles: mean 0 and covariance 1 of all six scores, each within chance for 27 numbers."""
    mean, covariance, draw = gaussian()
    scores = []
    for _ in range(800):
        sample = draw(SAMPLES)
        scores.append(second_moment_scores(sample.T @ sample / SAMPLES, SAMPLES, mean, covariance))
    z = np.array(scores)
    assert z.shape == (800, 6)
    bound = family_quantile(27)
    assert np.abs(z.mean(axis=0)).max() < bound / np.sqrt(800)
    off = np.cov(z.T) - np.eye(6)
    assert np.abs(off[np.triu_indices(6, 1)]).max() < bound / np.sqrt(800)
    assert np.abs(np.diag(off)).max() < bound * np.sqrt(2 / 800)


def test_scores_see_a_wrong_mean_and_a_wrong_covariance():
    """Half a standard deviation in one direction, or a tenth more variance, is many standard errors."""
    mean, covariance, draw = gaussian(1)
    sample = draw(20_000)
    moment = sample.T @ sample / len(sample)
    off = 0.2 * np.linalg.cholesky(covariance)[:, 1]
    judged = {
        "right": chi_square_score(second_moment_scores(moment, len(sample), mean, covariance)),
        "mean": chi_square_score(second_moment_scores(moment, len(sample), mean + off, covariance)),
        "covariance": chi_square_score(second_moment_scores(moment, len(sample), mean, 1.1 * covariance)),
    }
    assert abs(judged["right"]) < 2.576 and judged["mean"] > 6 and judged["covariance"] > 6


def test_scores_do_not_depend_on_the_basis():
    """Another basis of the same space gives other scores with the same sum of squares."""
    mean, covariance, draw = gaussian(2)
    sample = draw(500)
    moment = sample.T @ sample / 500
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(SIZE, SIZE)))[0] @ np.diag([1.0, 5.0, 0.2])
    here = second_moment_scores(moment, 500, mean, covariance)
    there = second_moment_scores(turn.T @ moment @ turn, 500, turn.T @ mean, turn.T @ covariance @ turn)
    np.testing.assert_allclose(np.sum(here**2), np.sum(there**2), rtol=1e-8)


def test_chi_square_score_has_the_probability_of_the_chi_square():
    """At the quantiles of chi-square laws it is the normal law's quantile, to the 0.04 that it promises."""
    for degrees in (10, 36, 200):
        for probability in (0.01, 0.5, 0.99, 0.9999):
            each = np.sqrt(stats.chi2.ppf(probability, degrees) / degrees)
            score = chi_square_score(np.full(degrees, each))
            assert abs(score - stats.norm.ppf(probability)) < 0.04
    assert np.isfinite(chi_square_score(np.full(10, 1e6)))


@pytest.mark.parametrize(("noise", "least", "most"), [(4.0, 1.0, 2**0.5), (0.3, 0.95, 1.1)])
def test_the_length_of_a_mean_has_no_bias_and_an_honest_error(noise, least, most):
    """Above or below the noise, estimates average to the truth and scatter as they say, or less in noise."""
    rng, mean = np.random.default_rng(0), np.array([0.3, 0.0, -0.4])
    found = [squared_length_of_mean(mean + noise * rng.normal(size=(40, 3))) for _ in range(2000)]
    values, errors = (np.array([getattr(one, name) for one in found]) for name in ("value", "stderr"))
    assert abs(values.mean() - 0.25) < 3 * values.std() / np.sqrt(2000)
    assert least < np.sqrt(np.mean(errors**2)) / values.std() < most


def test_the_length_of_a_mean_without_noise():
    estimate = squared_length_of_mean(np.tile([3.0, 4.0], (5, 1)))
    np.testing.assert_allclose([estimate.value, estimate.stderr], [25.0, 0.0], atol=1e-12)


def test_so_many_samples_give_the_error_that_was_asked_for():
    """A simulated slope scatters by the stderr, and no cheaper plan of twenty random ones does as well."""
    widths, variances, costs = (
        np.array([8.0, 16.0, 64.0]),
        np.array([2.0, 3.0, 9.0]),
        np.array([1.0, 2.0, 40.0]),
    )
    samples = samples_for_slope(widths, variances, costs, stderr=0.05)
    rng = np.random.default_rng(0)
    logs = np.log2(1 + np.sqrt(variances / samples) * rng.normal(size=(4000, 3)))
    slopes = np.polyfit(np.log2(widths), logs.T, 1)[0]
    assert 0.85 < slopes.std() / 0.05 < 1.08  # less where the least number of a width has helped
    leverage = np.linalg.pinv(np.stack([np.ones(3), np.log2(widths)], axis=1))[1] / np.log(2)
    for _ in range(20):
        other = samples * np.exp(rng.normal(size=3))
        other *= np.sum(leverage**2 * variances / other) / np.sum(leverage**2 * variances / samples)
        assert costs @ other > 0.95 * costs @ samples


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: second_moment_scores(np.eye(2), 5, np.zeros(3), np.eye(3)), "second moment and covariance"),
        (lambda: second_moment_scores(np.full((2, 2), np.nan), 5, np.zeros(2), np.eye(2)), "finite moments"),
        (lambda: second_moment_scores(np.eye(2), 5, np.zeros(2), np.ones((2, 2))), "singular"),
        (lambda: chi_square_score([]), "at least one z-score"),
        (lambda: squared_length_of_mean(np.zeros((2, 3))), "three or more"),
        (lambda: samples_for_slope([8, 16], [1.0], [1.0, 1.0], 0.1), "widths, variances and costs"),
        (lambda: samples_for_slope([8, 16], [1.0, -1.0], [1.0, 1.0], 0.1), "positive"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
