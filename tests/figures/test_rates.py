"""Learning rates beside theory: what is drawn, what is left out, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from widelimit.figures import best_rates_beside_theory, rates_beside_theory

X = np.arange(-4.0, 1.0)


def curve(shift=0.0):
    """A parabola and its minimum, and a cell beyond all bounds."""
    y = 0.1 + (X + 2 + shift) ** 2
    points = y.copy()
    points[-1] = 1e9
    minimum = (-2.0 - shift, 0.1, 0.1)
    return {"lines": (X, y), "points": (X, points, 0.1 * points), "minimum": minimum, "expected": (-2.0, 0.1)}


def test_a_panel_per_parametrization_and_depth_a_line_per_width():
    """Titles, one line of theory per width, all panels of a row on one scale; what diverged is not drawn."""
    panels = {
        (name, depth): {64: curve(), 128: curve(0.5)} for depth in ("one", "two") for name in ("muP", "NTK")
    }
    figure, axes = rates_beside_theory(panels, loss="loss", quantity="rate")
    assert [ax.get_title() for ax in axes.flat] == ["muP, one", "NTK, one", "muP, two", "NTK, two"]
    assert axes[0, 0].get_ylim() == axes[0, 1].get_ylim() and axes[0, 0].get_ylim()[1] < 100
    assert axes[0, 0].get_ylabel() == "loss" and axes[1, 0].get_xlabel() == "rate"
    drawn = np.concatenate([line.get_ydata() for line in axes[0, 0].get_lines()])
    assert drawn.max() < 1e9
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["64", "128"]


def test_best_rates_with_their_limits():
    """A line of theory and a dotted limit per name; widths of theory are on the axis."""
    line = {
        "widths": [64, 128],
        "places": [-3.0, -3.1],
        "errors": [0.1, 0.1],
        "line": ([64, 128, 256], [-3, -3.1, -3.2]),
    }
    figure, axes = best_rates_beside_theory({"one": {"muP": {**line, "limit": -3.3}, "NTK": line}})
    dotted = [each for each in axes[0, 0].get_lines() if each.get_linestyle() == ":"]
    assert len(dotted) == 1 and dotted[0].get_ydata()[0] == -3.3
    assert [text.get_text() for text in axes[0, 0].get_xticklabels()] == ["64", "128", "256"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["muP", "NTK"]


def test_nothing_to_draw_is_refused():
    """A sentence, not an empty figure."""
    with pytest.raises(ValueError, match="got nothing to draw"):
        rates_beside_theory({("muP", "one"): {}})
    with pytest.raises(ValueError, match="Expected panels with 1 to"):
        best_rates_beside_theory({})
