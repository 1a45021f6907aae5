"""Fitted exponents and their error bars, on power laws whose exponent is known."""

from __future__ import annotations

import numpy as np
import pytest

from widelimit.compare import family_quantile, fit_exponent

WIDTHS = np.array([32, 64, 128, 256, 512])


def noisy(exponent: float, noise: float, seeds: int, rng: np.random.Generator) -> np.ndarray:
    """A power law times log-normal noise, [seeds, widths]."""
    return 3.0 * WIDTHS**exponent * np.exp2(noise * rng.normal(size=(seeds, WIDTHS.size)))


@pytest.mark.parametrize("mean", ["geometric", "arithmetic", "rms"])
def test_exact_power_law_is_recovered(mean):
    """Growth, decay and constancy, prefactor included, with error bars of zero."""
    for exponent in (-1.0, -0.5, 0.0, 0.5):
        law = fit_exponent(WIDTHS, np.tile(3.0 * WIDTHS**exponent, (4, 1)), mean=mean)
        np.testing.assert_allclose(law.exponent, exponent, atol=1e-12)
        np.testing.assert_allclose(law.predict(WIDTHS), 3.0 * WIDTHS**exponent)
        assert law.stderr_seeds < 1e-12 and law.stderr_residual < 1e-7
        assert (law.widths, law.seeds, law.degrees) == (5, 4, 3)


def test_geometric_error_bar_is_that_of_the_mean_of_slopes():
    """The slope is linear in the logs, so it is the mean of the seeds' slopes and its error bar is theirs."""
    values = noisy(-0.5, 0.3, 6, np.random.default_rng(0))
    slopes = np.polyfit(np.log2(WIDTHS), np.log2(values).T, 1)[0]
    law = fit_exponent(WIDTHS, values, resamples=20000)
    np.testing.assert_allclose(law.exponent, slopes.mean(), rtol=1e-10)
    np.testing.assert_allclose(law.stderr, slopes.std(ddof=1) / np.sqrt(6), rtol=0.03)


def test_error_bars_cover():
    """Both error bars contain the truth as often as Student's t says: 95% of 400 fits."""
    rng, hits = np.random.default_rng(1), np.zeros(2)
    for _ in range(400):
        law = fit_exponent(WIDTHS, noisy(0.25, 0.2, 5, rng), resamples=200)
        for i, (quantile, stderr) in enumerate(((2.776, law.stderr_seeds), (3.182, law.stderr_residual))):
            hits[i] += abs(law.exponent - 0.25) < quantile * stderr
    assert (np.abs(hits / 400 - 0.95) < 3.5 * np.sqrt(0.95 * 0.05 / 400)).all(), hits / 400


@pytest.mark.parametrize(("seeds", "quantile_of"), [(3, 0.95), (5, 0.99)])
def test_widths_apart_give_more_degrees_of_freedom(seeds, quantile_of):
    """Independent widths: more degrees of freedom, smaller quantiles, and still the promised coverage."""
    rng, hits, degrees = np.random.default_rng(3), 0, []
    for _ in range(400):
        law = fit_exponent(WIDTHS, noisy(0.25, 0.2, seeds, rng), paired=False, resamples=200)
        hits += abs(law.exponent - 0.25) < family_quantile(1, 1 - quantile_of, law.degrees) * law.stderr
        degrees.append(law.degrees)
    assert np.mean(degrees) > 1.7 * (seeds - 1) and max(degrees) <= 5 * (seeds - 1) + 1e-9
    sigma = np.sqrt(quantile_of * (1 - quantile_of) / 400)
    assert abs(hits / 400 - quantile_of) < 4.0 * sigma + 0.01, hits / 400


def test_widths_apart_agree_with_welch():
    """The standard error is that of a weighted sum of independent means, the degrees Satterthwaite's."""
    values = noisy(0.0, 0.3, 4, np.random.default_rng(4))
    law = fit_exponent(WIDTHS, values, paired=False, resamples=20000)
    x = np.log2(WIDTHS) - np.log2(WIDTHS).mean()
    parts = (x / (x @ x)) ** 2 * np.log2(values).var(axis=0, ddof=1) / 4
    np.testing.assert_allclose(law.stderr, np.sqrt(parts.sum()), rtol=0.03)
    np.testing.assert_allclose(law.degrees, 3 * parts.sum() ** 2 / (parts**2).sum(), rtol=0.05)


