"""Power laws in width: exponents as slopes in log-log, with error bars from seeds and from residuals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from widelimit.compare.statistics import bootstrap_counts, bootstrap_stderr, pooled_degrees

Mean = Literal["geometric", "arithmetic", "rms"]


@dataclass(frozen=True)
class PowerLaw:
    """A fitted ``value = 2**log2_constant * n**exponent * exp(correction / n)``.

    Args:
        exponent: slope of log2(value) against log2(width).
        stderr_seeds: its standard error from a bootstrap over seeds; NaN with fewer than two seeds.
        stderr_residual: its standard error from the scatter about the line; NaN without spare widths.
        log2_constant: log2 of the prefactor.
        correction: coefficient k of the finite-width factor ``exp(k/n) = 1 + k/n + ...``; 0 where none was
            fitted.
        widths: number of widths in the fit.
        seeds: number of seeds S.
        degrees: degrees of freedom of ``stderr``, for Student's t; see ``fit_exponent``.

    Example:
        >>> fit_exponent([64, 256], [1.0, 2.0]).exponent
        0.5
    """

    exponent: float
    stderr_seeds: float
    stderr_residual: float
    log2_constant: float
    correction: float
    widths: int
    seeds: int
    degrees: float

    @property
    def stderr(self) -> float:
        """The error bar to quote: from seeds where there are two or more, else from residuals."""
        return self.stderr_seeds if self.seeds > 1 else self.stderr_residual

    def predict(self, widths: ArrayLike) -> np.ndarray:
        """The fitted law at these widths.

        Args:
            widths: where to evaluate it, any shape.
        """
        n = np.asarray(widths, float)
        return np.exp2(self.log2_constant + self.exponent * np.log2(n)) * np.exp(self.correction / n)


def fit_exponent(
    widths: ArrayLike,
    values: ArrayLike,
    *,
    mean: Mean = "geometric",
    correction: bool = False,
    weights: ArrayLike | None = None,
    missing: Literal["raise", "mask"] = "raise",
    paired: bool = True,
    resamples: int = 1000,
    seed: int = 0,
) -> PowerLaw:
    """Fit ``value ~ n**s``: the least-squares slope of log2(mean over seeds) against log2(width).

    Minimises ``sum_i weight_i (log2 value_i - log2 c - s log2 n_i - (k / ln 2) / n_i)**2``, with k = 0 unless
    ``correction`` is set.

    The error bar has ``S - 1`` degrees of freedom if ``paired``; else each width brings a spread of its own
    and Welch and Satterthwaite's formula gives up to W times as many, which few seeds and many claims need.

    Args:
        widths: the widths n, shape [W], all different.
        values: positive sizes, shape [S, W] (one row per seed) or [W] (means only).
        mean: how seeds are averaged: "geometric" (mean of logs; exact error bars), "arithmetic", or "rms"
            (where theory gives second moments).
        correction: also fit the finite-width factor ``exp(k/n)``, which agrees with ``1 + k/n`` to first
            order and keeps the fit linear; needs three widths.
        weights: per width, shape [W], for weighted least squares; None is ordinary least squares.
        missing: what to do about cells that are zero, NaN or infinite, which have no logarithm: "raise", or
            "mask", which leaves out the cell, and the width where none is left.
        paired: resample seeds as whole rows, right whatever a seed's widths share; False resamples each width
            apart, for runs that are independent between widths, and cautious where they vary alike (what
            shifts all widths together does not tilt the line).
        resamples: number of bootstrap resamples.
        seed: of the bootstrap.

    Returns:
        The exponent with both standard errors, the constant and the correction.

    Raises:
        ValueError: if shapes do not match, a size is negative, a cell has no logarithm and ``missing`` is
            "raise", or fewer widths are left than the fit has unknowns.

    Example:
        >>> law = fit_exponent([64, 128, 256], [[4.0, 2.0, 1.0], [4.4, 2.2, 1.1]])
        >>> round(law.exponent, 6), law.stderr < 1e-12
        (-1.0, True)
    """
    n, size, valid = _checked(widths, values, missing)
    unknowns = 3 if correction else 2
    weight = np.ones(n.size) if weights is None else np.asarray(weights, float)
    if weight.shape != n.shape or not (weight >= 0).all():
        raise ValueError(
            f"Expected one non-negative weight per width, shape {n.shape}, got {weight.tolist()}."
        )
    kept = valid.any(axis=0) & (weight > 0)
    if kept.sum() < unknowns:
        raise ValueError(
            f"A fit with {unknowns} unknowns needs values at {unknowns} or more widths, got "
            f"{int(kept.sum())}; "
            "add widths, or claim a quantity that is exactly zero as zero instead of fitting it."
        )
    n, size, valid, weight = n[kept], size[:, kept], valid[:, kept], weight[kept]
    columns = [np.ones(n.size), np.log2(n)] + ([1.0 / (n * np.log(2.0))] if correction else [])
    design = np.stack(columns, axis=1)

    seeds = size.shape[0]
    target = _log2_mean(np.ones((1, seeds, 1)), size, valid, mean)
    coefficients = _least_squares(design, target, weight)[0]
    draws, degrees = np.full((1, unknowns), np.nan), float(n.size - unknowns)
    if seeds > 1:
        own = [0] if paired else range(n.size)
        counts = np.stack([bootstrap_counts(seeds, resamples, (seed, i)) for i in own], axis=2)
        targets = _log2_mean(counts, size, valid, mean)
        draws, degrees = _least_squares(design, targets, weight), float(seeds - 1)
        if not paired:
            leverage = _least_squares(design, np.eye(n.size), weight)[:, 1]
            degrees = pooled_degrees(leverage**2 * np.nanvar(targets, axis=0), seeds)
    return PowerLaw(
        exponent=float(coefficients[1]),
        stderr_seeds=bootstrap_stderr(draws[:, 1], seeds),
        stderr_residual=residual_stderr(design, target[0] - design @ coefficients, weight),
        log2_constant=float(coefficients[0]),
        correction=float(coefficients[2]) if correction else 0.0,
        widths=int(n.size),
        seeds=seeds,
        degrees=degrees,
    )


def _checked(widths: ArrayLike, values: ArrayLike, missing: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Refuse what has no logarithm before it becomes a silent NaN slope."""
    n, size = np.asarray(widths, float), np.atleast_2d(np.asarray(values, float))
    if missing not in ("raise", "mask"):
        raise ValueError(f'Expected missing="raise" or "mask", got {missing!r}.')
    if n.ndim != 1 or size.ndim != 2 or size.shape[1] != n.size:
        raise ValueError(
            f"Expected widths [W] and values [S, W] or [W], got shapes {n.shape} and {np.shape(values)}."
        )
    if not (np.isfinite(n) & (n > 0)).all() or np.unique(n).size != n.size:
        raise ValueError(f"Expected positive widths, all different, got {n.tolist()}.")
    if (size < 0).any():
        raise ValueError(f"A size cannot be negative; it is at widths {n[(size < 0).any(axis=0)].tolist()}.")
    valid = np.isfinite(size) & (size > 0)
    if missing == "raise" and not valid.all():
        raise ValueError(
            f"Values at widths {n[~valid.all(axis=0)].tolist()} are zero, NaN or infinite and have no "
            'logarithm; leave them out, or pass missing="mask".'
        )
    return n, size, valid


