"""Eigenvalues of kernels before and after training, beside those of the infinite network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from widelimit.figures.convergence import label_decades
from widelimit.figures.style import CATEGORIES, PREDICTION, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def eigenvalues_before_and_after(
    panels: Mapping[str, Mapping[str, ArrayLike]], infinite: ArrayLike | None = None
) -> tuple[Figure, np.ndarray]:
    """Eigenvalues in falling order, a panel per network: before and after training, and at infinite width.

    Points are geometric means over seeds of the k-th largest eigenvalue, bars one standard deviation of its
    logarithm over seeds.

    Args:
        panels: by network (title), a mapping with "before" and "after": eigenvalues [S, N], positive, in any
            order.
        infinite: eigenvalues of the infinite network's kernel, [N].

    Returns:
        The figure, and its axes as an array [1, panels].

    Raises:
        ValueError: if there is no panel, shapes differ, or an eigenvalue is not positive.

    Example:
        >>> values = np.array([[4.0, 1.0], [4.2, 1.1]])
        >>> figure, axes = eigenvalues_before_and_after({"NTK": {"before": values, "after": 2 * values}})
        >>> axes[0, 0].get_ylabel()
        'eigenvalue of the kernel'
    """
    arrays = {
        title: {
            name: np.sort(np.asarray(values, float), axis=-1)[..., ::-1] for name, values in panel.items()
        }
        for title, panel in panels.items()
    }
    every = [array for panel in arrays.values() for array in panel.values()]
    shapes = {array.shape[-1] if array.ndim == 2 else None for array in every}
    if len(shapes) != 1 or None in shapes or not all((array > 0).all() for array in every):
        raise ValueError(
            "Expected positive eigenvalues [S, N] with one N, before and after, got shapes "
            f"{[array.shape for array in every]}."
        )
    from matplotlib.ticker import MaxNLocator

    with style():
        figure, axes = new_figure(1, len(arrays), panel=(3.3, 3.0), margin=1.5, sharex=True, sharey=True)
        for ax, (title, panel) in zip(axes[0], arrays.items(), strict=True):
            ax.set_title(title)
            ax.set_yscale("log", base=10)
            ax.set_xlabel("rank of the eigenvalue")
            if infinite is not None:
                values = np.sort(np.asarray(infinite, float))[::-1]
                ax.plot(1 + np.arange(values.size), values, color=PREDICTION, linewidth=1.2, zorder=2)
            _points(ax, panel)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes[0, 0].set_ylabel("eigenvalue of the kernel")
        label_decades(axes[0, 0])
        _legend(figure, infinite is not None)
    return figure, axes


_LOOKS = {"before": ("o", CATEGORIES[0], -0.12), "after": ("s", CATEGORIES[1], 0.12)}


def _points(ax: Any, panel: Mapping[str, np.ndarray]) -> None:
    """Geometric means and the spread over seeds, before and after side by side."""
    for name, (marker, color, shift) in _LOOKS.items():
        logs = np.log(panel[name])
        mean, std = np.exp(logs.mean(axis=0)), logs.std(axis=0)
        bars = [mean * (1 - np.exp(-std)), mean * (np.exp(std) - 1)]
        place = 1 + np.arange(mean.size) + shift
        ax.errorbar(place, mean, bars, fmt=marker, color=color, elinewidth=0.9, zorder=3)


def _legend(figure: Figure, infinite: bool) -> None:
    """What stands for what, once for all panels."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle="", marker=marker, color=color, label=f"{name} training")
        for name, (marker, color, _) in _LOOKS.items()
    ]
    if infinite:
        handles.append(Line2D([], [], color=PREDICTION, linewidth=1.2, label="infinite width"))
    figure.legend(handles=handles, loc="outside right upper")
