"""The proportional limit against reference values, other solvers, exact identities and trained networks."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from widelimit.compare import finite_proportional
from widelimit.dmft import Diverged, Problem, ProportionalProblem, ResidualProblem, linear, proportional
from widelimit.models import MLP, ResidualMLP, rules

INF = math.inf


def solve(**settings):
    """A solved problem, by keyword."""
    return proportional(ProportionalProblem(**settings))


def losses(**settings):
    """The loss of fresh inputs at every time."""
    return solve(**settings).loss.values


T15 = (
    ({"nu": 1.0}, "2.00000 .71890 .35468 .10137 .00798 .00074"),
    ({"nu": 0.25, "g": 0.5}, "17.00000 2.4027 1.2273 .79841 .67932 .63512"),
)


@pytest.mark.parametrize(("settings", "expected"), T15)
def test_the_reference_values_of_one_hidden_layer(settings, expected):
    """T15: the sheet's losses at t = 0, 5, 10, 20, 40, 59, in all digits that it gives."""
    found = losses(**settings, steps=59, eta0=0.05)[[0, 5, 10, 20, 40, 59]]
    for value, text in zip(found, expected.split(), strict=True):
        assert abs(value - float(text)) <= 0.5000001 * 10.0 ** -len(text.split(".")[1])


@pytest.mark.parametrize(("nu", "expected"), [(4.0, 0.06338), (16.0, 0.02574), (INF, 0.01602)])
def test_the_reference_values_of_two_hidden_layers(nu, expected):
    """T15: the loss after ten steps, in the digits that the sheet gives."""
    assert abs(losses(nu=nu, depth=2, steps=10, eta0=0.05)[-1] - expected) <= 0.5e-5


@pytest.mark.parametrize(
    ("name", "expected"), [("mup", (0.129, 0.171, 0.188, 0.171)), ("ntk", (0.129, 0.207, 0.227, 0.25))]
)
def test_the_best_rates_of_the_reference(name, expected):
    """T16: the best rate of five steps at nu = 1, 4, 16, 64, on the sheet's grid of ratio 1.1."""
    grid = 0.129 * 1.1 ** np.arange(-2, 9)
    for nu, best in zip((1.0, 4.0, 16.0, 64.0), expected, strict=True):
        g = 1.0 if name == "mup" else nu**-0.5
        found = [losses(nu=nu, g=g, depth=3, steps=5, eta0=rate)[-1] for rate in grid]
        assert abs(math.log(grid[int(np.argmin(found))] / best)) < math.log(1.1)


def test_the_loss_starts_where_random_weights_put_it():
    """Exactly 1 + 1 / (g^2 nu), under any sampling; 2 in the NTK parametrization whatever the width."""
    for sampling in ({}, {"data": 0.5}, {"batch": 2.0}):
        for nu, g, depth in ((0.3, 0.7, 1), (5.0, 2.0, 3), (8.0, 8**-0.5, 2)):
            found = solve(nu=nu, g=g, depth=depth, steps=1, eta0=0.1, **sampling)
            np.testing.assert_allclose(found.loss.values[0], 1 + 1 / (g**2 * nu), rtol=1e-14)
            np.testing.assert_allclose(found.train_loss.values[0], found.loss.values[0], rtol=1e-14)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_limit_of_width_alone_is_the_deep_linear_solver(depth):
    """nu = infinity is one sample with K = 1: losses, kernels and response to 1e-10; the step varies."""
    rate, g, steps = np.linspace(0.02, 0.12, 30), 1.5, 30
    found = solve(nu=INF, g=g, depth=depth, steps=steps, eta0=rate)
    reference = linear(
        Problem(
            targets=[1.0], kernel=[[1.0]], steps=steps, learning_rate=rate, depth=depth, gamma0=g,
            activation="identity",
        )
    )  # fmt: skip
    error = 1.0 - reference.train.values[:, 0]
    np.testing.assert_allclose(found.loss.values, error**2, atol=1e-10)
    np.testing.assert_allclose(found.errors.values, np.outer(error, error), atol=1e-10)
    np.testing.assert_allclose(np.squeeze(reference.gradients.values), np.squeeze(found.gradients.values),
                               atol=1e-10)  # fmt: skip
    # Here a field is driven by the error where there it is driven by the input: h(t) Delta(t).
    features = reference.features.values[:, :, 0, :, 0] * np.outer(error, error)
    np.testing.assert_allclose(found.features.values, features, atol=1e-10)


