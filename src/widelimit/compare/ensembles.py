"""An ensemble of networks against the Gaussian process that theory predicts for it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from widelimit.compare.statistics import Estimate


def second_moment_scores(
    second_moment: ArrayLike, samples: int, mean: ArrayLike, covariance: ArrayLike
) -> np.ndarray:
    r"""Independent z-scores of an uncentred second moment against a Gaussian's, one for each entry.

    For S draws ``f ~ N(m, C)`` the entries of ``1/S sum_s f_s f_s^T`` have mean ``m m^T + C`` and, by
    Isserlis' theorem, covariances of which S times is

    ``C_ik C_jl + C_il C_jk + m_i m_k C_jl + m_i m_l C_jk + m_j m_k C_il + m_j m_l C_ik``.

    They are strongly correlated. With the inverse square root of that matrix their deviations become
    k (k + 1) / 2 numbers that are uncorrelated with variance one, and normal where S is large. Nothing is
    estimated from the draws, so a wrong mean is seen as well as a wrong covariance.

    Args:
        second_moment: ``1/S sum_s f_s f_s^T``, shape [k, k].
        samples: the number S of independent draws.
        mean: predicted m, shape [k].
        covariance: predicted C, shape [k, k]. Directions in which it is tiny are judged as sharply as the
            others: project onto those that are meant.

    Raises:
        ValueError: if the shapes do not fit, a number is not finite, or C is singular.

    Example:
        >>> second_moment_scores([[1.5]], samples=200, mean=[0.0], covariance=[[1.0]]).round(9)
        array([5.])

    Reference:
        Isserlis (1918); the covariance of a noncentral Wishart matrix.
    """
    moment, m, c = (np.asarray(array, float) for array in (second_moment, mean, covariance))
    size = m.size
    if m.ndim != 1 or moment.shape != (size, size) or c.shape != (size, size) or samples < 1:
        raise ValueError(
            f"Expected second moment and covariance [k, k], a mean [k] and samples >= 1, got shapes "
            f"{moment.shape}, {c.shape}, {m.shape} and {samples}."
        )
    if not all(np.isfinite(array).all() for array in (moment, m, c)):
        raise ValueError("Expected finite moments; leave out diverged networks first.")
    i, j = np.triu_indices(size)
    spread = np.zeros((i.size, i.size))
    for a, b in ((i, j), (j, i)):  # rows (i, j) and (j, i) against columns (k, l) and (l, k)
        spread += c[np.ix_(a, i)] * c[np.ix_(b, j)]
        spread += np.outer(m[a], m[i]) * c[np.ix_(b, j)] + np.outer(m[a], m[j]) * c[np.ix_(b, i)]
    values, vectors = np.linalg.eigh(spread)
    if not values[0] > 1e-13 * values[-1]:
        raise ValueError(
            f"The covariance is singular to rounding (its entries' own covariance has eigenvalues from "
            f"{values[0]:.2g} to {values[-1]:.2g}); project onto directions that vary."
        )
    deviation = (moment - np.outer(m, m) - c)[i, j]
    return np.asarray(np.sqrt(samples) * (vectors.T @ deviation) / np.sqrt(values))


def chi_square_score(scores: ArrayLike) -> float:
    """Sum of squares of k independent z-scores as one z-score, by Wilson and Hilferty's cube root.

    Standard normal if all scores are (to 0.04 up to a score of 3.7, for ten scores or more); large where
    error bars are too small or a few scores are off, negative where scores agree too well. It has no
    underflow, as a p-value has.

    Args:
        scores: independent z-scores, any shape.

    Raises:
        ValueError: if there is none, or one is NaN.

    Example:
        >>> abs(chi_square_score([1.0] * 200)) < 0.1, chi_square_score([3.0] * 20) > 10
        (True, True)

    Reference:
        Wilson and Hilferty, "The distribution of chi-square" (1931).
    """
    z = np.asarray(scores, float).ravel()
    if z.size == 0 or np.isnan(z).any():
        raise ValueError(f"Expected at least one z-score and no NaN, got {z.tolist()}.")
    step = 2 / (9 * z.size)
    return float((np.cbrt(np.mean(z**2)) - (1 - step)) / np.sqrt(step))


def squared_length_of_mean(vectors: ArrayLike) -> Estimate:
    r"""Squared length of a mean vector without the bias of its noise, and a jackknife standard error.

    ``sum_{s != t} v_s . v_t / (S (S - 1)) = (|sum v|^2 - sum |v|^2) / (S (S - 1))``: the squared length of
    the average would exceed that of the mean by the variance / S. May be negative where noise dominates;
    there the error bar is up to sqrt(2) too large, as a jackknife is never too small on average.

    Args:
        vectors: independent draws (or means of equally many draws), shape [S, k].

    Raises:
        ValueError: with fewer than three draws, or numbers that are not finite.

    Example:
        >>> squared_length_of_mean([[1.0, 0.0], [1.0, 2.0], [1.0, -2.0]]).value
        -0.3333333333333333

    Reference:
        Hoeffding, "A class of statistics with asymptotically normal distribution" (1948); Efron and Stein,
        "The jackknife estimate of variance" (1981).
    """
    v = np.asarray(vectors, float)
    if v.ndim != 2 or len(v) < 3 or not np.isfinite(v).all():
        raise ValueError(f"Expected three or more finite vectors [S, k], got shape {v.shape}.")
    count, own = len(v), np.sum(v**2, axis=1)
    total = v.sum(axis=0)
    value = (total @ total - own.sum()) / (count * (count - 1))
    without = np.sum((total - v) ** 2, axis=1) - (own.sum() - own)
    without /= (count - 1) * (count - 2)
    stderr = np.sqrt((count - 1) / count * np.sum((without - without.mean()) ** 2))
    return Estimate(float(value), float(stderr))


def samples_for_slope(
    widths: ArrayLike, relative_variances: ArrayLike, costs: ArrayLike, stderr: float
) -> np.ndarray:
    r"""Power calculation: the cheapest samples at each width that give an exponent this standard error.

    The exponent is ``sum_i L_i log2(value_i)``, L the row of least squares, so with relative variance
    ``r_i / S_i`` of each value its variance is ``sum_i L_i^2 r_i / S_i / ln(2)^2``. At cost ``sum_i c_i S_i``
    the best choice is ``S_i ~ |L_i| sqrt(r_i / c_i)`` (Neyman), and no width gets less than a tenth of what
    an even share of the variance asks for, so that each has an error bar.

    Args:
        widths: shape [W], two or more.
        relative_variances: r, the squared relative standard error of each value times its samples, [W].
        costs: cost of a sample, any unit, [W].
        stderr: standard error wanted of the exponent.

    Raises:
        ValueError: if shapes differ or a number is not positive.

    Example:
        >>> samples_for_slope([16, 64], [1.0, 1.0], [1.0, 1.0], stderr=0.1).tolist()
        [105, 105]

    Reference:
        Neyman, "On the two different aspects of the representative method" (1934).
    """
    n, r, c = (np.asarray(array, float) for array in (widths, relative_variances, costs))
    if not (n.ndim == 1 and n.size >= 2 and n.shape == r.shape == c.shape) or not stderr > 0:
        raise ValueError(
            f"Expected widths, variances and costs [W] and a positive stderr, got shapes {n.shape}, "
            f"{r.shape}, {c.shape} and {stderr}."
        )
    if not all((array > 0).all() and np.isfinite(array).all() for array in (n, r, c)):
        raise ValueError("Expected positive widths, variances and costs.")
    leverage = np.abs(np.linalg.pinv(np.stack([np.ones(n.size), np.log2(n)], axis=1))[1]) / np.log(2)
    best = leverage * np.sqrt(r / c)
    best *= np.sum(leverage**2 * r / np.where(best > 0, best, np.inf)) / stderr**2
    least = 0.1 * n.size * leverage.max() ** 2 * r / stderr**2
    return np.ceil(np.maximum(best, least) - 1e-9).astype(int)
