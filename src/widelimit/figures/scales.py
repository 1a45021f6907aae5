"""What one knob does to several measures: a panel each, curves with bands, predicted power laws dashed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from widelimit.figures.style import CATEGORIES, PREDICTION, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def measures_against_scale(
    scales: Sequence[float],
    panels: Mapping[str, Mapping[str, ArrayLike]],
    *,
    predicted: Mapping[str, Mapping[str, float]] | None = None,
    from_scale: float = 0.0,
    logarithmic: Sequence[str] = (),
    quantity: str = "output scale",
    ends: tuple[str, str] = ("", ""),
) -> tuple[Figure, np.ndarray]:
    """Measures against a scale, a panel per group: means over seeds, a band of one standard deviation.

    Means are geometric on a logarithmic axis. A predicted exponent is drawn from ``from_scale`` up, through
    the middle of the points there, and continued faintly below.

    Args:
        scales: positive, shape [A], increasing.
        panels: by title (name and unit of the axis), curves by name, each [S, A] (seed, scale).
        predicted: exponents from theory, by title and name.
        from_scale: where the predicted laws are meant to begin.
        logarithmic: titles of the panels with a logarithmic axis.
        quantity: what the scale is, for the axis.
        ends: what a small and a large scale mean, written to the sides of the quantity.

    Returns:
        The figure, and its axes as an array [1, panels].

    Raises:
        ValueError: if shapes do not match, or there is nothing to draw, or too many curves.

    Example:
        >>> change = np.array([[0.5, 0.25, 0.125], [0.6, 0.3, 0.15]])
        >>> panels = {"kernel change": {"tangent kernel": change}}
        >>> theory = {"kernel change": {"tangent kernel": -1.0}}
        >>> figure, axes = measures_against_scale([2, 4, 8], panels, predicted=theory)
        >>> axes.shape, axes[0, 0].get_xlabel()
        ((1, 1), 'output scale')
    """
    alpha = np.asarray(scales, float)
    curves = {
        title: {name: np.asarray(v, float) for name, v in group.items()} for title, group in panels.items()
    }
    shapes = {name: v.shape for group in curves.values() for name, v in group.items()}
    wrong = {name: shape for name, shape in shapes.items() if len(shape) != 2 or shape[1] != alpha.size}
    if not shapes or wrong:
        raise ValueError(
            f"Expected curves of shape [seeds, {alpha.size} scales], got {wrong or 'nothing to draw'}."
        )
    if max(len(group) for group in curves.values()) > len(CATEGORIES):
        raise ValueError(f"Expected at most {len(CATEGORIES)} curves in a panel; split them.")
    with style():
        figure, axes = new_figure(1, len(curves), panel=(3.4, 3.3), margin=0.0)
        for ax, (title, group) in zip(axes[0], curves.items(), strict=True):
            log = title in logarithmic
            ax.set_xscale("log", base=2)
            if log:
                ax.set_yscale("log", base=10)
            laws = []
            for i, (name, values) in enumerate(group.items()):
                middle, low, high = _band(values, log)
                ax.fill_between(alpha, low, high, color=CATEGORIES[i], alpha=0.2, linewidth=0)
                ax.plot(alpha, middle, color=CATEGORIES[i], marker="os^Dv<"[i], label=name)
                slope = (predicted or {}).get(title, {}).get(name)
                if slope is not None:
                    laws.append((middle, slope))
            limits = ax.get_ylim()  # of what was measured: a law continued leaves the panel
            for middle, slope in laws:
                _law(ax, alpha, middle, slope, from_scale)
            ax.set_ylim(limits)
            ax.set_title(title)
            ax.set_xlabel(axis_between(quantity, ends))
            handles, labels = ax.get_legend_handles_labels()
            if predicted and predicted.get(title):
                from matplotlib.lines import Line2D

                handles = [*handles, Line2D([], [], color=PREDICTION, linestyle="--", linewidth=1.0)]
                labels = [*labels, "theory"]
            if len(handles) > 1:
                ax.legend(handles, labels, loc="lower left" if log else "best")
    return figure, axes


def axis_between(quantity: str, ends: tuple[str, str]) -> str:
    """Returns the quantity between what its ends mean, with arrows.

    Args:
        quantity: what the axis shows.
        ends: what a small and a large value mean; none where empty.
    """
    left = f"\N{LEFTWARDS ARROW} {ends[0]}      " if ends[0] else ""
    right = f"      {ends[1]} \N{RIGHTWARDS ARROW}" if ends[1] else ""
    return f"{left}{quantity}{right}"


def _band(values: np.ndarray, log: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over the seeds that are finite, and one standard deviation to either side, on the axis's scale."""
    size = np.where(np.isfinite(values) & ((values > 0) | (not log)), values, np.nan)
    size = np.log(size) if log else size
    count = np.isfinite(size).sum(axis=0)
    mean = np.nansum(size, axis=0) / np.where(count > 0, count, np.nan)
    spread = np.sqrt(np.nansum((size - mean) ** 2, axis=0) / np.maximum(count - 1, 1))
    ends: Any = (mean, mean - spread, mean + spread)
    return tuple(np.exp(end) for end in ends) if log else ends


def _law(ax: Any, alpha: np.ndarray, middle: np.ndarray, slope: float, start: float) -> None:
    """A power law through the points from the start on; dotted where it is not claimed."""
    claimed = (alpha >= start) & np.isfinite(middle)
    if not claimed.any():
        return
    level = np.mean(np.log(middle[claimed]) - slope * np.log(alpha[claimed]))
    line = np.exp(level) * alpha**slope
    ax.plot(alpha[claimed], line[claimed], "--", color=PREDICTION, linewidth=1.0, zorder=4)
    below = alpha <= alpha[claimed][0]
    ax.plot(alpha[below], line[below], ":", color=PREDICTION, linewidth=1.0, zorder=1)
