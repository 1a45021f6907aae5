"""Where is the best learning rate? The minimum of a loss curve, with an error bar from seeds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from widelimit.compare.localfit import CLIFF, EDGE_HIGH, EDGE_LOW, INTERIOR, locate
from widelimit.compare.statistics import bootstrap_counts, bootstrap_stderr

Flag = Literal["interior", "edge_low", "edge_high", "cliff"]
FLAGS: tuple[Flag, ...] = ("interior", "edge_low", "edge_high", "cliff")


@dataclass(frozen=True)
class Optimum:
    """The minimum of one loss curve over the learning rate, with what is needed to compare it with others.

    Args:
        log2_lr: log2 of the best learning rate.
        stderr: its standard error over seeds (bootstrap); where the minimum lies on a cell of the grid
            (``edge_*``, or a ``cliff`` right behind it) the grid's resolution, spacing / sqrt(12), is added
            in quadrature.
        loss: the loss there.
        loss_stderr: its standard error over seeds (bootstrap).
        flag: "interior"; "edge_low" or "edge_high", the minimum (or that of more than a tenth of the
            resamples) lies at the grid's edge, so widen it (``widen``); "cliff", training diverges right
            behind the best rate, so only the finite side was fitted.
        rates: log2 of the rates measured, shape [R], increasing.
        curve: mean loss over seeds at each rate, shape [R]; NaN where a seed diverged.
        curve_stderr: its standard error over seeds, shape [R].
        seeds: number of seeds S.
        resolution: the grid's share of ``stderr``; 0 where the fit decides.
        draws: ``log2_lr`` in each bootstrap resample, shape [B].
        curves: transformed loss curve of each resample, shape [B, R], infinite where a seed diverged.
        log: curves are averaged and fitted as log2(loss).
    """

    log2_lr: float
    stderr: float
    loss: float
    loss_stderr: float
    flag: Flag
    rates: np.ndarray = field(repr=False, compare=False)
    curve: np.ndarray = field(repr=False, compare=False)
    curve_stderr: np.ndarray = field(repr=False, compare=False)
    seeds: int = field(repr=False)
    resolution: float = field(repr=False)
    draws: np.ndarray = field(repr=False, compare=False)
    curves: np.ndarray = field(repr=False, compare=False)
    log: bool = field(repr=False)


def find_optimum(
    log2_lr: ArrayLike,
    losses: ArrayLike,
    *,
    log: bool = True,
    window: int = 2,
    cliff: float = 4.0,
    ceiling: float | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Optimum:
    """Find the minimum of the loss over the learning rate by a local quadratic fit, bootstrapped over seeds.

    The curve is the mean over seeds of log2(loss) (of the loss, if not ``log``). A parabola in log2(learning
    rate) is fitted by least squares to the best cell and up to ``window`` cells on either side whose loss is
    at most ``cliff`` times the best; its vertex, kept inside these cells, is the optimum. A rate counts as
    diverged if any seed did. Where the cell right above the best one diverged, or is ``cliff`` times worse
    while the one below is not, only the finite side is fitted. Every resample of the seeds repeats all of
    this, the choice of cells included.

    Args:
        log2_lr: log2 of the learning rates, shape [R], increasing, R >= 3.
        losses: loss of each run, shape [R, S] (one column per seed) or [R]; NaN or infinite where it
            diverged.
        log: fit log2(loss), which makes the answer independent of the loss's unit; needs positive losses.
        window: cells on either side of the best that may enter the fit.
        cliff: ratio to the best loss beyond which a cell is not local any more.
        ceiling: losses above it count as diverged (sensible: the loss at initialisation); None for no
            ceiling.
        resamples: number of bootstrap resamples B.
        seed: of the bootstrap. Equal seeds resample jointly through all widths, see ``transfer``.

    Raises:
        ValueError: if shapes do not match, rates do not increase, a loss has no logarithm, or all rates
            diverged.

    Example:
        >>> rates = np.arange(-8.0, 0.0)
        >>> best = find_optimum(rates, 2.0 ** (0.1 * (rates[:, None] + 4.25) ** 2 + np.array([[-0.1, 0.1]])))
        >>> round(best.log2_lr, 6), best.flag
        (-4.25, 'interior')
    """
    x, loss = _checked(log2_lr, losses, window, cliff)
    diverged = ~np.isfinite(loss) | (loss > (np.inf if ceiling is None else ceiling))
    if diverged.any(axis=1).all():
        raise ValueError(
            f"Training diverged at each of the {x.size} learning rates from 2^{x[0]:g} to 2^{x[-1]:g} in at "
            "least one seed, so there is no best one; add lower rates."
        )
    if log and not (loss[~diverged] > 0).all():
        raise ValueError("A loss of zero or below has no logarithm; pass log=False to fit the loss itself.")
    cells = np.where(diverged, 1.0, loss)
    cells = np.log2(cells) if log else cells
    seeds = loss.shape[1]

    mean = _resampled(np.ones((1, seeds)), cells, diverged)
    place, height, code, on_cell = (found[0] for found in locate(x, mean, window, cliff, log))
    curves, draws, heights = mean, np.array([place]), np.array([height])
    if seeds > 1:
        curves = _resampled(bootstrap_counts(seeds, resamples, seed), cells, diverged)
        draws, heights, codes, _ = locate(x, curves, window, cliff, log)
        code = _at_edge(code, codes)
    resolution = _spacing(x, place) / np.sqrt(12.0) if on_cell else 0.0
    return Optimum(
        log2_lr=float(place),
        stderr=float(np.hypot(bootstrap_stderr(draws, seeds), resolution)),
        loss=float(np.exp2(height) if log else height),
        loss_stderr=bootstrap_stderr(np.exp2(heights) if log else heights, seeds),
        flag=FLAGS[code],
        rates=x,
        curve=_untransformed(mean[0], log),
        curve_stderr=np.array([bootstrap_stderr(column, seeds) for column in _untransformed(curves, log).T]),
        seeds=seeds,
        resolution=float(resolution),
        draws=draws,
        curves=curves,
        log=log,
    )


def widen(optimum: Optimum, cells: int = 3) -> np.ndarray:
    """Rates to add where the minimum lies at the grid's edge: ``cells`` more, at the spacing found there.

    Args:
        optimum: a minimum found on the grid so far.
        cells: how many rates to add.

    Returns:
        log2 of the rates to add, increasing; empty if the minimum is not at an edge.

    Example:
        >>> widen(find_optimum([-3.0, -2.0, -1.0], [3.0, 2.0, 1.0]), cells=2)
        array([0., 1.])
    """
    x = optimum.rates
    if optimum.flag == "edge_low":
        return x[0] - (x[1] - x[0]) * np.arange(cells, 0, -1)
    if optimum.flag == "edge_high":
        return x[-1] + (x[-1] - x[-2]) * np.arange(1, cells + 1)
    return np.empty(0)


def _checked(
    log2_lr: ArrayLike, losses: ArrayLike, window: int, cliff: float
) -> tuple[np.ndarray, np.ndarray]:
    """Refuse a transposed or unsorted grid, which would fit something else without a word."""
    x, loss = np.asarray(log2_lr, float), np.asarray(losses, float)
    loss = loss[:, None] if loss.ndim == 1 else loss
    if x.ndim != 1 or x.size < 3 or loss.ndim != 2 or loss.shape[0] != x.size or loss.shape[1] < 1:
        raise ValueError(
            f"Expected at least three rates [R] and losses [R, S], got shapes {x.shape} and "
            f"{np.shape(losses)}."
        )
    if not np.isfinite(x).all() or not (np.diff(x) > 0).all():
        raise ValueError(f"Expected log2 learning rates in increasing order, got {x.tolist()}.")
    if window < 1 or not cliff > 1:
        raise ValueError(f"Expected window >= 1 cell and cliff > 1, got {window=}, {cliff=}.")
    return x, loss


def _at_edge(code: int, codes: np.ndarray) -> int:
    """A minimum that more than a tenth of the resamples put at an edge needs a wider grid as well."""
    for edge in (EDGE_LOW, EDGE_HIGH):
        if code in (INTERIOR, CLIFF) and (codes == edge).mean() > 0.1:
            return edge
    return code


def _resampled(counts: np.ndarray, cells: np.ndarray, diverged: np.ndarray) -> np.ndarray:
    """Mean over resampled seeds of each cell, [B, R]; infinite where a resampled seed diverged."""
    mean = counts @ np.where(diverged, 0.0, cells).T / counts.sum(axis=1, keepdims=True)
    return np.where(counts @ diverged.T > 0, np.inf, mean)


def _untransformed(curve: np.ndarray, log: bool) -> np.ndarray:
    """Back to the loss, with NaN for what diverged."""
    finite = np.where(np.isfinite(curve), curve, np.nan)
    return np.exp2(finite) if log else finite


def _spacing(x: np.ndarray, place: float) -> float:
    """The grid's spacing about a cell: what the minimum may hide in."""
    i = int(np.argmin(np.abs(x - place)))
    return float(np.diff(x[max(i - 1, 0) : i + 2]).mean())
