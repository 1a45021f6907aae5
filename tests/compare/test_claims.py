"""Verdicts, and the shape that machines read."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from widelimit.compare import Claim, Summary, markdown_table


def verdict(measured: float, stderr: float = 0.01, relation: str = "equal", tolerance: float = 0.1):
    """What a claim with prediction 1 says."""
    return Claim("c", "q", 1.0, measured, stderr, tolerance, relation).holds


@pytest.mark.parametrize(
    ("relation", "verdicts"),
    [
        ("equal", (False, True, True, False)),
        ("at_most", (True, True, True, False)),
        ("at_least", (False, True, True, True)),
    ],
)
def test_tolerance_decides(relation, verdicts):
    """Both sides of the tolerance, on both sides of the prediction."""
    assert tuple(verdict(m, relation=relation) for m in (0.85, 0.95, 1.05, 1.15)) == verdicts


@pytest.mark.parametrize("relation", ["equal", "at_most", "at_least"])
def test_underpowered_run_never_passes(relation):
    """An error bar above half the tolerance decides nothing, wherever the measurement lies."""
    assert verdict(1.0, 0.05, relation) is True
    assert {verdict(m, 0.051, relation) for m in (0.0, 1.0, 2.0)} == {"inconclusive"}


def test_differences_are_claimed_in_standard_errors():
    """Below by three standard errors: shown, refuted, or undecided between; above is its mirror."""
    assert [verdict(m, 0.1, "below", 0.0) for m in (0.69, 0.8, 1.2, 1.31)] == [
        True,
        *["inconclusive"] * 2,
        False,
    ]
    assert [verdict(m, 0.1, "above", 0.0) for m in (0.69, 0.8, 1.2, 1.31)] == [
        False,
        *["inconclusive"] * 2,
        True,
    ]
    assert Claim("c", "q", 1.0, 0.85, 0.1, 0.0, "below", sigmas=1.0).holds is True


def test_not_a_number_is_inconclusive_and_infinity_is_judged():
    """A missing error bar is no small error bar; a regret that is infinite fails."""
    assert verdict(math.nan) == verdict(1.0, math.nan) == "inconclusive"
    assert verdict(math.inf, math.nan) is False and verdict(math.inf, math.nan, "at_most") is False
    assert verdict(-math.inf, math.nan, "at_most") is True and verdict(math.inf, 0.0, "at_least") is True


def test_claim_has_exactly_the_documented_shape():
    """The keys of the architecture page, in order, and nothing that JSON cannot say."""
    shown = Claim("n", "q", 0.0, np.float64(math.nan), math.inf, 0.5, "at_most").to_json()
    assert list(shown) == ["name", "quantity", "predicted", "measured", "stderr", "tolerance", "holds"]
    assert json.loads(json.dumps(shown, allow_nan=False)) == shown
    assert shown["measured"] is None and shown["stderr"] is None and shown["quantity"] == "q (at most)"
    assert (
        Claim("n", "q", 0.0, 0.0, 0.1, 0.0, "below").to_json()["quantity"] == "q (below by 3 standard errors)"
    )
    assert json.dumps(Claim("n", "q", 0.0, np.float32(0.5), 0.1, 1.0).to_json()["holds"]) == "true"


@pytest.mark.parametrize(
    ("predicted", "tolerance"), [(0.0, -1.0), (0.0, math.nan), (math.nan, 1.0), (0.0, math.inf)]
)
def test_claim_that_cannot_be_judged_is_refused(predicted, tolerance):
    """A negative or missing tolerance, or no prediction, is a mistake of the experiment."""
    with pytest.raises(ValueError, match="finite prediction and a finite tolerance"):
        Claim("c", "q", predicted, 0.0, 0.1, tolerance)
    with pytest.raises(ValueError, match="Expected relation to be one of"):
        Claim("c", "q", 0.0, 0.0, 0.1, 0.1, "near")


def test_strict_wants_every_claim():
    """Exit code 1 for a claim that fails or is inconclusive, but only if strict."""
    good, bad = Claim("g", "q", 0.0, 0.0, 0.1, 1.0), Claim("b", "q", 0.0, 5.0, 0.1, 1.0)
    unsure = Claim("u", "q", 0.0, 0.0, 0.9, 1.0)
    for claims, code in (([good], 0), ([good, bad], 1), ([good, unsure], 1), ([], 0)):
        summary = Summary("e", "smoke", 1.0, claims, {})
        assert summary.exit_code(strict=True) == code and summary.exit_code(strict=False) == 0


def test_summary_has_exactly_the_documented_shape():
    """Five keys, the same for all experiments."""
    summary = Summary("e", "smoke", 1.23456, [Claim("g", "q", 0.0, 0.0, 0.1, 1.0)], {"t": [{"width": 64}]})
    shown = summary.to_json()
    assert list(shown) == ["experiment", "preset", "seconds", "claims", "tables"]
    assert shown["seconds"] == 1.235 and shown["tables"] == {"t": [{"width": 64}]} and summary.holds


def test_report_shows_verdicts_reasons_figures_and_tables():
    """A reader finds each claim with its numbers, why the tolerance is what it is, and every figure once."""
    claims = [
        Claim("a|b", "q", 0.0, 0.0301, 0.04, 0.15, why="Trials scatter by 0.1."),
        Claim("c", "q", 0.0, 9.0, 0.04, 0.15, why="Trials scatter by 0.1."),
        Claim("d", "q", 0.0, math.nan, 0.04, 0.15),
    ]
    text = Summary(
        "e", "full", 2.0, claims, {"t": [{"x": 1.0}]}, {"f.png": "A figure."}, ["A note."]
    ).to_markdown()
    assert "3 claims: 1 holds, 1 fails, 1 inconclusive. Took 2.0 s." in text
    assert r"| a\|b | q | 0 | 0.0301 | 0.04 | 0.15 | holds |" in text and "**fails**" in text
    assert text.count("Trials scatter by 0.1.") == 1 and "![A figure.](f.png)" in text and "A note." in text
    assert "### t\n\n| x |\n| ---: |\n| 1 |" in text
    assert "0 claims: none made." in Summary("e", "full", 2.0, [], {}).to_markdown()


def test_tables_align_numbers_and_survive_gaps():
    """Missing keys and NaN become dashes; text columns stay to the left; an empty table says so."""
    text = markdown_table([{"name": "a", "x": np.float32(0.5)}, {"name": "b", "y": math.nan}])
    assert text.splitlines()[1:] == ["| --- | ---: | ---: |", "| a | 0.5 | – |", "| b | – | – |"]
    assert markdown_table([]) == "(empty)"


def test_terminal_shows_each_claim_on_a_line():
    """Verdict, measurement, prediction and its kind; numbers that do not exist are shown as such."""
    claims = [Claim("a", "q", 1.0, 1.02, 0.01, 0.1), Claim("b", "q", 0.0, math.nan, 0.1, 0.5, "at_most")]
    assert Summary("e", "smoke", 3.0, claims, {}).to_text().splitlines() == [
        "holds         a: 1.02 +- 0.01 (predicted 1 within 0.1)",
        "inconclusive  b: nan +- 0.1 (predicted at most 0 within 0.5)",
        "2 claims: 1 holds, 1 inconclusive. Took 3.0 s.",
    ]
