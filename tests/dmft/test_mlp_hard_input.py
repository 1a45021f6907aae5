"""What cannot be solved is said in a sentence; what is degenerate is solved all the same."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from widelimit import dmft
from widelimit.dmft.causal import noise

X = np.random.default_rng(5).standard_normal((6, 3))


def problem(**changes):
    """Two points, two hidden layers."""
    given = {"targets": [1.0, -1.0], "kernel": X[:, :2].T @ X[:, :2] / 6, "steps": 3, "learning_rate": 0.2}
    return dmft.Problem(**(given | {"depth": 2} | changes))


def test_gamma0_of_zero_is_the_lazy_limit():
    """Delegated, exactly."""
    found = dmft.mlp(problem(gamma0=0.0))
    assert found.solver == "lazy"
    assert np.array_equal(found.predictions.values, dmft.lazy(problem()).predictions.values)


@pytest.mark.slow
def test_kernels_move_as_gamma0_squared():
    """T6: for small gamma0 the features' kernel moves by O(gamma0^2), and the curve is the lazy one."""
    gammas = np.array([0.05, 0.1, 0.2])
    found = [
        dmft.mlp(problem(gamma0=gamma0, learning_rate=0.5), samples=1000, replicas=4, dtype="float64")
        for gamma0 in gammas
    ]
    moved = [np.abs(s.features.values[:, -1, :, -1] - s.features.values[:, 0, :, 0]).mean() for s in found]
    assert np.polyfit(np.log(gammas), np.log(moved), 1)[0] == pytest.approx(2, abs=0.05)
    lazy = dmft.lazy(problem(learning_rate=0.5)).predictions.values
    gap = found[0].predictions.values - lazy
    assert (np.abs(gap) < 5 * found[0].predictions.stderr + 1e-3).all()


def test_a_learning_rate_beyond_stability_is_said_with_its_step():
    """No NaN comes back: an exception that knows the step."""
    with pytest.raises(dmft.Diverged, match="after step .*smaller learning_rate") as caught:
        dmft.mlp(problem(learning_rate=300.0, steps=24, activation="relu"), samples=64, replicas=2)
    assert 0 < caught.value.step <= 24


def test_a_few_samples_that_carry_everything_are_said():
    """phi(h) = exp(3 h): a log-normal square, of which 1% of the samples carries nearly all."""
    p = problem(depth=1, activation=lambda h: jnp.exp(jnp.asarray(3.0, h.dtype) * h), learning_rate=1e-9)
    with pytest.raises(dmft.Diverged, match="1% of the samples"):
        dmft.mlp(p, samples=2000, replicas=2)


@pytest.mark.parametrize("response", ["stein", "pathwise"])
def test_duplicate_samples_and_contradictory_labels(response):
    """A singular kernel: duplicates are predicted alike, and contradictory labels meet in the middle."""
    x = X[:, [0, 0, 1]]
    p = problem(kernel=x.T @ x / 6, targets=[1.0, -1.0, 0.5], gamma0=1.5, steps=20, learning_rate=0.5)
    f = dmft.mlp(p, samples=400, replicas=4, response=response, response_samples=16).predictions.values
    assert np.abs(f[:, 0] - f[:, 1]).max() < 5e-3
    assert np.isfinite(f).all() and abs(f[-1, 0]) < 0.3 < f[-1, 2]


def test_one_point_one_step():
    """P = 1, T = 1: the shapes hold, and two times come back."""
    p = dmft.Problem(targets=[1.0], kernel=[[1.0]], steps=1, learning_rate=0.1, depth=2)
    found = dmft.mlp(p, samples=100, replicas=4, fields=3)
    assert found.predictions.values.shape == (2, 1) and found.features.values.shape == (2, 2, 1, 2, 1)
    assert found.fields["h"].axes == ("layer", "time", "sample", "draw")
    assert found.fields["z"].values.shape == (2, 2, 1, 3)


