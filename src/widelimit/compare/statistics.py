"""Error bars: standard errors from seeds, paired differences, z-scores, tolerances for a family of claims."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import chdtrc, ndtr, ndtri, stdtrit


@dataclass(frozen=True)
class Estimate:
    """A measured number and its standard error, in the same unit.

    Args:
        value: the measured number.
        stderr: its standard error; NaN where one seed cannot give one.

    Example:
        >>> Estimate(0.25, 0.05).z(predicted=0.1)
        3.0
    """

    value: float
    stderr: float

    def z(self, predicted: float = 0.0) -> float:
        """Distance from a prediction in standard errors, ``(value - predicted) / stderr``.

        Args:
            predicted: the value expected by theory, in the unit of ``value``.
        """
        return z_score(self.value, predicted, self.stderr)


@dataclass(frozen=True)
class CombinedZ:
    """Many z-scores in one: whether they agree with zero as a family.

    Args:
        stouffer: ``sum(z) / sqrt(k)``, standard normal if all k are; sees a common bias.
        chi_square: ``sum(z**2)``, chi-square with k degrees of freedom; sees error bars that are too small.
        p_value: the probability of a larger ``chi_square`` by chance.
        two_sided_p: the probability of a larger ``|stouffer|`` by chance.
    """

    stouffer: float
    chi_square: float
    p_value: float
    two_sided_p: float


def z_score(measured: float, predicted: float, *stderrs: float) -> float:
    """Difference in joint standard errors, ``(measured - predicted) / sqrt(sum stderr_i**2)``.

    Args:
        measured: measured value.
        predicted: predicted value, same unit.
        *stderrs: standard errors of the two, taken as independent.

    Example:
        >>> z_score(1.0, 0.0, 0.3, 0.4)
        2.0
    """
    joint = joint_stderr(*stderrs)
    difference = measured - predicted
    if joint == 0.0:
        return 0.0 if difference == 0.0 else float(np.copysign(np.inf, difference))
    return float(difference / joint)


def joint_stderr(*stderrs: float) -> float:
    """Standard error of a sum or difference of independent estimates, ``sqrt(sum stderr_i**2)``.

    Args:
        *stderrs: standard errors in one unit.

    Example:
        >>> joint_stderr(3.0, 4.0)
        5.0
    """
    return float(np.sqrt(np.sum(np.square(stderrs))))


def mean_over_seeds(values: ArrayLike) -> Estimate:
    """Mean over seeds and its standard error, ``std(ddof=1) / sqrt(S)``.

    Args:
        values: one number per seed, shape [S].

    Raises:
        ValueError: if a value is not finite, or the array is empty or not one-dimensional.

    Example:
        >>> mean_over_seeds([1.0, 2.0, 3.0]).value
        2.0
    """
    sample = np.asarray(values, float)
    if sample.ndim != 1 or sample.size == 0:
        raise ValueError(f"Expected one value per seed, shape [seeds], got shape {sample.shape}.")
    if not np.isfinite(sample).all():
        bad = np.flatnonzero(~np.isfinite(sample)).tolist()
        raise ValueError(f"Expected finite values, but seeds {bad} are not; leave out diverged cells first.")
    stderr = sample.std(ddof=1) / np.sqrt(sample.size) if sample.size > 1 else np.nan
    return Estimate(float(sample.mean()), float(stderr))


def paired_difference(first: ArrayLike, second: ArrayLike) -> Estimate:
    """Mean of ``first - second`` when seed s of both saw the same data, with its paired standard error.

    What the seeds have in common cancels, so this error bar is smaller than that of two separate means.

    Args:
        first: one number per seed, shape [S].
        second: the same seeds in the same order, shape [S].

    Raises:
        ValueError: if the shapes differ or a value is not finite.

    Example:
        >>> paired_difference([1.1, 5.1, 9.1], [1.0, 5.0, 9.0]).stderr < 1e-12
        True
    """
    a, b = np.asarray(first, float), np.asarray(second, float)
    if a.shape != b.shape:
        raise ValueError(
            f"A paired difference needs the same seeds on both sides, got shapes {a.shape} and {b.shape}."
        )
    return mean_over_seeds(a - b)


def combine_z(scores: ArrayLike) -> CombinedZ:
    """Combine independent z-scores into one verdict on the whole family.

    Args:
        scores: independent z-scores, any shape, k in all.

    Raises:
        ValueError: if there is none, or one is NaN.

    Example:
        >>> combine_z([1.0, -1.0]).stouffer
        0.0
    """
    z = np.asarray(scores, float).ravel()
    if z.size == 0 or np.isnan(z).any():
        raise ValueError(f"Expected at least one z-score and no NaN, got {z.tolist()}.")
    stouffer, chi_square = float(z.sum() / np.sqrt(z.size)), float(np.sum(z**2))
    return CombinedZ(stouffer, chi_square, float(chdtrc(z.size, chi_square)), float(2 * ndtr(-abs(stouffer))))


def family_quantile(claims: int, alpha: float = 0.01, degrees: float | None = None) -> float:
    """How many standard errors a claim may be off, so that chance fails one of k with probability alpha.

    Sidak: each of k claims gets ``alpha_1 = 1 - (1 - alpha)**(1/k)``, and the answer is the two-sided
        quantile
    ``q = F^-1(1 - alpha_1 / 2)`` of the normal law, or of Student's t where the error bar itself comes from
    few seeds. Exact for independent claims, slightly cautious for positively correlated ones.

    Args:
        claims: number of claims k in the family.
        alpha: probability that chance alone fails at least one of them.
        degrees: degrees of freedom of the error bars (seeds - 1); None means known error bars (normal law).

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> round(family_quantile(1), 3), round(family_quantile(1, degrees=4), 3)
        (2.576, 4.604)

    Reference:
        Sidak, "Rectangular confidence regions for the means of multivariate normal distributions" (1967).
    """
    if claims < 1 or not 0.0 < alpha < 1.0 or (degrees is not None and degrees < 1):
        raise ValueError(
            f"Expected claims >= 1, 0 < alpha < 1 and degrees >= 1, got {claims=}, {alpha=}, {degrees=}."
        )
    single = -np.expm1(np.log1p(-alpha) / claims)
    upper = 1.0 - single / 2.0
    return float(ndtri(upper) if degrees is None else stdtrit(degrees, upper))


def family_tolerance(
    stderr: ArrayLike, claims: int, alpha: float = 0.01, degrees: float | None = None
) -> np.ndarray:
    """Tolerance for each of many claims, ``family_quantile(...) * stderr``.

    Args:
        stderr: standard error expected of each claim (from a pilot run, or from theory), any shape.
        claims: number of claims in the family.
        alpha: probability that chance alone fails at least one of them.
        degrees: degrees of freedom of the error bars (seeds - 1), None for the normal law.

    Raises:
        ValueError: if an argument is out of range or a standard error is negative.

    Example:
        >>> family_tolerance([0.01, 0.02], claims=2).round(4)
        array([0.0281, 0.0561])
    """
    error = np.asarray(stderr, float)
    if (error < 0).any():
        raise ValueError(f"A standard error cannot be negative, got {error.tolist()}.")
    return family_quantile(claims, alpha, degrees) * error


def pooled_degrees(variances: ArrayLike, seeds: int) -> float:
    """Degrees of freedom of a sum of independent terms, ``(S - 1) (sum v_i)**2 / sum v_i**2``.

    Args:
        variances: the variance of each term, each found from the same number of seeds, shape [k].
        seeds: number of seeds S.

    Example:
        >>> pooled_degrees([1.0, 1.0, 1.0], seeds=3), pooled_degrees([1.0, 0.0], seeds=3)
        (6.0, 2.0)

    Reference:
        Welch, "The generalization of Student's problem when several different population variances are
        involved" (1947); Satterthwaite (1946).
    """
    v = np.asarray(variances, float)
    squares = float(np.sum(v**2))
    return (seeds - 1) * float(v.sum()) ** 2 / squares if squares > 0 else float(seeds - 1)


def bootstrap_counts(seeds: int, resamples: int = 1000, seed: int | tuple[int, ...] = 0) -> np.ndarray:
    """How often each seed occurs in each bootstrap resample, shape [resamples, seeds]; rows sum to ``seeds``.

    Equal arguments give equal counts, so that quantities resampled apart are resampled *jointly*.

    Args:
        seeds: number of seeds S drawn with replacement from S.
        resamples: number of resamples B.
        seed: of numpy's generator.

    Raises:
        ValueError: if ``seeds`` or ``resamples`` is below one.

    Example:
        >>> bootstrap_counts(3, resamples=2).sum(axis=1)
        array([3, 3])

    Reference:
        Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 6.
    """
    if seeds < 1 or resamples < 1:
        raise ValueError(f"Expected at least one seed and one resample, got {seeds=}, {resamples=}.")
    draws = np.random.default_rng(seed).integers(0, seeds, size=(resamples, seeds))
    rows = seeds * np.arange(resamples)[:, None]  # count all resamples in one pass, each in bins of its own
    return np.bincount((draws + rows).ravel(), minlength=resamples * seeds).reshape(resamples, seeds)


def bootstrap_stderr(draws: ArrayLike, seeds: int) -> float:
    """Standard error from bootstrap draws, ``std(draws) * sqrt(S / (S - 1))``; NaN if too few are finite.

    The factor makes it exact for a mean over S seeds, where the plain bootstrap is a third too small at S =
    2... 3.

    A draw that is not finite (a resample of diverged seeds only) is left out; more than one in twenty, and
    there is no standard error.

    Args:
        draws: the statistic in each resample, shape [B].
        seeds: number of seeds S that were resampled; one seed gives NaN.

    Example:
        >>> bool(np.isnan(bootstrap_stderr([1.0, 1.0], seeds=1)))
        True
    """
    sample = np.asarray(draws, float)
    finite = np.isfinite(sample)
    sample = sample[finite]
    if seeds < 2 or sample.size < 2 or finite.mean() < 0.95:
        return float("nan")
    return float(sample.std() * np.sqrt(seeds / (seeds - 1)))
