"""Rescaling a model's own initialisation: measured, told, folded, refused."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from widelimit.models.rescale import rescale
from widelimit.scaling import dmft, leaf_from_axes, make_rules, mup, standard

BASE, WIDTH, INPUTS, OUTPUTS = 16, 64, 6, 3
TOLD = {"embed": "fan_out", "hidden": "fan_in", "readout": "fan_in", "bias": "constant"}


def leaves(width=WIDTH, tied=False):
    common = {"width": Fraction(width, BASE), "base_width": BASE}
    rows = {
        "bias": ((width,), (BASE,), (), (True,)),
        "embed": ((INPUTS, width), (INPUTS, BASE), (0,), (False, True)),
        "hidden": ((width, width), (BASE, BASE), (0,), (True, True)),
        "readout": ((width, OUTPUTS), (BASE, OUTPUTS), (0,), (True, False)),
    }
    return {
        name: leaf_from_axes(
            name, shape, base, contracted=axes, growing=grows, tied=tied and name == "embed", **common
        )
        for name, (shape, base, axes, grows) in rows.items()
    }


def init(width, key):
    """Flax's default embedding (std 1/sqrt(width)), torch's uniform Linear, LeCun readout, zero bias."""
    keys = jax.random.split(key, 3)
    bound = width**-0.5
    return {
        "bias": jnp.zeros((width,)),
        "embed": jax.random.normal(keys[0], (INPUTS, width)) * width**-0.5,
        "hidden": jax.random.uniform(keys[1], (width, width), minval=-bound, maxval=bound),
        "readout": jax.random.normal(keys[2], (width, OUTPUTS)) * width**-0.5,
    }


def factors(params, rescaled):
    return {
        name: float(jnp.vdot(params[name], new) / jnp.vdot(params[name], params[name]))
        for name, new in rescaled.items()
        if name != "bias"
    }


@pytest.mark.parametrize("table", [3, 8, 9])
@pytest.mark.parametrize("told", [None, TOLD])
def test_initialisation_scales_as_the_parametrization_says(table, told):
    """The embedding shrinks by itself and must be enlarged by sqrt(m); the readout must shrink once more."""
    key = jax.random.key(0)
    params = init(WIDTH, key)
    rules = make_rules(leaves(), mup(table=table), "adam")
    new, folded = rescale(params, rules, init, key=key, initialisers=told)
    assert factors(params, new) == pytest.approx({"embed": 2.0, "hidden": 1.0, "readout": 0.5}, rel=1e-5)
    assert not np.any(new["bias"])
    assert set(jax.tree.leaves(folded.multiplier)) == {1.0}
    assert folded.learning_rate == pytest.approx(make_rules(leaves(), mup(table=3), "adam").learning_rate)


def test_nothing_changes_at_the_base_width_nor_under_sp():
    key = jax.random.key(1)
    params = init(BASE, key)
    new, _ = rescale(params, make_rules(leaves(BASE), mup(), "adam"), init, key=key)
    jax.tree.map(np.testing.assert_array_equal, new, params)
    params = init(WIDTH, key)
    new, _ = rescale(params, make_rules(leaves(), standard(), "adam"), init, key=key)
    # SP keeps the initialiser, except that an embedding whose std falls with width is no SP embedding.
    assert factors(params, new) == pytest.approx({"embed": 2.0, "hidden": 1.0, "readout": 1.0}, rel=1e-5)


def test_a_ratio_that_is_no_power_is_taken_as_measured():
    key = jax.random.key(2)

    def odd(width, key):
        return {"hidden": jax.random.normal(key, (width, width)) * (0.1 if width == BASE else 0.09)}

    rules = make_rules({"hidden": leaves()["hidden"]}, mup(), "adam")
    new, _ = rescale(odd(WIDTH, key), rules, odd, key=key, samples=16)
    ratio = float(jnp.std(new["hidden"])) / 0.1
    assert ratio == pytest.approx(0.5, abs=5 * 0.5 / np.sqrt(2 * 16 * BASE**2))


def normed(params):
    """The hidden weight is followed by a norm, the readout is not."""
    x = jnp.linspace(-1, 1, 4 * INPUTS).reshape(4, INPUTS)
    h = x @ params["embed"] + params["bias"][None]
    g = h @ params["hidden"]
    g = g / jnp.sqrt(jnp.mean(g**2, axis=-1, keepdims=True))
    return (h + g) @ params["readout"]


def test_a_weight_before_a_norm_is_refused_by_name():
    key = jax.random.key(3)
    params = init(WIDTH, key) | {"readout": jnp.zeros((WIDTH, OUTPUTS))}
    rules = make_rules(leaves(), mup(table=8), "adam")
    options = {"key": key, "initialisers": {"hidden": "constant", "readout": "fan_in"}, "apply": normed}
    with pytest.raises(ValueError, match="hidden is followed by a norm.*accept="):
        rescale(params, rules, init, **options)
    new, _ = rescale(params, rules, init, accept=["hidden"], **options)
    np.testing.assert_allclose(new["hidden"], 0.5 * params["hidden"], rtol=1e-6)


def started_at_random(width, key):
    return {"hidden": jnp.ones((width, width)) if width == BASE else jax.random.normal(key, (width, width))}


@pytest.mark.parametrize(
    ("rules", "options", "message"),
    [
        (make_rules(leaves(), dmft(), "sgd"), {}, "needs a relative parametrization"),
        (make_rules(leaves(tied=True), mup(table=8), "adam"), {}, "cannot be folded into it"),
        (
            make_rules(leaves(), mup(), "adam"),
            {"initialisers": {"hiden": "fan_in"}},
            "has the path 'hiden'",
        ),
        (make_rules(leaves(), mup(), "adam"), {"initialisers": {"hidden": "glorot"}}, "got 'glorot'"),
        (make_rules({"hidden": leaves()["hidden"]}, mup(), "adam"), {}, "got a model with 4"),
    ],
)
def test_bad_input_says_what_to_do(rules, options, message):
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=message):
        rescale(init(WIDTH, key), rules, init, key=key, **options)


def test_an_initialiser_that_is_constant_at_one_width_only_must_be_told():
    key = jax.random.key(0)
    rules = make_rules({"hidden": leaves()["hidden"]}, mup(), "adam")
    with pytest.raises(ValueError, match="constant at one width"):
        rescale(started_at_random(WIDTH, key), rules, started_at_random, key=key)
