"""Errors over width and depth, from rows: without the bias of noise, with jackknife standard errors."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from widelimit import dmft
from widelimit.compare import Estimate, fit_exponent
from widelimit.dmft import ResidualProblem
from widelimit.dmft.residual_depth import extrapolation
from widelimit.training import Results

Arrays = Sequence[np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """A run's rows as arrays; predictions are flat, [.., time * image] from step 1 on.

    Attributes:
        config: of the run.
        problem: that was solved, at any depth.
        mean: block means of networks by (depth, width), [block, k].
        square: of their squares.
        limits: predictions of infinite width by depth, and of infinite depth (0), [repeat, k].
        rule: the same by the tangent kernel's rule, by depth.
        without: without responses, by that rule.
        exact: (gap, effect) of linear networks by (exponent, depth).
        losses: mean and standard deviation over networks by (depth, width), [T + 1] each.
    """

    config: Any
    problem: ResidualProblem
    mean: dict[tuple[int, int], np.ndarray]
    square: dict[tuple[int, int], np.ndarray]
    limits: dict[int, np.ndarray]
    rule: dict[int, np.ndarray]
    without: dict[int, np.ndarray]
    exact: dict[tuple[float, int], tuple[float, float]]
    losses: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]

    @functools.cached_property
    def lazy(self) -> dict[int, np.ndarray]:
        """Predictions of the lazy limit by depth, [k]."""
        depths = self.config.depths
        problems = [dataclasses.replace(self.problem, depth=depth, kernel=None) for depth in depths]
        curves = [dmft.lazy(one).predictions.values[1:].ravel() for one in problems]
        return dict(zip(depths, curves, strict=True))

    def bias(self, depth: int, width: int, limit: int | None = None) -> Estimate:
        """Distance of the mean over networks from a limit: of its own depth, or of infinite depth (0)."""
        theory = self.limits[depth if limit is None else limit]
        return _root(jackknife(_distance, [self.mean[depth, width], theory]))

    def scatter(self, depth: int, width: int) -> Estimate:
        """Distance of a single network from the limit of its own depth."""
        return _root(jackknife(_single, [self._both(depth, width), self.limits[depth]]))

    def missing_depth(self, depth: int) -> Estimate:
        """Distance of infinite width at this depth from infinite depth: paired, they share their noise."""
        return _root(jackknife(_length, [self.limits[depth] - self.limits[0]]))

    def extrapolated(self, depth: int, theory: np.ndarray) -> Estimate:
        """Distance from a theory of the mean over networks, extrapolated from the two largest widths."""
        widths = self.config.widths[-2:]
        weights = extrapolation(widths)

        def distance(*groups: np.ndarray) -> float:
            *means, limit = (group.mean(axis=0) for group in groups)
            apart = sum(w * m for w, m in zip(weights, means, strict=True)) - limit
            noise = [w**2 * _noise(g) for w, g in zip([*weights, 1.0], groups, strict=True)]
            return float(np.mean(apart**2)) - sum(noise)

        return _root(jackknife(distance, [*(self.mean[depth, n] for n in widths), theory]))

    def width_law(self, depth: int, single: bool) -> Estimate:
        """The exponent of the width in ``bias`` or ``scatter``; the limit's noise is common to all widths."""
        widths = self.config.widths
        one = _single if single else _distance
        cells = [self._both(depth, n) if single else self.mean[depth, n] for n in widths]

        def slope(*groups: np.ndarray) -> float:
            return _slope(widths, [one(cell, groups[-1]) for cell in groups[:-1]])

        return jackknife(slope, [*cells, self.limits[depth]])

    def doubled(self, depth: int) -> Estimate:
        """What doubling this depth does to infinite width: paired, and less noisy than ``missing_depth``."""
        return _root(jackknife(_length, [self.limits[2 * depth] - self.limits[depth]]))

    def depth_law(self) -> Estimate:
        """The exponent of the depth in ``doubled``; weights 1/L, as relative errors grow with L."""
        depths = self.config.depths
        moves = np.stack([self.limits[2 * depth] - self.limits[depth] for depth in depths[:-1]], axis=1)

        def slope(draws: np.ndarray) -> float:
            squares = [_length(draws[:, i]) for i in range(len(depths) - 1)]
            return _slope(depths[:-1], squares, 1 / np.array(depths[:-1]))

        return jackknife(slope, [moves])

    def gap(self, depth: int) -> Estimate:
        """What leaving out responses does to f, at infinite width."""
        return _root(jackknife(_length, [self.rule[depth] - self.without[depth]]))

    def effect(self, depth: int) -> Estimate:
        """What learning features does to f: infinite width less the lazy limit."""
        return _root(jackknife(_length, [self.limits[depth] - self.lazy[depth]]))

    def gap_share(self, depth: int) -> Estimate:
        """The former over the latter."""

        def share(gap: np.ndarray, effect: np.ndarray) -> float:
            return float(np.sqrt(_length(gap) / _length(effect)))

        groups = [self.rule[depth] - self.without[depth], self.limits[depth] - self.lazy[depth]]
        return jackknife(share, groups)

    def exact_slope(self, exponent: float) -> float:
        """Exponent of the depth in linear networks' gap: the last local ones, less their 1/L correction."""
        gaps = [self.exact[exponent, depth][0] for depth in self.config.exact_depths[-3:]]
        first, second = np.log2(np.array(gaps[1:]) / np.array(gaps[:-1]))
        return float(2 * second - first)

    def exact_share(self, exponent: float) -> float:
        """Linear networks' gap over the effect of features, both at infinite depth."""
        depths = self.config.exact_depths[-3:]
        both = np.array([self.exact[exponent, depth] for depth in depths])
        gap, effect = np.dot(extrapolation(depths), both)
        return float(gap / effect)

    def curve(self, f: np.ndarray) -> np.ndarray:
        """Training loss at all times, [T + 1], of flat predictions [k]."""
        steps, points = self.problem.steps, self.problem.points
        train = np.zeros((steps + 1, self.problem.samples))
        train[1:] = f.reshape(steps, points)[:, : self.problem.samples]
        loss: np.ndarray = np.mean((np.asarray(self.problem.targets) - train) ** 2, axis=1) / 2
        return loss

    def _both(self, depth: int, width: int) -> np.ndarray:
        """Block means of f and of f^2, [block, 2, k]."""
        return np.stack([self.mean[depth, width], self.square[depth, width]], axis=1)