def test_what_shifts_all_widths_alike_is_no_noise_of_the_slope():
    """A seed's common factor leaves a paired error bar at zero; apart, it counts (cautious)."""
    values = np.outer([1.0, 2.0, 4.0], WIDTHS**0.5)
    assert (
        fit_exponent(WIDTHS, values).stderr < 1e-12 < 0.1 < fit_exponent(WIDTHS, values, paired=False).stderr
    )


def test_means_differ_as_they_should():
    """The means of log-normal noise whose size depends on width bend the slope by known amounts."""
    rng, seeds = np.random.default_rng(2), 20000
    spread = np.array([0.6, 0.3])  # natural log: mean exp(s^2/2), rms exp(s^2)
    values = np.exp(spread * rng.normal(size=(seeds, 2)))
    bend = (spread[1] ** 2 - spread[0] ** 2) / np.log(2.0)
    for mean, factor in (("geometric", 0.0), ("arithmetic", 0.5), ("rms", 1.0)):
        law = fit_exponent([64, 128], values, mean=mean, resamples=10)
        np.testing.assert_allclose(law.exponent, factor * bend, atol=0.03)


def test_finite_width_correction_removes_the_bend():
    """A law with a 1/n correction biases the plain slope; the corrected fit finds both numbers."""
    values = WIDTHS**-0.5 * np.exp(8.0 / WIDTHS)
    assert abs(fit_exponent(WIDTHS, values).exponent + 0.5) > 0.05
    law = fit_exponent(WIDTHS, values, correction=True)
    np.testing.assert_allclose([law.exponent, law.correction], [-0.5, 8.0], rtol=1e-9)
    np.testing.assert_allclose(law.predict(WIDTHS), values)
    assert law.degrees == 2


def test_weights_choose_the_widths():
    """A width of weight zero does not enter; equal weights are ordinary least squares."""
    values = WIDTHS**0.5
    values = np.where(WIDTHS == 32, 100.0, values)
    np.testing.assert_allclose(fit_exponent(WIDTHS, values, weights=WIDTHS > 32).exponent, 0.5)
    plain, weighted = fit_exponent(WIDTHS, values), fit_exponent(WIDTHS, values, weights=np.full(5, 7.0))
    np.testing.assert_allclose([plain.exponent, plain.stderr], [weighted.exponent, weighted.stderr])
    slope, covariance = np.polyfit(np.log2(WIDTHS), np.log2(values), 1, cov=True)
    np.testing.assert_allclose([plain.exponent, plain.stderr], [slope[0], np.sqrt(covariance[0, 0])])


def test_cells_without_a_logarithm():
    """Zero, NaN and infinite cells are refused, or masked cell by cell; a width without cells is left out."""
    values = np.tile(WIDTHS**-1.0, (3, 1))
    values[0, 1], values[1, 2], values[:, 4] = 0.0, np.nan, np.inf
    with pytest.raises(ValueError, match=r"widths \[64.0, 128.0, 512.0\] are zero, NaN or infinite"):
        fit_exponent(WIDTHS, values)
    law = fit_exponent(WIDTHS, values, missing="mask")
    np.testing.assert_allclose(law.exponent, -1.0)
    assert law.widths == 4 and law.stderr < 1e-12


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            {"widths": [1, 2], "values": [0.0, 0.0], "missing": "mask"},
            "2 unknowns needs values at 2 or more widths, got 0",
        ),
        (
            {"widths": [1, 2], "values": [1.0, 2.0], "correction": True},
            "3 unknowns needs values at 3 or more widths",
        ),
        ({"widths": [1, 2, 3], "values": [1.0, 2.0]}, "Expected widths"),
        ({"widths": [2, 2], "values": [1.0, 2.0]}, "all different"),
        ({"widths": [0, 2], "values": [1.0, 2.0]}, "positive widths"),
        ({"widths": [1, 2], "values": [-1.0, 2.0]}, "cannot be negative"),
        ({"widths": [1, 2], "values": [1.0, 2.0], "weights": [1.0]}, "one non-negative weight per width"),
        ({"widths": [1, 2], "values": [1.0, 2.0], "mean": "median"}, "Expected mean to be one of"),
        ({"widths": [1, 2], "values": [1.0, 2.0], "missing": "drop"}, 'missing="raise" or "mask"'),
    ],
)
def test_bad_input_is_one_sentence(arguments, sentence):
    """What cannot be fitted says why."""
    with pytest.raises(ValueError, match=sentence):
        fit_exponent(**arguments)


def test_without_spare_widths_there_is_no_residual_error():
    """Two widths and one seed give a slope but no error bar, and say so by NaN."""
    law = fit_exponent([64, 128], [1.0, 2.0])
    np.testing.assert_allclose(law.exponent, 1.0)
    assert np.isnan(law.stderr)
