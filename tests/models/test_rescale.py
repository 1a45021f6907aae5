"""Rescaling a model's own initialisation: measured, told, folded, refused."""

from fractions import Fraction

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from widelimit.models.rescale import rescale
from widelimit.scaling import dmft, leaf_from_axes, make_rules, mup, ntk, probe, standard

BASE, WIDTH, INPUTS, OUTPUTS = 16, 64, 24, 3
START = jax.random.key(7)
X = jnp.linspace(-1, 1, 4 * INPUTS).reshape(4, INPUTS)
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


def init(width, key=START):
    """Flax's default embedding (std 1/sqrt(width)), torch's uniform Linear, LeCun readout, zero bias."""
    keys = jax.random.split(key, 3)
    bound = width**-0.5
    return {
        "bias": jnp.zeros((width,)),
        "embed": jax.random.normal(keys[0], (INPUTS, width)) * width**-0.5,
        "hidden": jax.random.uniform(keys[1], (width, width), minval=-bound, maxval=bound),
        "readout": jax.random.normal(keys[2], (width, OUTPUTS)) * width**-0.5,
    }


def plain(width, params, x):
    return (
        jnp.tanh(jnp.tanh(x @ params["embed"] + params["bias"][None]) @ params["hidden"]) @ params["readout"]
    )


def product(width, params, x):
    return x.sum() * params["hidden"]


def normed(width, params, x):
    """The hidden weight is followed by a norm, the readout is not."""
    h = x @ params["embed"] + params["bias"][None]
    g = h @ params["hidden"]
    g = g / jnp.sqrt(jnp.mean(g**2, axis=-1, keepdims=True))
    return (h + g) @ params["readout"]


def factors(params, rescaled):
    return {
        name: float(jnp.vdot(params[name], new) / jnp.vdot(params[name], params[name]))
        for name, new in rescaled.items()
        if name != "bias"
    }


@pytest.mark.parametrize("table", [3, 8, 9])
@pytest.mark.parametrize("options", [{}, {"key": jax.random.key(1)}, {"initialisers": TOLD}])
def test_initialisation_scales_as_the_parametrization_says(table, options):
    """The embedding shrinks by itself and must be enlarged by sqrt(m); the readout must shrink once more."""
    params = init(WIDTH, jax.random.key(0))
    rules = make_rules(leaves(), mup(table=table), "adam")
    new, folded = rescale(params, rules, init, plain, X, **options)
    assert factors(params, new) == pytest.approx({"embed": 2.0, "hidden": 1.0, "readout": 0.5}, rel=1e-5)
    assert not np.any(new["bias"])
    assert set(jax.tree.leaves(folded.multiplier)) == {1.0}
    assert folded.learning_rate == pytest.approx(make_rules(leaves(), mup(table=3), "adam").learning_rate)


def test_nothing_changes_at_the_base_width_nor_under_sp():
    key = jax.random.key(1)
    params = init(BASE, key)
    new, _ = rescale(params, make_rules(leaves(BASE), mup(), "adam"), init, plain, X)
    jax.tree.map(np.testing.assert_array_equal, new, params)
    params = init(WIDTH, key)
    new, _ = rescale(params, make_rules(leaves(), standard(), "adam"), init, plain, X)
    # SP keeps the initialiser, except that an embedding whose std falls with width is no SP embedding.
    assert factors(params, new) == pytest.approx({"embed": 2.0, "hidden": 1.0, "readout": 1.0}, rel=1e-5)


def test_a_ratio_that_is_no_power_is_taken_as_measured():
    """So small a std is still no constant."""

    def odd(width, key=START):
        scale = 1e-8 if width == BASE else 0.9e-8
        return {"hidden": jax.random.normal(key, (width, width)) * scale}

    rules = make_rules({"hidden": leaves()["hidden"]}, mup(), "adam")
    new, _ = rescale(odd(WIDTH), rules, odd, product, X, key=jax.random.key(2), samples=16)
    ratio = float(jnp.std(new["hidden"])) / 1e-8
    assert ratio == pytest.approx(0.5, abs=5 * 0.5 / np.sqrt(2 * 16 * BASE**2))


def test_what_is_no_float_and_what_is_constant_stays():
    """Counters, keys, a constant other than zero or one."""

    def start(width):
        return {
            "constant": jnp.full((width,), 0.1, jnp.float32),
            "count": jnp.zeros((), jnp.uint32),
            "key": jax.random.key(0),
            "readout": init(width)["readout"],
        }

    def apply(width, params, x):
        return (x.sum() + params["constant"]) @ params["readout"] + jax.random.normal(params["key"])

    params = start(WIDTH)
    rules = make_rules(probe(start, apply, X, width=WIDTH, base_width=BASE), mup(), "adam")
    new, _ = rescale(params, rules, start, apply, X)
    assert {name for name in params if new[name] is params[name]} == {"constant", "count", "key"}


