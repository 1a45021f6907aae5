"""Convergence with width: measured sizes, fitted power laws and predicted slopes, a panel per quantity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from widelimit.figures.optimum import width_axis
from widelimit.figures.style import CATEGORIES, PREDICTION, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def errors_against_width(
    panels: Mapping[str, Mapping[str, Mapping[str, Any]]],
    *,
    quantities: Mapping[str, str] | None = None,
    columns: int = 3,
) -> tuple[Figure, np.ndarray]:
    """Sizes against width on logarithmic axes, with fitted and predicted slopes; a panel per quantity.

    Points carry one standard error. The pale line is the fitted power law over the widths that were fitted
    (points outside of it are hollow), the dashed line has the predicted slope and passes through its middle.
    Each panel's legend gives the fitted slope with its error, and the prediction in brackets.

    Args:
        panels: by quantity (title), by name of a line, a dict with "widths", "values", "errors" (arrays
            [W]), "law" (a ``PowerLaw``, or anything with its exponent, stderr and predict), "predicted" (the
            slope) and, optionally, "fitted" (which widths the law was fitted to). Lines of one name have one
            colour in all panels.
        quantities: by title, the name and unit of the vertical axis.
        columns: panels in a row.

    Returns:
        The figure, and its axes as an array [rows, columns].

    Raises:
        ValueError: if there is no panel or a panel has no line, or more names than distinguishable colours.

    Example:
        >>> from widelimit.compare import fit_exponent
        >>> n = np.array([64, 128, 256])
        >>> line = {"widths": n, "values": 1 / n, "errors": 0.1 / n, "law": fit_exponent(n, 1 / n)}
        >>> figure, axes = errors_against_width({"gap": {"NTK": {**line, "predicted": -1.0}}})
        >>> axes[0, 0].get_legend().get_texts()[0].get_text().replace(chr(0x2212), "-")
        'NTK: -1.00 ± 0 (-1)'
    """
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    if not panels or not all(panels.values()) or len(names) > len(CATEGORIES):
        raise ValueError(
            f"Expected panels with lines of at most {len(CATEGORIES)} names in all, got "
            f"{ {title: list(lines) for title, lines in panels.items()} }."
        )
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    with style():
        figure, axes = new_figure(rows, columns, panel=(3.1, 3.0), margin=0.1)
        for ax, (title, lines) in zip(axes.flat, panels.items(), strict=False):
            ax.set_title(title)
            ax.set_yscale("log", base=10)
            ax.set_xlabel("width")
            ax.set_ylabel((quantities or {}).get(title, ""))
            widths: set[int] = set()
            for name, line in lines.items():
                place = names.index(name)
                _line(ax, name, line, CATEGORIES[place], "osD^vP"[place])
                widths |= {int(width) for width in line["widths"]}
            width_axis(ax, sorted(widths))
            _legend(ax)
            label_decades(ax)
        for ax in axes.flat[len(panels) :]:
            ax.set_axis_off()
    return figure, axes


def _line(ax: Any, name: str, line: Mapping[str, Any], color: str, marker: str) -> None:
    """One quantity of one network: points, fit, theory."""
    n, values, errors = (np.asarray(line[key], float) for key in ("widths", "values", "errors"))
    law, slope = line["law"], float(line["predicted"])
    fitted = np.isin(n, np.asarray(line.get("fitted", n), float))
    look = {"linestyle": "", "marker": marker, "color": color, "zorder": 3}
    for which, face in ((fitted, color), (~fitted, "white")):
        if which.any():
            ax.errorbar(n[which], values[which], errors[which], markerfacecolor=face, **look)
    digits = ".2f" if law.stderr >= 0.005 else ".1g"
    error = f" ± {law.stderr:{digits}}" if np.isfinite(law.stderr) else ""
    label = f"{name}: {law.exponent:+.2f}{error} ({slope:g})".replace("-", "\N{MINUS SIGN}")
    ends = np.array([n[fitted].min(), n[fitted].max()])
    ax.plot(ends, law.predict(ends), color=color, linewidth=3.0, alpha=0.35, zorder=2, label=label)
    middle = np.exp(np.log(ends).mean())
    theory = law.predict(middle) * (ends / middle) ** slope
    ax.plot(ends, theory, "--", color=PREDICTION, linewidth=1.0, zorder=4)


def _legend(ax: Any) -> None:
    """The slopes, in room made for them below the lowest point."""
    handles, _ = ax.get_legend_handles_labels()
    low, high = np.log10(ax.get_ylim())
    span = max(high - low, 0.9)  # so that noise in a constant does not look like growth
    middle, share = (low + high) / 2, 0.09 * len(handles) + 0.05
    top = middle + span / 2
    ax.set_ylim(10 ** (top - span / (1 - share)), 10**top)
    ax.legend(loc="lower left", fontsize=8.5, borderaxespad=0.2)


def label_decades(ax: Any) -> None:
    """Label a logarithmic vertical axis: powers of ten, and 2 and 5 between them where there are few.

    Args:
        ax: the axes, their limits set.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = np.log10(ax.get_ylim())
    ax.yaxis.set_minor_formatter(NullFormatter())
    if high - low < 2:
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
