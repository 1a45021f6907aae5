"""Rules: the published tables as numbers, neutrality, conversions, folding, printing, JSON."""

import dataclasses
import json
import math
import re
from fractions import Fraction

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from widelimit.scaling import (
    Role,
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
    role_of,
    shift,
    standard,
    to_absolute,
    to_json,
    to_relative,
)

PARAMETRIZATIONS = {
    "standard": standard(),
    "ntk": ntk(),
    "mean_field": mean_field(),
    **{f"mup{table}": mup(table=table) for table in (3, 8, 9)},
}
NUMBERS = ("init_std", "multiplier", "learning_rate", "epsilon", "weight_decay", "gradient_norm")
FAMILIES = ("sgd", "adam", "adafactor", "muon")


def network(m=4, base=16, inputs=5, outputs=3, scale=1.0):
    """Leaves of a two-hidden-layer network whose hidden layers are twice as wide as the model."""
    n, n0, common = m * base, base, {"width": Fraction(m), "base_width": base}
    shapes = {
        "in": ((inputs, n), (inputs, n0), (0,), (False, True)),
        "bias": ((n,), (n0,), (), (True,)),
        "up": ((n, 2 * n), (n0, 2 * n0), (0,), (True, True)),
        "down": ((2 * n, n), (2 * n0, n0), (0,), (True, True)),
        "out": ((n, outputs), (n0, outputs), (0,), (True, False)),
        "out_bias": ((outputs,), (outputs,), (), (False,)),
    }
    return {
        name: leaf_from_axes(name, shape, base_shape, contracted=axes, growing=growing, **common)
        for name, (shape, base_shape, axes, growing) in shapes.items()
    }


def test_roles():
    assert {name: leaf.role for name, leaf in network().items()} == {
        "in": Role.INPUT,
        "bias": Role.INPUT,
        "up": Role.HIDDEN,
        "down": Role.HIDDEN,
        "out": Role.OUTPUT,
        "out_bias": Role.SCALAR,
    }
    assert network(m=1)["in"].role is Role.INPUT


@pytest.mark.parametrize("table", [3, 8, 9])
def test_rules_are_the_published_table_typed_from_the_paper(table):
    """TP5 Tables 3, 8 and 9 in terms of the ratio m = 4, with init in units of the base layer's std."""
    m = 4.0
    init, multiplier, sgd, adam = {
        3: ((1, m**-0.5, 1 / m), (1, 1, 1), (m, 1, 1 / m), (1, 1 / m, 1 / m)),
        8: ((1, m**-0.5, 1), (1, 1, 1 / m), (m, 1, m), (1, 1 / m, 1)),
        9: ((m**-0.5, m**-0.5, m**-0.5), (m**0.5, 1, m**-0.5), (1, 1, 1), (m**-0.5, 1 / m, m**-0.5)),
    }[table]
    base_std = (5**-0.5, 16**-0.5, 16**-0.5)
    for family, rates in (("sgd", sgd), ("adam", adam)):
        rules = make_rules(network(), mup(table=table), family)
        for index, name in enumerate(("in", "up", "out")):
            assert rules.init_std[name] == pytest.approx(init[index] * base_std[index])
            assert rules.multiplier[name] == pytest.approx(multiplier[index])
            assert rules.learning_rate[name] == pytest.approx(rates[index])
        assert rules.init_std["bias"] == 0
        assert rules.multiplier["bias"] == pytest.approx(multiplier[0])
        assert rules.learning_rate["bias"] == pytest.approx(rates[0])
        assert rules.learning_rate["out_bias"] == rules.multiplier["out_bias"] == 1


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", PARAMETRIZATIONS)
@pytest.mark.parametrize("decay", ["coupled", "undone", "independent"])
def test_every_rule_is_exactly_neutral_at_the_base_width(name, family, decay):
    rules = make_rules(network(m=1), PARAMETRIZATIONS[name], family, weight_decay=decay)
    for field in NUMBERS[1:]:
        assert set(jax.tree.leaves(getattr(rules, field))) == {1.0}, field
    for leaf, std in zip(rules.leaves, jax.tree.leaves(rules.init_std), strict=True):
        assert std == (0.0 if leaf.path.endswith("bias") else 1 / math.sqrt(leaf.fan_in))


def test_plain_sp_changes_nothing_but_the_initial_std():
    rules = make_rules(network(m=8), standard(), "adam")
    assert rules.alignment == "global"
    for field in ("multiplier", "learning_rate", "epsilon"):
        assert set(jax.tree.leaves(getattr(rules, field))) == {1.0}
    assert rules.init_std["up"] == 1 / math.sqrt(128)


