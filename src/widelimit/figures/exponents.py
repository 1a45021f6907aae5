"""Exponents as a figure: everything measured beside everything predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from widelimit.figures.style import CATEGORIES, PREDICTION, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def exponents_against_theory(
    points: Sequence[Mapping[str, Any]], *, tolerance: float | None = None
) -> tuple[Figure, np.ndarray]:
    """Measured exponents against predicted ones, and their differences, a line per network.

    On the left points that share a prediction stand side by side about it, and a dashed line says where they
    should be; on the right how far each is off, in order within its network's line. Bars are standard errors.

    Args:
        points: dicts with "network", "kind" (a colour each), "predicted", "measured" and "stderr".
        tolerance: of the difference; shaded.

    Returns:
        The figure, and its axes as an array [1, 2].

    Raises:
        ValueError: if there is no point, or more kinds than distinguishable colours.

    Example:
        >>> point = {"network": "muP, sgd", "kind": "step", "predicted": 0, "measured": 0.01, "stderr": 0.02}
        >>> figure, axes = exponents_against_theory([point], tolerance=0.1)
        >>> axes[0, 1].get_xlabel()
        'measured − predicted'
    """
    kinds = list(dict.fromkeys(point["kind"] for point in points))
    if not 0 < len(kinds) <= len(CATEGORIES):
        raise ValueError(f"Expected points of 1 to {len(CATEGORIES)} kinds, got {len(kinds)}; split them.")
    networks = list(dict.fromkeys(point["network"] for point in points))
    with style():
        figure, axes = new_figure(1, 2, panel=(4.6, max(4.2, 0.34 * len(networks))), margin=0.0)
        left, right = axes[0]
        for color, kind in zip(CATEGORIES, kinds, strict=False):
            own = [point for point in points if point["kind"] == kind]
            theory, measured, error = (
                np.array([point[name] for point in own], float)
                for name in ("predicted", "measured", "stderr")
            )
            look = {"fmt": "o", "color": color, "markersize": 2.5, "elinewidth": 0.8, "capsize": 0.0}
            offset = 0.13 * (kinds.index(kind) - (len(kinds) - 1) / 2)
            left.errorbar(theory + offset + 0.05 * _ranks(theory), measured, error, label=kind, **look)
            place = np.array([networks.index(point["network"]) for point in own], float)
            order = np.array([_order(points, point) for point in own])
            right.errorbar(measured - theory, place + 0.7 * (order - 0.5), xerr=error, **look)
        for value in sorted({float(point["predicted"]) for point in points}):
            ends = [value - 0.24, value + 0.24]
            left.plot(ends, [value, value], "--", color=PREDICTION, linewidth=1.0, zorder=0)
        left.set_xlabel("predicted exponent")
        left.set_ylabel("measured exponent")
        left.legend(loc="upper left")
        if tolerance is not None:
            shade = {"facecolor": "#f0f0f0", "edgecolor": "#bbbbbb", "zorder": 0}
            right.axvspan(-tolerance, tolerance, label="tolerance", **shade)
            right.legend(loc="upper right")
        right.axvline(0.0, linestyle="--", color=PREDICTION, linewidth=1.0, zorder=4)
        right.set_yticks(range(len(networks)), networks)
        right.set_ylim(len(networks) - 0.45, -0.55)
        right.grid(visible=False, axis="y")
        right.set_xlabel("measured \N{MINUS SIGN} predicted")
    return figure, axes


def _ranks(values: np.ndarray) -> np.ndarray:
    """Places from -1 to 1 among equal values, so that points with one prediction stand side by side."""
    ranks = np.zeros(values.size)
    for value in np.unique(values):
        same = values == value
        ranks[same] = np.linspace(-1.0, 1.0, same.sum()) if same.sum() > 1 else 0.0
    return ranks


def _order(points: Sequence[Mapping[str, Any]], point: Mapping[str, Any]) -> float:
    """The place of a point in its network's line, 0 to 1."""
    same = [one for one in points if one["network"] == point["network"]]
    return next(i for i, one in enumerate(same) if one is point) / max(len(same) - 1, 1)
