"""The reported error holds what is known of the bias: compared with exact solutions."""

from __future__ import annotations

import numpy as np
import pytest

from widelimit import dmft


def problem(**changes):
    """Two points, five steps."""
    given = {"targets": [1.0, -1.0], "kernel": [[1.0, 0.3], [0.3, 1.0]], "steps": 5, "learning_rate": 0.2}
    return dmft.Problem(**(given | changes))


def furthest(found, exact):
    """The largest difference of predictions and loss from exact ones, in reported errors."""
    pairs = ((found.predictions, exact.predictions), (found.loss, exact.loss))
    return max(np.abs((a.values - b.values)[1:] / a.stderr[1:]).max() for a, b in pairs)


@pytest.mark.parametrize(("depth", "samples"), [(2, 500), (3, 200), (3, 2000)])
def test_the_error_holds_the_bias_of_a_linear_network(depth, samples):
    """Moment-matched noise leaves no spread but the ridge's bias, which the error must then be."""
    given = problem(depth=depth, activation="identity", gamma0=1.0)
    found, exact = dmft.mlp(given, samples=samples, dtype="float64"), dmft.linear(given)
    assert furthest(found, exact) < 4
    gap = np.abs(found.predictions.values - exact.predictions.values).max()
    assert 0.5 * gap < found.diagnostics["bias"] < 2 * gap


@pytest.mark.parametrize("activation", ["tanh", pytest.param("relu", marks=pytest.mark.slow)])
def test_the_error_holds_the_bias_of_a_lazy_network(activation):
    """So small a gamma0 that what it changes, some gamma0^2, is far below the error."""
    given = problem(depth=3, activation=activation, gamma0=0.003)
    for seed in range(3):
        assert furthest(dmft.mlp(given, seed=seed, dtype="float64"), dmft.lazy(given)) < 4


@pytest.mark.parametrize(("depth", "response"), [(1, "auto"), (2, "none"), (2, "pathwise")])
def test_without_a_ridge_there_is_no_bias_of_it(depth, response):
    """And the error is that of replicas."""
    found = dmft.mlp(problem(depth=depth, steps=2), samples=64, replicas=2, response=response)
    assert found.diagnostics["bias"] == 0