def _log2_mean(counts: np.ndarray, size: np.ndarray, valid: np.ndarray, mean: str) -> np.ndarray:
    """log2 of the mean over seeds resampled by counts [B, S, W or 1], [B, W]; NaN where no cell is valid."""
    safe = np.where(valid, size, 1.0)
    cells = {"geometric": np.log2(safe), "arithmetic": safe, "rms": safe**2}
    if mean not in cells:
        raise ValueError(f"Expected mean to be one of {sorted(cells)}, got {mean!r}.")
    number = (counts * valid).sum(axis=1)
    total = (counts * np.where(valid, cells[mean], 0.0)).sum(axis=1)
    average = total / np.where(number > 0, number, np.nan)
    if mean == "geometric":
        return average
    return np.log2(average) / (2.0 if mean == "rms" else 1.0)


def _least_squares(design: np.ndarray, target: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weighted least squares of every row of target [B, W] at once; NaN where too few widths are left."""
    scale = np.abs(design).max(axis=0)
    columns = design / scale
    weights = np.where(np.isfinite(target), weight, 0.0)
    normal = np.einsum("bw,wp,wq->bpq", weights, columns, columns)
    right = np.einsum("bw,wp,bw->bp", weights, columns, np.where(weights > 0, target, 0.0))
    enough = (weights > 0).sum(axis=1) >= design.shape[1]
    normal[~enough] = np.eye(design.shape[1])
    solution = np.linalg.solve(normal, right[:, :, None])[:, :, 0] / scale
    return np.where(enough[:, None], solution, np.nan)


def residual_stderr(design: np.ndarray, residual: np.ndarray, weight: np.ndarray) -> float:
    """Textbook standard error of the slope: scatter about the line times the leverage of the widths."""
    spare = design.shape[0] - design.shape[1]
    if spare < 1:
        return float("nan")
    scatter = np.sum(weight * residual**2) / spare
    covariance = np.linalg.inv(design.T @ (weight[:, None] * design))
    return float(np.sqrt(scatter * covariance[1, 1]))