@pytest.mark.parametrize("depth", [1, 3, 5])
def test_residual_branches_in_the_limit_of_width_alone(depth):
    """The same for a residual network with branches scaled 1/sqrt(depth): losses, H and G of the stream."""
    rate, g, steps = np.linspace(0.02, 0.08, 20), 1.3, 20
    settings = {"steps": steps, "depth": depth}
    found = solve(nu=INF, g=g, eta0=rate, branch_scale=depth**-0.5, **settings)
    one = {"targets": [1.0], "kernel": [[1.0]], "activation": "identity", "gamma0": g}
    reference = linear(ResidualProblem(learning_rate=rate, **one, **settings))
    error = 1.0 - reference.train.values[:, 0]
    np.testing.assert_allclose(found.loss.values, error**2, atol=1e-12)
    np.testing.assert_allclose(found.gradients.values, np.squeeze(reference.gradients.values), atol=1e-12)
    features = reference.features.values[:, :, 0, :, 0] * np.outer(error, error)
    np.testing.assert_allclose(found.features.values, features, atol=1e-12)
    assert found.features.first_layer == found.gradients.first_layer == 0


def test_a_branch_that_adds_nothing_leaves_one_hidden_layer():
    """branch_scale -> 0: the network of one hidden layer, with a correction of second order."""
    settings = {"nu": 0.7, "g": 1.4, "steps": 15, "eta0": 0.05, "batch": 2.0}
    plain = losses(**settings)
    gaps = [np.abs(losses(**settings, depth=3, branch_scale=scale) - plain)[-1] for scale in (1e-2, 1e-3)]
    np.testing.assert_allclose(gaps[0] / gaps[1], 100.0, rtol=1e-2)


def test_finite_width_is_a_correction_of_first_order():
    """loss(nu) - loss(infinity) falls like 1 / nu."""
    settings = {"depth": 2, "steps": 15, "eta0": 0.05}
    gaps = [np.abs(losses(nu=nu, **settings) - losses(nu=INF, **settings))[-1] for nu in (1e4, 1e5, 1e6)]
    np.testing.assert_allclose(np.diff(np.log10(gaps)), -1.0, atol=1e-3)


@pytest.mark.parametrize("batch", [1.0, 3.0, INF])
def test_the_ntk_parametrization_becomes_lazy(batch):
    """nu = 1e10 at g = nu^-1/2: a frozen kernel L + 1, and with fresh batches its noise k^2 / batch."""
    nu, depth, rate, steps = 1e10, 2, 0.11, 8
    k = (depth + 1) * rate
    expected = 2 * ((1 - k) ** 2 + k**2 / batch) ** np.arange(steps + 1)
    found = losses(nu=nu, g=nu**-0.5, depth=depth, steps=steps, eta0=rate, batch=batch)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


