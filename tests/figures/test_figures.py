"""Figures say what the data say: read back from the artists that were drawn."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex

from widelimit.figures import (
    CATEGORIES,
    loss_against_rate,
    new_figure,
    optimum_against_width,
    ordered_colors,
    size_against_width,
    style,
)

WIDTHS = [16, 32, 64, 128]
RATES = np.arange(-8.0, 0.0)


def optimum(place: float, *, diverged: int = 0, flag: str = "interior") -> SimpleNamespace:
    """A loss curve whose last cells diverged."""
    curve = 0.1 + 0.05 * (RATES - place) ** 2
    curve[RATES.size - diverged :] = np.nan
    return SimpleNamespace(
        log2_lr=place, stderr=0.3, loss=0.1, flag=flag, rates=RATES, curve=curve, curve_stderr=0.01 * curve
    )


def lines(ax, **wanted) -> list:
    """Lines of an axes whose style or marker is as wanted."""
    return [
        line
        for line in ax.get_lines()
        if all(str(getattr(line, f"get_{key}")()) == value for key, value in wanted.items())
    ]


def panels() -> dict:
    """SP moves with width and diverges, muP does neither; one panel is missing."""
    moving = {w: optimum(-3.0 - i, diverged=2 + i, flag="cliff") for i, w in enumerate(WIDTHS)}
    steady = {w: optimum(-4.0) for w in WIDTHS}
    return {("SP", "adam"): moving, ("muP", "adam"): steady, ("muP", "sgd"): steady}


def test_panels_are_parametrizations_by_optimizers():
    """Columns and rows come from the keys; a missing combination is an empty panel, not a shifted one."""
    _, axes = loss_against_rate(panels(), loss="cross-entropy (nats)")
    assert axes.shape == (2, 2)
    assert [ax.get_title() for ax in axes.flat] == ["SP, adam", "muP, adam", "", "muP, sgd"]
    assert not axes[1, 0].axison and axes[0, 0].get_ylabel() == "cross-entropy (nats)"
    assert axes[1, 1].get_xlabel() == "log2 learning rate"


def test_minima_are_marked_where_they_are():
    """Each width has a marker at its optimum with its error bar; on a cliff it is hollow."""
    _, axes = loss_against_rate(panels())
    for ax, places, hollow in ((axes[0, 0], [-3, -4, -5, -6], True), (axes[0, 1], [-4] * 4, False)):
        marks = lines(ax, marker="o")
        assert [mark.get_xdata()[0] for mark in marks] == places
        assert all((to_hex(mark.get_markerfacecolor()) == "#ffffff") == hollow for mark in marks)
        bars = [c for c in ax.containers if c.has_xerr]
        np.testing.assert_allclose([np.ptp(bar[2][0].get_segments()[0][:, 0]) for bar in bars], 0.6)


def test_diverged_cells_are_crosses_above_every_curve():
    """As many crosses as cells that diverged, at their rates, where no curve of the row can meet them."""
    figure, axes = loss_against_rate(panels())
    figure.draw_without_rendering()
    crosses = lines(axes[0, 0], marker="x")
    assert [cross.get_xdata().tolist() for cross in crosses] == [RATES[-n:].tolist() for n in (2, 3, 4, 5)]
    lowest = min(cross.get_ydata()[0] for cross in crosses)
    top = max(np.nanmax(best.curve) for curves in panels().values() for best in curves.values())
    assert axes[0, 1].transAxes.inverted().transform(axes[0, 1].transData.transform((0, top)))[1] < lowest
    assert not [cross for cross in lines(axes[0, 1], marker="x") if cross.get_xdata().size]


def test_legend_covers_no_panel():
    """The legends stand beside the panels, at the size they have in a page."""
    for figure, axes in (
        loss_against_rate(panels()),
        size_against_width(WIDTHS, {"a": np.ones((2, 1, 4))}, [0, 1], predicted={"a": 0.0}),
    ):
        figure.draw_without_rendering()
        boxes = [legend.get_window_extent() for legend in figure.legends]
        assert boxes and not any(box.overlaps(ax.get_window_extent()) for box in boxes for ax in axes.flat)
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_optimum_against_width_shows_slopes():
    """The legend carries slope and error bar, the fit is drawn, theory is dashed with its own slope."""
    law = SimpleNamespace(exponent=-1.0, stderr=0.04, predict=lambda n: 2.0 / np.asarray(n, float))
    moving = {w: optimum(1.0 - np.log2(w)) for w in WIDTHS}
    figure, axes = optimum_against_width(
        {"SP, adam": moving}, {"SP, adam": law}, predicted={"SP, adam": -0.5}
    )
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["SP, adam: \N{MINUS SIGN}1.00 ± 0.04", "theory"]
    solid, dashed = lines(axes[0, 0], label=f"{labels[0]}")[0], lines(axes[0, 0], linestyle="--")[0]
    for line, slope in ((solid, -1.0), (dashed, -0.5)):
        np.testing.assert_allclose(np.polyfit(np.log2(line.get_xdata()), line.get_ydata(), 1)[0], slope)
    with pytest.raises(ValueError, match="Expected 1 to 6 lines"):
        optimum_against_width({}, {})


def test_sizes_show_means_errors_and_predicted_slopes():
    """Points are geometric means, bars standard errors, dashes the predicted exponent through the middle."""
    rng = np.random.default_rng(0)
    noise = np.exp(0.1 * rng.normal(size=(2, 5, 4)))
    sizes = {"hidden": noise * np.sqrt(WIDTHS), "readout": noise}
    _, axes = size_against_width(
        WIDTHS, sizes, [0, 1], predicted={"hidden": 0.5, "readout": [float("nan"), -1.0]}, quantity="RMS"
    )
    assert [ax.get_title() for ax in axes.flat] == ["hidden", "readout"] and axes[0, 0].get_ylabel() == "RMS"
    points = lines(axes[0, 0], marker="o")
    np.testing.assert_allclose(points[1].get_ydata(), np.exp(np.log(sizes["hidden"][1]).mean(axis=0)))
    low, high = axes[0, 0].containers[1][2][0].get_segments()[2][:, 1]
    expected = np.log(noise[1, :, 2]).std(ddof=1) / np.sqrt(5)
    np.testing.assert_allclose(np.log(high / low) / 2, expected)
    dashes = [lines(ax, linestyle="--") for ax in axes.flat]
    assert [len(found) for found in dashes] == [2, 1]
    for line, slope in ((dashes[0][0], 0.5), (dashes[1][0], -1.0)):
        x, y = np.log(line.get_xdata()), np.log(line.get_ydata())
        np.testing.assert_allclose(np.polyfit(x, y, 1)[0], slope)
    np.testing.assert_allclose(np.log(dashes[0][0].get_ydata()).mean(), np.log(points[0].get_ydata()).mean())


def test_panels_span_equal_decades():
    """A flat layer and a growing one are drawn to the same scale, so that noise does not look like growth."""
    sizes = {"flat": np.ones((1, 1, 4)), "steep": np.array(WIDTHS, float).reshape(1, 1, 4) ** 2}
    _, axes = size_against_width(WIDTHS, sizes, [1])
    spans = [np.ptp(np.log10(ax.get_ylim())) for ax in axes.flat]
    np.testing.assert_allclose(spans[0], spans[1])
    assert spans[0] > np.log10(8**2)


def test_zero_and_diverged_sizes_leave_gaps():
    """What has no logarithm is not drawn; a layer that is zero everywhere is an empty panel."""
    sizes = np.ones((2, 3, 4))
    sizes[0], sizes[1, :, 2], sizes[1, 0, 3] = 0.0, np.nan, np.inf
    figure, axes = size_against_width(
        WIDTHS, {"a": sizes, "zero": np.zeros((2, 3, 4))}, [0, 1], predicted={"a": 0.0}
    )
    figure.draw_without_rendering()
    assert len(axes[0, 0].containers) == 1 and not axes[0, 1].containers
    assert np.isnan(axes[0, 0].containers[0][0].get_ydata()).tolist() == [False, False, True, False]


def test_five_layers_are_balanced_and_each_column_is_labelled():
    """Three panels above two, width named under the lowest panel of each column."""
    _, axes = size_against_width(WIDTHS, {f"layer {i}": np.ones((1, 1, 4)) for i in range(5)}, [1])
    assert axes.shape == (2, 3)
    assert [ax.get_xlabel() for ax in axes.flat] == ["", "", "width", "width", "width", ""]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: loss_against_rate({}), "nothing to draw"),
        (lambda: size_against_width(WIDTHS, {}, [0]), "no layer"),
        (lambda: size_against_width(WIDTHS, {"a": np.ones((2, 3, 4))}, [0]), r"\[1 steps, seeds, 4 widths\]"),
    ],
)
def test_bad_input_is_one_sentence(call, sentence):
    """A transposed array is named, not drawn."""
    with pytest.raises(ValueError, match=sentence):
        call()


def test_nothing_is_global():
    """Settings come back, pyplot knows no figure, and the same data give the same bytes."""
    before = dict(matplotlib.rcParams)
    pictures = []
    for _ in range(2):
        figure, _ = loss_against_rate(panels())
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=50)
        pictures.append(buffer.getvalue())
    assert pictures[0] == pictures[1] and pictures[0].startswith(b"\x89PNG")
    assert dict(matplotlib.rcParams) == before
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_ordered_colors_grow_lighter():
    """Order is seen without hue: luminance increases, also for readers who do not see colour."""
    light = [np.dot(color[:3], [0.2126, 0.7152, 0.0722]) for color in ordered_colors(6)]
    assert (np.diff(light) > 0.05).all() and light[-1] < 0.85
    assert len(ordered_colors(1)) == 1 and len(set(CATEGORIES)) == 6


def test_new_figure_leaves_room_for_its_legend():
    """Size is panels plus margin, in inches."""
    with style():
        figure, axes = new_figure(2, 3, panel=(2.0, 1.5), margin=1.0)
    np.testing.assert_allclose(figure.get_size_inches(), [7.0, 3.3])
    assert axes.shape == (2, 3)
