"""Rules for the output: exact for a learning rate, Euler's off by its first order; and the flow of both."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from widelimit import dmft

X = np.random.default_rng(5).standard_normal((6, 3))


def problem(steps, rate, **changes):
    """Two training points and a test point, two hidden layers."""
    given = {"targets": [1.0, -1.0], "kernel": X.T @ X / 6, "depth": 2, "gamma0": 1.5}
    return dmft.Problem(steps=steps, learning_rate=rate, **(given | changes))


@pytest.mark.parametrize("changes", [{}, {"momentum": 0.5}])
def test_the_euler_rule_is_off_by_the_first_order_of_the_learning_rate(changes):
    """Half the rate, half the difference at the same time: at depth 1, free of the responses' noise."""
    gaps = []
    for factor in (1, 2):
        p = problem(25 * factor, 0.04 / factor, depth=1, **changes)
        exact, euler = (
            dmft.mlp(p, samples=200, replicas=2, output_rule=rule, dtype="float64").predictions
            for rule in ("exact", "ntk_euler")
        )
        gaps.append(np.abs(exact.values[-1] - euler.values[-1]).max())
    assert 1e-4 < gaps[0] and 1.7 < gaps[0] / gaps[1] < 2.4


@pytest.mark.slow
def test_both_rules_agree_at_small_steps_in_depth():
    """Depth 2: the tangent kernel's three layers drive what <z phi> says, to a hundredth of it."""
    p = problem(8, 0.1)
    exact, euler = (
        dmft.mlp(p, samples=1000, replicas=2, output_rule=rule).train.values
        for rule in ("exact", "ntk_euler")
    )
    assert np.abs(exact[-1]).min() > 0.15
    assert np.abs(exact - euler).max() < 0.01 * np.abs(exact).max()


@pytest.mark.slow
def test_gradient_flow_of_relu_is_the_closed_form():
    """T1: one ReLU layer and one sample, extrapolated to gradient flow, within errors of the closed form."""
    p = dmft.Problem(targets=[1.0], kernel=[[1.0]], steps=20, learning_rate=0.1, activation="relu")
    flow = dmft.gradient_flow(lambda p: dmft.mlp(p, samples=8000, replicas=16), p, levels=3)
    exact = {5: 0.40993484, 10: 0.71178630, 20: 0.95782112}
    for t, value in exact.items():
        error = flow.train.stderr[t, 0] + flow.diagnostics["extrapolation_error"]
        assert flow.train.values[t, 0] == pytest.approx(value, abs=4 * error) and error < 5e-3


@pytest.mark.slow
def test_reference_at_full_statistics():
    """T9: the sheet's six steps with its standard errors, by both estimators of responses."""
    x = np.random.default_rng(5).standard_normal((20, 4))
    p = dmft.Problem(
        targets=[1.0, 1.0, -1.0, -1.0], kernel=x.T @ x / 20, steps=6, learning_rate=0.2, depth=3, gamma0=2.0
    )
    reference = np.array([0.92772, 0.85736, 0.78067, 0.69479, 0.60142, 0.50551])
    errors = np.array([22e-5, 40e-5, 57e-5, 71e-5, 80e-5, 83e-5])
    for response in ("stein", "pathwise"):
        found = dmft.mlp(p, samples=16000, replicas=16, response=response, response_samples=4000).loss
        z = (2 * found.values[1:] - reference) / np.hypot(2 * found.stderr[1:], errors)
        assert np.abs(z).max() < 3, response


@pytest.mark.slow
def test_the_authors_size_reaches_its_error():
    """tanh, depth 3, P = 10, T = 100: errors below 0.5% of the initial loss, and networks' numbers met."""
    x = np.random.default_rng(0).standard_normal((25, 10))
    p = dmft.Problem(
        targets=[-1.0] * 5 + [1.0] * 5,
        kernel=x.T @ x / 25,
        steps=99,
        learning_rate=0.1,
        depth=3,
        activation=lambda h: jnp.tanh(jnp.asarray(0.8, h.dtype) * h) / jnp.asarray(0.8, h.dtype),
    )
    loss = dmft.mlp(p, samples=1000, replicas=8).loss
    assert (loss.stderr < 0.005 * loss.values[0]).all()
    networks, errors = np.array([0.5301, 0.0385, 0.00357]), np.array([0.0047, 0.0008, 0.00009])
    z = (2 * loss.values[[20, 50, 99]] - networks) / np.hypot(errors, 2 * loss.stderr[[20, 50, 99]])
    assert np.abs(z).max() < 4
