"""What one knob does to several measures, in theory and in networks of several sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from widelimit.figures.convergence import label_decades
from widelimit.figures.scales import axis_between
from widelimit.figures.style import CATEGORIES, PREDICTION, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARKERS = "os^Dv"


def theory_beside_networks(
    scales: Sequence[float],
    panels: Mapping[str, Mapping[str, Mapping[str, Any]]],
    *,
    logarithmic: Sequence[str] = (),
    units: Mapping[str, str] | None = None,
    columns: int = 3,
    quantity: str = "gamma0",
    ends: tuple[str, str] = ("", ""),
    theory: str = "theory",
    limit: str = "limit",
) -> tuple[Figure, np.ndarray]:
    """Measures against a scale: theory as lines, networks as points, a limit as dashed levels.

    Theory has a band of two standard errors, points have bars of one. Of several sorts of networks the last
    is drawn filled, the others hollow.

    Args:
        scales: positive, shape [A], increasing; their axis is logarithmic.
        panels: by title, by name of the curve, a dict with "theory" (values, standard errors), [A] each;
            "networks" (sort of networks -> (values, standard errors)), the same sorts in all; and, where
            there are any, "limit" (a number) and "slope" (an exponent, drawn through the first point of
            theory up to the middle of the scales, dotted).
        logarithmic: titles of the panels with a logarithmic axis.
        units: of the vertical axes, by title.
        columns: of panels, at most.
        quantity: what the scale is, for the axis.
        ends: what a small and a large scale mean, written to the sides of the quantity.
        theory: name of the lines.
        limit: name of the levels.

    Returns:
        The figure, and its axes as an array [rows, columns].

    Raises:
        ValueError: if shapes do not match, or there is nothing to draw, or too much.

    Example:
        >>> x = np.array([0.5, 1.0, 2.0])
        >>> curve = {"theory": (x**2, 0.01 * x), "networks": {"width 64": (x**2, 0.1 * x)}, "slope": 2.0}
        >>> figure, axes = theory_beside_networks(x, {"movement": {"NTK": curve}}, logarithmic=["movement"])
        >>> axes.shape, axes[0, 0].get_yscale()
        ((1, 1), 'log')
    """
    x = np.asarray(scales, float)
    curves = [curve for panel in panels.values() for curve in panel.values()]
    pairs = [pair for curve in curves for pair in (curve["theory"], *curve["networks"].values())]
    shapes = {np.shape(part) for pair in pairs for part in pair}
    if shapes != {(x.size,)}:
        raise ValueError(f"Expected values and errors of shape [{x.size} scales], got {shapes or 'nothing'}.")
    sorts = list(curves[0]["networks"])
    if any(list(curve["networks"]) != sorts for curve in curves) or len(sorts) > len(_MARKERS):
        raise ValueError(f"Expected the same sorts of networks everywhere, {len(_MARKERS)} at most.")
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    if len(names) > len(CATEGORIES):
        raise ValueError(f"Expected at most {len(CATEGORIES)} names of curves, got {names}.")
    colors = dict(zip(names, CATEGORIES, strict=False))
    with style():
        columns = min(columns, len(panels))
        rows = -(-len(panels) // columns)
        figure, axes = new_figure(rows, columns, panel=(3.8, 3.2), margin=0.0)
        for ax, (title, panel) in zip(axes.flat, panels.items(), strict=False):
            ax.set_xscale("log", base=2)
            if title in logarithmic:
                ax.set_yscale("log", base=10)
            for name, curve in panel.items():
                _curve(ax, x, name, curve, colors[name], sorts)
            ax.set_title(title)
            ax.set_xlabel(axis_between(quantity, ends))
            ax.set_ylabel((units or {}).get(title, ""))
            ax.set_xticks(
                x[:: -(-x.size // 8)], [f"{one:.3g}" for one in x[:: -(-x.size // 8)]], fontsize=8.5
            )
            ax.minorticks_off()
            if title in logarithmic:
                label_decades(ax)
            else:
                ax.set_ylim(bottom=-0.03 * ax.get_ylim()[1])
            if len(ax.get_legend_handles_labels()[1]) > 1:
                ax.legend(fontsize=8.0)
        for ax in axes.flat[len(panels) :]:
            ax.set_axis_off()
        _key(figure, axes.flat[len(panels) :], sorts, theory, limit)
    return figure, axes


def _curve(
    ax: Any, x: np.ndarray, name: str, curve: Mapping[str, Any], color: str, sorts: Sequence[str]
) -> None:
    """One measure in one colour."""
    values, errors = (np.asarray(part, float) for part in curve["theory"])
    ax.fill_between(x, values - 2 * errors, values + 2 * errors, color=color, alpha=0.25, linewidth=0)
    ax.plot(x, values, color=color, label=name, zorder=2)
    for place, sort in enumerate(sorts):
        points, bars = (np.asarray(part, float) for part in curve["networks"][sort])
        ax.errorbar(
            x,
            points,
            bars,
            linestyle="",
            marker=_MARKERS[place],
            color=color,
            markerfacecolor=color if place == len(sorts) - 1 else "white",
            linewidth=1.0,
            zorder=3,
        )
    if "limit" in curve:
        ax.axhline(curve["limit"], color=color, linestyle="--", linewidth=1.0, zorder=1)
    if "slope" in curve:
        part = x[: x.size // 2 + 1]
        power = values[0] * (part / x[0]) ** curve["slope"]
        ax.plot(part, power, ":", color=PREDICTION, zorder=4, label=f"slope {curve['slope']:g}")


def _key(figure: Any, free: Sequence[Any], sorts: Sequence[str], theory: str, limit: str) -> None:
    """What lines and markers mean, in the first free place or below all panels."""
    from matplotlib.lines import Line2D

    color = PREDICTION
    handles = [Line2D([], [], color=color, label=theory)]
    for place, sort in enumerate(sorts):
        face = color if place == len(sorts) - 1 else "white"
        look: dict[str, Any] = {"marker": _MARKERS[place], "markerfacecolor": face, "linestyle": ""}
        handles.append(Line2D([], [], color=color, label=sort, **look))
    handles.append(Line2D([], [], color=color, linestyle="--", linewidth=1.0, label=limit))
    if len(free):
        free[0].legend(handles=handles, loc="center")
    else:
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