@given(
    m=st.integers(1, 64),
    theta=st.tuples(*[st.fractions(-2, 2, max_denominator=4)] * 3),
    family=st.sampled_from(FAMILIES),
    name=st.sampled_from([*PARAMETRIZATIONS]),
)
def test_effective_quantities_do_not_depend_on_the_form(m, theta, family, name):
    """Effective weight and update, Adam's ratio g/eps and the clip's norm are invariants."""
    parametrization = PARAMETRIZATIONS[name]
    first = make_rules(network(m), parametrization, family, "full")
    second = make_rules(network(m), shift(parametrization, exponents(*theta), family), family, "full")
    power = {"sgd": 2, "adam": 1, "adafactor": 0, "muon": 1}[family]

    def invariants(rules):
        def leafwise(std, mult, rate, epsilon, norm):
            return (std * mult, rate * mult**power, epsilon / mult, norm * mult)

        fields = (rules.init_std, rules.multiplier, rules.learning_rate, rules.epsilon, rules.gradient_norm)
        return jax.tree.leaves(jax.tree.map(leafwise, *fields))

    assert invariants(first) == pytest.approx(invariants(second), rel=1e-12)


@pytest.mark.parametrize("name", PARAMETRIZATIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_relative_and_absolute_form_convert_into_each_other(name, family):
    relative = PARAMETRIZATIONS[name]
    absolute = to_absolute(relative, base_width=16)
    assert absolute.form == "absolute"
    for m in (1, 4):
        have, want = (make_rules(network(m), p, family) for p in (absolute, relative))
        for field in NUMBERS:
            assert jax.tree.leaves(getattr(have, field)) == pytest.approx(
                jax.tree.leaves(getattr(want, field))
            ), field
    back = to_relative(absolute, base_width=16)
    assert back == relative or make_rules(network(), back, family).init_std == pytest.approx(
        make_rules(network(), relative, family).init_std
    )


@pytest.mark.parametrize("family", ["sgd", "adam"])
@pytest.mark.parametrize("m", [1, 4])
def test_dmft_converts_to_relative_form_and_back(m, family):
    """The same numbers in n as in m = n/n0, finite fan-in factors of the unit-variance form included."""
    relative = to_relative(dmft(gamma0=0.5), base_width=16)
    want = make_rules(network(m), dmft(gamma0=0.5), family)
    for parametrization in (relative, to_absolute(relative, base_width=16)):
        have = make_rules(network(m), parametrization, family)
        for field in NUMBERS:
            assert jax.tree.leaves(getattr(have, field)) == pytest.approx(
                jax.tree.leaves(getattr(want, field))
            )


@pytest.mark.parametrize("family", FAMILIES)
def test_sqrt_width_decay_is_the_same_in_every_equivalent_form(family):
    """What it removes per step, r wd_l, must not depend on the table; vectors are not decayed."""
    removed = []
    for table in (3, 8, 9):
        rules = make_rules(network(), mup(table=table), family, weight_decay="sqrt_width")
        removed.append(
            jax.tree.map(lambda rate, decay: rate * decay, rules.learning_rate, rules.weight_decay)
        )
    assert removed[1] == pytest.approx(removed[0])
    assert removed[2] == pytest.approx(removed[0])


def test_dmft_form_is_the_theory_s_definition():
    """f = w.phi(h)/(gamma0 N), h = W phi / sqrt(N), h1 = W0 x / sqrt(D); SGD rate eta gamma0^2 N."""
    gamma0, n, inputs = 0.5, 64, 5
    leaves = {name: leaf for name, leaf in network(4, 16, inputs).items() if name in ("in", "out")}
    leaves["hidden"] = leaf_from_axes(
        "hidden", (n, n), (16, 16), contracted=(0,), width=Fraction(4), base_width=16
    )
    rules = make_rules(leaves, dmft(gamma0=gamma0), "sgd")
    assert rules.init_std == pytest.approx({"in": 1.0, "hidden": 1.0, "out": 1.0})
    assert rules.multiplier == pytest.approx({"in": inputs**-0.5, "hidden": n**-0.5, "out": 1 / (gamma0 * n)})
    assert rules.learning_rate == pytest.approx(dict.fromkeys(leaves, gamma0**2 * n))


def test_gamma0_scales_the_readout_and_the_rate():
    one, four = (make_rules(network(), mup(gamma0=g), "sgd") for g in (1.0, 4.0))
    assert four.multiplier["out"] == one.multiplier["out"] / 4
    assert four.multiplier["up"] == one.multiplier["up"]
    assert four.learning_rate["up"] == one.learning_rate["up"] * 16
    adam_one, adam_four = (make_rules(network(), mup(gamma0=g), "adam") for g in (1.0, 4.0))
    assert adam_four.learning_rate["up"] == adam_one.learning_rate["up"] * 4
    assert adam_four.epsilon["up"] == adam_one.epsilon["up"] / 4


def test_weight_decay_conventions():
    """mup: hidden rate lr/m and decay wd*m; sqrt width: hidden decay grows as sqrt(m), vectors have none."""
    leaves = network(m=9)
    assert make_rules(leaves, mup(table=8), "adam", weight_decay="undone").weight_decay[
        "up"
    ] == pytest.approx(9)
    sgd = make_rules(leaves, mup(table=8), "sgd", weight_decay="undone").weight_decay
    assert (sgd["in"], sgd["up"], sgd["out"]) == pytest.approx((1 / 9, 1, 1 / 9))
    root = make_rules(leaves, mup(table=3), "adam", weight_decay="sqrt_width").weight_decay
    assert (root["in"], root["bias"], root["up"], root["out"]) == pytest.approx((0, 0, 3, 3))
    assert set(jax.tree.leaves(make_rules(leaves, mup(), weight_decay="independent").weight_decay)) == {1.0}


@pytest.mark.parametrize("decay", ["coupled", "undone", "independent", "sqrt_width"])
@pytest.mark.parametrize("family", FAMILIES)
def test_folding_table_8_and_9_gives_table_3(family, decay):
    want = make_rules(network(), mup(table=3), family)
    for table in (8, 9):
        rules = make_rules(network(), mup(table=table), family, weight_decay=decay)
        folded = fold(rules)
        for field in ("init_std", "multiplier", "learning_rate", "epsilon", "gradient_norm"):
            assert getattr(folded, field) == pytest.approx(getattr(want, field)), field
        # What decay removes per step, lr r wd (or wd alone), must be what it was before folding.
        for name in folded.learning_rate:
            before, after = (
                (1, 1) if decay == "independent" else (rules.learning_rate[name], folded.learning_rate[name])
            )
            assert after * folded.weight_decay[name] == pytest.approx(before * rules.weight_decay[name])


def test_tied_tables_need_a_relative_form():
    """A lookup does not pass the multiplier in which an absolute form may keep what the rows lack."""
    absolute = to_absolute(mup(table=3), 16)
    for parametrization, optimizer in ((absolute, "adam"), (ntk(unit_variance=True), "sgd")):
        with pytest.raises(ValueError, match="in absolute form cannot serve with one weight"):
            make_rules(tied(), parametrization, optimizer)
    same = [make_rules(tied(), p, "adam").multiplier for p in (mup(table=8), to_absolute(mup(table=8), 16))]
    assert jax.tree.leaves(same[0]) == pytest.approx(jax.tree.leaves(same[1]))


def tied(m=4):
    return leaf_from_axes(
        "embed",
        (50, 16 * m),
        (50, 16),
        contracted=(0,),
        width=Fraction(m),
        base_width=16,
        growing=(False, True),
        tied=True,
    )


def test_tied_embeddings_have_one_form():
    for parametrization in (mup(table=8), mup(table=3)):
        rules = make_rules([tied()], parametrization, "adam")
        assert (rules.multiplier, rules.learning_rate, rules.epsilon) == ([0.25], [1.0], [0.25])
        with pytest.raises(ValueError, match=r"multiply the logits by it in the model's code"):
            fold(rules)
    # Table 8 gives embedding and readout the same SGD rate, too: fan_out = fan_in = n.
    assert make_rules([tied()], mup(table=8), "sgd").learning_rate == [4.0]
    for parametrization, alignment in ((mup(table=9), "full"), (standard(), "full"), (ntk(), "full")):
        with pytest.raises(ValueError, match="embedding and readout at once"):
            make_rules([tied()], parametrization, "adam", alignment)
    assert make_rules([tied()], standard(), "adam").multiplier == [1.0]


def test_gradient_norm_at_table_9_is_the_plain_norm():
    """Under Table 9 gradient norms are n^0 for every role, so the clip needs no correction."""
    norm = make_rules(network(m=16), mup(table=9), "sgd").gradient_norm
    assert {name: value for name, value in norm.items() if name != "out_bias"} == pytest.approx(
        dict.fromkeys(("in", "bias", "up", "down", "out"), 1.0)
    )


def test_table_shows_the_values_of_the_large_run():
    text = describe(
        make_rules(network(), mup(table=3), "adam"), learning_rate=0.01, epsilon=1e-8, weight_decay=0.1
    )
    row = next(line for line in text.splitlines() if line.startswith("up")).split()
    assert row[1:] == ["hidden", "64", "128", "0.125", "1", "0.0025", "2.5e-09", "0.1"]
    assert "width 64 = 4 x base 16" in text
    assert "x0.25" in describe(make_rules(network(), mup(table=3), "adam"))
    assert "* tied" in describe(make_rules([tied()], mup(), "adam"))
    with pytest.raises(ValueError, match="learning_rate must be at least 0"):
        describe(make_rules(network(), mup()), learning_rate=-1.0)


@pytest.mark.parametrize("parametrization", [mup(table=8, gamma0=0.3), dmft(), to_absolute(ntk(), 16)])
def test_json_round_trip_is_exact(parametrization):
    rules = make_rules(network(m=3), parametrization, "sgd", weight_decay="undone")
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, "float32"),
        network(m=3),
        is_leaf=lambda x: hasattr(x, "role"),
    )
    assert from_json(to_json(rules), like=like) == rules


