"""Exponent tables against their derivation, the symmetry, and the theorems."""

import dataclasses
import itertools
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from widelimit.scaling import (
    FULL,
    NO_ALIGNMENT,
    TENSOR_PROGRAMS,
    Parametrization,
    change,
    classify,
    derive,
    exponents,
    gradient_exponents,
    mean_field,
    mup,
    ntk,
    shift,
    standard,
    uniform,
)

MUPS = {f"mup{table}": mup(table=table) for table in (3, 8, 9)}
ALL = {"standard": standard(), "ntk": ntk(), "mean_field": mean_field(), **MUPS}
ALIGNMENTS = {"full": FULL, "none": NO_ALIGNMENT}
# SGD without alignment has no agreed value under muP and mean-field: min, max and a published solver differ.
OPEN = {(name, "sgd", "none") for name in ("mean_field", *MUPS)}
CELLS = [
    cell for cell in itertools.product(ALL, ("sgd", "adam", "adafactor"), ALIGNMENTS) if cell not in OPEN
]
CELLS += [(name, "muon", "full") for name in ALL]  # an orthogonal matrix is aligned with nothing else

# arXiv 2407.05872, Table 1 and the research behind it, typed in independently of the tables in src: (a, b).
TABLE_1 = {
    "standard": (("0", "0", "0"), ("0", "1/2", "1/2")),
    "ntk": (("0", "1/2", "1/2"), ("0", "0", "0")),
    "mup9": (("-1/2", "0", "1/2"), ("1/2", "1/2", "1/2")),
    "mean_field": (("0", "1/2", "1"), ("0", "0", "0")),
}
# Learning-rate exponents of the same paper: SGD full, SGD none, Adam full, Adam none, Adafactor full,
# Adafactor none.
RATES = {
    "standard": "-1/2,1/2,1 -1/2,0,1/2 0,1,1 0,1/2,1/2 0,1/2,1/2 0,0,0",
    "ntk": "-1/2,-1/2,0 -1/2,-1,-1/2 0,1/2,1/2 0,0,0 0,1/2,1/2 0,0,0",
    "mup9": "0,0,0 open 1/2,1,1/2 1/2,1/2,0 0,1/2,0 0,0,0",
    "mean_field": "-1,-1,-1 open 0,1/2,0 0,0,-1/2 0,1/2,0 0,0,0",
}
GRADIENTS = {
    "standard": ("1/2", "1/2", 0),
    "ntk": ("1/2", 1, "1/2"),
    "mup9": ("1/2", 1, "1/2"),
    "mean_field": (1, "3/2", 1),
}
halves = st.integers(-4, 4).map(lambda k: Fraction(k, 2))


@pytest.mark.parametrize("name", TABLE_1)
def test_exponents_are_those_of_the_paper(name):
    a, b = TABLE_1[name]
    assert (ALL[name].multiplier, ALL[name].init) == (exponents(*a), exponents(*b))
    assert gradient_exponents(ALL[name]) == exponents(*GRADIENTS[name])


@pytest.mark.parametrize(("name", "family", "alignment"), CELLS)
def test_rates_are_derived_and_are_those_of_the_paper(name, family, alignment):
    """Three sources agree: the table in src, the stability system, the paper's table typed here."""
    table = ALL[name].rate(family, alignment).learning_rate
    assert derive(ALL[name], family, ALIGNMENTS[alignment]) == table
    if name in RATES and family != "muon":
        column = ["sgd", "adam", "adafactor"].index(family) * 2 + (alignment == "none")
        assert table == exponents(*RATES[name].split()[column].split(","))


def test_maximum_in_the_gradient_would_not_give_the_table():
    """The paper prints max; the larger gradient is the smaller exponent, and max gives c_in = -1."""
    sp = standard()
    rates = sp.rate("sgd", "full").learning_rate
    out = sp.multiplier.output + sp.init.output
    with_max = -(2 * sp.multiplier.input + max(out, 2 * sp.multiplier.output + rates.output))
    assert with_max == -1 != rates.input
    with pytest.raises(ValueError, match="sgd has rates for alignment"):
        mup().rate("sgd", "none")


def test_no_rates_learn_features_under_sp_with_an_aligned_readout():
    """With omega_readout = 1, a + b >= 1 is needed: Tensor Programs IV's reason why SP must be lazy."""
    for parametrization in (standard(), ntk()):
        with pytest.raises(ValueError, match="no learning rates keep every layer"):
            derive(parametrization, "adam", TENSOR_PROGRAMS)
    for parametrization in (mean_field(), *MUPS.values()):
        assert derive(parametrization, "adam", TENSOR_PROGRAMS) == parametrization.rate("adam").learning_rate


@given(
    theta=st.tuples(halves, halves, halves),
    family=st.sampled_from(["sgd", "adam", "adafactor", "muon"]),
    name=st.sampled_from([*ALL]),
)
def test_symmetry_commutes_with_the_derivation(theta, family, name):
    """Deriving rates after a shift equals shifting the derived rates, for every shift."""
    base = dataclasses.replace(ALL[name], rates=(ALL[name].rate(family, "full"),))
    moved = shift(base, exponents(*theta), family)
    assert derive(moved, family, FULL) == moved.rates[0].learning_rate
    assert moved.rates[0].epsilon == gradient_exponents(moved)


