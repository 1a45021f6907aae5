"""Gradient flow: extrapolated solvers against closed forms."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from widelimit import dmft

#: The sheet's T1: gamma0 -> f at t = .5, 1, 2, 3 for ReLU, one point, K = y = 1.
T1 = {
    0.5: (0.39223158, 0.64270485, 0.89128413, 0.96984963),
    1.0: (0.40993484, 0.71178630, 0.95782112, 0.99497291),
}


def one_point(activation, gamma0, **changes):
    """One training point, to time 3."""
    given = {"targets": [1.0], "kernel": [[1.0]], "steps": 30, "learning_rate": 0.1}
    return dmft.Problem(**given | changes, activation=activation, gamma0=gamma0)


@pytest.mark.parametrize("gamma0", T1)
def test_closed_form_of_relu(gamma0):
    """T1: the closed form has the sheet's digits, and the extrapolated quadrature has them within 2e-6."""
    np.testing.assert_allclose(
        dmft.one_sample_flow(1.0, [0.5, 1, 2, 3], gamma0=gamma0), T1[gamma0], rtol=0, atol=1e-8
    )
    problem = one_point("relu", gamma0)
    found = dmft.gradient_flow(lambda p: dmft.two_layer(p, method="quadrature"), problem, levels=4)
    np.testing.assert_allclose(found.train.values[[5, 10, 20, 30], 0], T1[gamma0], rtol=0, atol=2e-6)
    assert found.predictions.axes == ("time", "sample") and found.loss.values.shape == (31,)


def test_closed_form_of_linear():
    """T2: f' = 2 (y - f) sqrt(1 + gamma0^2 f^2), NTK = 2 sqrt(1 + gamma0^2 f^2); any K and sign."""
    times = 0.1 * np.arange(31)
    for gamma0, y, k in ((1.0, 1.0, 1.0), (2.0, -0.7, 1.6)):
        problem = one_point("identity", gamma0, targets=[y], kernel=[[k]])
        found = dmft.gradient_flow(lambda p: dmft.two_layer(p, method="closed"), problem, levels=5)
        exact = dmft.one_sample_flow(y, times, activation="identity", gamma0=gamma0, kernel=k)
        np.testing.assert_allclose(found.train.values[:, 0], exact, atol=5e-7)
        f = found.train.values[:, 0]
        ntk = 2 * math.sqrt(k) * np.sqrt(k + gamma0**2 * f**2)
        if k == 1.0:  # h^2 - gamma0^2 f^2 is kept by the flow
            np.testing.assert_allclose(found.ntk.values[:, 0, 0], ntk, atol=5e-6)
        fine = dmft.one_sample_flow(y, [1.0 - 1e-4, 1.0, 1.0 + 1e-4], activation="identity", kernel=k)
        slope = (y - fine[1]) * 2 * k * math.sqrt(1 + fine[1] ** 2 / k)
        assert (fine[2] - fine[0]) / 2e-4 == pytest.approx(slope, rel=1e-6)


def test_each_level_removes_a_power():
    """Without extrapolation the error is O(eta), with n rates O(eta^n): fitted slopes of the error in eta."""
    exact = dmft.one_sample_flow(1.0, [1.0], activation="identity")[0]
    rates = np.array([0.1, 0.05, 0.025])
    for levels in (2, 3):
        errors = []
        for rate in rates:
            problem = one_point("identity", 1.0, learning_rate=rate, steps=round(1 / rate))
            flow = dmft.gradient_flow(lambda p: dmft.two_layer(p, method="closed"), problem, levels=levels)
            errors.append(abs(flow.train.values[-1, 0] - exact))
        slope = np.polyfit(np.log(rates), np.log(errors), 1)[0]
        assert abs(slope - levels) < 0.35


def test_any_solver_with_error_bars():
    """Particles extrapolate too; with one seed at every rate the error stays that of a single run."""
    problem = one_point("relu", 1.0, learning_rate=0.2, steps=10)
    once = dmft.two_layer(problem)
    flow = dmft.gradient_flow(dmft.two_layer, problem)
    exact = dmft.one_sample_flow(1.0, 0.2 * np.arange(11))
    error = flow.predictions.stderr[1:, 0]
    assert 0.5 < error.mean() / once.predictions.stderr[1:].mean() < 2
    assert np.mean(((flow.train.values[1:, 0] - exact[1:]) / error) ** 2) < 4
    lazy = dmft.gradient_flow(dmft.lazy, problem, levels=5)  # ReLU's NTK at K = 1 is 1: 1 - exp(-t)
    np.testing.assert_allclose(lazy.train.values[:, 0], -np.expm1(-0.2 * np.arange(11)), atol=1e-6)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda p: dmft.gradient_flow(dmft.lazy, p, levels=1), "levels must be"),
        (lambda p: dmft.one_sample_flow(1.0, [1.0], activation="tanh"), '"relu" or "identity"'),
        (lambda p: dmft.one_sample_flow(1.0, [1.0], gamma0=0.0), "gamma0 and kernel must be positive"),
        (lambda p: dmft.one_sample_flow(1.0, [-1.0]), "times must be finite"),
    ],
)
def test_bad_input_gets_one_sentence(call, sentence):
    """What has no answer is refused in words."""
    with pytest.raises(ValueError, match=sentence):
        call(one_point("relu", 1.0))


def test_batches_have_no_flow():
    """A fixed order of batches has no limit of small rates."""
    problem = one_point("relu", 1.0, batches=np.zeros((30, 1), int))
    with pytest.raises(ValueError, match="full batches"):
        dmft.gradient_flow(dmft.two_layer, problem)


def test_rates_with_noise_of_their_own_add_squares():
    """Two levels weigh -1 and 2: equal errors e give sqrt(5) e where noise has times, |2 - 1| e where not."""
    problem = dmft.Problem(targets=[1.0], kernel=[[1.0]], steps=2, learning_rate=0.2, depth=2)

    def solve(p):
        solution = dmft.lazy(p)
        predictions = solution.predictions._replace(stderr=np.full(solution.predictions.values.shape, 0.1))
        return dataclasses.replace(solution, predictions=predictions)

    for depth, error in ((1, 0.1), (2, 0.1 * np.sqrt(5))):
        flow = dmft.gradient_flow(solve, dataclasses.replace(problem, depth=depth), levels=2)
        np.testing.assert_allclose(flow.predictions.stderr, error)