@pytest.mark.parametrize(
    ("edit", "like", "message"),
    [
        (lambda text: text[: len(text) // 2], {}, "not JSON"),
        (lambda text: text.replace("widelimit rules 2", "something"), {}, "without that format field"),
        (lambda text: text, {"other": 0}, "is of another model: 'bias' is in the rules but not in the model"),
        (lambda text: text.replace('"epsilon"', '"eps"'), {}, "damaged"),
        (lambda text: text.replace('"width": "4"', '"width": "4/0"'), {}, "damaged"),
        (lambda text: text.replace('"role": "input"', '"role": "inner"'), {}, "'inner' is not a valid Role"),
        (lambda text: text.replace('"optimizer": "adam"', '"optimizer": "lamb"'), {}, "damaged.*'lamb'"),
        (
            lambda text: re.sub('"multiplier": [0-9.]+', '"multiplier": NaN', text),
            {},
            "of 'bias' must be a finite",
        ),
    ],
)
def test_a_wrong_rules_file_is_refused(edit, like, message):
    text = to_json(make_rules({"bias": network()["bias"]}, mup()))
    with pytest.raises(ValueError, match=message):
        from_json(edit(text), like=like or {"bias": 0})


def test_rules_file_of_another_width_is_refused():
    text = to_json(make_rules({"bias": network(4)["bias"]}, mup()))
    with pytest.raises(ValueError, match=r"has shape \(32,\), the rules are for \(64,\)"):
        from_json(text, like={"bias": jax.ShapeDtypeStruct((32,), "float32")})
    assert json.loads(text)["parameters"][0]["leaf"]["role"] == "input"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: make_rules({}, mup()), ValueError, "empty tree"),
        (lambda: make_rules({"w": 3.0}, mup()), TypeError, "pytree of Leaf; got float"),
        (lambda: make_rules(network(), mup(), "lion"), ValueError, "got optimizer 'lion'"),
        (lambda: make_rules(network(), mup(), "adam", "some"), ValueError, "got 'some'"),
        (lambda: make_rules(network(), mup(), weight_decay="l2"), ValueError, "must name a convention"),
        (lambda: to_absolute(mup(), 0), ValueError, "positive width; got 0"),
        (lambda: to_absolute(dmft(), 4), ValueError, "absolute form already"),
        (lambda: to_relative(mup(), 4), ValueError, "relative form already"),
        (lambda: role_of((True,), (1,)), ValueError, "contracted axes must lie"),
        (
            lambda: leaf_from_axes("w", (4,), (4, 4), contracted=(0,), width=Fraction(1), base_width=4),
            ValueError,
            "equal rank",
        ),
        (
            lambda: leaf_from_axes("w", (4,), (4,), contracted=(0,), width=Fraction(1), base_width=4),
            ValueError,
            "pass growing",
        ),
    ],
)
def test_bad_input_says_what_to_do(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_rules_pass_through_jit_as_one_pytree():
    """Numbers are data, the rest is static: two parametrizations of equal metadata would share a program."""
    rules = make_rules(network(), mup(), "adam")
    doubled = jax.jit(lambda tree: jax.tree.map(lambda number: 2 * number, tree))(rules)
    assert float(doubled.learning_rate["up"]) == 0.5
    assert doubled.leaves == rules.leaves
    assert dataclasses.replace(rules) == rules