def test_a_weight_before_a_norm_is_refused_by_name():
    params = init(WIDTH) | {"readout": jnp.zeros((WIDTH, OUTPUTS))}
    rules = make_rules(leaves(), mup(table=8), "adam")
    told = {"initialisers": {"hidden": "constant", "readout": "fan_in"}}
    with pytest.raises(ValueError, match="hidden is followed by a norm.*accept="):
        rescale(params, rules, init, normed, X, **told)
    new, _ = rescale(params, rules, init, normed, X, accept=["hidden"], **told)
    np.testing.assert_allclose(new["hidden"], 0.5 * params["hidden"], rtol=1e-6)


class Attention(nn.Module):
    """A model with attention, whose temperature can be set."""

    width: int
    heads: int
    scale: float | None = None

    @nn.compact
    def __call__(self, x):
        factor = 1.0 if self.scale is None else self.scale * (self.width / self.heads) ** 0.5

        def attend(query, key, value, **options):
            return nn.dot_product_attention(query * factor, key, value, **options)

        attention = nn.MultiHeadDotProductAttention(self.heads, qkv_features=self.width, attention_fn=attend)
        return nn.Dense(OUTPUTS, name="readout")(attention(nn.Dense(self.width)(x)))


def attending(heads, scale=lambda width: None):
    """What probe and rescale are given, for a model with so many heads at each width."""
    make = lambda width: Attention(width, heads(width), scale(width))  # noqa: E731
    x = X[None]
    with jax.numpy_rank_promotion("allow"):  # models of other packages promote ranks
        start = lambda width: make(width).init(START, x)  # noqa: E731
        return start, lambda width, params, x: make(width).apply(params, x), x


def rescaled(given, parametrization, **options):
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        rules = make_rules(probe(*given, width=WIDTH, base_width=BASE), parametrization, "adam")
        return rescale(given[0](WIDTH), rules, *given, **options)


def test_the_temperature_of_attention_is_refused():
    """Heads of growing size want sqrt(d0)/d under muP, which no weight can take up; the user can."""
    message = (
        r"d = 16 entries, d0 = 4.*MultiHeadDotProductAttention_0.*d0\*\*0.5 / d \(here 0.125\).*'attention'"
    )
    given = attending(lambda width: 4)
    with pytest.raises(ValueError, match=message):
        rescaled(given, mup())
    right = attending(lambda width: 4, scale=lambda width: (BASE // 4) ** 0.5 / (width // 4))
    new, _ = rescaled(right, mup(), accept=["attention"])
    readout = [tree["params"]["readout"]["kernel"].std() for tree in (new, given[0](WIDTH))]
    assert float(readout[0] / readout[1]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("heads", "parametrization"),
    [(lambda width: width // 4, mup()), (lambda width: 4, standard()), (lambda width: 4, ntk())],
)
def test_attention_that_is_right_as_it_is(heads, parametrization):
    """More heads of one size, and parametrizations that want 1/sqrt(d)."""
    rescaled(attending(heads), parametrization)


def test_attention_at_the_base_width_is_as_it_is():
    given = attending(lambda width: 4)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        rules = make_rules(probe(*given, width=BASE, base_width=BASE), mup(), "adam")
        params = given[0](BASE)
        jax.tree.map(np.testing.assert_array_equal, rescale(params, rules, *given).params, params)


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
        (make_rules(leaves(4 * WIDTH), mup(), "adam"), {}, r"bias of shape \(256,\); got \(64,\)"),
    ],
)
def test_bad_input_says_what_to_do(rules, options, message):
    with pytest.raises(ValueError, match=message):
        rescale(init(WIDTH), rules, init, plain, X, **options)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_parameters_that_are_no_numbers_are_named(bad):
    """A std of NaN compares as no std at all, and would be taken for a constant."""
    rules, good = make_rules(leaves(), mup(), "adam"), init(WIDTH)
    broken = {**good, "hidden": good["hidden"].at[:2, 0].set(jnp.array([bad, -bad]))}
    with pytest.raises(ValueError, match="hidden must be finite to be rescaled; params holds"):
        rescale(broken, rules, init, plain, X)
    spoilt = lambda width: {**init(width), "hidden": init(width)["hidden"] * jnp.nan}  # noqa: E731
    with pytest.raises(ValueError, match=r"init\(base_width\) holds NaN"):
        rescale(good, rules, spoilt, plain, X)


def test_an_initialiser_that_is_constant_at_one_width_only_must_be_told():
    rules = make_rules({"hidden": leaves()["hidden"]}, mup(), "adam")
    params = {"hidden": jax.random.normal(START, (WIDTH, WIDTH))}
    with pytest.raises(ValueError, match="constant at one width"):
        rescale(params, rules, lambda width: {"hidden": jnp.ones((width, width))}, product, X)
