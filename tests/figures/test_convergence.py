"""Convergence, training curves and eigenvalues: what was drawn is what was passed."""

from __future__ import annotations

import io

import numpy as np
import pytest

from widelimit.compare import fit_exponent
from widelimit.figures import eigenvalues_before_and_after, errors_against_width, training_curves

WIDTHS = np.array([64, 128, 256, 512])


def line(slope, predicted, **more):
    """A power law with its fit."""
    values = 3.0 * WIDTHS ** float(slope)
    law = fit_exponent(WIDTHS[1:], values[1:])
    return {
        "widths": WIDTHS,
        "values": values,
        "errors": 0.1 * values,
        "law": law,
        "predicted": predicted,
        **more,
    }


def test_slopes_stand_in_the_legend_and_in_the_lines():
    """The pale line has the fitted slope over the fitted widths, the dashed one the predicted; they meet."""
    panels = {
        "gap": {"NTK": line(-0.9, -1.0, fitted=WIDTHS[1:]), "muP": line(0.1, 0.0)},
        "kernel": {"a": line(-2, -2)},
    }
    figure, axes = errors_against_width(panels)
    ax = axes[0, 0]
    texts = [text.get_text().replace("\N{MINUS SIGN}", "-") for text in ax.get_legend().get_texts()]
    assert [text.split(" ±")[0] for text in texts] == ["NTK: -0.90", "muP: +0.10"]
    assert texts[0].endswith("(-1)") and axes.shape == (1, 2)
    fits = [one for one in ax.get_lines() if one.get_linewidth() == 3.0]
    theory = [one for one in ax.get_lines() if one.get_linestyle() == "--"]
    for lines, slopes in ((fits, (-0.9, 0.1)), (theory, (-1.0, 0.0))):
        for one, slope in zip(lines, slopes, strict=True):
            x, y = one.get_data()
            np.testing.assert_allclose(np.diff(np.log(y)) / np.diff(np.log(x)), slope, atol=1e-9)
    assert fits[0].get_xdata().tolist() == [128, 512] and fits[1].get_xdata().tolist() == [64, 512]
    middle = [np.exp(np.log(one[0].get_ydata()).mean()) for one in (fits, theory)]
    np.testing.assert_allclose(middle[0], middle[1])
    figure.savefig(io.BytesIO())


def test_the_legend_covers_no_point():
    """Room is made below the lowest point of every panel, also where all points are alike."""
    figure, axes = errors_against_width(
        {"flat": {"a": line(0, 0), "b": line(0, 0)}, "steep": {"a": line(-2, -2)}}
    )
    figure.draw_without_rendering()
    for ax in axes.flat:
        box = ax.get_legend().get_window_extent()
        for one in ax.get_lines():
            for point in ax.transData.transform(np.stack(one.get_data(), axis=1)):
                assert not box.contains(*point)


def panel(length=5):
    return {
        "mean": np.linspace(0, 1, length),
        "std": np.linspace(1, 0.1, length),
        "target": 1.0,
        "measured": {"width 64": (np.linspace(0, 0.9, length), np.full(length, 0.5))},
    }


def test_bands_and_bars_are_two_standard_deviations():
    """The band is mean +- 2 std at every time; a point's bar is +- 2 of its std; the target is dotted."""
    figure, axes = training_curves(np.arange(5), {("train", "first"): panel(), ("test", "first"): panel()})
    ax = axes[0, 0]
    band = ax.collections[0].get_paths()[0].vertices
    at_end = band[band[:, 0] == 4][:, 1]
    np.testing.assert_allclose([at_end.min(), at_end.max()], [0.8, 1.2])
    bars = ax.containers[0][2][0].get_segments()
    np.testing.assert_allclose([np.ptp(bar[:, 1]) for bar in bars], 2.0)
    np.testing.assert_allclose(ax.containers[0][0].get_ydata(), np.linspace(0, 0.9, 5))
    assert [one.get_ydata()[0] for one in ax.get_lines() if one.get_linestyle() == ":"] == [1.0]
    assert [one.get_title() for one in axes[0]] == ["train", "test"]
    figure.savefig(io.BytesIO())


def test_eigenvalues_fall_and_are_averaged_in_logarithms():
    """Whatever the order they come in; bars reach one standard deviation of the logarithm."""
    before = np.array([[1.0, 4.0], [16.0, 1.0]])
    figure, axes = eigenvalues_before_and_after({"NTK": {"before": before, "after": 2 * before}}, [8.0, 1.0])
    points = [container[0].get_ydata() for container in axes[0, 0].containers]
    np.testing.assert_allclose(points, [[8.0, 1.0], [16.0, 2.0]])
    bar = axes[0, 0].containers[0][2][0].get_segments()[0]
    np.testing.assert_allclose(bar[:, 1], [4.0, 16.0])
    assert any(np.array_equal(one.get_ydata(), [8.0, 1.0]) for one in axes[0, 0].get_lines())
    figure.savefig(io.BytesIO())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: errors_against_width({}), "Expected panels"),
        (lambda: errors_against_width({"a": {}}), "Expected panels"),
        (lambda: training_curves(np.arange(4), {("a", "b"): panel()}), r"Expected curves of shape \(4,\)"),
        (lambda: training_curves(np.arange(5), {}), "one panel or more"),
        (lambda: eigenvalues_before_and_after({"a": {"before": np.ones(3), "after": np.ones(3)}}), "S, N"),
        (
            lambda: eigenvalues_before_and_after(
                {"a": {"before": np.zeros((2, 2)), "after": np.ones((2, 2))}}
            ),
            "positive eigenvalues",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