SAMPLINGS = [{}, {"data": 1.5}, {"batch": 2.0}, {"data": 1.5, "branch_scale": 0.7}]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_what_a_step_does_is_not_seen_before_it(sampling):
    """Causality, bitwise: another rate at step 6 leaves all numbers up to time 6 as they were."""
    rate = np.full(12, 0.05)
    other = rate.copy()
    other[6] = 0.08
    one, two = (solve(nu=2.0, depth=2, steps=12, eta0=each, **sampling) for each in (rate, other))
    names = ("errors", "features", "gradients", "error_response", "feature_response", "gradient_response")
    for name in names:
        first, second = (getattr(each, name).values for each in (one, two))
        np.testing.assert_array_equal(first[..., :7, :7], second[..., :7, :7])
        assert (first[..., 7, :8] != second[..., 7, :8]).any()


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_kernels_are_covariances(sampling):
    """Positive semi-definite up to rounding; responses are causal."""
    found = solve(nu=0.5, depth=3, g=2.0, steps=25, eta0=0.02, **sampling)
    for kernel in (found.errors.values, *found.features.values, *found.gradients.values):
        np.testing.assert_array_equal(kernel, kernel.T)
        values = np.linalg.eigvalsh(kernel)
        assert values[0] > -1e-12 * values[-1]
    for response in (found.error_response.values, *found.feature_response.values):
        assert np.abs(np.triu(response, 1)).max() == 0
    assert not np.triu(found.gradient_response.values).any()


def pairings(found):
    """``<g^l(t) h^l(t)>`` of every layer, from kernels and responses: [L, T + 1]."""
    problem, steps = found.problem, found.problem.steps + 1
    drive = problem.g * np.append(problem.rates, 0.0)
    below, result = found.errors.values, []
    for layer in range(problem.depth):
        r_h, r_g = found.feature_response.values[layer], found.gradient_response.values[layer]
        last = layer + 1 == problem.depth
        above = np.ones((steps, steps)) if last else found.gradients.values[layer + 1]
        response = np.zeros((steps, steps)) if last else found.gradient_response.values[layer + 1]
        d = response + np.tril(above, -1) * drive
        x, y = np.eye(steps) + r_h @ d, np.eye(steps) + d @ r_h
        result.append(np.diagonal(y @ above @ r_h.T + r_g @ below @ x.T))
        below = found.features.values[layer]
    return np.array(result)


def test_every_layer_pairs_to_the_same_output():
    """``<g^l h^l> = g <(beta - v) v>`` at equal times in every layer: what the network says of its error."""
    found = solve(nu=1.5, depth=3, g=1.3, steps=30, eta0=0.05)
    start = -found.problem.g * math.sqrt(found.problem.nu) * found.error_response.values.sum(axis=1)
    expected = found.problem.g * (start - found.loss.values)
    for pairing in pairings(found):
        np.testing.assert_allclose(pairing, expected, atol=1e-12)


def test_more_and_more_data_are_the_population():
    """data, batch -> infinity: first order in 1 / data, and exact at infinity."""
    settings = {"nu": 2.0, "depth": 2, "steps": 12, "eta0": 0.05}
    population = losses(**settings)[-1]
    for name in ("data", "batch"):
        gaps = [losses(**settings, **{name: ratio})[-1] - population for ratio in (1e4, 1e5)]
        assert gaps[0] > 0
        np.testing.assert_allclose(gaps[0] / gaps[1], 10.0, rtol=1e-2)


@pytest.mark.parametrize(("rate", "first", "last"), [(3.0, 1, 10), (1e200, 1, 2)])
def test_a_rate_beyond_stability_is_said(rate, first, last):
    """Never NaN: an exception that names the step."""
    with pytest.raises(Diverged, match="take a smaller") as caught:
        solve(nu=1.0, depth=2, steps=30, eta0=rate)
    assert first <= caught.value.step <= last


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"nu": 0.0}, "nu must be a positive number"),
        ({"nu": math.nan}, "nu must be a positive number"),
        ({"g": 0.0}, "g must be a positive, finite number"),
        ({"g": INF}, "g must be a positive, finite number"),
        ({"steps": 0}, "steps must be a whole number"),
        ({"depth": 1.5}, "depth must be a whole number"),
        ({"eta0": -0.1}, "eta0 must be positive"),
        ({"eta0": [0.1, 0.2]}, "one for each of 5 steps"),
        ({"data": 1.0, "batch": 1.0}, "not both"),
        ({"branch_scale": 0.0}, "branch_scale must be None or a positive number"),
    ],
)
def test_what_cannot_be_solved_is_refused(wrong, message):
    """A sentence that names the field."""
    with pytest.raises(ValueError, match=message):
        ProportionalProblem(**({"nu": 1.0, "steps": 5, "eta0": 0.1} | wrong))


