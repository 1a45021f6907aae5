"""Laziness: zero for linear models, closed forms, and the rates at which widening makes a network lazy."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.kernels.spectra.problem import jacobian_kernel
from widelimit import models, scaling
from widelimit.kernels.spectra import Laziness, alignment, cka_gap, laziness, relative_change

X = jax.random.normal(jax.random.key(0), (8, 4))
Y = jnp.sin(X[:, :1]) + X[:, 1:2] * X[:, 2:3] / 2


def test_linear_models_are_exactly_lazy():
    """Linear in the parameters, however nonlinear in x: nothing moves but the parameters, up to rounding."""

    def features(params, x):
        return jnp.tanh(3 * x) @ params["w"] + params["b"][None]

    start = {"w": jnp.ones((4, 2)), "b": jnp.zeros(2)}
    end = {"w": jax.random.normal(jax.random.key(1), (4, 2)), "b": jnp.ones(2)}
    found = laziness(features, start, end, X, targets=jnp.concatenate([Y, -Y], axis=1))
    assert (
        found.linearisation_gap < 1e-6 and found.kernel_change == found.cka_gap == found.alignment_change == 0
    )
    assert found.kernel_growth == 1 and found.verdict == "lazy" and found.samples == 8
    np.testing.assert_allclose(
        found.parameter_motion, np.sqrt(float(jnp.sum((end["w"] - 1) ** 2) + 2) / 8), rtol=1e-6
    )


def test_float64_sees_the_smallest_change():
    """A change d = 1e-6 in a cubic: gap d, to the rounding eps / (3 d^2) = 7e-5 of f_T - f_lin = 3 d^2 f."""
    with jax.enable_x64(True):
        x, start, end = jnp.array([[1.0], [2.0]]), jnp.ones(()), jnp.array(1 + 1e-6)
    found = laziness(lambda p, x: (x * p) ** 3, start, end, x)
    np.testing.assert_allclose(found.linearisation_gap, 1e-6, rtol=2e-4)
    np.testing.assert_allclose(found.kernel_change, 4e-6, rtol=1e-5)


def test_a_quadratic_model_in_closed_form():
    """f = (w x)^2 for one weight w: 1 -> 1 + d: gap d / (2 + d), kernel times (1 + d)^2, motion d."""
    for d in (1e-2, 0.3, -0.5):
        x = jnp.array([[1.0], [2.0], [-3.0]])
        found = laziness(lambda p, x: (x * p) ** 2, jnp.ones(()), jnp.array(1.0 + d), x)
        np.testing.assert_allclose(
            found.linearisation_gap, abs(d) / (2 + d), rtol=2e-3
        )  # float32 over change d
        np.testing.assert_allclose(found.kernel_growth, (1 + d) ** 2, rtol=1e-5)
        np.testing.assert_allclose(found.kernel_change, abs((1 + d) ** 2 - 1), rtol=1e-4)
        np.testing.assert_allclose(found.parameter_motion, abs(d), rtol=1e-4)
        assert found.cka_gap < 1e-12


def test_a_product_of_two_layers_in_closed_form():
    """f = u v x, (u, v) = (1, 1) -> (1 + a, 1 + b): f_lin = 1 + a + b misses a b; kernel (u^2 + v^2) x x'."""
    a, b, x = 0.4, 0.25, jnp.array([[1.0], [2.0]])
    ends = [{"u": jnp.array(u), "v": jnp.array(v)} for u, v in ((1.0, 1.0), (1 + a, 1 + b))]
    found = laziness(lambda p, x: p["u"] * p["v"] * x, *ends, x)
    np.testing.assert_allclose(found.linearisation_gap, a * b / ((1 + a) * (1 + b) - 1), rtol=1e-5)
    np.testing.assert_allclose(found.kernel_growth, ((1 + a) ** 2 + (1 + b) ** 2) / 2, rtol=1e-5)
    np.testing.assert_allclose(found.tangent_share, 1 - found.linearisation_gap**2)
    rated = laziness(lambda p, x: p["u"] * p["v"] * x, *ends, x, rates={"u": 1.0, "v": 3.0})
    # Theta = rate_u v^2 + rate_v u^2
    np.testing.assert_allclose(rated.kernel_growth, ((1 + b) ** 2 + 3 * (1 + a) ** 2) / 4, rtol=1e-5)


def test_any_flax_model_and_every_form():
    """A plain Flax model: the measures are those of the kernels that its dense Jacobians give."""
    model = nn.Sequential([nn.Dense(6), nn.tanh, nn.Dense(2)])
    start, end = (jax.jit(model.init)(jax.random.key(seed), X)["params"] for seed in (1, 2))
    goal = jnp.concatenate([Y, -2 * Y], axis=1)

    def apply(params, x):
        return model.apply({"params": params}, x)

    with jax.numpy_rank_promotion("allow"):
        found = {
            form: laziness(apply, start, end, X, targets=goal, form=form) for form in ("trace", "full", "sum")
        }
        whole = [jacobian_kernel(apply, params, X).reshape(8, 2, 8, 2) for params in (start, end)]
    kernels = {
        "trace": [np.einsum("iojo->ij", kernel) for kernel in whole],
        "full": [kernel.reshape(16, 16) for kernel in whole],
        "sum": [np.einsum("iojp->ij", kernel) / 2 for kernel in whole],
    }
    for form, (before, after) in kernels.items():
        np.testing.assert_allclose(found[form].kernel_change, relative_change(after, before), rtol=1e-5)
        np.testing.assert_allclose(found[form].cka_gap, cka_gap(after, before), rtol=1e-4)
        y = goal.ravel() if form == "full" else goal
        ends = [alignment(kernel, y, centred=True) for kernel in (before, after)]
        np.testing.assert_allclose([found[form].alignment_start, found[form].alignment_end], ends, rtol=1e-4)
        np.testing.assert_allclose(found[form].alignment_change, ends[1] - ends[0], atol=1e-5)


