"""The overview of exponents says what the points say: read back from what was drawn."""

from __future__ import annotations

import io

import numpy as np
import pytest

from widelimit.figures import exponents_against_theory, size_against_width


def point(network, kind, predicted, measured, stderr=0.02):
    """One exponent."""
    return {
        "network": network,
        "kind": kind,
        "predicted": predicted,
        "measured": measured,
        "stderr": stderr,
    }


POINTS = [
    point("muP, sgd", "initial", -0.5, -0.52),
    point("muP, sgd", "step", 0.0, 0.01),
    point("muP, sgd", "step", 0.0, -0.03),
    point("NTK, sgd", "step", -0.5, -0.4),
]


def markers(ax):
    """Coordinates of the points of each kind, in order."""
    return [np.stack(container.lines[0].get_data(), 1) for container in ax.containers]


def test_points_stand_where_theory_and_measurement_put_them():
    _, axes = exponents_against_theory(POINTS, tolerance=0.05)
    left, right = axes[0]
    initial, steps = markers(left)
    np.testing.assert_allclose(initial[:, 1], [-0.52])
    np.testing.assert_allclose(steps[:, 1], [0.01, -0.03, -0.4])
    assert np.abs(steps[:, 0] - [0.0, 0.0, -0.5]).max() < 0.2  # beside each other, within theory's dash
    assert len({*steps[:, 0]}) == 3
    initial, steps = markers(right)
    np.testing.assert_allclose(initial[:, 0], [-0.02])
    np.testing.assert_allclose(steps[:, 0], [0.01, -0.03, 0.1])
    assert [label.get_text() for label in right.get_yticklabels()] == ["muP, sgd", "NTK, sgd"]
    np.testing.assert_array_equal(np.round(steps[:, 1]), [0, 0, 1])


def test_what_was_not_measured_is_left_out():
    """A diverged cell has no place; the rest is drawn."""
    figure, axes = exponents_against_theory([*POINTS, point("NTK, sgd", "step", 0.0, np.nan, np.nan)])
    figure.savefig(io.BytesIO(), format="png")
    assert len(markers(axes[0, 1])[1]) == 4


def test_refusals():
    with pytest.raises(ValueError, match="1 to 6 kinds, got 0"):
        exponents_against_theory([])
    with pytest.raises(ValueError, match="got 7"):
        exponents_against_theory([point("a", str(i), 0.0, 0.0) for i in range(7)])


def test_sizes_in_given_columns_with_named_colours():
    """Panels fill rows of a given length; colours may be anything with a name, such as what moved."""
    sizes = {name: np.ones((2, 1, 3)) for name in "abcdef"}
    figure, axes = size_against_width([8, 16, 32], sizes, ["weight 1", "weight 2"], legend="moved", columns=3)
    assert axes.shape == (2, 3)
    (legend,) = figure.legends
    assert legend.get_title().get_text() == "moved"
    assert [text.get_text() for text in legend.get_texts()] == ["weight 1", "weight 2"]
