"""From rows to optima, slopes and tables of the transfer experiment."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np

from experiments import linear_transfer_theory as theory
from experiments.linear_transfer_theory import NAMES, PARAMETRIZATIONS
from widelimit.compare import Estimate, Optimum, PowerLaw, find_optimum, regret, transfer
from widelimit.training import Results

WINDOW = 1  # cells about the best: curves are lopsided, and two would move the fit by 0.05 powers of two
BEYOND = (1, 2, 4, 8, 16, 32, 64, 256, 1024)  # times the first ratio: where theory's slope is listed


T = TypeVar("T")


class Score(NamedTuple):
    """A loss of networks, extrapolated to infinite size, beside theory's.

    Attributes:
        measured: with its standard error.
        predicted: by theory.
        log2_rate: where.
    """

    measured: Estimate
    predicted: float
    log2_rate: float

    @property
    def z(self) -> float:
        """The difference in standard errors."""
        return self.measured.z(self.predicted)


class Found:
    """What the rows say, beside what theory says.

    Args:
        config: of the run.
        results: its directory.
    """

    def __init__(self, config: Any, results: Results) -> None:
        self.config, self._results = config, results
        self._kept: dict[Any, Any] = {}

    def _once(self, key: Any, make: Callable[[], T]) -> T:
        """What was made for a key, made once."""
        if key not in self._kept:
            self._kept[key] = make()
        value: T = self._kept[key]
        return value

    def losses(self, depth: int, ratio: float, name: str, size: int) -> np.ndarray:
        """Final losses, [rate, network]; NaN where training diverged."""

        def read() -> np.ndarray:
            rows = self._results.find(depth=depth, ratio=ratio, size=size)
            return np.array([row[name] for row in sorted(rows, key=lambda row: row["network"])], float).T

        return self._once(("losses", depth, ratio, name, size), read)

    def expected(self, depth: int, ratio: float, name: str) -> np.ndarray:
        """Theory's final losses, [rate]."""
        rates = theory.rates(self.config, depth)
        return self._once(
            ("expected", depth, ratio, name), lambda: theory.losses(self.config, depth, ratio, name, rates)
        )

    def optimum(self, depth: int, ratio: float, name: str) -> Optimum:
        """The networks' best rate."""
        rates, losses = theory.rates(self.config, depth), self.losses(depth, ratio, name, self.config.size)
        return self._once(("optimum", depth, ratio, name), lambda: find_optimum(rates, losses, window=WINDOW))

    def predicted(self, depth: int, ratio: float, name: str) -> Optimum:
        """Theory's best rate, by the same fit on the same grid."""
        expected = self.expected(depth, ratio, name)
        return find_optimum(theory.rates(self.config, depth), expected, window=WINDOW)

    def exact(self, depth: int, ratio: float, name: str) -> tuple[float, float]:
        """Theory's best rate without a grid, and log2 of its loss."""
        return self._once(
            ("exact", depth, ratio, name), lambda: theory.best_rate(self.config, depth, ratio, name)
        )

    def slope(self, depth: int, name: str, ratios: tuple[float, ...]) -> PowerLaw:
        """Of the networks' best rate against the width."""
        widths = [ratio * self.config.size for ratio in ratios]
        return transfer(widths, [self.optimum(depth, ratio, name) for ratio in ratios], paired=False)

    def predicted_slope(self, depth: int, name: str, ratios: tuple[float, ...]) -> float:
        """Theory's, by the same fits."""
        return transfer(ratios, [self.predicted(depth, ratio, name) for ratio in ratios]).exponent

    def half_rate(self, depth: int, ratio: float, name: str) -> Score:
        """The loss at half of theory's best rate, where training is smooth, extrapolated from two sizes."""
        rates = theory.rates(self.config, depth)
        place = int(np.abs(rates - (self.predicted(depth, ratio, name).log2_lr - 1)).argmin())
        return self.score(depth, ratio, name, place)

    def score(self, depth: int, ratio: float, name: str, place: int) -> Score:
        """``2 loss(D) - loss(D / 2)``, which is without a correction of order 1 / D, beside theory."""
        size = self.config.size
        half, full = (self.losses(depth, ratio, name, one)[place] for one in (size // 2, size))
        error = math.sqrt(4 * full.var(ddof=1) / full.size + half.var(ddof=1) / half.size)
        value = Estimate(float(2 * full.mean() - half.mean()), error)
        expected = float(self.expected(depth, ratio, name)[place])
        return Score(value, expected, float(theory.rates(self.config, depth)[place]))


def all_of(found: Found) -> dict[str, list[dict[str, Any]]]:
    """Returns the tables of the report."""
    return {
        "optimum": _optimum(found),
        "loss at half the best rate": _half_rate(found),
        "price of transfer": _price(found),
        "slope in theory": _slopes(found),
    }


def _cells(found: Found) -> list[tuple[int, str, float]]:
    """Depth, parametrization and ratio of every line of a table."""
    config = found.config
    return [(d, name, r) for d in config.depths for name in PARAMETRIZATIONS for r in config.ratios]


def _optimum(found: Found) -> list[dict[str, Any]]:
    """Best rates of networks and theory."""
    rows = []
    for depth, name, ratio in _cells(found):
        one, predicted = found.optimum(depth, ratio, name), found.predicted(depth, ratio, name)
        exact, loss = found.exact(depth, ratio, name)
        rows.append(
            {
                "hidden": depth,
                "parametrization": NAMES[name],
                "width": round(ratio * found.config.size),
                "log2_rate": one.log2_lr,
                "stderr": one.stderr,
                "theory": predicted.log2_lr,
                "theory_without_grid": exact,
                "loss": one.loss,
                "loss_theory": 2.0**loss,
                "flag": one.flag,
            }
        )
    return rows


def _half_rate(found: Found) -> list[dict[str, Any]]:
    """Losses extrapolated to infinite size, with z-scores."""
    rows = []
    for depth, name, ratio in _cells(found):
        score = found.half_rate(depth, ratio, name)
        rows.append(
            {
                "hidden": depth,
                "parametrization": NAMES[name],
                "ratio": ratio,
                "log2_rate": score.log2_rate,
                "loss": score.measured.value,
                "stderr": score.measured.stderr,
                "theory": score.predicted,
                "z": score.z,
            }
        )
    return rows


def _price(found: Found) -> list[dict[str, Any]]:
    """What it costs the widest network to take the narrowest one's best rate, over its own best loss."""
    rows, (first, last) = [], (found.config.ratios[0], found.config.ratios[-1])
    for depth in found.config.depths:
        for name in PARAMETRIZATIONS:
            one, expected = found.optimum(depth, last, name), found.predicted(depth, last, name)
            price = regret(one, found.optimum(depth, first, name))
            told = regret(expected, found.predicted(depth, first, name)).value
            rows.append(
                {
                    "hidden": depth,
                    "parametrization": NAMES[name],
                    "ratio": last,
                    "regret": price.value / one.loss,
                    "stderr": price.stderr / one.loss,
                    "theory": told / expected.loss,
                }
            )
    return rows


def _slopes(found: Found) -> list[dict[str, Any]]:
    """Theory's local slopes far beyond what was trained, and the best rates at infinite ratio."""
    config, rows = found.config, []
    ratios = [config.ratios[0] * times for times in BEYOND]
    columns = {
        f"{NAMES[name]}, {depth} hidden": [
            *(theory.best_rate(config, depth, ratio, name)[0] for ratio in ratios),
            theory.best_rate(config, depth, math.inf, name)[0],
        ]
        for depth in config.depths
        for name in PARAMETRIZATIONS
    }
    for i, ratio in enumerate([*ratios, math.inf]):
        row: dict[str, Any] = {"ratio": ratio if math.isfinite(ratio) else "infinite"}
        for label, best in columns.items():
            row[f"{label}: log2 rate"] = best[i]
            far = i + 1 >= len(ratios)
            step = 1.0 if far else math.log2(ratios[i + 1] / ratio)
            row[f"{label}: slope"] = None if far else (best[i + 1] - best[i]) / step
        rows.append(row)
    return rows
