"""Learning rates, theory beside networks: loss curves with their minima, and minima against width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from widelimit.figures.optimum import width_axis
from widelimit.figures.style import CATEGORIES, PREDICTION, new_figure, ordered_colors, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def rates_beside_theory(
    panels: Mapping[tuple[str, str], Mapping[int, Mapping[str, Any]]],
    *,
    loss: str = "loss",
    quantity: str = "log2 learning rate",
) -> tuple[Figure, np.ndarray]:
    """Loss against learning rate: theory as lines, networks as points with error bars, minima marked.

    A colour per width. The line's minimum is a short bar below it, the networks' a filled circle with its
    error bar.

    Args:
        panels: by (column, row) and width, a dict with "lines" (log2 rates and losses of theory), "points"
            (log2 rates, losses and standard errors of networks; NaN is left out), "minimum" (log2 rate,
            standard error and loss of the networks' best) and "expected" (log2 rate and loss of theory's).
        loss: name and unit of the vertical axis.
        quantity: of the horizontal one.

    Returns:
        The figure, and its axes as an array [rows, columns].

    Raises:
        ValueError: if there is nothing to draw.

    Example:
        >>> x = np.arange(-4.0, 0.0)
        >>> y = 0.1 + (x + 2) ** 2
        >>> one = {"lines": (x, y), "points": (x, y, 0.1 * y), "expected": (-2.0, 0.1)}
        >>> one["minimum"] = (-2.0, 0.1, 0.1)
        >>> figure, axes = rates_beside_theory({("muP", "1 hidden layer"): {64: one}})
        >>> axes[0, 0].get_title()
        'muP, 1 hidden layer'
    """
    if not panels or not all(panels.values()):
        raise ValueError("Expected at least one panel with at least one width, got nothing to draw.")
    columns, rows = (list(dict.fromkeys(key[i] for key in panels)) for i in (0, 1))
    widths = sorted({width for curves in panels.values() for width in curves})
    colors = dict(zip(widths, ordered_colors(len(widths)), strict=True))
    with style():
        figure, axes = new_figure(
            len(rows), len(columns), panel=(3.6, 3.1), margin=1.5, sharex="row", sharey="row"
        )
        for (column, row), curves in panels.items():
            ax = axes[rows.index(row), columns.index(column)]
            ax.set_title(f"{column}, {row}")
            ax.set_yscale("log", base=10)
            low, high = _limits([each for (_, r), each in panels.items() if r == row])
            for width, curve in sorted(curves.items()):
                _curve(ax, curve, colors[width], high)
            ax.set_ylim(low, high)
        for ax in axes[:, 0]:
            ax.set_ylabel(loss)
        for ax in axes[-1]:
            ax.set_xlabel(quantity)
        _legend(figure, colors)
    return figure, axes


def _limits(panels: Sequence[Mapping[int, Mapping[str, Any]]]) -> tuple[float, float]:
    """Of a row: from below the lowest point to above the highest loss at the lowest rate."""
    curves = [curve for panel in panels for curve in panel.values()]
    low = min(float(np.nanmin(curve["points"][1])) for curve in curves)
    return 0.5 * low, 3.0 * max(low, *(float(curve["lines"][1][0]) for curve in curves))


def _curve(ax: Any, curve: Mapping[str, Any], color: Any, high: float) -> None:
    """One width in one panel; what is above it is not drawn."""
    ax.plot(*curve["lines"], color=color, linewidth=1.2, alpha=0.8, zorder=2)
    x, y, error = (np.asarray(part, float) for part in curve["points"])
    inside = y < high  # there the seeds of a curve beyond it scatter over many decades
    x, y, error = x[inside], y[inside], error[inside]
    ax.errorbar(x, y, error, fmt="o", markersize=2.6, color=color, elinewidth=1.0, capsize=0, zorder=3)
    place, height = curve["expected"]
    ax.plot([place, place], [0.72 * height, 0.9 * height], color=color, linewidth=2.2, zorder=4)
    place, error, height = curve["minimum"]
    ax.errorbar(
        place, height, xerr=error, fmt="o", markersize=7.0, color=color, markeredgecolor="white", zorder=5
    )


def _legend(figure: Figure, colors: Mapping[int, Any]) -> None:
    """The widths once, and what the marks mean."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=color, label=str(width)) for width, color in colors.items()]
    figure.legend(handles=handles, title="width", loc="outside right upper")
    looks: dict[str, dict[str, Any]] = {
        "theory": {"linestyle": "-", "linewidth": 1.2},
        "networks": {"linestyle": "", "marker": "o", "markersize": 2.6},
        "networks' minimum": {"linestyle": "", "marker": "o", "markersize": 7.0},
        "theory's minimum": {"linestyle": "", "marker": "|", "markersize": 8.0, "markeredgewidth": 2.2},
    }
    handles = [Line2D([], [], color=PREDICTION, **look, label=name) for name, look in looks.items()]
    figure.legend(handles=handles, loc="outside right lower")