def gather(config: Any, problem: ResidualProblem, results: Results) -> Found:
    """Returns a finished run's rows as arrays."""
    networks, limits = results.find(part="networks"), results.find(part="limits")
    limits = sorted(limits, key=lambda row: row["repeat"])

    def by_cell(name: str) -> dict[tuple[int, int], np.ndarray]:
        return {(row["depth"], row["width"]): _flat(row[name], 1) for row in networks}

    def by_depth(name: str) -> dict[int, np.ndarray]:
        values = _flat([row[name] for row in limits], 2)
        return {depth: values[:, i] for i, depth in enumerate(config.depths)}

    exact = results.find(part="independence")
    return Found(
        config=config,
        problem=problem,
        mean=by_cell("mean"),
        square=by_cell("square"),
        limits={**by_depth("f"), 0: _flat([row["limit"] for row in limits], 1)},
        rule=by_depth("kernel_rule"),
        without=by_depth("without"),
        exact={(row["exponent"], row["depth"]): (row["gap"], row["effect"]) for row in exact},
        losses={
            (row["depth"], row["width"]): (np.array(row["loss"]), np.array(row["loss_std"]))
            for row in networks
        },
    )


def _flat(values: Any, leading: int) -> np.ndarray:
    """Nested lists [.., time, image] as [.., k], without step 0, at which all predictions are 0."""
    array = np.asarray(values, float)
    return array[(*(slice(None),) * leading, slice(1, None))].reshape(*array.shape[:leading], -1)


def jackknife(measure: Callable[..., float], groups: Arrays) -> Estimate:
    """Returns a function of independent groups of independent draws, with its standard error.

    Each group in turn leaves out each of its draws; variances add up.

    Args:
        measure: takes the groups, [draws, ..] each.
        groups: the draws.
    """
    variance = 0.0
    for i, group in enumerate(groups):
        count = len(group)
        left = [measure(*groups[:i], np.delete(group, j, axis=0), *groups[i + 1 :]) for j in range(count)]
        variance += (count - 1) / count * float(np.sum((np.array(left) - np.mean(left)) ** 2))
    return Estimate(measure(*groups), float(np.sqrt(variance)))


def _root(square: Estimate) -> Estimate:
    """A root mean square from a mean square; NaN where noise made it negative."""
    if not square.value > 0:
        return Estimate(float("nan"), float("nan"))
    return Estimate(float(np.sqrt(square.value)), float(square.stderr / (2 * np.sqrt(square.value))))


def _noise(draws: np.ndarray) -> float:
    """Mean square error of the mean over draws [n, k]."""
    return float(draws.var(axis=0, ddof=1).mean() / len(draws))


def _length(draws: np.ndarray) -> float:
    """Mean square of the mean over draws, without that of its noise."""
    return float(np.mean(draws.mean(axis=0) ** 2)) - _noise(draws)


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    """Mean square of the difference of two means, without that of their noise."""
    apart = one.mean(axis=0) - other.mean(axis=0)
    return float(np.mean(apart**2)) - _noise(one) - _noise(other)


def _single(both: np.ndarray, theory: np.ndarray) -> float:
    """Mean square distance of one network from the limit, of (f, f^2) block means [block, 2, k]."""
    mean, square = both.mean(axis=0)
    limit = theory.mean(axis=0)
    return float(np.mean(square - 2 * mean * limit + limit**2)) - _noise(theory)


def _slope(sizes: Sequence[int], squares: Sequence[float], weights: np.ndarray | None = None) -> float:
    """The exponent of root mean squares; NaN where noise made one negative."""
    values = np.array(squares)
    if not (values > 0).all():
        return float("nan")
    return fit_exponent(sizes, np.sqrt(values), weights=weights).exponent
