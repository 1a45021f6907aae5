"""The causal solver with a linear activation against the exact solution of deep linear networks."""

from __future__ import annotations

import numpy as np
import pytest

from widelimit import dmft

X = np.random.default_rng(5).standard_normal((6, 4))
COMMON = {"kernel": X.T @ X / 6, "steps": 6, "depth": 3, "gamma0": 1.2, "activation": "identity"}
CASES = {
    "two outputs, momentum": {
        "targets": [[1.0, 0.0], [-0.5, 1.0], [0.3, 0.8]],
        "learning_rate": 0.2,
        "momentum": 0.6,
    },
    "weight decay, minibatches, schedule": {
        "targets": [1.0, -1.0, 0.4],
        "learning_rate": [0.2, 0.3, 0.3, 0.2, 0.1, 0.1],
        "weight_decay": 0.3,
        "batches": [[0, 1], [1, 2], [2, 2], [0, 2], [0, 1], [1, 2]],
    },
}


@pytest.mark.parametrize("case", CASES)
def test_every_order_parameter_is_the_exact_solution_s(case):
    """Along the path, with moment-matched noise, averages of linear fields are exact: to 1e-5, not to noise.

    Outputs, momentum, weight decay, batches, schedules and test points enter as in the other derivation.
    """
    p = dmft.Problem(**COMMON, **CASES[case])
    found = dmft.mlp(p, samples=1000, replicas=2, response="pathwise", response_samples=2, dtype="float64")
    exact = dmft.linear(p)
    outputs = [slice(None)] * (np.asarray(p.targets).ndim - 1)
    every = slice(None)
    # a linear network's backward fields are the same for all samples, so its theory sums over theirs
    compared = {
        "predictions": (found.predictions.values, exact.predictions.values),
        "ntk": (found.ntk.values, exact.ntk.values),
        "features": (found.features.values, exact.features.values),
        "gradients": (
            found.gradients.values,
            exact.gradients.values[(every, every, None, *outputs, every, None)],
        ),
        "feature_response": (found.feature_response.values.sum(axis=4), exact.feature_response.values),
        "gradient_response": (
            found.gradient_response.values[..., :3],
            exact.gradient_response.values[:, :, None],
        ),
    }
    for name, (measured, truth) in compared.items():
        assert np.abs(measured - truth).max() < 1e-5 * np.abs(truth).max(), name


def test_stein_s_ridge_is_a_bias_that_goes_as_one_over_samples():
    """Four times the samples have a quarter of the ridge, and of its bias (all else is exact here)."""
    p = dmft.Problem(**COMMON, **CASES["weight decay, minibatches, schedule"])
    exact = dmft.linear(p).features.values
    errors = [
        np.abs(dmft.mlp(p, samples=samples, replicas=2, response="stein").features.values - exact).max()
        for samples in (1000, 4000)
    ]
    assert errors[0] < 0.01 and 2.5 < errors[0] / errors[1] < 5
