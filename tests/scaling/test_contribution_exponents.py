"""What each layer's first update contributes to the layers above it, against the recursion and by hand."""

from __future__ import annotations

from fractions import Fraction

import pytest

from widelimit.scaling import (
    FIRST_SMALL_STEP,
    change,
    contribution_exponents,
    exponents,
    mean_field,
    mup,
    ntk,
    shift,
    standard,
)

HALF = Fraction(1, 2)
CASES = [
    (parametrization, family, rate.alignment)
    for parametrization in (standard(), ntk(), mean_field(), mup(table=3), mup(table=8), mup(table=9))
    for family in ("sgd", "adam")
    for rate in parametrization.rates
    if rate.family == family
]


@pytest.mark.parametrize(("parametrization", "family", "alignment"), CASES)
@pytest.mark.parametrize("hidden", [0, 1, 3])
def test_the_largest_contribution_is_the_change(parametrization, family, alignment, hidden):
    """The stability system keeps the largest term at every layer: solved forward, it must find the same."""
    c = parametrization.rate(family, alignment).learning_rate
    rows = contribution_exponents(parametrization, c, family, hidden)
    whole = change(parametrization, c, family, FIRST_SMALL_STEP, hidden, first_step=True)
    assert [len(row) for row in rows] == list(range(hidden + 2, 0, -1))
    for layer, exponent in enumerate([*whole.features, whole.logits]):
        assert min(rows[k][layer - k] for k in range(layer + 1)) == exponent


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("family", ["sgd", "adam"])
def test_equivalent_forms_contribute_alike(family, biases):
    """Contributions belong to the network, not to the way it is written."""
    rows = [
        contribution_exponents(form, form.rate(family).learning_rate, family, 2, biases)
        for form in (mup(table=3), mup(table=8), mup(table=9), mean_field())
    ]
    assert rows[0] == rows[1] == rows[2] == rows[3]
    kernel = standard().rate(family, "kernel").learning_rate
    plain = contribution_exponents(standard(), kernel, family, 2, biases)
    assert plain == contribution_exponents(ntk(), ntk().rate(family).learning_rate, family, 2, biases)


def test_one_rate_for_all_layers_by_hand():
    """SP, SGD: gradients are n^-1/2 and the hidden fan-in n, so hidden weights move n^1/2, biases n^-1/2."""
    c = standard().rate("sgd").learning_rate
    assert contribution_exponents(standard(), c, "sgd") == ((HALF, HALF, 0), (-HALF, -1), (-1,))
    assert contribution_exponents(standard(), c, "sgd", biases=True) == ((HALF, HALF, 0), (HALF, 0), (0,))


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("family", ["sgd", "adam"])
def test_any_shift_leaves_contributions_alone(family, biases):
    """The same for the whole symmetry, with another theta for each role."""
    moved = shift(standard(), exponents("1/3", "-1/4", 2), family)
    before, after = (
        contribution_exponents(form, form.rate(family).learning_rate, family, 2, biases)
        for form in (standard(), moved)
    )
    assert moved.multiplier != standard().multiplier and before == after


def test_refusals():
    """What has no answer is named."""
    c = mup().rate("adafactor").learning_rate
    with pytest.raises(ValueError, match="zero at first"):
        contribution_exponents(mup(), c, "adafactor", biases=True)
    with pytest.raises(ValueError, match="family must be"):
        contribution_exponents(mup(), c, "lion")
