"""Sweeps of a scale and learning curves: what is drawn is what was measured."""

from __future__ import annotations

import io

import numpy as np
import pytest

from widelimit.figures import error_against_samples, measures_against_scale

ALPHA = 2.0 ** np.arange(6)


def lines(ax, style):
    """The curves of a line style, as (x, y)."""
    return [line.get_data() for line in ax.lines if line.get_linestyle() == style]


def test_a_law_lies_on_points_that_follow_it():
    """Dashed from where it is claimed, dotted below, both on the points of an exact power law."""
    values = np.stack([2 / ALPHA, 0.5 / ALPHA])  # geometric mean 1 / ALPHA
    figure, axes = measures_against_scale(
        ALPHA,
        {"change": {"kernel": values}},
        predicted={"change": {"kernel": -1.0}},
        from_scale=4.0,
        logarithmic=["change"],
        ends=("rich", "lazy"),
    )
    ((x, y),) = lines(axes[0, 0], "-")
    np.testing.assert_allclose(y, 1 / x)
    ((x, y),) = lines(axes[0, 0], "--")
    np.testing.assert_allclose([x, y], [ALPHA[2:], 1 / ALPHA[2:]])
    ((x, y),) = lines(axes[0, 0], ":")
    np.testing.assert_allclose([x, y], [ALPHA[:3], 1 / ALPHA[:3]])
    assert axes[0, 0].get_yscale() == axes[0, 0].get_xscale() == "log"
    label = axes[0, 0].get_xlabel()
    assert label.index("rich") < label.index("output scale") < label.index("lazy")
    figure.savefig(io.BytesIO(), format="png")


def test_diverged_cells_are_left_out():
    """A scale where one seed diverged shows the others; where all did, nothing."""
    values = np.ones((2, 6))
    values[0, 0] = np.nan
    values[:, 5] = np.nan
    _, axes = measures_against_scale(ALPHA, {"error": {"network": values}})
    ((_, y),) = lines(axes[0, 0], "-")
    np.testing.assert_array_equal(np.isfinite(y), [True] * 5 + [False])


def test_differences_are_paired_and_in_points():
    """What all predictors share in a split cancels: the error bar of a constant difference is zero."""
    splits = np.array([[0.2, 0.1], [0.4, 0.3], [0.3, 0.05]])
    figure, axes = error_against_samples([32, 64], {"svm": splits, "ntk": splits - 0.02}, reference="svm")
    (container,) = axes[0, 1].containers
    _, _, (bars,) = container.lines
    np.testing.assert_allclose([segment[:, 1] for segment in bars.get_segments()], -2.0)
    left = lines(axes[0, 0], "-")
    np.testing.assert_allclose(left[0][1], splits.mean(axis=0))
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["svm", "ntk"]
    figure.savefig(io.BytesIO(), format="png")


def test_refusals():
    with pytest.raises(ValueError, match="nothing to draw"):
        measures_against_scale(ALPHA, {"change": {}})
    with pytest.raises(ValueError, match=r"\[seeds, 6 scales\]"):
        measures_against_scale(ALPHA, {"change": {"kernel": np.ones((2, 5))}})
    with pytest.raises(ValueError, match="1 to 6 predictors"):
        error_against_samples([32, 64], {})
    with pytest.raises(ValueError, match="one of ntk; got 'svm'"):
        error_against_samples([32, 64], {"ntk": np.ones((2, 2))}, reference="svm")