def test_a_network_needs_whole_counts():
    """Sizes that a finite network cannot have are refused, as is an infinite width."""
    with pytest.raises(ValueError, match="nu times size must be whole"):
        ProportionalProblem(nu=1.3, steps=1, eta0=0.1).network(5)
    with pytest.raises(ValueError, match="batch times size must be whole"):
        ProportionalProblem(nu=1.0, steps=1, eta0=0.1, batch=0.5).counts(7)
    with pytest.raises(ValueError, match="needs a finite nu"):
        ProportionalProblem(nu=INF, steps=1, eta0=0.1).network(5)


@pytest.mark.parametrize(
    "sampling", [{}, {"data": 0.5}, {"batch": 1.5}, {"branch_scale": 0.6}], ids=lambda s: next(iter(s), "all")
)
def test_the_trained_network_is_the_model_of_the_problem(sampling):
    """Gradients by JAX of the problem's own model, at its own rates, give the same losses to 1e-12."""
    size, depth, seed = 6, 3, 3
    problem = ProportionalProblem(nu=2.0, depth=depth, g=1.7, steps=7, eta0=0.03, **sampling)
    found = finite_proportional([problem], size=size, seeds=[seed])
    width, data, batch = problem.counts(size)
    rng = np.random.default_rng(seed)
    shapes = [(width, size), *[(width, width)] * (problem.layers - 1), (width, 1)]
    weights = [rng.standard_normal(shape) for shape in shapes]
    weights = [*[weight.T for weight in weights[:-1]], weights[-1]]
    fixed = rng.standard_normal((data, size)) if data else math.sqrt(size) * np.eye(size)
    config = problem.network(size)
    rule, model = rules(config, "sgd"), (ResidualMLP if "branch_scale" in sampling else MLP)(config)
    with jax.enable_x64(True):

        def loss(params, x):
            f = model.apply({"params": params, "multipliers": rule.multiplier}, x)[:, 0]
            return jnp.mean((f - x.sum(axis=1) / math.sqrt(size)) ** 2) / 2

        step = jax.jit(jax.grad(loss))
        params = {f"Dense_{i}": {"kernel": jnp.asarray(weight)} for i, weight in enumerate(weights)}
        every = jnp.asarray(math.sqrt(size) * np.eye(size))  # the population's gradient: x x^T averages to Id
        for t in range(problem.steps + 1):
            np.testing.assert_allclose(2 * loss(params, every), found.loss[0, 0, t], rtol=1e-12)
            x = jnp.asarray(rng.standard_normal((batch, size)) if batch else fixed)
            if data:
                np.testing.assert_allclose(2 * loss(params, x), found.train_loss[0, 0, t], rtol=1e-12)
            params = jax.tree.map(
                lambda w, rate, grad: w - 0.03 * size * rate * grad,
                params,
                rule.learning_rate,
                step(params, x),
            )


def test_networks_trained_side_by_side_do_not_see_each_other():
    """Problems of one call, and each by itself, give the same losses; other seeds give others."""
    problems = [ProportionalProblem(nu=1.0, depth=2, steps=4, eta0=rate, g=g)
                for rate, g in ((0.02, 1.0), (0.3, 1.0), (0.05, 2.0))]  # fmt: skip
    both = finite_proportional(problems, size=12, seeds=[0, 5]).loss
    for i, problem in enumerate(problems):
        np.testing.assert_allclose(finite_proportional([problem], size=12, seeds=[5]).loss[0, 0], both[i, 1])
    assert (np.abs(both[:, 0] - both[:, 1]) > 1e-3 * both[:, 0]).all()
    with pytest.raises(ValueError, match="they differ in depth"):
        finite_proportional([problems[0], ProportionalProblem(nu=1.0, steps=4, eta0=0.1)], size=4, seeds=[0])


