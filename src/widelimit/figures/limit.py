"""Finite networks beside the limits that are predicted for them: one figure tells the whole story."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from widelimit.figures.convergence import label_decades
from widelimit.figures.optimum import width_axis
from widelimit.figures.style import CATEGORIES, PREDICTION, new_figure, ordered_colors, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: How a prediction is drawn, in the order in which predictions are given.
_LOOKS = (
    {"color": PREDICTION, "linestyle": "-", "marker": "D"},
    {"color": CATEGORIES[1], "linestyle": "--", "marker": "v"},
    {"color": CATEGORIES[3], "linestyle": ":", "marker": "s"},
)


def limit_story(
    losses: Mapping[str, Mapping[str, Any]],
    errors: Mapping[str, Mapping[str, Any]],
    held_out: Mapping[str, Any],
    kernels: Mapping[str, tuple[Any, Any]],
    densities: Mapping[str, tuple[Any, Any]],
) -> tuple[Figure, np.ndarray]:
    """Loss curves, errors against width, held-out points, kernels and densities, networks beside limits.

    Args:
        losses: two panels by title, each a dict with "networks" (width -> (mean, spread) over networks,
            [times]) and "predictions" (name -> (loss, standard error or None)). Names are the same, in the
            same order, in all panels.
        errors: three panels by title, each a dict with "lines" (name -> what ``errors_against_width`` takes),
            "floor" (the limit's own Monte-Carlo error, or None), "floor_name" (for the legend; may be left
            out), and "levels" (name of a prediction -> its distance from the limit).
        held_out: "labels" of the points, "targets", "networks" (mean, spread) and "predictions" (name ->
            (value, standard error or None)), [points] each; "title".
        kernels: two panels by title: (networks', the limit's), [samples, samples].
        densities: by a name of the time: (networks', the limit's) samples of a pre-activation.

    Returns:
        The figure, and its axes as an array [3, 3].

    Raises:
        ValueError: if there are not two, three and two panels.

    Example:
        >>> n, t = np.array([8, 16, 32]), np.linspace(1, 0.1, 5)
        >>> loss = {"networks": {8: (t, 0.1 * t)}, "predictions": {"DMFT": (t, 0.01 * t)}}
        >>> line = {"widths": n, "values": 1 / n, "errors": 0.1 / n, "predicted": -1.0, "label": "-1.0"}
        >>> error = {"lines": {"mean": line}, "floor": 0.01, "levels": {}}
        >>> points = {"title": "held out", "labels": ["a"], "targets": [1.0]}
        >>> points |= {"networks": ([0.5], [0.1]), "predictions": {"DMFT": ([0.5], [0.01])}}
        >>> figure, axes = limit_story(
        ...     {"lazy": loss, "rich": loss},
        ...     {"a": error, "b": error, "c": error},
        ...     points,
        ...     {"features": (np.eye(2), np.eye(2)), "gradients": (np.eye(2), np.eye(2))},
        ...     {"start": (t, t), "end": (t, t)},
        ... )
        >>> axes.shape
        (3, 3)
    """
    if (len(losses), len(errors), len(kernels)) != (2, 3, 2):
        raise ValueError(
            "Expected two panels of losses, three of errors and two of kernels, got "
            f"{len(losses)}, {len(errors)} and {len(kernels)}."
        )
    with style():
        figure, axes = new_figure(3, 3, panel=(3.7, 3.1), margin=0.4)
        for ax, (title, panel) in zip(axes[0, :2], losses.items(), strict=True):
            _losses(ax, title, panel)
        _held_out(axes[0, 2], held_out)
        for ax, (title, panel) in zip(axes[1], errors.items(), strict=True):
            _errors(ax, title, panel)
        for ax, (title, pair) in zip(axes[2, :2], kernels.items(), strict=True):
            _kernel(figure, ax, title, *pair)
        _densities(axes[2, 2], densities)
        for ax, letter in zip(axes.flat, "abcdefghi", strict=True):
            ax.set_title(f"({letter}) {ax.get_title()}", loc="left")
            ax.set_title("")
    return figure, axes


def _losses(ax: Any, title: str, panel: Mapping[str, Any]) -> None:
    """Loss against steps: widths from pale to dark, predictions over them."""
    ax.set_title(title)
    widths = sorted(panel["networks"])
    for width, color in zip(widths, ordered_colors(len(widths)), strict=True):
        mean, spread = (np.asarray(part, float) for part in panel["networks"][width])
        steps = np.arange(len(mean))
        ax.plot(steps, mean, color=color, linewidth=2.2, alpha=0.8, label=f"width {width}")
        if width == widths[-1]:
            ax.fill_between(steps, mean - spread, mean + spread, color=color, alpha=0.2, linewidth=0)
    for (name, (loss, error)), look in zip(panel["predictions"].items(), _LOOKS, strict=False):
        loss = np.asarray(loss, float)
        steps = np.arange(len(loss))
        ax.plot(steps, loss, label=name, color=look["color"], linestyle=look["linestyle"], zorder=4)
        if error is not None:
            ax.fill_between(
                steps, loss - 2 * error, loss + 2 * error, color=look["color"], alpha=0.3, linewidth=0
            )
    ax.set_xlabel("step")
    ax.set_ylabel("mean training loss")
    ax.set_ylim(bottom=0)
    ax.legend(fontsize=7.5, loc="upper right", handlelength=1.6, labelspacing=0.3, borderaxespad=0.0)


def _held_out(ax: Any, panel: Mapping[str, Any]) -> None:
    """Predictions of single points, side by side."""
    ax.set_title(panel["title"])
    names = list(panel["predictions"])
    places = np.arange(len(panel["labels"]), dtype=float)
    offsets = np.linspace(-0.27, 0.27, len(names) + 1)
    mean, spread = (np.asarray(part, float) for part in panel["networks"])
    ax.errorbar(
        places + offsets[0],
        mean,
        spread,
        linestyle="",
        marker="o",
        color=CATEGORIES[0],
        label="networks ± std",
    )
    for name, offset, look in zip(names, offsets[1:], _LOOKS, strict=False):
        value, error = panel["predictions"][name]
        ax.errorbar(
            places + offset,
            np.asarray(value, float),
            None if error is None else 2 * np.asarray(error, float),
            linestyle="",
            marker=look["marker"],
            color=look["color"],
            label=name,
        )
    for place, target in zip(places, panel["targets"], strict=True):
        ax.plot([place - 0.4, place + 0.4], [target, target], color="#999999", linewidth=1.0)
    ax.axhline(0.0, color="#bbbbbb", linewidth=0.8)
    ax.set_xticks(places, panel["labels"])
    ax.set_ylabel("f (grey bars: label)")
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.45 * (high - low))
    ax.legend(fontsize=7.5, loc="upper center", ncols=2, columnspacing=1.0, handletextpad=0.4)


def _errors(ax: Any, title: str, panel: Mapping[str, Any]) -> None:
    """Distance from the limit against width: points, predicted slopes, Monte-Carlo floor, other limits."""
    ax.set_title(title)
    ax.set_yscale("log")
    widths: set[int] = set()
    for (name, line), color, marker in zip(panel["lines"].items(), CATEGORIES, "osD^vP", strict=False):
        n, values, errors = (np.asarray(line[key], float) for key in ("widths", "values", "errors"))
        seen = values > 0
        label = f"{name}: {line['label']}".replace("-", "\N{MINUS SIGN}")
        ax.errorbar(
            n[seen],
            values[seen],
            errors[seen],
            linestyle="",
            marker=marker,
            color=color,
            label=label,
            zorder=3,
        )
        anchor = np.exp(np.mean(np.log(values[seen] * n[seen] ** -line["predicted"])))
        ax.plot(n, anchor * n ** line["predicted"], "--", color=color, linewidth=1.0)
        widths |= {int(width) for width in n}
    if panel["floor"] is not None:
        ax.axhspan(
            1e-12,
            panel["floor"],
            color="#dddddd",
            zorder=0,
            label=panel.get("floor_name", "Monte-Carlo error of DMFT"),
        )
    looks = dict(zip(panel.get("names", panel["levels"]), _LOOKS, strict=False))
    levels = {name: level for name, level in panel["levels"].items() if level > 0}  # noise may hide one
    for name, level in levels.items():
        ax.axhline(level, color=looks[name]["color"], linestyle=looks[name]["linestyle"], linewidth=1.2)
        ax.annotate(
            name,
            (1.0, level),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            xytext=(-2, 2),
            ha="right",
            fontsize=7.5,
            bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5},
        )
    width_axis(ax, sorted(widths))
    every = [np.asarray(line["values"], float) for line in panel["lines"].values()]
    low = min(float(value[value > 0].min()) for value in every)
    high = max([float(value.max()) for value in every] + list(levels.values()))
    ax.set_ylim(min(low, panel["floor"] or low) / 6, high * 2)
    ax.set_xlabel("width")
    ax.set_ylabel(panel.get("unit", "rms distance from DMFT"))
    label_decades(ax)
    ax.legend(fontsize=7.5, loc="lower left")


def _kernel(figure: Any, ax: Any, title: str, networks: Any, limit: Any) -> None:
    """Two kernels in one square: networks above the diagonal, the limit below."""
    from matplotlib.colors import SymLogNorm

    above, below = np.asarray(networks, float), np.asarray(limit, float)
    both = np.where(np.triu(np.ones(above.shape, bool)), above, below)
    bound = max(np.abs(above).max(), np.abs(below).max())
    # Linear up to the median, logarithmic beyond: a few entries can be far larger than all others.
    norm = SymLogNorm(max(float(np.median(np.abs(both))), 1e-3 * bound), vmin=-bound, vmax=bound)
    image = ax.imshow(both, cmap="RdBu_r", norm=norm)
    size = len(both)
    corner = np.arange(size + 1) - 0.5
    ax.plot(np.repeat(corner, 2)[1:], np.repeat(corner, 2)[:-1], color="k", linewidth=0.8)
    ax.set_title(title)
    ax.set_xlabel("image (upper right: networks)")
    ax.set_ylabel("image (lower left: DMFT)")
    ax.grid(False)
    ax.set_xticks([])
    ax.set_yticks([])
    figure.colorbar(image, ax=ax, shrink=0.85)


def _densities(ax: Any, panels: Mapping[str, Sequence[Any]]) -> None:
    """Densities of a pre-activation: bars of networks' units, a line for the limit's sites."""
    ax.set_title("pre-activations of the last layer")
    largest = max(np.quantile(np.abs(np.asarray(part)), 0.999) for pair in panels.values() for part in pair)
    edges = np.linspace(-largest, largest, 36)
    middles = (edges[1:] + edges[:-1]) / 2
    for (name, (networks, limit)), color in zip(panels.items(), CATEGORIES[:2], strict=False):
        ax.hist(np.ravel(networks), edges, density=True, color=color, alpha=0.35, label=f"networks, {name}")
        heights, _ = np.histogram(np.ravel(limit), edges, density=True)
        ax.plot(middles, heights, color=color, linewidth=1.4, label=f"DMFT, {name}")
    ax.set_xlabel("h, of one held-out image")
    ax.set_ylabel("density")
    ax.legend(fontsize=7.5)
