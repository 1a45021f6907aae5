"""The figure of the depth experiment: six panels."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.depth_limit_tables import Found
from widelimit.figures import CATEGORIES, new_figure, ordered_colors, style
from widelimit.figures.convergence import label_decades
from widelimit.training import Results

_MINUS = "\N{MINUS SIGN}"


def save_all(results: Results, found: Found) -> dict[str, str]:
    """Draws and saves the figure; returns its caption by file name."""
    config = found.config
    with style():
        figure, axes = new_figure(2, 3, panel=(3.9, 3.4), margin=0.0)
        _losses(axes[0, 0], found)
        _depths(axes[0, 1], found)
        _map(figure, axes[0, 2], found)
        _widths(axes[1, 0], found)
        _limits(axes[1, 1], found)
        _independence(axes[1, 2], found)
    results.save_figure("depth_limit.png", figure)
    return {
        "depth_limit.png": f"Residual networks in width and depth. (a) Training loss at depth "
        f"{config.depths[-1]}: mean over networks, band: their standard deviation at the largest width; "
        "three predictions of infinite width. (b) Training loss of infinite width less that of infinite "
        "depth, times L, with one standard error: curves fall together where 1/L rules. (c) Distance of the "
        "mean over networks from the limit of infinite width and depth; the column at infinity is infinite "
        "width itself. (d) Distance from infinite width at the same depth: of the mean over networks "
        "(filled) and of single ones (hollow). (e) Distance from infinite depth: of infinite width (black), "
        "of the mean over networks. (f) What leaving out responses does to f, as a share of what learning "
        "features does. Dashed: predicted slopes. Error bars: one standard error."
    }


def _losses(ax: Any, found: Found) -> None:
    """Training at the largest depth."""
    depth, widths = found.config.depths[-1], found.config.widths
    for width, color in zip(widths, ordered_colors(len(widths)), strict=True):
        mean, spread = found.losses[depth, width]
        ax.plot(mean, color=color, label=f"N = {width}")
        if width == widths[-1]:
            low = np.maximum(mean - spread, 0.02 * mean)
            ax.fill_between(range(len(mean)), low, mean + spread, color=color, alpha=0.2, linewidth=0)
    ax.plot(found.curve(found.limits[depth].mean(0)), "k--", label=r"N = $\infty$")
    ax.plot(found.curve(found.lazy[depth]), color=CATEGORIES[1], ls=":", label=r"N = $\infty$, lazy")
    ax.plot(
        found.curve(found.without[depth].mean(0)),
        color=CATEGORIES[3],
        ls="-.",
        label=r"N = $\infty$, no responses",
    )
    _labels(ax, f"(a) training loss, depth {depth}", "step", "loss")
    ax.set_yscale("log")
    _whole_steps(ax)
    ax.legend(fontsize=8)


def _depths(ax: Any, found: Found) -> None:
    """Infinite width less infinite depth, times L: the curves of all depths fall together."""
    depths = found.config.depths
    deep = np.array([found.curve(f) for f in found.limits[0]])
    for depth, color in zip(depths, ordered_colors(len(depths)), strict=True):
        apart = depth * (np.array([found.curve(f) for f in found.limits[depth]]) - deep)
        mean, error = apart.mean(0), apart.std(0, ddof=1) / np.sqrt(len(apart))
        ax.plot(mean, color=color, label=f"L = {depth}")
        ax.fill_between(range(len(mean)), mean - error, mean + error, color=color, alpha=0.2, linewidth=0)
    ax.axhline(0, color="#222222", lw=0.8)
    _labels(ax, "(b) infinite width: what depth changes", "step", r"L (loss$_L$ − loss$_\infty$)")
    _whole_steps(ax)
    ax.legend(fontsize=8)


def _whole_steps(ax: Any) -> None:
    """Steps are whole numbers."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _map(figure: Any, ax: Any, found: Found) -> None:
    """Distance from the limit of both, over the grid."""
    from matplotlib.colors import LogNorm

    depths, widths = found.config.depths, found.config.widths
    values = np.array(
        [
            [*(found.bias(depth, width, 0).value for width in widths), found.missing_depth(depth).value]
            for depth in depths
        ]
    )
    image = ax.imshow(values, norm=LogNorm(), cmap="viridis", aspect="auto", origin="lower")
    middle = np.exp(np.nanmean(np.log(values)))
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            shade = "black" if value > middle else "white"
            ax.text(column, row, f"{value:.3f}", ha="center", va="center", color=shade, fontsize=9)
    ax.set_xticks(range(len(widths) + 1), [*map(str, widths), r"$\infty$"])
    ax.set_yticks(range(len(depths)), [str(depth) for depth in depths])
    ax.grid(False)
    _labels(ax, "(c) distance from both limits", "width N", "depth L")
    figure.colorbar(image, ax=ax, shrink=0.85)


