"""Deep linear networks where solvers fail: extremes, degenerate data, divergence; and finite networks."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from widelimit import dmft, models
from widelimit.compare import finite_ensemble, richardson

BASE = {"activation": "identity", "steps": 30, "learning_rate": 0.1, "depth": 3}
IDENTITY = models.ACTIVATIONS["identity"]
X = np.random.default_rng(3).standard_normal((4, 6))


def solve(**settings):
    """The solution of a linear problem."""
    return dmft.linear(dmft.Problem(**{**BASE, **settings}))


def test_only_linear_networks_are_taken():
    """Another activation is refused with the solvers that take it; the identity may come as a function."""
    with pytest.raises(
        ValueError, match="activation=\"identity\"; got 'tanh'. Use dmft.two_layer or dmft.mlp"
    ):
        solve(targets=[1.0], kernel=[[1.0]], activation="tanh")
    named, given = (solve(targets=[1.0], kernel=[[1.0]], activation=phi) for phi in ("identity", IDENTITY))
    np.testing.assert_array_equal(named.predictions.values, given.predictions.values)


@pytest.mark.parametrize("gamma0", [0.0, 1.0])
@pytest.mark.parametrize("kind", [dmft.Problem, dmft.ResidualProblem])
def test_a_rate_beyond_stability_is_said(gamma0, kind):
    """Twice the rate 2 / lambda_max of the first tangent kernel diverges: an error that names the step."""
    settings = {**BASE, "steps": 200, "targets": [1.0], "kernel": [[1.0]], "gamma0": gamma0}
    stable = 2 / dmft.linear(kind(**{**settings, "steps": 1})).ntk.values[0, 0, 0]
    with pytest.raises(
        dmft.Diverged, match="blew up after step [0-9]+: take a smaller learning_rate"
    ) as error:
        dmft.linear(kind(**{**settings, "learning_rate": 2 * stable}))
    assert 1 <= error.value.step <= 200


def test_a_huge_gamma0_is_solved_or_said():
    """gamma0 = 100: the tangent kernel grows as gamma0^(2L/(L+1)), so rates shrink by as much to converge."""
    one = {"targets": [1.0], "kernel": [[1.0]], "gamma0": 100.0, "depth": 1}
    with pytest.raises(dmft.Diverged):
        solve(**one, learning_rate=0.4, steps=100)
    solution = solve(**one, learning_rate=1e-3, steps=300)
    np.testing.assert_allclose(solution.train.values[-1], 1.0, atol=1e-6)
    # H = G = sqrt(1 + gamma0^2 y^2) for the flow
    np.testing.assert_allclose(solution.ntk.values[-1, 0, 0], 2 * np.sqrt(1 + 1e4), rtol=0.15)


def test_a_tiny_gamma0_loses_no_digits():
    """gamma0 = 1e-7 is the lazy limit to 1e-12: nothing is divided by a small number that was rounded."""
    settings = {"targets": [1.0, -0.5, 0.3, 0.1], "inputs": X}
    tiny, lazy = solve(**settings, gamma0=1e-7), solve(**settings, gamma0=0.0)
    np.testing.assert_allclose(tiny.predictions.values, lazy.predictions.values, atol=1e-12)
    np.testing.assert_allclose(tiny.features.values, lazy.features.values, atol=1e-6)


def test_duplicates_are_one_sample_with_twice_the_weight():
    """A sample given twice is, in everything, a batch that holds its index twice."""
    y = np.array([1.0, -1.0])
    twice = solve(targets=y[[0, 0, 1]], inputs=X[[0, 0, 1]], steps=20)
    once = solve(targets=y, inputs=X[:2], steps=20, batches=np.tile([0, 0, 1], (20, 1)))
    np.testing.assert_allclose(twice.train.values[:, [0, 2]], once.train.values, atol=1e-13)
    np.testing.assert_array_equal(twice.train.values[:, 0], twice.train.values[:, 1])
    np.testing.assert_allclose(twice.features.values[:, :, ::2, :, ::2], once.features.values, atol=1e-12)


def test_contradictory_labels_meet_in_the_middle():
    """Two copies of a sample with labels 3 and 1 train to their mean, and the loss to half their variance."""
    solution = solve(targets=[3.0, 1.0], inputs=X[[0, 0]], steps=150, learning_rate=0.05)
    np.testing.assert_allclose(solution.train.values[-1], 2.0, atol=1e-6)
    np.testing.assert_allclose(solution.loss.values[-1], 0.5, atol=1e-6)


def test_one_step_of_one_sample_by_hand():
    """T = P = 1: f = eta Delta NTK_0 + O(gamma0^2): with L = 1 it is eta y (2 + ...), exactly
    f_1 = eta (H + G) y with H = G = K = 1, and H_1 = 1 + (eta gamma0 y)^2."""
    solution = solve(targets=[2.0], kernel=[[1.0]], steps=1, depth=1, gamma0=3.0, learning_rate=0.1)
    np.testing.assert_allclose(solution.train.values[:, 0], [0.0, 0.4], atol=1e-15)
    np.testing.assert_allclose(solution.features.values[0, 1, 0, 1, 0], 1 + 0.36, atol=1e-14)


def test_a_zero_input_is_harmless():
    """A sample of zeros stays at zero and takes nothing from the others."""
    with_zero = solve(targets=[1.0, 5.0], inputs=np.stack([X[0], np.zeros(6)]), steps=15)
    assert (with_zero.train.values[:, 1] == 0).all()


@pytest.mark.parametrize(
    ("solve_it", "settings"),
    [
        (dmft.linear, {"steps": 3000}),
        (dmft.lazy, {"steps": 3000, "weight_decay": 0.1}),
        (dmft.linear, {"steps": 3000, "gamma0": 0.0, "weight_decay": 0.1}),
    ],
)
def test_what_cannot_fit_is_refused_with_the_numbers(solve_it, settings):
    """Before anything is computed; what fits is within the bytes that are announced."""
    settings = {**BASE, "targets": np.ones(4), "inputs": X, **settings}
    for kind in (dmft.Problem, dmft.ResidualProblem):
        with pytest.raises(
            ValueError, match=r"take [0-9.]+ GB and memory allows 4.29: take fewer points or steps"
        ):
            solve_it(kind(**settings))
        small = kind(**{**settings, "steps": 5})
        needed = solve_it(small).diagnostics["bytes"]
        solve_it(small, memory=needed)
        with pytest.raises(ValueError, match="memory allows"):
            solve_it(small, memory=needed - 1)


def trained(problem, width, keys):
    """Predictions [seeds, T + 1, points, C] of finite networks under the real optimizer's recursion."""
    config = problem.network(width)
    rules = models.rules(config, "sgd")
    kind = models.MLP if isinstance(config, models.MLPConfig) else models.ResidualMLP
    network, x = kind(config), jnp.asarray(problem.all_inputs, jnp.float32)
    rates = rules.learning_rate

    def one(key):
        start = models.initialise(key, rules)

        def outputs(params):
            return network.apply({"params": params, "multipliers": rules.multiplier}, x)

        first = outputs(start)

        def step(state, now):
            params, buffer = state
            rate, share = now

            def push(at):  # its gradient is that of the weighed loss
                f = outputs(at) - first
                error = jax.lax.stop_gradient(problem.errors(f[: problem.samples]))
                return -jnp.sum(share[:, None] * error * f[: problem.samples])

            gradient = jax.grad(push)(params)
            buffer = jax.tree.map(lambda v, g: problem.momentum * v + g, buffer, gradient)
            shrink = 1 - rate * problem.weight_decay
            params = jax.tree.map(lambda w, r, v: shrink * w - rate * r * v, params, rates, buffer)
            return (params, buffer), outputs(params) - first

        rate = jnp.broadcast_to(jnp.asarray(problem.learning_rate, jnp.float32), (problem.steps,))
        zero = jax.tree.map(jnp.zeros_like, start)
        shares = jnp.asarray(problem.shares(), jnp.float32)
        _, path = jax.lax.scan(step, (start, zero), (rate, shares))
        return jnp.concatenate([jnp.zeros_like(path[:1]), path])

    return np.asarray(jax.jit(lambda keys: jax.lax.map(one, keys))(keys), np.float64)


