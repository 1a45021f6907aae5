"""Theory beside networks: what is drawn is what was measured."""

from __future__ import annotations

import io

import numpy as np
import pytest

from widelimit.figures import theory_beside_networks

X = 2.0 ** np.arange(-2, 3)


def made(power=1.0, **more):
    """A curve with two sorts of networks."""
    y = X**power
    networks = {"width 8": (1.2 * y, 0.1 * y), "extrapolated": (y, 0.3 * y)}
    return {"theory": (y, 0.05 * y), "networks": networks, **more}


def test_lines_points_levels_and_powers_are_where_they_should_be():
    """Theory passes through its values, points hold theirs; the power starts at theory."""
    panels = {"movement": {"ntk": made(1.5, slope=2.0), "features": made(limit=0.5)}}
    figure, axes = theory_beside_networks(X, panels, logarithmic=["movement"], units={"movement": "relative"})
    ax = axes[0, 0]
    solid = [line for line in ax.lines if line.get_linestyle() == "-"]
    np.testing.assert_allclose(solid[0].get_data(), [X, X**1.5])
    (dotted,) = (line for line in ax.lines if line.get_linestyle() == ":")
    x, y = dotted.get_data()
    np.testing.assert_allclose(x, X[:3])
    np.testing.assert_allclose(y, X[0] ** 1.5 * (x / X[0]) ** 2)
    (dashed,) = (line for line in ax.lines if line.get_linestyle() == "--")
    assert set(dashed.get_ydata()) == {0.5} and dashed.get_color() == ax.lines[-2].get_color()
    points = [bars.lines[0] for bars in ax.containers]
    np.testing.assert_allclose([p.get_ydata() for p in points[:2]], [1.2 * X**1.5, X**1.5])
    hollow, filled = (p.get_markerfacecolor() for p in points[:2])
    assert hollow == "white" and filled == points[1].get_color()
    assert ax.get_yscale() == ax.get_xscale() == "log" and ax.get_ylabel() == "relative"
    figure.savefig(io.BytesIO(), format="png")


def test_a_name_has_one_colour_in_all_panels():
    """What is one thing looks like one thing; the key takes the free place or goes below."""
    panels = {"a": {"one": made(), "two": made()}, "b": {"two": made()}, "c": {"one": made()}}
    figure, axes = theory_beside_networks(X, panels, columns=2)
    colors = [[line.get_color() for line in ax.lines if line.get_linestyle() == "-"] for ax in axes.flat]
    assert colors[0][-1:] == colors[1][:1] and colors[0][0] == colors[2][0] != colors[1][0]
    assert [text.get_text() for text in axes[1, 1].get_legend().get_texts()][1:3] == [
        "width 8",
        "extrapolated",
    ]
    figure, axes = theory_beside_networks(X, {"a": {"one": made()}})
    assert axes.shape == (1, 1) and len(figure.legends) == 1


@pytest.mark.parametrize(
    ("panels", "message"),
    [
        ({"a": {"x": {**made(), "theory": (X[1:], X[1:])}}}, r"of shape \[5 scales\]"),
        ({}, "nothing"),
        ({"a": {"x": made(), "y": {**made(), "networks": {"width 9": (X, X)}}}}, "the same sorts"),
        ({"a": {str(i): made() for i in range(7)}}, "at most 6 names"),
    ],
)
def test_what_cannot_be_drawn_is_refused(panels, message):
    """One sentence before anything is drawn."""
    with pytest.raises(ValueError, match=message):
        theory_beside_networks(X, panels)