def _widths(ax: Any, found: Found) -> None:
    """Distance from infinite width against width."""
    depths, widths = found.config.depths, np.array(found.config.widths)
    for depth, color in zip(depths, ordered_colors(len(depths)), strict=True):
        for kind, face in ((found.bias, color), (found.scatter, "white")):
            _points(ax, widths, [kind(depth, n) for n in widths], color, face)
        ax.plot([], [], "o", color=color, label=f"L = {depth}")
    for kind, slope, place in ((found.bias, -1.0, 0.8), (found.scatter, -0.5, 1.2)):
        _guide(ax, widths, [kind(depths[-1], n).value for n in widths], slope, place)
    _labels(ax, "(d) distance from infinite width", "width N", "root mean square")
    _log(ax, widths)
    ax.legend(fontsize=8, loc="lower left")


def _limits(ax: Any, found: Found) -> None:
    """Distance from infinite depth against depth."""
    depths, widths = np.array(found.config.depths), found.config.widths
    for width, color in zip(widths, ordered_colors(len(widths)), strict=True):
        values = [found.bias(depth, width, 0) for depth in depths]
        _points(ax, depths, values, color, color, line=True)
        ax.plot([], [], "o-", color=color, label=f"N = {width}")
    values = [found.missing_depth(depth) for depth in depths]
    _points(ax, depths, values, "black", "black", line=True)
    ax.plot([], [], "o-", color="black", label=r"N = $\infty$")
    _guide(ax, depths, [value.value for value in values], -1.0, 0.75)
    _labels(ax, "(e) distance from infinite depth", "depth L", "root mean square")
    _log(ax, depths)
    ax.legend(fontsize=8, loc="lower left")


def _independence(ax: Any, found: Found) -> None:
    """Gradient independence against depth."""
    depths = np.array(found.config.exact_depths)
    for exponent, color in ((0.5, CATEGORIES[0]), (1.0, CATEGORIES[1])):
        pairs = [found.exact[exponent, depth] for depth in depths]
        share = [gap / effect for gap, effect in pairs]
        ax.plot(depths, share, "s-", color=color, label=rf"linear, $\alpha$ = {exponent:g}, exact")
        if exponent == 1.0:
            _guide(ax, depths[-3:], share[-3:], -1.0, 0.75)
    own = np.array(found.config.depths)
    _points(ax, own, [found.gap_share(depth) for depth in own], CATEGORIES[2], CATEGORIES[2], line=True)
    ax.plot(
        [],
        [],
        "o-",
        color=CATEGORIES[2],
        label=rf"tanh on digits, $\alpha$ = {found.config.branch_exponent:g}",
    )
    _labels(ax, "(f) error without responses", "depth L", "share of the effect of features")
    _log(ax, np.union1d(depths, own))
    ax.legend(fontsize=8, loc="lower left")


def _points(ax: Any, x: np.ndarray, estimates: Any, color: Any, face: Any, line: bool = False) -> None:
    """Estimates with error bars."""
    values, errors = ([getattr(one, name) for one in estimates] for name in ("value", "stderr"))
    ax.errorbar(
        x, values, errors, marker="o", ls="-" if line else "", lw=1.0, color=color, markerfacecolor=face
    )


def _guide(ax: Any, x: np.ndarray, values: Any, slope: float, shift: float) -> None:
    """A predicted slope beside points."""
    middle = shift * np.exp(np.nanmean(np.log(np.asarray(values, float))))
    centre = np.exp(np.mean(np.log(x)))
    ax.plot(x, middle * (x / centre) ** slope, "--", color="#222222", lw=1.0)
    above = shift > 1
    at = x[0] if above else x[-1]
    ax.annotate(
        f"slope {slope:g}".replace("-", _MINUS),
        (at, middle * (at / centre) ** slope),
        textcoords="offset points",
        xytext=(8, 4) if above else (-6, -10),
        ha="left" if above else "right",
        fontsize=8,
    )


def _log(ax: Any, ticks: np.ndarray) -> None:
    """Both axes logarithmic; the sizes named."""
    from matplotlib.ticker import NullLocator

    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.margins(y=0.1)
    label_decades(ax)
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.xaxis.set_minor_locator(NullLocator())


def _labels(ax: Any, title: str, x: str, y: str) -> None:
    """Title and names of the axes."""
    ax.set_title(title)
    ax.set_xlabel(x)
    ax.set_ylabel(y)
