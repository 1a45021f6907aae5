"""Rules of depth: the published tables cell by cell, their derivation, neutrality, and every conversion."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from widelimit.optim import parameter_scale
from widelimit.scaling import (
    completep,
    depth_mup,
    depth_slopes,
    derive_depth,
    describe,
    dmft,
    exponents,
    fold,
    from_json,
    leaf_from_axes,
    make_rules,
    mean_field,
    mup,
    ntk,
    shift,
    standard,
    to_absolute,
    to_json,
    to_relative,
    with_depth,
)

FAMILIES = ("sgd", "adam", "adafactor", "muon")
NUMBERS = ("init_std", "multiplier", "learning_rate", "epsilon", "weight_decay", "gradient_norm")
ALPHAS = (Fraction(1, 2), Fraction(1))
M_N, M_L, BASE = 4, 3, 16


def network(m=M_N, deep=M_L, stacked=False):
    """A pre-norm residual network of which one branch is kept: norm gain, two layers with biases."""
    n, common = m * BASE, {"width": Fraction(m), "base_width": BASE}
    shapes = {
        "embedding": ((50, n), (50, BASE), (0,), (False, True), None, False),
        "pre-LN": ((n,), (BASE,), (), (True,), deep, False),
        "hidden": ((n, n), (BASE, BASE), (0,), (True, True), deep, False),
        "hidden bias": ((n,), (BASE,), (), (True,), deep, False),
        "last": ((n, n), (BASE, BASE), (0,), (True, True), deep, True),
        "last bias": ((n,), (BASE,), (), (True,), deep, True),
        "final LN": ((n,), (BASE,), (), (True,), None, False),
        "unembedding": ((n, 50), (BASE, 50), (0,), (True, False), None, False),
    }

    def leaf(name, shape, base, contracted, growing, depth, ends):
        shared = (0,) if stacked and depth is not None else ()
        lead = (5,) * len(shared)
        return leaf_from_axes(
            name,
            lead + shape,
            lead + base,
            contracted=[axis + len(lead) for axis in contracted],
            growing=(False,) * len(lead) + growing,
            shared=shared,
            depth=None if depth is None else Fraction(depth),
            ends_branch=ends,
            **common,
        )

    return {name: leaf(name, *facts) for name, facts in shapes.items()}


# Table 1 of arXiv 2505.01618, typed from the paper: (field, parameters) -> SP, muP, alpha; N = m_N, L = m_L,
# a = alpha. Initial variances are relative to the base width's. "Pre-LN" and biases start from constants.
INSIDE = ("pre-LN", "hidden", "hidden bias", "last", "last bias")
OUTSIDE = ("embedding", "final LN", "unembedding")
TABLE_1 = [
    ("init_std", ("embedding",), "1", "1", "1"),
    ("learning_rate", ("embedding",), "1", "1", "1"),
    ("learning_rate", ("pre-LN",), "1", "1", "L**(a-1)"),
    ("init_std", ("hidden", "last"), "1", "N**-1", "N**-1"),
    ("learning_rate", ("hidden", "last"), "1", "N**-1", "N**-1 * L**(a-1)"),
    ("learning_rate", ("hidden bias", "last bias"), "1", "1", "L**(a-1)"),
    ("weight_decay", ("hidden", "last"), "1", "N", "N"),
    ("weight_decay", ("embedding", "unembedding"), "1", "1", "1"),
    ("multiplier", ("last", "last bias"), "1", "1", "L**-a"),
    ("multiplier", ("embedding", "pre-LN", "hidden", "hidden bias", "final LN"), "1", "1", "1"),
    ("learning_rate", ("final LN",), "1", "1", "1"),
    ("init_std", ("unembedding",), "1", "1", "1"),
    ("learning_rate", ("unembedding",), "1", "1", "1"),
    ("multiplier", ("unembedding",), "1", "N**-1", "N**-1"),
    ("epsilon", INSIDE, "1", "N**-1", "N**-1 * L**-a"),
    ("epsilon", OUTSIDE, "1", "N**-1", "N**-1"),
]
# The paper's SP keeps one initial variance at every width; ours draws 1/fan_in, as muP's columns do.
SP_AS_PRINTED = dataclasses.replace(standard(), init=exponents(0, 0, 0))


@pytest.mark.parametrize(
    ("column", "alpha", "parametrization"),
    [
        (2, 0, SP_AS_PRINTED),
        (3, 0, mup(table=8)),
        (4, 0.5, depth_mup()),
        (4, 1, completep()),
        (4, 1, with_depth(mup(table=8), 1)),
    ],
    ids=["SP", "muP", "alpha 1/2", "CompleteP", "with_depth"],
)
def test_completep_s_table_cell_by_cell(column, alpha, parametrization):
    """Every cell of Table 1 at m_N = 4, m_L = 3, with AdamW's decay in the convention of the paper."""
    rules = make_rules(network(), parametrization, "adam", weight_decay="undone")
    base = make_rules(network(m=1), parametrization, "adam")
    for row in TABLE_1:
        expected = eval(row[column], {"N": float(M_N), "L": float(M_L), "a": alpha})  # noqa: S307
        for name in row[1]:
            found = getattr(rules, row[0])[name]
            if row[0] == "init_std":
                found = (found / base.init_std[name]) ** 2
            assert found == pytest.approx(expected, rel=1e-12), (row, name)
    for name in ("hidden", "last"):  # eta lambda per step
        removed = rules.learning_rate[name] * rules.weight_decay[name]
        assert removed == pytest.approx(M_L ** (alpha - 1 if column == 4 else 0), rel=1e-12)


