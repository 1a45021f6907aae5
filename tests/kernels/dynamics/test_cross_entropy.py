"""Cross-entropy in function space: a linear model trained in parameter space is the oracle."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from tests.kernels.dynamics.problems import linear, probabilities, softmax
from widelimit.kernels.dynamics import gradient_descent, gradient_flow

CE = {"loss": "cross_entropy"}


def shifted(f, y):
    """Derivative of the cross-entropy by the logits, times N."""
    return softmax(f) - y


def soft(features):
    """A linear model with three classes and soft targets."""
    model = linear(outputs=3, features=features)
    return model, probabilities()


@pytest.mark.parametrize("momentum, nesterov", [(0.0, False), (0.9, False), (0.9, True)])
@pytest.mark.parametrize("features", [7, 40])
def test_descent_is_that_of_a_linear_model(momentum, nesterov, features):
    """Same steps in parameters and in dual variables, on training and test points, singular or not."""
    model, y = soft(features)
    simulated = model.__class__(model.train, model.test, model.start, y)
    train, test = simulated.simulate(shifted, 0.5, 60, momentum, nesterov)
    steps = [60, 0, 1, 7]
    path = gradient_descent(
        model.kernel(), y, 0.5, steps, momentum=momentum, nesterov=nesterov, **CE, **model.settings()
    )
    np.testing.assert_allclose(path.train, train[steps], rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(path.test, test[steps], rtol=1e-10, atol=1e-10)
    loss = -np.mean(np.sum(y * np.log(softmax(train[steps])), axis=2), axis=1)
    np.testing.assert_allclose(path.loss, loss, rtol=1e-10)
    assert not path.diverged.any()


def test_flow_is_that_of_a_linear_model():
    """Against another integrator, in parameter space, to the tolerance of either."""
    model, y = soft(40)

    def slope(_, w):
        return -np.einsum("io,iod->d", shifted(model.train @ w, y), model.train) / len(y)

    times = np.array([0.0, 0.7, 20.0])
    w = solve_ivp(slope, (0, 20.0), model.start, "LSODA", t_eval=times, rtol=1e-11, atol=1e-12).y
    path = gradient_flow(model.kernel(), y, [20.0, 0.0, 0.7, 0.7], **CE, **model.settings())
    for found, index in zip(range(4), [2, 0, 1, 1], strict=True):
        np.testing.assert_allclose(path.train[found], model.train @ w[:, index], rtol=1e-7, atol=1e-7)
        np.testing.assert_allclose(path.test[found], model.test @ w[:, index], rtol=1e-7, atol=1e-7)


def test_small_steps_approach_the_flow_at_first_order():
    """Slope 1 of the distance against the rate at fixed time: two codes that share no step."""
    model, y = soft(40)
    flow = gradient_flow(model.kernel(), y, 2.0, **CE, **model.settings())
    counts = 2 ** np.arange(6, 10)
    gaps = [
        np.abs(
            gradient_descent(model.kernel(), y, 2.0 / n, n, **CE, **model.settings()).test - flow.test
        ).max()
        for n in counts
    ]
    np.testing.assert_allclose(np.diff(np.log2(gaps)), -1.0, atol=0.02)


def test_descent_ends_where_the_gradient_vanishes():
    """Soft targets have a finite optimum: with an invertible kernel softmax(f) = y exactly."""
    model, y = soft(40)
    path = gradient_descent(model.kernel(), y, 4.0, 20000, momentum=0.9, **CE)
    np.testing.assert_allclose(softmax(path.train[0]), y, atol=1e-10)


def test_labels_are_probabilities():
    """Integer labels give the predictions of their one-hot rows, in both functions."""
    model, _ = soft(40)
    labels = np.array([0, 2, 2, 1, 0, 2])
    settings = CE | model.settings()
    for run in (
        lambda y: gradient_flow(model.kernel(), y, 1.0, **settings),
        lambda y: gradient_descent(model.kernel(), y, 0.1, 3, **settings),
    ):
        assert np.array_equal(run(labels).test, run(np.eye(3)[labels]).test)


def test_a_kernel_for_all_outputs_is_its_full_kernel():
    """[N, N] means K (x) 1 here too, where outputs are coupled by the softmax."""
    rng, y = np.random.default_rng(1), probabilities(samples=5)
    phi, star = rng.normal(size=(5, 7)), rng.normal(size=(3, 7))
    k, cross, eye = phi @ phi.T, star @ phi.T, np.eye(3)
    one = gradient_descent(k, y, 0.1, [3, 9], test=cross, **CE)
    both = gradient_descent(
        np.einsum("ij,op->ijop", k, eye), y, 0.1, [3, 9], test=np.einsum("ij,op->ijop", cross, eye), **CE
    )
    np.testing.assert_allclose(one.test, both.test, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(one.train.sum(axis=2), 0.0, atol=1e-12)  # softmax residuals sum to zero


def test_what_cross_entropy_cannot_take_is_refused():
    """One sentence each: no limit at infinity, unknown classes, labels out of range, no probabilities."""
    kernel, y = np.eye(2), np.eye(2)
    with pytest.raises(ValueError, match="no limit at infinite time"):
        gradient_flow(kernel, y, np.inf, **CE)
    with pytest.raises(ValueError, match=r"np.eye\(classes\)\[labels\]"):
        gradient_descent(kernel, np.array([0, 1]), 0.1, 1, **CE)
    with pytest.raises(ValueError, match=r"labels must lie in 0..1; got 0 to 2"):
        gradient_descent(kernel, np.array([0, 2]), 0.1, 1, initial=np.zeros((2, 2)), **CE)
    for wrong in (np.ones((2, 2)), np.array([[1.5, -0.5], [0.5, 0.5]]), np.ones((2, 1)), np.ones(2)):
        with pytest.raises(ValueError, match="must be probabilities"):
            gradient_descent(kernel, wrong, 0.1, 1, **CE)
    with pytest.raises(ValueError, match='"mse" or "cross_entropy"; got \'hinge\''):
        gradient_descent(kernel, y, 0.1, 1, loss="hinge")
