"""Loss against learning rate at each size, and how the best rate moves with width or depth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from widelimit.figures.style import CATEGORIES, PREDICTION, new_figure, ordered_colors, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class OptimumLike(Protocol):
    """A loss curve and its minimum; ``widelimit.compare.Optimum`` is one."""

    @property
    def log2_lr(self) -> float:
        """log2 of the best learning rate."""

    @property
    def stderr(self) -> float:
        """Its standard error."""

    @property
    def loss(self) -> float:
        """The loss there."""

    @property
    def flag(self) -> str:
        """One of "interior", "edge_low", "edge_high", "cliff"."""

    @property
    def rates(self) -> np.ndarray:
        """log2 of the rates measured, shape [R]."""

    @property
    def curve(self) -> np.ndarray:
        """Loss at each rate, shape [R], NaN where training diverged."""

    @property
    def curve_stderr(self) -> np.ndarray:
        """Its standard error, shape [R]."""


class SlopeLike(Protocol):
    """A power law in a size; ``widelimit.compare.PowerLaw`` is one."""

    @property
    def exponent(self) -> float:
        """The exponent."""

    @property
    def stderr(self) -> float:
        """Its standard error."""

    def predict(self, widths: Any, /) -> np.ndarray:
        """The law at these widths."""


def loss_against_rate(
    panels: Mapping[tuple[str, str], Mapping[int, OptimumLike]],
    *,
    loss: str = "training loss",
    log: bool = True,
    size: str = "width",
) -> tuple[Figure, np.ndarray]:
    """Loss against log2 of the learning rate: a curve per width, minimum marked, a panel per case.

    Bands are one standard error over seeds; the minimum carries its own as a horizontal bar (a hollow marker
    where it lies on the edge of the grid or on a cliff). Crosses at the top mark rates at which training
    diverged.

    Args:
        panels: optima by width, by (column, row) of the panel, e.g. ``("muP", "adam")``; a missing one is
            left empty.
        loss: name and unit of the loss, for the axis.
        log: logarithmic loss axis.
        size: what grows, for the legend: ``"depth"`` where the curves are of several depths.

    Returns:
        The figure, and its axes as an array [rows, columns].

    Raises:
        ValueError: if there is nothing to draw.

    Example:
        >>> from types import SimpleNamespace
        >>> rates = np.arange(-8.0, 0.0)
        >>> best = SimpleNamespace(log2_lr=-4.0, stderr=0.2, loss=1.0, flag="interior", rates=rates,
        ...                        curve=1 + (rates + 4) ** 2, curve_stderr=0 * rates)
        >>> figure, axes = loss_against_rate({("muP", "adam"): {64: best}})
        >>> axes[0, 0].get_title()
        'muP, adam'
    """
    from matplotlib.ticker import MaxNLocator

    widths = sorted({width for curves in panels.values() for width in curves})
    if not widths:
        raise ValueError("Expected at least one panel with at least one width, got nothing to draw.")
    columns, rows = list(dict.fromkeys(c for c, _ in panels)), list(dict.fromkeys(r for _, r in panels))
    colors = dict(zip(widths, ordered_colors(len(widths)), strict=True))
    with style():
        figure, axes = new_figure(len(rows), len(columns), panel=(3.1, 2.7), sharex="row", sharey="row")
        for (column, row), curves in panels.items():
            ax = axes[rows.index(row), columns.index(column)]
            ax.set_title(f"{column}, {row}")
            ax.xaxis.set_major_locator(MaxNLocator(7, integer=True))
            if log:
                ax.set_yscale("log", base=10)
            ax.axvline(curves[min(curves)].log2_lr, color=PREDICTION, linestyle=":", linewidth=1.0)
            for width, best in sorted(curves.items()):
                _curve(ax, best, colors[width])
        for row, in_row in zip(rows, axes, strict=True):
            _crosses(in_row, [panels.get((column, row), {}) for column in columns], colors)
        for ax in axes.flat:
            if not ax.get_title():
                ax.set_axis_off()
        for ax in axes[:, 0]:
            ax.set_ylabel(loss)
        for ax in axes[-1]:
            ax.set_xlabel("log2 learning rate")
        _legend(figure, colors, size)
    return figure, axes


def optimum_against_width(
    optima: Mapping[str, Mapping[int, OptimumLike]],
    slopes: Mapping[str, SlopeLike],
    *,
    predicted: Mapping[str, float] | None = None,
    size: str = "width",
) -> tuple[Figure, np.ndarray]:
    """log2 of the best learning rate against width, with the fitted slope of each line in the legend.

    Args:
        optima: optima by width, by name of the line.
        slopes: the fitted law by the same names, drawn as a solid line.
        predicted: slopes from theory by the same names, drawn dashed through the middle of the fit.
        size: what grows, for axis and legend: ``"depth"`` where the optima are by depth.

    Returns:
        The figure, and its axes as an array [1, 1].

    Raises:
        ValueError: if there is nothing to draw, or there are more lines than distinguishable colours.
    """
    if not 0 < len(optima) <= len(CATEGORIES):
        raise ValueError(
            f"Expected 1 to {len(CATEGORIES)} lines in one figure, got {len(optima)}; split them."
        )
    with style():
        figure, axes = new_figure(1, 1, panel=(4.2, 3.2), margin=2.4)
        ax = axes[0, 0]
        for i, (name, line) in enumerate(optima.items()):
            widths = np.array(sorted(line))
            best = [line[width] for width in widths.tolist()]
            place, error = np.array([one.log2_lr for one in best]), np.array([one.stderr for one in best])
            law = slopes[name]
            shift = 1.0 + 0.02 * (i - (len(optima) - 1) / 2)  # side by side where error bars would overlap
            ax.errorbar(widths * shift, place, error, fmt="osD^vP"[i], color=CATEGORIES[i])
            fitted = f"{law.exponent:+.2f} ± {law.stderr:.2f}".replace("-", "\N{MINUS SIGN}")
            ax.plot(widths, np.log2(law.predict(widths)), color=CATEGORIES[i], label=f"{name}: {fitted}")
            if predicted is not None and name in predicted:
                middle = np.log2(widths).mean()
                theory = np.log2(law.predict(2.0**middle)) + predicted[name] * (np.log2(widths) - middle)
                ax.plot(widths, theory, "--", color=CATEGORIES[i], linewidth=1.0)
        width_axis(ax, sorted({width for line in optima.values() for width in line}))
        ax.set_xlabel(size)
        ax.set_ylabel("log2 best learning rate")
        handles, labels = ax.get_legend_handles_labels()
        if predicted:
            from matplotlib.lines import Line2D

            handles, labels = [*handles, Line2D([], [], color=PREDICTION, ls="--", lw=1)], [*labels, "theory"]
        figure.legend(handles, labels, title=f"slope against log2 {size}", loc="outside right upper")
    return figure, axes


def width_axis(ax: Any, widths: list[int]) -> None:
    """Make the x axis logarithmic, naming the widths measured and no others.

    Args:
        ax: the axes.
        widths: the widths, increasing.
    """
    from matplotlib.ticker import NullLocator

    ax.set_xscale("log", base=2)
    ax.set_xticks(widths, [str(width) for width in widths])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.tick_params(axis="x", labelsize=8.5 if len(widths) <= 5 else 7.5)


def _curve(ax: Any, best: OptimumLike, color: Any) -> None:
    """One width: line, band, and the marked minimum."""
    ax.plot(best.rates, best.curve, "-", color=color)
    band = np.nan_to_num(best.curve_stderr)
    ax.fill_between(best.rates, best.curve - band, best.curve + band, color=color, alpha=0.2, linewidth=0)
    solid = best.flag == "interior"
    ax.errorbar(
        best.log2_lr,
        best.loss,
        xerr=best.stderr,
        fmt="o",
        color=color,
        markersize=6.0,
        markerfacecolor=color if solid else "white",
        markeredgecolor="white" if solid else color,
        ecolor=color,
        zorder=5,
    )


def _crosses(axes: np.ndarray, curves: list[Mapping[int, OptimumLike]], colors: Mapping[int, Any]) -> None:
    """Crosses for what diverged, a line per width, in room made for them above all curves of a row."""
    gone = [{w: best.rates[~np.isfinite(best.curve)] for w, best in panel.items()} for panel in curves]
    lines = [width for width in colors if any(panel.get(width, np.empty(0)).size for panel in gone)]
    if not lines:
        return
    share = 0.05 * len(lines)
    transform = axes[0].yaxis.get_transform()
    low, high = transform.transform(axes[0].get_ylim())
    axes[0].set_ylim(*transform.inverted().transform([low, high + (high - low) * share / (1.0 - share)]))
    for ax, panel in zip(axes, gone, strict=True):
        for i, width in enumerate(lines):
            rates = panel.get(width, np.empty(0))
            height = np.full(rates.shape, 1.0 - 0.05 * (i + 0.4))
            ax.plot(
                rates, height, "x", color=colors[width], markersize=3.5, transform=ax.get_xaxis_transform()
            )


def _legend(figure: Figure, colors: Mapping[int, Any], size: str) -> None:
    """The sizes once, for all panels, and what the markers mean."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=color, label=str(width)) for width, color in colors.items()]
    figure.legend(handles=handles, title=size, loc="outside right upper")
    marks: dict[str, dict[str, Any]] = {
        "minimum": {"marker": "o", "markersize": 6.0},
        "at a cliff\nor the edge": {"marker": "o", "markersize": 6.0, "markerfacecolor": "white"},
        "diverged": {"marker": "x"},
        f"best rate at\nleast {size}": {"linestyle": ":"},
    }
    plain: dict[str, Any] = {"color": PREDICTION, "linestyle": ""}
    handles = [Line2D([], [], **{**plain, **look}, label=name) for name, look in marks.items()]
    figure.legend(handles=handles, loc="outside right lower")
