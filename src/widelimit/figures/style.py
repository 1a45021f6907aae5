"""One look for all figures: legible when small, safe for colour-blind readers, nothing global."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette for things without an order; black is for predictions, yellow is too faint.
CATEGORIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
PREDICTION = "#222222"
_SETTINGS: dict[Any, Any] = {
    "font.size": 10.0,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10.0,
    "legend.fontsize": 9.0,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.0,
    "errorbar.capsize": 2.0,
    "axes.formatter.useoffset": False,
    "mathtext.default": "regular",
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Draw inside this context to get the house style; the caller's matplotlib settings come back afterwards.

    Example:
        >>> import matplotlib
        >>> before = matplotlib.rcParams["font.size"]
        >>> with style():
        ...     matplotlib.rcParams["font.size"], matplotlib.rcParams["axes.grid"]
        (10.0, True)
        >>> matplotlib.rcParams["font.size"] == before
        True
    """
    import matplotlib

    with matplotlib.rc_context(_SETTINGS):
        yield


def ordered_colors(count: int) -> list[tuple[float, float, float, float]]:
    """Colours for things with an order, such as widths or steps: viridis without its palest end.

    Args:
        count: how many.

    Example:
        >>> len(ordered_colors(5))
        5
    """
    from matplotlib import colormaps

    return [colormaps["viridis"](0.88 * i / max(count - 1, 1)) for i in range(count)]


def new_figure(
    rows: int, columns: int, *, panel: tuple[float, float], margin: float = 1.2, **shared: Any
) -> Any:
    """A figure of panels that no pyplot state knows: it is freed when its last reference is.

    Args:
        rows: rows of panels.
        columns: columns of panels.
        panel: width and height of a panel, in inches.
        margin: extra width for a legend at the right, in inches.
        **shared: ``sharex`` and ``sharey`` of ``Figure.subplots``.

    Returns:
        The figure and its axes as an array [rows, columns].
    """
    from matplotlib.figure import Figure

    size = (columns * panel[0] + margin, rows * panel[1] + 0.3)
    figure: Figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **shared)