def best_rates_beside_theory(
    panels: Mapping[str, Mapping[str, Mapping[str, Any]]],
    *,
    quantity: str = "log2 best learning rate",
) -> tuple[Figure, np.ndarray]:
    """Best learning rate against width: theory as lines, networks as points, a panel per title.

    Args:
        panels: by title and name of a line, a dict with "widths", "places" and "errors" (networks),
            "line" (widths and places of theory) and, optionally, "limit" (theory's place at infinite
            width, dotted).
        quantity: of the vertical axis.

    Returns:
        The figure, and its axes as an array [1, panels].

    Raises:
        ValueError: if there is nothing to draw, or more lines than distinguishable colours.

    Example:
        >>> line = {"widths": [64, 128], "places": [-3.0, -3.1], "errors": [0.1, 0.1], "limit": -3.2}
        >>> line["line"] = ([64, 128, 256], [-3.0, -3.1, -3.15])
        >>> figure, axes = best_rates_beside_theory({"1 hidden layer": {"muP": line}})
        >>> axes[0, 0].get_xlabel()
        'width'
    """
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    if not panels or not 0 < len(names) <= len(CATEGORIES):
        raise ValueError(f"Expected panels with 1 to {len(CATEGORIES)} lines, got {names}.")
    with style():
        figure, axes = new_figure(1, len(panels), panel=(3.6, 3.1), margin=1.6)
        for ax, (title, lines) in zip(axes[0], panels.items(), strict=True):
            ax.set_title(title)
            widths: set[int] = set()
            for name, line in lines.items():
                place = names.index(name)
                _line(ax, line, CATEGORIES[place], "os^Dv<"[place])
                widths |= {round(float(width)) for width in line["line"][0]}
            width_axis(ax, sorted(widths))
            ax.set_xlabel("width")
        axes[0, 0].set_ylabel(quantity)
        _names(figure, names)
    return figure, axes


def _line(ax: Any, line: Mapping[str, Any], color: str, marker: str) -> None:
    """Theory, its limit, and networks."""
    ax.plot(*line["line"], color=color, linewidth=1.3)
    if "limit" in line:
        ax.axhline(line["limit"], color=color, linestyle=":", linewidth=1.2)
    ax.errorbar(
        line["widths"], line["places"], line["errors"], fmt=marker, markersize=4.5, color=color, zorder=3
    )


def _names(figure: Figure, names: list[str]) -> None:
    """A colour per name, and what lines and points are."""
    from matplotlib.lines import Line2D

    own = [
        Line2D([], [], color=CATEGORIES[i], marker="os^Dv<"[i], markersize=4.5, label=name)
        for i, name in enumerate(names)
    ]
    figure.legend(handles=own, loc="outside right upper")
    looks: dict[str, dict[str, Any]] = {
        "theory": {"linestyle": "-", "linewidth": 1.3},
        "at infinite width": {"linestyle": ":", "linewidth": 1.2},
        "networks": {"linestyle": "", "marker": "o", "markersize": 4.5},
    }
    handles = [Line2D([], [], color=PREDICTION, **look, label=name) for name, look in looks.items()]
    figure.legend(handles=handles, loc="outside right lower")