def test_says_whether_the_control_variate_was_used():
    """From 4 replicas on; with fewer predictions stay as they are, and diagnostics say so."""
    p = dmft.Problem(targets=[1.0], kernel=[[1.0]], steps=2, learning_rate=0.1)
    used = [dmft.mlp(p, samples=20, replicas=count).diagnostics["control_variate"] for count in (3, 4)]
    assert used == [False, True]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"samples": 3}, "samples must be even where they come in pairs; got 3"),
        ({"samples": 0}, "samples must be a whole number, 2 or more; got 0"),
        ({"replicas": 1}, "replicas must be a whole number, 2 or more; got 1"),
        ({"response": "both"}, "response must be one of auto, pathwise, stein, none; got 'both'"),
        ({"output_rule": "rk4"}, "output_rule must be one of exact, ntk_euler; got 'rk4'"),
        ({"dtype": "float16"}, "dtype must be one of auto, float32, float64; got 'float16'"),
        ({"samples": 10, "fields": 11}, "fields must be 10, the samples, at most; got 11"),
        ({"response": "pathwise", "response_samples": 7}, "response_samples must be even"),
        ({"memory": "much"}, "Expected memory as bytes or text"),
    ],
)
def test_options_that_cannot_be(options, sentence):
    """One sentence that says what was expected and what came."""
    with pytest.raises(ValueError, match=sentence):
        dmft.mlp(problem(), **options)


def test_problems_of_other_solvers_are_sent_there():
    """A residual network is none of this solver's; the Euler rule knows no weight decay."""
    residual = dmft.ResidualProblem(targets=[1.0], kernel=[[1.0]], steps=1, learning_rate=0.1)
    with pytest.raises(TypeError, match="use dmft.residual"):
        dmft.mlp(residual)
    with pytest.raises(ValueError, match="knows no weight decay"):
        dmft.mlp(problem(weight_decay=0.1), output_rule="ntk_euler")


@pytest.mark.parametrize("draws", range(4, 33))
def test_noise_of_few_draws_is_matched_or_left_alone(draws):
    """With fewer draws than rows nothing singular is inverted; matched times have covariance 1."""
    raw = np.random.default_rng(draws).standard_normal((5, 8, draws), dtype=np.float32)
    matched = noise.match(raw)
    if 3 * 8 > draws:
        assert matched is raw
    else:
        covariance = matched @ np.swapaxes(matched, -1, -2) / draws
        np.testing.assert_allclose(covariance, np.broadcast_to(np.eye(8), covariance.shape), atol=1e-4)


@pytest.mark.parametrize("response", ["stein", "pathwise"])
def test_an_activation_may_answer_in_float64(response):
    """As with a constant of NumPy's: fields stay what they are, and so does the solution but for rounding."""
    given = {"targets": [1.0, -1.0], "kernel": [[1.0, 0.3], [0.3, 1.0]], "steps": 3, "learning_rate": 0.2}
    curves = []
    for phi in ("tanh", lambda h: jnp.tanh(h.astype(jnp.float64))):
        problem = dmft.Problem(**given, depth=2, activation=phi)
        curves.append(dmft.mlp(problem, samples=100, replicas=4, response=response).loss.values)
    np.testing.assert_allclose(*curves, atol=1e-5)


@pytest.mark.parametrize("gamma0", [1e-4, 1e-8])
def test_rounding_is_far_below_the_error_bars_at_small_gamma0(gamma0):
    """f = <z phi> / gamma0: float32 would give 1e-7 / gamma0."""
    problem = dmft.Problem(
        targets=[1.0, -1.0],
        kernel=[[1.0, 0.3], [0.3, 1.0]],
        steps=3,
        learning_rate=0.2,
        depth=2,
        gamma0=gamma0,
    )
    found, exact = dmft.mlp(problem, samples=100, replicas=8).predictions, dmft.lazy(problem).predictions
    assert (abs(found.values - exact.values) < 4.5 * found.stderr + 1e-6).all()


@pytest.mark.parametrize(("depth", "gamma0"), [(1, 1e6), (2, 1e4)])
def test_fields_of_a_huge_gamma0_are_large_and_no_divergence(depth, gamma0):
    """tanh keeps the loss bounded, and it falls, while h grows as gamma0 squared."""
    problem = dmft.Problem(
        targets=[1.0, -1.0], kernel=[[1.0, 0.3], [0.3, 1.0]], steps=5, learning_rate=0.3, depth=depth,
        gamma0=gamma0,
    )  # fmt: skip
    solve = dmft.two_layer if depth == 1 else dmft.mlp
    loss = solve(problem, samples=200, replicas=4).loss.values
    assert (np.diff(loss) < 0.02).all() and loss[-1] < 0.2
