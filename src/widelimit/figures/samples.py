"""Learning curves: test error against the number of training samples, a curve per predictor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from widelimit.figures.style import CATEGORIES, new_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def error_against_samples(
    samples: Sequence[int],
    errors: Mapping[str, ArrayLike],
    *,
    reference: str | None = None,
    quantity: str = "test error (share of images)",
) -> tuple[Figure, np.ndarray]:
    """Test error against training-set size on logarithmic axes, and its difference from a reference.

    Points are means over splits, bands one standard error. On the right each predictor's error less the
    reference's on the same splits, in percent, with the standard error of that paired difference: what
    splits have in common cancels.

    Args:
        samples: training-set sizes, shape [N], increasing.
        errors: by predictor, shape [R, N] (split, size), between 0 and 1.
        reference: the predictor to subtract; None leaves out the right panel.
        quantity: name and unit of the error, for the axis.

    Returns:
        The figure, and its axes as an array [1, 1 or 2].

    Raises:
        ValueError: if shapes do not match, there is nothing to draw or too much, or the reference is missing.

    Example:
        >>> errors = {"machine": [[0.2, 0.1], [0.3, 0.1]], "kernel": [[0.2, 0.05], [0.3, 0.06]]}
        >>> figure, axes = error_against_samples([32, 64], errors, reference="machine")
        >>> axes[0, 1].get_title()
        'difference from machine'
    """
    n, table = np.asarray(samples, float), {name: np.asarray(v, float) for name, v in errors.items()}
    wrong = {name: v.shape for name, v in table.items() if v.ndim != 2 or v.shape[1] != n.size}
    if wrong or not 0 < len(table) <= len(CATEGORIES):
        raise ValueError(
            f"Expected 1 to {len(CATEGORIES)} predictors of shape [splits, {n.size} sizes], got "
            f"{wrong or len(table)}."
        )
    if reference is not None and reference not in table:
        raise ValueError(f"Expected the reference to be one of {', '.join(table)}; got {reference!r}.")
    with style():
        figure, axes = new_figure(1, 1 if reference is None else 2, panel=(4.0, 3.4), margin=1.9)
        for i, (name, values) in enumerate(table.items()):
            look = {"color": CATEGORIES[i], "marker": "os^Dv<"[i], "label": name}
            axes[0, 0].plot(n, values.mean(axis=0), **look)
            _shade(axes[0, 0], n, values, CATEGORIES[i])
            if reference is not None and name != reference:
                shift = 1.0 + 0.03 * (i - (len(table) - 1) / 2)  # side by side where error bars would overlap
                difference = 100 * (values - table[reference])
                bars = _stderr(difference)
                axes[0, 1].errorbar(n * shift, difference.mean(axis=0), bars, **look)
            elif reference is not None:
                axes[0, 1].axhline(0.0, color=CATEGORIES[i])
        axes[0, 0].set_yscale("log", base=10)
        axes[0, 0].set_ylabel(quantity)
        axes[0, 0].set_title("mean and standard error over splits")
        _percent(axes[0, 0])
        if reference is not None:
            axes[0, 1].set_title(f"difference from {reference}")
            axes[0, 1].set_ylabel("difference of error (percentage points)")
        for ax in axes[0]:
            _sizes(ax, samples)
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper")
    return figure, axes


def _stderr(values: np.ndarray) -> np.ndarray:
    """Standard error over splits; zero where there is one."""
    spread: np.ndarray = values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1])
    return spread / np.sqrt(len(values))


def _shade(ax: Axes, n: np.ndarray, values: np.ndarray, color: str) -> None:
    """A band of one standard error, which stays above zero on a logarithmic axis."""
    mean, error = values.mean(axis=0), _stderr(values)
    ax.fill_between(
        n, np.maximum(mean - error, mean / 10), mean + error, color=color, alpha=0.18, linewidth=0
    )


def _percent(ax: Axes) -> None:
    """Errors as percent at 1, 2, 5, 10, ...: a decade and a half has few powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ax.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def _sizes(ax: Axes, samples: Sequence[int]) -> None:
    """The sizes measured, and no others."""
    from matplotlib.ticker import NullLocator

    ax.set_xscale("log", base=2)
    ax.set_xticks(list(samples), [str(size) for size in samples])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("training samples")
