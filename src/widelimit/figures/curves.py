"""Training curves: what a Gaussian process predicts, and what an ensemble of networks does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from widelimit.figures.style import CATEGORIES, PREDICTION, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def training_curves(
    times: ArrayLike,
    panels: Mapping[tuple[str, str], Mapping[str, Any]],
    *,
    time: str = "steps",
    value: str = "output f(x)",
    target: str = "target",
) -> tuple[Figure, np.ndarray]:
    r"""Outputs while training: prediction with a band of two standard deviations, measurement as points.

    The band and the bars of the points are two standard deviations *over networks*, not errors of the mean:
    where prediction and ensemble agree, bars end where the band does.

    Args:
        times: when outputs were recorded, shape [T].
        panels: by (column, row), a dict with "mean" and "std" (predicted, [T]), "target" (a number or None)
            and "measured", a mapping from the ensemble's name to (mean [T], std [T]).
        time: name and unit of the times.
        value: name and unit of the outputs.
        target: name of the dotted line.

    Returns:
        The figure, and its axes as an array [rows, columns].

    Raises:
        ValueError: if there is no panel, a curve has another length than the times, or there are more
            ensembles than distinguishable colours.

    Example:
        >>> t = np.arange(3)
        >>> panel = {"mean": t / 2, "std": 1 / (1 + t), "measured": {"width 64": (t / 2, 0 * t)}}
        >>> figure, axes = training_curves(t, {("train", "1"): panel})
        >>> axes[0, 0].get_xlabel(), axes[0, 0].get_ylabel()
        ('steps', '1\noutput f(x)')
    """
    t = np.asarray(times, float)
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel["measured"]))
    _check(t, panels, names)
    columns, rows = list(dict.fromkeys(c for c, _ in panels)), list(dict.fromkeys(r for _, r in panels))
    with style():
        figure, axes = new_figure(
            len(rows), len(columns), panel=(3.4, 2.5), margin=1.5, sharex=True, sharey=True
        )
        for ax in axes.flat:
            ax.set_axis_off()
        for (column, row), panel in panels.items():
            ax = axes[rows.index(row), columns.index(column)]
            ax.set_axis_on()
            ax.set_title(column if row == rows[0] else "")
            mean, std = np.asarray(panel["mean"], float), np.asarray(panel["std"], float)
            ax.fill_between(t, mean - 2 * std, mean + 2 * std, color="#d9d9d9", linewidth=0, zorder=1)
            ax.plot(t, mean, color=PREDICTION, zorder=2)
            if panel.get("target") is not None:
                ax.axhline(panel["target"], color=PREDICTION, linestyle=":", linewidth=1.0)
            _measured(ax, t, panel["measured"], names)
        for ax, row in zip(axes[:, 0], rows, strict=True):
            ax.set_ylabel(f"{row}\n{value}")
        for ax in axes[-1]:
            ax.set_xlabel(time)
        _legend(figure, names, target)
    return figure, axes


def _check(t: np.ndarray, panels: Mapping[Any, Mapping[str, Any]], names: Sequence[str]) -> None:
    """Says what cannot be drawn."""
    if not panels or t.ndim != 1 or not 0 < len(names) <= len(CATEGORIES):
        raise ValueError(
            f"Expected times [T], one panel or more and 1 to {len(CATEGORIES)} ensembles, got times of shape "
            f"{t.shape}, {len(panels)} panels and {len(names)} ensembles."
        )
    for place, panel in panels.items():
        curves = [panel["mean"], panel["std"], *(one for pair in panel["measured"].values() for one in pair)]
        if any(np.shape(curve) != t.shape for curve in curves):
            raise ValueError(
                f"Expected curves of shape {t.shape} in panel {place}, got {[np.shape(c) for c in curves]}."
            )


def _measured(ax: Any, t: np.ndarray, measured: Mapping[str, Any], names: Sequence[str]) -> None:
    """Means and two standard deviations at about eight times, ensembles side by side."""
    stride = max(1, round((t.size - 1) / 8))
    step = (t[-1] - t[0]) / max(t.size - 1, 1) * stride
    for i, name in enumerate(names):
        if name in measured:
            mean, std = (np.asarray(one, float)[::stride] for one in measured[name])
            place = t[::stride] + step * 0.22 * (i - (len(names) - 1) / 2)
            look = {"fmt": "osD^vP"[i], "color": CATEGORIES[i], "elinewidth": 1.0, "zorder": 3}
            ax.errorbar(place, mean, 2 * std, **look)


def _legend(figure: Figure, names: Sequence[str], target: str) -> None:
    """What stands for what, once for all panels."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Line2D([], [], color=PREDICTION, label="infinite width"),
        Patch(color="#d9d9d9", label="± 2 std, predicted"),
        *(
            Line2D([], [], linestyle="", marker="osD^vP"[i], color=CATEGORIES[i], label=f"{name}, ± 2 std")
            for i, name in enumerate(names)
        ),
        Line2D([], [], color=PREDICTION, linestyle=":", linewidth=1.0, label=target),
    ]
    figure.legend(handles=handles, loc="outside right upper")