def test_no_rate_of_completep_depends_on_depth():
    """At alpha = 1 only the branches' multiplier and epsilon are new over muP."""
    deep, shallow = (make_rules(network(deep=depth), completep(), "adam") for depth in (M_L, 1))
    assert deep.learning_rate == shallow.learning_rate
    assert deep.init_std == shallow.init_std
    assert deep.weight_decay == shallow.weight_decay


@pytest.mark.parametrize("decay", ["coupled", "undone", "independent"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("alpha", ["1/2", "3/4", "1"])
def test_decay_removes_the_share_that_an_update_changes(alpha, family, decay):
    """Where the rate multiplies it, D = r k falls as m_L^(alpha - 1); alone it is constant."""
    rule = with_depth(mup(table=8), alpha)
    deep, shallow = (make_rules(network(deep=d), rule, family, weight_decay=decay) for d in (M_L, 1))
    for name in ("hidden", "last"):
        rate = deep.learning_rate[name] / shallow.learning_rate[name] if decay != "independent" else 1
        share = rate * deep.weight_decay[name] / shallow.weight_decay[name]
        expected = 1 if decay == "independent" else M_L ** (float(Fraction(alpha)) - 1)
        assert share == pytest.approx(expected, rel=1e-12)


# Depth exponents of 2309.16620, 2310.02244 and 2505.01618: alpha -> rate of (Adam, SGD) in powers of m_L.
RATES = {"1/2": ("-1/2", "0"), "1": ("0", "1"), "3/4": ("-1/4", "1/2")}


@pytest.mark.parametrize("alpha", RATES)
def test_the_rates_of_the_papers(alpha):
    """Adam m_L^(alpha-1), SGD m_L^(2 alpha-1): Depth-muP's eta/sqrt(L) and eta, CompleteP's eta and eta L."""
    rule, gamma = with_depth(mup(), alpha), 1 - Fraction(alpha)
    adam, sgd = (-Fraction(text) for text in RATES[alpha])
    assert rule.rate("adam").depth.learning_rate == adam == gamma  # alpha + gamma = 1: the stable line
    assert rule.rate("muon").depth.learning_rate == adam
    assert rule.rate("sgd").depth.learning_rate == sgd
    assert {row.depth.epsilon for row in rule.rates} == {Fraction(alpha)}


def test_the_table_of_bordelon_et_al_in_both_forms():
    """arXiv 2309.16620 with weights N(0, 1) in N = 64 and L = 9 themselves, and with weights N(0, 1/N)."""
    n, blocks, gamma0 = M_N * BASE, 9, 0.5
    leaves = network(deep=blocks)  # base depth 1
    ntp = {family: make_rules(leaves, ntk(unit_variance=True), *how) for family, *how in (
        ("sgd", "sgd"), ("adam", "adam", "full"))}  # fmt: skip
    assert ntp["sgd"].multiplier["last"] == pytest.approx(n**-0.5)
    assert ntp["sgd"].multiplier["unembedding"] == pytest.approx(n**-0.5)
    assert ntp["sgd"].learning_rate["last"] == 1
    assert ntp["adam"].learning_rate["last"] == pytest.approx(n**-0.5)
    for parametrization, deep in ((dmft(gamma0=gamma0), 1), (with_depth(dmft(gamma0=gamma0), "1/2"), blocks)):
        sgd, adam = (make_rules(leaves, parametrization, family) for family in ("sgd", "adam"))
        assert sgd.init_std["last"] == sgd.init_std["unembedding"] == 1
        assert sgd.multiplier["last"] == pytest.approx((deep * n) ** -0.5)
        assert sgd.multiplier["unembedding"] == pytest.approx(1 / (gamma0 * n))
        assert sgd.learning_rate["last"] == pytest.approx(gamma0**2 * n)
        assert adam.learning_rate["last"] == pytest.approx(gamma0 * (n * deep) ** -0.5)
    fan_in = make_rules(leaves, to_absolute(depth_mup(table=3), BASE), "adam")
    assert fan_in.init_std["last"] == pytest.approx(n**-0.5)
    assert fan_in.multiplier["last"] == pytest.approx(blocks**-0.5)
    assert fan_in.learning_rate["last"] == pytest.approx(BASE / (n * blocks**0.5))


@given(alpha=st.fractions(0, 2, max_denominator=12), family=st.sampled_from(FAMILIES))
def test_the_table_is_the_derivation(alpha, family):
    """From the desiderata: each branch moves the stream by 1/L per step, epsilon follows the gradient."""
    rule = with_depth(mup(), alpha)
    assert rule.rate(family).depth == derive_depth(alpha, family)
    slopes = depth_slopes(rule, family)
    assert slopes.own_change == -1
    assert slopes.stream_change == 0
    assert slopes.gradient == -alpha
    assert slopes.weight_change == slopes.laziness == alpha - 1


@pytest.mark.parametrize(
    ("alpha", "expected"),
    # stream, branches, stream_change, own_change, branch_change, laziness; typed from the sheets
    [("1/2", "0 0 0 -1 -1/2 -1/2"), ("1", "0 -1/2 0 -1 -1 0")],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_slopes_of_the_papers(alpha, expected, family):
    """Per-block change L^-1/2 for depth-muP and 1/L for CompleteP; only the latter is not lazy."""
    slopes = depth_slopes(with_depth(mup(), alpha), family)
    found = (slopes.stream, slopes.branches, slopes.stream_change, slopes.own_change, slopes.branch_change)
    assert [*found, slopes.laziness] == [Fraction(text) for text in expected.split()]
    assert depth_slopes(with_depth(mup(), alpha), family, branch_depth=1).laziness is None


def test_without_a_rule_of_depth_everything_grows():
    """muP alone: the stream like L^1/2, its change per Adam step like L; laziness knows no alpha (a trap)."""
    slopes = depth_slopes(mup(), "adam")
    assert (slopes.stream, slopes.stream_change, slopes.own_change, slopes.laziness) == (
        Fraction(1, 2),
        1,
        0,
        0,
    )
    unscaled = dataclasses.replace(mup(), branch=Fraction(1, 2))
    assert depth_slopes(unscaled, "adam").laziness == 0
    assert depth_slopes(unscaled, "adam").stream_change == Fraction(1, 2)
    assert depth_slopes(mup(), "sgd", final_norm=True).stream_change == Fraction(1, 2)


PARAMETRIZATIONS = {
    "standard": standard(),
    "ntk": ntk(),
    "mean_field": mean_field(),
    **{f"mup{table}": mup(table=table) for table in (3, 8, 9)},
}


@pytest.mark.parametrize("decay", ["coupled", "undone", "independent"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", PARAMETRIZATIONS)
def test_at_the_base_shape_every_number_is_that_of_sp(name, family, decay):
    """m_N = m_L = 1: factors are exactly 1 and stds exactly SP's, gradient_norm included, for any alpha."""
    sp = make_rules(network(1, 1), standard(), "sgd")
    for alpha in (0, *ALPHAS):
        rule = with_depth(PARAMETRIZATIONS[name], alpha)
        rules = make_rules(network(1, 1), rule, family, weight_decay=decay)
        assert rules.init_std == sp.init_std
        for field in NUMBERS[1:]:
            assert set(jax.tree.leaves(getattr(rules, field))) == {1.0}, field


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", PARAMETRIZATIONS)
def test_conversions_keep_the_depth(name, family):
    """Absolute and relative form give the same numbers; a shift keeps alpha and every power of m_L."""
    rule = with_depth(PARAMETRIZATIONS[name], "3/4")
    absolute = to_absolute(rule, BASE)
    assert (absolute.branch, absolute.rate(family).depth) == (rule.branch, rule.rate(family).depth)
    want = make_rules(network(), rule, family)
    for form in (absolute, to_relative(absolute, BASE)):
        for field in NUMBERS:
            found = getattr(make_rules(network(), form, family), field)
            assert found == pytest.approx(getattr(want, field), rel=1e-12), field
    moved = shift(rule, exponents("1/2", "-1/4", 1), family)
    assert moved.branch == rule.branch
    deep, flat = (make_rules(network(deep=d), moved, family, "full") for d in (M_L, 1))
    deep0, flat0 = (make_rules(network(deep=d), rule, family, "full") for d in (M_L, 1))
    for field in NUMBERS:
        for leaf in INSIDE:
            if getattr(flat0, field)[leaf]:
                powers = [getattr(a, field)[leaf] / getattr(b, field)[leaf] for a, b in (
                    (deep, flat), (deep0, flat0))]  # fmt: skip
                assert powers[0] == pytest.approx(powers[1], rel=1e-12), (field, leaf)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("decay", ["coupled", "undone", "independent", "sqrt_width"])
def test_folding_moves_the_branches_multiplier_into_the_weight(family, decay):
    """Effective weight and update, epsilon relative to the gradient and what decay removes stay the same."""
    rules = make_rules(network(), completep(table=9), family, weight_decay=decay)
    folded, power = fold(rules), {"sgd": 2, "adam": 1, "adafactor": 0, "muon": 1}[family]
    for name, mu in rules.multiplier.items():
        assert folded.multiplier[name] == 1
        assert folded.init_std[name] == pytest.approx(rules.init_std[name] * mu)
        assert folded.learning_rate[name] == pytest.approx(rules.learning_rate[name] * mu**power)
        assert folded.epsilon[name] == pytest.approx(rules.epsilon[name] / mu)
        before, after = (r.weight_decay[name] for r in (rules, folded))
        if decay != "independent":
            before, after = before * rules.learning_rate[name], after * folded.learning_rate[name]
        assert after == pytest.approx(before)


def test_the_gradient_s_norm_counts_every_branch_alike():
    """L branches with gradients of L^-alpha, stacked or not, add up to what the base depth has."""
    for alpha in ALPHAS:
        rule = with_depth(mup(), alpha)
        for stacked in (False, True):
            norm = make_rules(network(1, M_L, stacked), rule, "sgd").gradient_norm
            sizes = {"hidden": M_L**-alpha, "last": M_L**-alpha, "embedding": 1.0}
            for name, size in sizes.items():
                together = M_L if name in INSIDE else 1  # squares of so many branches for one of the base's
                assert together * (norm[name] * size) ** 2 == pytest.approx(1), name


def test_adafactor_s_smallest_scale_follows_the_raw_weight():
    """A branch's last layer starts as large as ever, whatever its multiplier; folded, as large as that."""
    for depth in (1, M_L):
        rules = make_rules(network(1, depth), completep(), "adafactor")
        assert set(parameter_scale(rules).values()) == {1.0}
    assert parameter_scale(fold(rules)) == pytest.approx(rules.multiplier)


@pytest.mark.parametrize("stacked", [False, True])
def test_a_file_of_rules_keeps_the_depth(stacked):
    """Exact round trip of branches, ends, stacks, contracted axes and depth exponents."""
    rules = make_rules(network(stacked=stacked), depth_mup(), "muon", weight_decay="undone")
    like = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape), network(stacked=stacked), is_leaf=lambda x: hasattr(x, "role")
    )
    assert from_json(to_json(rules), like) == rules


def test_the_table_shows_the_depth():
    """Parameters in branches and at their end are marked, and the ratio of depths is named."""
    lines = describe(make_rules(network(), completep(), "adam")).splitlines()
    marks = {line[:13].strip(): line[13:].split()[0] for line in lines[1:9]}
    assert marks == {
        "embedding": "input", "pre-LN": "input+", "hidden": "hidden+", "hidden bias": "input+",
        "last": "hidden>", "last bias": "input>", "final LN": "input", "unembedding": "output",
    }  # fmt: skip
    assert lines[-1].startswith("depth 3 x base; + in a residual branch, > in its last layer: multiplied by")
    assert "no rule of depth" in describe(make_rules(network(), mup(), "adam"))
    assert "depth" not in describe(make_rules({"w": network()["embedding"]}, mup(), "adam"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: with_depth(completep(), 1), "has the depth rule alpha = 1 already"),
        (lambda: with_depth(with_depth(mup(), 0), 1), "already"),
        (lambda: with_depth(mup(), -1), "number of at least 0.*got -1"),
        (lambda: with_depth(mup(), "deep"), "got 'deep'"),
        (lambda: derive_depth(float("nan"), "adam"), "got nan"),
        (lambda: derive_depth(1, "lion"), "optimizer must be one of sgd, adam, adafactor, muon; got 'lion'"),
        (lambda: depth_slopes(mup(), branch_depth=3), "branch_depth must be 1 or 2; got 3"),
        (lambda: depth_slopes(mup(), "lamb"), "got optimizer 'lamb'"),
        (lambda: completep(table=4), "got table=4"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(call, message):
    """One sentence each."""
    with pytest.raises(ValueError, match=message):
        call()