@pytest.mark.parametrize("family", ["sgd", "adam", "adafactor"])
def test_equivalence_classes(family):
    """Tables 3, 8, 9 and mean-field are one network; NTK and SP are another."""

    def same(first: Parametrization, theta, second: Parametrization):
        moved = shift(first, exponents(*theta), family)
        assert (moved.multiplier, moved.init) == (second.multiplier, second.init)
        alignments = {row.alignment for row in moved.rates} & {row.alignment for row in second.rates} - {
            "global"
        }
        assert alignments
        for alignment in alignments:
            left, right = moved.rate(family, alignment), second.rate(family, alignment)
            assert (left.learning_rate, left.epsilon) == (right.learning_rate, right.epsilon)

    same(mup(table=3), (0, 0, 1), mup(table=8))
    same(mup(table=3), ("-1/2", 0, "1/2"), mup(table=9))
    same(mup(table=8), (0, "1/2", 0), mean_field())
    same(standard(), (0, "1/2", "1/2"), ntk())


@pytest.mark.parametrize(
    ("parametrization", "optimizer", "alignment", "regime", "r"),
    [
        (standard(), "sgd", "kernel", "kernel", "1/2"),
        (standard(), "sgd", "global", "unstable", "-1"),
        (ntk(), "sgd", "kernel", "kernel", "1/2"),
        (ntk(), "adam", "kernel", "kernel", "1/2"),
        (mean_field(), "sgd", "full", "feature-learning", "0"),
        (mean_field(), "adam", "full", "feature-learning", "0"),
        *[(p, o, "full", "feature-learning", "0") for p in MUPS.values() for o in ("sgd", "adam")],
        (standard(), "adam", "global", "unstable", "-1"),
        # Tensor Programs IVb, Theorem 2.8.12, against Everett et al.: logits grow as n^1/2 after one step.
        (standard(), "adam", "full", "unstable", "0"),
    ],
)
def test_classification_of_the_known_parametrizations(parametrization, optimizer, alignment, regime, r):
    result = classify(parametrization, optimizer, alignment)
    assert (result.regime, result.r) == (regime, Fraction(r)), result.reason


@given(s=st.fractions(0, Fraction(1, 2), max_denominator=12), optimizer=st.sampled_from(["sgd", "adam"]))
def test_uniform_family_interpolates_between_mup_and_ntk(s, optimizer):
    result = classify(uniform(s), optimizer)
    assert result.r == s
    assert result.regime == ("kernel" if s else "feature-learning")
    rates = uniform(s).rate(optimizer).learning_rate
    assert change(uniform(s), rates, optimizer, TENSOR_PROGRAMS, hidden_layers=3).features == (s,) * 4
    end = {Fraction(0): mup().rate(optimizer), Fraction(1, 2): standard().rate(optimizer, "kernel")}
    if s in end:
        assert rates == end[s].learning_rate


def test_sp_with_tp4_rate_is_kernel_and_smaller_is_trivial():
    """TP4's own SP row has c = 1 for all layers; a still smaller rate moves nothing in the limit."""
    row = standard().rate("sgd", "global")

    def at(c):
        rates = (dataclasses.replace(row, learning_rate=exponents(c, c, c)),)
        return classify(dataclasses.replace(standard(), rates=rates), "sgd")

    assert (at(1).regime, at(1).r) == ("kernel", Fraction(1, 2))
    assert at("3/2").regime == "trivial"
    assert at("1/2").regime == "unstable"


@pytest.mark.parametrize(
    ("rates", "features", "logits"),
    [
        # Numbers of the research sheet, measured there on a tanh network: one sign step, two hidden layers.
        ((0, 1, 1), (0, 0), "-1/2"),
        ((1, 1, 1), (1, 0), "-1/2"),
        (("3/2", "3/2", "3/2"), ("3/2", "1/2"), 0),
    ],
)
def test_first_step_under_sp_adam(rates, features, logits):
    result = change(standard(), exponents(*rates), "adam", TENSOR_PROGRAMS, first_step=True)
    assert result.features == tuple(Fraction(str(r)) for r in features)
    assert result.logits == Fraction(logits)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mup(table=7), "Tables 3, 8 and 9"),
        (lambda: standard().rate("rmsprop"), "got optimizer 'rmsprop'"),
        (lambda: uniform(Fraction(2, 3)), "between 0"),
        (lambda: mup(gamma0=0.0), "gamma0"),
        (lambda: shift(mup(), exponents(0, 0, 0), "lion"), "optimizer must be one of"),
        (
            lambda: shift(mup(), dataclasses.replace(exponents(0, 0, 0), scalar=Fraction(1)), "sgd"),
            "scalar-like",
        ),
        (lambda: classify(mup(), "adafactor"), "'sgd' and 'adam'"),
        (lambda: change(mup(), exponents(0, 0, 0), "lion", FULL), "family must be"),
        (lambda: change(mup(), exponents(0, 0, 0), "adam", FULL, hidden_layers=-1), "at least 0"),
    ],
)
def test_bad_input_says_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()
