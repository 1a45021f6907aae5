"""Kernels that are zero, in part or whole: fields without variance are zero, and are solved."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from widelimit import dmft


def problem(**changes):
    """Two points, two hidden layers."""
    given = {"targets": [1.0, -1.0], "kernel": [[1.0, 0.3], [0.3, 1.0]], "steps": 3, "learning_rate": 0.2}
    return dmft.Problem(**(given | {"depth": 2} | changes))


def test_a_zero_input_stays_zero_through_relu():
    """Phi, G behind it and its prediction are exactly zero: relu and its slope at 0 are."""
    given = problem(kernel=[[0.0, 0.0], [0.0, 1.0]], depth=3, activation="relu")
    found = dmft.mlp(given, samples=64, replicas=2)
    assert not found.features.values[:, :, 0].any()
    assert not found.gradients.values[:, :, 0].any()
    assert not found.predictions.values[:, 0].any()
    assert abs(found.predictions.values[-1, 1]) > 0.1


@pytest.mark.parametrize(
    ("kernel", "activation"),
    [(np.zeros((2, 2)), "tanh"), ([[1.0, 0.3], [0.3, 1.0]], lambda h: jnp.sign(h))],
    ids=["zero kernel", "no slope"],
)
def test_a_zero_kernel_has_zero_fields(kernel, activation):
    """No field, no gradient: finite all the same, and zero where the kernel is."""
    found = dmft.mlp(problem(kernel=kernel, activation=activation), samples=64, replicas=2)
    assert all(
        np.isfinite(part.values).all() for part in (found.predictions, found.features, found.gradients)
    )
    if not np.any(kernel):
        assert not found.predictions.values.any()
    else:
        assert not found.gradients.values[0].any()


def test_fields_that_decay_to_nothing_are_solved():
    """Weights that keep a twentieth each step: squares of fields underflow, and predictions are 0."""
    given = problem(steps=30, learning_rate=0.5, weight_decay=1.9, gamma0=0.5)
    found = dmft.mlp(given, samples=64, replicas=2)
    assert np.isfinite(found.features.values).all() and np.isfinite(found.gradients.values).all()
    assert np.abs(found.predictions.values[-1]).max() < 1e-12
    assert found.loss.values[-1] == pytest.approx(0.5)


def test_what_no_learning_rate_helps_says_so():
    """An activation that is not finite is not called divergence."""
    with pytest.raises(ValueError, match="not finite before the first step"):
        dmft.mlp(problem(activation=jnp.log), samples=64, replicas=2)


def test_gamma0_of_zero_without_responses_is_refused():
    """Its limit is not the lazy one, by the readout; by the tangent kernel it is."""
    still = problem(gamma0=0.0)
    with pytest.raises(ValueError, match="another limit at gamma0 = 0"):
        dmft.mlp(still, response="none")
    assert dmft.mlp(still, response="none", output_rule="ntk_euler").solver == "lazy"
    deep = dmft.ResidualProblem(
        targets=[1.0], kernel=[[1.0]], steps=2, learning_rate=0.1, depth=2, gamma0=0.0
    )
    with pytest.raises(ValueError, match="another limit at gamma0 = 0"):
        dmft.residual(deep, response="none")
    assert dmft.residual(deep, response="none", output_rule="ntk_euler").solver == "lazy"


@pytest.mark.parametrize("tolerance", [2.0, float("nan"), -1.0, 0.0])
def test_a_tolerance_of_residual_is_a_share(tolerance):
    """Else all directions or none would be dropped."""
    deep = dmft.ResidualProblem(targets=[1.0], kernel=[[1.0]], steps=2, learning_rate=0.1, depth=2)
    with pytest.raises(ValueError, match="tolerance must be a share"):
        dmft.residual(deep, tolerance=tolerance, samples=64)


def test_the_spread_is_one_standard_deviation_of_a_prediction():
    """Of mlp before its control variate, and of residual: the largest, root of replicas times the error."""
    data = {"targets": [1.0], "kernel": [[1.0]], "steps": 2, "learning_rate": 0.1, "depth": 2}
    deep = dmft.residual(dmft.ResidualProblem(**data), samples=64, replicas=4)
    flat = dmft.mlp(dmft.Problem(**data), samples=64, replicas=4, response="none", control_variate=False)
    for found in (deep, flat):
        assert found.diagnostics["replica_spread"] == pytest.approx(
            2 * found.predictions.stderr.max(), rel=1e-6
        )
