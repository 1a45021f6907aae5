"""The coordinate check as a figure: size against width, layer by layer and step by step, theory dashed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from widelimit.figures.optimum import width_axis
from widelimit.figures.style import PREDICTION, new_figure, ordered_colors, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def size_against_width(
    widths: Sequence[int],
    sizes: Mapping[str, ArrayLike],
    steps: Sequence[int | str],
    *,
    predicted: Mapping[str, float | Sequence[float] | None] | None = None,
    quantity: str = "size (RMS)",
    title: str = "",
    legend: str = "step",
    columns: int | None = None,
    axis: str = "width",
) -> tuple[Figure, np.ndarray]:
    """Size of each layer's coordinates against width: a panel per layer, a colour per step, theory dashed.

    Points are geometric means over seeds with one standard error; cells that are exactly zero or diverged
    have no place on a logarithmic axis and are left out. A predicted slope passes through the middle of the
    points it is about. All panels span equally many decades, so that slopes compare by eye.

    Args:
        widths: the widths, shape [W], increasing.
        sizes: by layer, an array [T, S, W] (step, seed, width).
        steps: number (or name) of each step, length T.
        predicted: by layer, the exponent from theory: one for all steps, or one per step (NaN: none); None
            for none.
        quantity: name and unit of the size, for the axis.
        title: of the whole figure.
        legend: what the colours tell apart, where it is not the step.
        columns: panels in a row; None is up to four, as evenly as they go.
        axis: what grows along the horizontal axis, where it is not the width.

    Returns:
        The figure, and its axes as an array [rows, columns].

    Raises:
        ValueError: if shapes do not match, or there is no layer.

    Example:
        >>> sizes = np.ones((2, 3, 4)) * np.array([16, 32, 64, 128]) ** -0.5
        >>> theory = {"readout": -0.5}
        >>> figure, axes = size_against_width([16, 32, 64, 128], {"readout": sizes}, [0, 1], predicted=theory)
        >>> axes.shape, axes[0, 0].get_xlabel()
        ((1, 1), 'width')
    """
    data = {layer: np.asarray(values, float) for layer, values in sizes.items()}
    wrong = {
        layer: array.shape
        for layer, array in data.items()
        if array[:, :1].shape != (len(steps), 1, len(widths))
    }
    if not data or wrong:
        raise ValueError(
            f"Expected for each layer an array [{len(steps)} steps, seeds, {len(widths)} widths], "
            f"got {wrong or 'no layer'}."
        )
    columns = columns or -(-len(data) // -(-len(data) // 4))
    rows = -(-len(data) // columns)
    colors = ordered_colors(len(steps))
    n = np.asarray(widths, float)
    with style():
        figure, axes = new_figure(rows, columns, panel=(2.6, 2.5), sharex=True)
        for ax, (layer, array) in zip(axes.flat, data.items(), strict=False):
            ax.set_title(layer)
            ax.set_yscale("log", base=10)
            slopes = np.broadcast_to(_slope(predicted, layer), len(steps))
            for i, values in enumerate(array):
                middle, low, high = _mean_and_error(values)
                if np.isfinite(middle).any():
                    # Pale lines, so that theory shows where it lies on them.
                    ax.plot(n, middle, color=colors[i], linewidth=2.0, alpha=0.4, zorder=2)
                    ax.errorbar(n, middle, [middle - low, high - middle], fmt="o", color=colors[i], zorder=3)
                    _dashed(ax, n, middle, slopes[i])
            width_axis(ax, list(widths))
        _equal_spans(axes.flat[: len(data)])
        for ax in axes.flat[len(data) :]:
            ax.set_axis_off()
        for ax in axes.flat[max(len(data) - columns, 0) : len(data)]:  # the lowest of each column
            ax.tick_params(labelbottom=True)
            ax.set_xlabel(axis)
        for ax in axes[:, 0]:
            ax.set_ylabel(quantity)
        _legend(figure, legend, steps, colors, bool(predicted))
        if title:
            figure.suptitle(title)
    return figure, axes


def _slope(predicted: Mapping[str, float | Sequence[float] | None] | None, layer: str) -> np.ndarray:
    """The exponent theory gives this layer; NaN where it gives none."""
    slope = (predicted or {}).get(layer)
    return np.asarray(np.nan if slope is None else slope, float)


def _mean_and_error(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Geometric mean over seeds [S, W] and the ends of its error bar; NaN where no seed has a logarithm."""
    valid = np.isfinite(values) & (values > 0)
    count = valid.sum(axis=0)
    logs = np.where(valid, np.log(np.where(valid, values, 1.0)), 0.0)
    mean = logs.sum(axis=0) / np.where(count > 0, count, np.nan)
    squares = np.where(valid, (logs - mean) ** 2, 0.0).sum(axis=0)
    error = np.sqrt(squares / np.maximum(count - 1, 1) / np.maximum(count, 1))
    return np.exp(mean), np.exp(mean - error), np.exp(mean + error)


def _dashed(ax: Any, n: np.ndarray, middle: np.ndarray, slope: float) -> None:
    """The predicted power law through the middle of the points."""
    known = np.isfinite(middle)
    if np.isfinite(slope):
        level = np.log(middle[known]).mean() - slope * np.log(n[known]).mean()
        ax.plot(n[known], np.exp(level) * n[known] ** slope, "--", color=PREDICTION, linewidth=1.0, zorder=4)


def _equal_spans(axes: Sequence[Any]) -> None:
    """Give each panel the same number of decades about its own middle, so that slopes compare by eye."""
    from matplotlib.ticker import LogLocator, NullFormatter

    limits = [np.log10(ax.get_ylim()) for ax in axes]
    half = max(max((high - low) / 2 for low, high in limits), 0.55)
    for ax, (low, high) in zip(axes, limits, strict=True):
        middle = (low + high) / 2
        ax.set_ylim(10 ** (middle - half), 10 ** (middle + half))
        ax.yaxis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
        ax.yaxis.set_minor_formatter(NullFormatter())


def _legend(
    figure: Figure, title: str, steps: Sequence[int | str], colors: Sequence[Any], theory: bool
) -> None:
    """The steps once, for all panels."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=color, marker="o", label=str(step))
        for step, color in zip(steps, colors, strict=True)
    ]
    if theory:
        handles.append(Line2D([], [], color=PREDICTION, linestyle="--", linewidth=1.0, label="theory"))
    figure.legend(handles=handles, title=title, loc="outside right upper")