@pytest.mark.parametrize("kind", [dmft.Problem, dmft.ResidualProblem])
def test_finite_networks_run_the_real_optimizer(kind):
    """Momentum, weight decay, batches and two outputs together: networks under the real recursion, their mean
    over seeds extrapolated to infinite width (2 f(512) - f(256): the bias is of order 1/N), are the theory's
    within four standard errors at every time, point and output, and not the lazy limit's."""
    rng = np.random.default_rng(7)
    problem = kind(
        targets=rng.standard_normal((3, 2)),
        inputs=X[:3],
        test_inputs=X[3:],
        steps=12,
        learning_rate=0.25 if kind is dmft.Problem else 0.15,
        depth=2,
        activation="identity",
        gamma0=1.5,
        momentum=0.5,
        weight_decay=0.2,
        batches=rng.integers(0, 3, (12, 2)),
    )
    half, full = (trained(problem, n, jax.random.split(jax.random.key(n), 48)) for n in (256, 512))
    mean = 2 * full.mean(0) - half.mean(0)
    error = np.sqrt((4 * full.var(0, ddof=1) + half.var(0, ddof=1)) / 48)[1:]
    theory, lazy = (solve(problem).predictions.values for solve in (dmft.linear, dmft.lazy))
    assert np.abs((mean - theory)[1:] / error).max() < 4
    assert np.abs((mean - lazy)[1:] / error).max() > 10


@pytest.mark.slow
@pytest.mark.parametrize("kind", [dmft.Problem, dmft.ResidualProblem])
def test_two_time_kernels_of_networks(kind):
    """Phi and G of every layer between all times, with momentum, weight decay, batches and two outputs, are
    those of networks extrapolated to infinite width: z-scores are like standard normal ones, while the lazy
    limit is 20 standard errors away."""
    rng = np.random.default_rng(11)
    problem = kind(
        targets=rng.standard_normal((2, 2)),
        inputs=X[:2],
        test_inputs=X[2:3],
        steps=6,
        learning_rate=0.1 if kind is dmft.Problem else 0.06,
        depth=2,
        activation="identity",
        gamma0=1.5,
        momentum=0.5,
        weight_decay=0.2,
        batches=rng.integers(0, 2, (6, 2)),
    )
    networks = finite_ensemble(problem, [128, 256, 512], [800, 600, 400], two_time=True)
    limit, solution = richardson(networks, order=2), dmft.linear(problem)
    lazy = dmft.linear(dataclasses.replace(problem, gamma0=0.0))
    for name in ("features", "gradients", "ntk"):
        found, theory = getattr(limit, name), getattr(solution, name)
        values, stderr = found.values, found.stderr
        if name == "gradients":  # which are the same for all samples
            values, stderr = values[:, :, 0, :, :, 0], stderr[:, :, 0, :, :, 0]
        assert values.shape == theory.values.shape, name
        stderr = np.where(stderr > 0, stderr, np.inf)
        z, moved = (values - theory.values) / stderr, (values - getattr(lazy, name).values) / stderr
        assert np.abs(z).max() < 4.5 and np.sqrt(np.mean(z**2)) < 1.5, name
        assert np.abs(moved).max() > 20, name