WIDTHS, SEEDS, STEPS, RATE = (64, 128, 256, 512), 48, 12, 0.25


def trained(parametrization, width):
    """Trains SEEDS tanh networks by full-batch gradient descent on half the mean square to time 3."""
    config = models.MLPConfig(
        inputs=4,
        outputs=1,
        width=width,
        base_width=1,
        parametrization=parametrization,
        depth=2,
        bias=False,
    )
    rules, model = models.rules(config, "sgd"), models.MLP(config)

    def apply(params, x):
        return model.apply({"params": params, "multipliers": rules.multiplier}, x)

    def loss(params):
        return jnp.mean((apply(params, X) - Y) ** 2) / 2

    def step(params, _):
        moved = jax.tree.map(
            lambda p, g, r: p - RATE * r * g, params, jax.grad(loss)(params), rules.learning_rate
        )
        return moved, None

    @functools.partial(jax.jit)
    @jax.vmap
    def run(key):
        start = models.initialise(key, rules)
        return start, jax.lax.scan(step, start, None, length=STEPS)[0]

    starts, ends = run(jax.random.split(jax.random.key(3), SEEDS))
    pick = [jax.tree.map(lambda leaf, s=seed: leaf[s], (starts, ends)) for seed in range(SEEDS)]
    return [laziness(apply, start, end, X, rates=rules, targets=Y) for start, end in pick]


@pytest.mark.slow
def test_widening_makes_ntk_lazy_and_leaves_mup_rich():
    """Under NTK gap and kernel change fall as 1/n at fixed time, 1 - CKA as 1/n^2; under muP they stay.

    Tolerances as in the sheet (6.1): 0.15 on a slope, from the root mean square over 48 seeds; twice that for
    the square. The base width is 1: muP is then mean field, as far from lazy as it gets.
    """
    slopes, verdicts = {}, {}
    for name, parametrization in (("ntk", scaling.ntk()), ("mup", scaling.mup())):
        cells = [trained(parametrization, width) for width in WIDTHS]
        for measure in ("linearisation_gap", "kernel_change", "cka_gap"):
            sizes = [np.sqrt(np.mean([getattr(cell, measure) ** 2 for cell in row])) for row in cells]
            slopes[name, measure] = np.polyfit(np.log(WIDTHS[1:]), np.log(sizes[1:]), 1)[0]
        verdicts[name] = {cell.verdict for cell in cells[-1]}
    for measure, ntk_slope, tolerance in (
        ("linearisation_gap", -1, 0.15),
        ("kernel_change", -1, 0.15),
        ("cka_gap", -2, 0.3),
    ):
        assert abs(slopes["ntk", measure] - ntk_slope) < tolerance
        assert abs(slopes["mup", measure]) < tolerance
    assert verdicts["ntk"] == {"lazy"} and "lazy" not in verdicts["mup"]


def test_description_says_what_the_numbers_say():
    """The sentence follows the thresholds; the alignment row appears with targets only."""
    lazy = Laziness(0.05, 0.1, 0.001, 1.0, 0.02, None, None, 7)
    rich = Laziness(0.6, 0.3, 0.2, 2.0, 0.5, 0.25, 0.75, 7)
    assert (
        "\nLazy: on these 7 samples" in lazy.describe()
        and "99.8% of the function's change" in lazy.describe()
    )
    assert "alignment" not in lazy.describe() and lazy.alignment_change is None
    assert "\nRich: " in rich.describe() and "0.250 -> 0.750" in rich.describe() and "+0.5" in rich.describe()
    assert Laziness(0.05, 0.51, 0.0, 1.0, 0.1, None, None, 7).verdict == "rich"
    assert Laziness(0.05, 0.11, 0.0, 1.0, 0.1, None, None, 7).verdict == "between"


W = {"w": jnp.ones((4, 2))}
MOVED = {"w": 2 * jnp.ones((4, 2))}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((W, W), "outputs are the same"),
        ((W, {"v": W["w"]}), "their trees or shapes differ"),
        ((W, {"w": jnp.ones((4, 3))}), "their trees or shapes differ"),
        ((W, {"w": jnp.full((4, 2), jnp.nan)}), "parameters .* must be finite"),
        (({"w": jnp.zeros((4, 2))}, W), "must not all be zero"),
        ((W, {"w": jnp.full((4, 2), 3e38)}), "outputs .* must be finite"),
    ],
)
def test_bad_input_is_one_sentence(arguments, sentence):
    """What has no laziness says why."""
    with pytest.raises(ValueError, match=sentence):
        laziness(lambda p, x: 10 * x @ p["w"], *arguments, X)


def test_bad_settings_are_one_sentence():
    """One sample has no centred kernel; an unknown form is named."""
    with pytest.raises(ValueError, match="two samples or more"):
        laziness(lambda p, x: x @ p["w"], W, MOVED, X[:1])
    with pytest.raises(ValueError, match="'full' or 'sum'; got 'self'"):
        laziness(lambda p, x: x @ p["w"], W, MOVED, X, form="self")