CELLS = (
    {"nu": 1.0, "depth": 1, "eta0": 0.05},
    {"nu": 2.0, "depth": 2, "eta0": 0.05, "g": 0.7},
    {"nu": 2.0, "depth": 2, "eta0": 0.05, "data": 2.0},
    {"nu": 1.0, "depth": 1, "eta0": 0.05, "data": 0.5},
    {"nu": 1.0, "depth": 3, "eta0": 0.03, "g": 0.7, "batch": 1.0},
    {"nu": 0.5, "depth": 1, "eta0": 0.15, "batch": 0.5},
    {"nu": 1.0, "depth": 2, "eta0": 0.05, "branch_scale": 0.7},
    {"nu": 2.0, "depth": 3, "eta0": 0.04, "branch_scale": 0.5, "g": 0.8, "batch": 2.0},
)


def z_scores(settings, size, seeds, other=None):
    """z at t = 1, 3, 6, 10 of the loss and the training loss, extrapolated from sizes D / 2 and D.

    The bias of a finite network is of order 1 / D; 2 loss(D) - loss(D / 2) is without it.
    """
    problem = ProportionalProblem(**settings, steps=10)
    limit = proportional(problem if other is None else ProportionalProblem(**other, steps=10))
    places, result = [1, 3, 6, 10], []
    ends = [
        finite_proportional([problem], size=one, seeds=np.arange(seeds) + 10**6 * i)
        for i, one in enumerate((size // 2, size))
    ]
    for name in ("loss", "train_loss"):
        half, full = (getattr(end, name)[0][:, places] for end in ends)
        error = np.sqrt((4 * full.var(axis=0, ddof=1) + half.var(axis=0, ddof=1)) / seeds)
        difference = 2 * full.mean(axis=0) - half.mean(axis=0) - getattr(limit, name).values[places]
        result.append(difference / error)
    return np.array(result)


@pytest.mark.parametrize("settings", CELLS)
def test_networks_agree_within_their_errors(settings):
    """Population, fixed set (both losses) and fresh batches: |z| < 4, extrapolated from D = 40 and 80."""
    assert np.abs(z_scores(settings, 80, 250)).max() < 4


def test_the_comparison_would_see_a_wrong_theory():
    """The population's theory, or another width's, is many errors away from networks on fresh batches."""
    settings = CELLS[5]
    assert np.abs(z_scores(settings, 80, 250, other=settings | {"batch": INF})).max() > 8
    assert np.abs(z_scores(settings, 80, 250, other=settings | {"nu": 1.5})).max() > 8
    residual = CELLS[6]
    assert np.abs(z_scores(residual, 80, 250, other=residual | {"branch_scale": 0.35})).max() > 8


@pytest.mark.slow
@pytest.mark.parametrize("settings", CELLS)
def test_networks_agree_within_their_errors_in_full(settings):
    """The same at D = 160 with 1000 networks of each size."""
    assert np.abs(z_scores(settings, 160, 1000)).max() < 4


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "expected"), T15)
def test_the_reference_networks(settings, expected):
    """T15's networks, D = 400, 60 seeds in place of 6: within 4 errors and 1% for finite size."""
    problem = ProportionalProblem(**settings, steps=59, eta0=0.05)
    found = finite_proportional([problem], size=400, seeds=range(60)).loss[0]
    error = found.std(axis=0, ddof=1) / math.sqrt(60)
    limit = proportional(problem).loss.values
    assert (np.abs(found.mean(axis=0) - limit) < 4 * error + 0.01 * limit).all()
