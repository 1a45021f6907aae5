"""Error bars and tolerances against textbook values."""

from __future__ import annotations

import numpy as np
import pytest

from widelimit.compare import (
    Estimate,
    bootstrap_counts,
    bootstrap_stderr,
    combine_z,
    family_quantile,
    family_tolerance,
    joint_stderr,
    mean_over_seeds,
    paired_difference,
    z_score,
)


def test_family_quantile_matches_tables():
    """Normal and Student quantiles as printed in tables; two-sided."""
    np.testing.assert_allclose(family_quantile(1, 0.05), 1.95996, rtol=1e-5)
    np.testing.assert_allclose(family_quantile(1, 0.05, degrees=2), 4.30265, rtol=1e-5)
    np.testing.assert_allclose(family_quantile(1, 0.01, degrees=10), 3.16927, rtol=1e-5)


@pytest.mark.parametrize("degrees", [None, 4])
def test_chance_alone_fails_one_family_in_a_hundred(degrees):
    """40 true claims with normal noise: the share of runs in which any fails is 1% within binomial bounds."""
    rng, runs, claims = np.random.default_rng(0), 20000, 40
    z = rng.normal(size=(runs, claims))
    if degrees:
        z /= np.sqrt(rng.chisquare(degrees, size=z.shape) / degrees)
    failed = (np.abs(z) > family_quantile(claims, degrees=degrees)).any(axis=1).mean()
    assert abs(failed - 0.01) < 3.5 * np.sqrt(0.01 * 0.99 / runs)


def test_family_tolerance_scales_with_the_error_bar():
    """One tolerance per claim, in the claim's unit."""
    tolerance = family_tolerance([[0.1, 0.2]], claims=8)
    assert tolerance.shape == (1, 2)
    np.testing.assert_allclose(tolerance[0, 1], 2 * tolerance[0, 0])
    np.testing.assert_allclose(tolerance[0, 0], 0.1 * family_quantile(8))


def test_paired_error_bar_drops_what_seeds_share():
    """A seed's common offset cancels in the pair; unpaired, it would dominate."""
    rng = np.random.default_rng(1)
    common, own = 10.0 * rng.normal(size=400), 0.1 * rng.normal(size=(2, 400))
    pair = paired_difference(common + own[0] + 0.5, common + own[1])
    assert abs(pair.z(0.5)) < 4
    np.testing.assert_allclose(pair.stderr, 0.1 * np.sqrt(2 / 400), rtol=0.15)


def test_single_seed_has_no_error_bar():
    """One seed says nothing about the spread: NaN, never zero."""
    assert np.isnan(mean_over_seeds([3.0]).stderr) and np.isnan(bootstrap_stderr([1.0, 2.0], seeds=1))


def test_bootstrap_of_the_mean_is_unbiased_for_few_seeds():
    """With the S/(S-1) factor the bootstrap variance of a mean is the usual one, for three seeds too."""
    sample = np.array([1.0, 2.0, 6.0])
    draws = bootstrap_counts(3, resamples=100000) @ sample / 3
    np.testing.assert_allclose(bootstrap_stderr(draws, 3), mean_over_seeds(sample).stderr, rtol=0.02)


def test_bootstrap_is_joint():
    """Equal arguments resample equally, whatever is resampled; another seed differs."""
    np.testing.assert_array_equal(bootstrap_counts(5, 10), bootstrap_counts(5, 10))
    assert (bootstrap_counts(5, 10) != bootstrap_counts(5, 10, seed=1)).any()


def test_combined_z():
    """A common bias shows in Stouffer's z, error bars that are too small in chi-square."""
    bias = combine_z(np.ones(9))
    np.testing.assert_allclose([bias.stouffer, bias.chi_square], [3.0, 9.0])
    np.testing.assert_allclose(bias.two_sided_p, 0.0027, rtol=1e-2)
    assert combine_z([3.0, -3.0]).p_value < 0.001 < combine_z([1.0, -1.0]).p_value
    np.testing.assert_allclose(combine_z([1.96]).p_value, 0.05, rtol=1e-3)


def test_z_scores():
    """Zero error bars are allowed where the difference is exactly zero."""
    assert joint_stderr(3.0, 4.0) == 5.0 and Estimate(2.0, 0.5).z(1.0) == 2.0
    assert z_score(1.0, 1.0, 0.0) == 0.0 and z_score(0.0, 1.0, 0.0) == -np.inf


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: family_quantile(0), "claims >= 1"),
        (lambda: family_quantile(3, alpha=1.0), "0 < alpha < 1"),
        (lambda: family_tolerance([-0.1], 2), "cannot be negative"),
        (lambda: paired_difference([1.0], [1.0, 2.0]), "same seeds on both sides"),
        (lambda: mean_over_seeds([1.0, np.nan]), r"seeds \[1\] are not"),
        (lambda: mean_over_seeds([]), "one value per seed"),
        (lambda: combine_z([np.nan]), "no NaN"),
        (lambda: bootstrap_counts(0), "at least one seed"),
    ],
)
def test_bad_input_is_one_sentence(call, sentence):
    """What cannot be estimated says why."""
    with pytest.raises(ValueError, match=sentence):
        call()
