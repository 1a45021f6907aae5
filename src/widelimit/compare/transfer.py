"""Does the best learning rate stay where it is as the network grows, and what does it cost if it does not?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from widelimit.compare.fit import PowerLaw, residual_stderr
from widelimit.compare.localfit import interpolate
from widelimit.compare.optimum import Optimum
from widelimit.compare.statistics import Estimate, bootstrap_stderr, pooled_degrees


def transfer(widths: ArrayLike, optima: Sequence[Optimum], *, paired: bool = True) -> PowerLaw:
    """Slope of log2(best learning rate) against log2(width): 0 where the optimum transfers.

    Ordinary least squares; the seeds' standard error is a bootstrap over seeds, jointly through all widths,
    so that what one seed does to all widths alike is not counted as noise of the slope. The grid's
    resolution, where a minimum lies on a cell, is added in quadrature.

    Args:
        widths: the widths, shape [W], W >= 2.
        optima: the minimum at each width, from the same seeds and resamples.
        paired: resample jointly; False takes the widths' error bars as independent, which gives up to W times
            as many degrees of freedom, see ``fit_exponent``.

    Raises:
        ValueError: if there are fewer than two widths, or the optima do not match them or each other.

    Example:
        >>> from widelimit.compare import find_optimum
        >>> rates = np.arange(-10.0, 0.0)
        >>> curves = [2.0 ** (0.1 * (rates + np.log2(n)) ** 2) for n in (16, 32, 64)]
        >>> round(transfer([16, 32, 64], [find_optimum(rates, curve) for curve in curves]).exponent, 6)
        -1.0
    """
    n = np.asarray(widths, float)
    if n.ndim != 1 or n.size < 2 or n.size != len(optima) or np.unique(n).size != n.size or not (n > 0).all():
        raise ValueError(
            f"Expected one optimum for each of two or more different widths, got widths {n.tolist()} and "
            f"{len(optima)} optima."
        )
    if len({(best.seeds, best.draws.size) for best in optima}) > 1:
        raise ValueError(
            f"Expected optima from equal numbers of seeds and resamples, got "
            f"{[best.seeds for best in optima]} seeds; pass the seeds that all widths share."
        )
    x = np.log2(n) - np.log2(n).mean()
    slope = x / (x @ x)
    best = np.array([one.log2_lr for one in optima])
    exponent = float(slope @ best)
    constant = float(best.mean() - exponent * np.log2(n).mean())
    seeds = optima[0].seeds
    from_seeds = bootstrap_stderr(slope @ np.stack([one.draws for one in optima]), seeds)
    degrees = float(seeds - 1 if seeds > 1 else n.size - 2)
    if not paired and seeds > 1:
        variances = (slope * np.array([bootstrap_stderr(one.draws, seeds) for one in optima])) ** 2
        from_seeds, degrees = np.sqrt(variances.sum()), pooled_degrees(variances, seeds)
    from_grid = np.sqrt(np.sum((slope * np.array([one.resolution for one in optima])) ** 2))
    design = np.stack([np.ones(n.size), np.log2(n)], axis=1)
    return PowerLaw(
        exponent=exponent,
        stderr_seeds=float(np.hypot(from_seeds, from_grid)),
        stderr_residual=residual_stderr(design, best - design @ [constant, exponent], np.ones(n.size)),
        log2_constant=constant,
        correction=0.0,
        widths=int(n.size),
        seeds=seeds,
        degrees=degrees,
    )


def regret(target: Optimum, base: Optimum | float) -> Estimate:
    """Price of transfer: loss at the base's best learning rate minus the best loss, at the target width.

    Both losses are read off the target's seed-mean curve, interpolated by a parabola through the three
    nearest cells (by a line next to a divergence), so that the interpolation's own error cancels; the
    bootstrap repeats it with the resampled curve and, from the same seeds, the resampled base.

    Args:
        target: the minimum at the target width.
        base: the minimum at the width that was tuned, or log2 of the rate to transfer.

    Returns:
        The regret in units of the loss; infinite, with an error bar of NaN, where the transferred rate
        diverges.

    Raises:
        ValueError: if the transferred rate lies outside the target's grid.

    Example:
        >>> from widelimit.compare import find_optimum
        >>> rates = np.arange(-8.0, 0.0)
        >>> target = find_optimum(rates, 1.0 + 0.1 * (rates + 4.0) ** 2, log=False)
        >>> round(regret(target, -3.0).value, 6)
        0.1
    """
    rate = base.log2_lr if isinstance(base, Optimum) else float(base)
    x = target.rates
    if not x[0] <= rate <= x[-1]:
        raise ValueError(
            f"The transferred rate 2^{rate:g} lies outside the target's grid, 2^{x[0]:g} to 2^{x[-1]:g}; "
            "measure the target there too."
        )
    curve = np.where(np.isfinite(target.curve), target.curve, np.inf)
    curve = (np.log2(curve) if target.log else curve)[None]
    value = _loss_at(target, curve, np.array([rate])) - _loss_at(target, curve, np.array([target.log2_lr]))
    if not np.isfinite(value[0]):
        return Estimate(float("inf"), float("nan"))
    moved = np.full(target.draws.shape, rate)
    if isinstance(base, Optimum) and base.draws.shape == moved.shape:
        moved = np.clip(base.draws, x[0], x[-1])
    draws = _loss_at(target, target.curves, moved) - _loss_at(target, target.curves, target.draws)
    draws = np.where(np.isfinite(moved), draws, np.nan)
    return Estimate(float(value[0]), bootstrap_stderr(draws, target.seeds))


def _loss_at(target: Optimum, curves: np.ndarray, where: np.ndarray) -> np.ndarray:
    """The loss itself at one rate per curve."""
    value = interpolate(target.rates, curves, where)
    return np.exp2(value) if target.log else value
