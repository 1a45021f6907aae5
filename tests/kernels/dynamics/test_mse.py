"""Gradient flow and descent on the squared error: a linear model trained in parameter space is the oracle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg

from tests.kernels.dynamics.problems import difference, linear
from widelimit.kernels.dynamics import gradient_descent, gradient_flow, largest_rate
from widelimit.kernels.dynamics.factors import descent_factors
from widelimit.kernels.dynamics.problem import Spectrum

MOMENTA = [(0.0, False), (0.9, False), (0.9, True), (0.3, False)]


def close(a, b, atol=1e-10):
    """Equal to 1e-10 of an order-one prediction: the eigenbasis and the loop round differently."""
    np.testing.assert_allclose(a, b, rtol=1e-10, atol=atol)


@pytest.mark.parametrize("momentum, nesterov", MOMENTA)
@pytest.mark.parametrize("features", [5, 30])
def test_descent_is_that_of_a_linear_model(momentum, nesterov, features):
    """A model linear in w has a constant kernel, so both spaces take the same steps; K may be singular."""
    model = linear(features=features)
    rate = 0.7 * largest_rate(model.kernel(), momentum=momentum, nesterov=nesterov)
    train, test = model.simulate(difference, rate, 40, momentum, nesterov)
    steps = [40, 0, 1, 2, 2, 17]
    path = gradient_descent(
        model.kernel(), model.targets, rate, steps, momentum=momentum, nesterov=nesterov, **model.settings()
    )
    close(path.train, train[steps])
    close(path.test, test[steps])
    close(path.loss, 0.5 * np.sum((train[steps] - model.targets) ** 2, axis=(1, 2)) / len(model.targets))
    assert not path.diverged.any()


@pytest.mark.parametrize("features", [5, 30])
def test_flow_is_that_of_a_linear_model(features):
    """dw/dt is linear in w, so the matrix exponential in parameter space is the exact solution."""
    model, times = linear(features=features), np.array([0.0, 0.3, 2.0, 50.0])
    phi = model.train.reshape(-1, features)
    generator = np.zeros((features + 1, features + 1))  # w and a constant 1 in one linear system
    generator[:-1, :-1] = -phi.T @ phi / len(model.targets)
    generator[:-1, -1] = phi.T @ model.targets.ravel() / len(model.targets)
    path = gradient_flow(model.kernel(), model.targets, times, **model.settings())
    for index, time in enumerate(times):
        w = (linalg.expm(generator * time) @ np.append(model.start, 1.0))[:-1]
        close(path.train[index], model.train @ w)
        close(path.test[index], model.test @ w)


def test_flow_at_infinity_is_the_least_squares_fit_nearest_to_the_start():
    """Whether the kernel is singular or not: w moves only within the span of the features."""
    for features in (5, 30):
        model = linear(features=features)
        phi = model.train.reshape(-1, features)
        w = model.start + np.linalg.pinv(phi) @ (model.targets.ravel() - phi @ model.start)
        late = gradient_flow(model.kernel(), model.targets, [1e30, np.inf], **model.settings())
        for index in (0, 1):  # rounding directions would have taken over by 1e30
            close(late.train[index], model.train @ w)
            close(late.test[index], model.test @ w)


def test_small_steps_approach_the_flow_at_first_order():
    """At fixed time the distance to the flow is linear in the rate: slope 1 over four halvings."""
    model, time = linear(features=20), 1.0
    flow = gradient_flow(model.kernel(), model.targets, time, **model.settings())
    counts = 2 ** np.arange(6, 11)
    gaps = []
    for count in counts:
        path = gradient_descent(model.kernel(), model.targets, time / count, count, **model.settings())
        gaps.append(np.abs(path.test - flow.test).max())
    slopes = np.diff(np.log2(gaps)) / np.diff(np.log2(time / counts))
    np.testing.assert_allclose(slopes, 1.0, atol=0.02)  # the next order is rate * lam / N, 1/100 at 64 steps


def test_a_kernel_for_all_outputs_is_its_full_kernel():
    """[N, N] means K (x) 1: the full kernel with that product gives the same predictions, targets [N] too."""
    rng = np.random.default_rng(1)
    phi, star, y = rng.normal(size=(5, 7)), rng.normal(size=(3, 7)), rng.normal(size=(5, 2))
    k, cross, eye = phi @ phi.T, star @ phi.T, np.eye(2)
    full = {"test": np.einsum("ij,op->ijop", cross, eye)}
    for run in (
        lambda *a, **kw: gradient_flow(*a, [0.1, np.inf], **kw),
        lambda *a, **kw: gradient_descent(*a, 0.1, [3, 9], momentum=0.5, **kw),
    ):
        one = run(k, y, test=cross)
        both = run(np.einsum("ij,op->ijop", k, eye), y, **full)
        close(one.train, both.train)
        close(one.test, both.test)
        single = run(k, y[:, 0], test=cross)
        assert single.train.shape == (2, 5) and single.test.shape == (2, 3)
        close(single.test, one.test[..., 0])


@given(
    x=st.floats(1e-9, 1.9),
    momentum=st.sampled_from([0.0, 0.5, 0.9]),
    nesterov=st.booleans(),
    steps=st.integers(0, 60),
)
@settings(deadline=None, max_examples=60)
def test_one_eigenvalue_by_hand(x, momentum, nesterov, steps):
    """One sample: the loop over steps, for every curvature up to the stable limit without momentum."""
    f = star = velocity = 0.0
    for _ in range(steps):
        g = f - 1.0
        velocity = momentum * velocity + g
        move = g + momentum * velocity if nesterov else velocity
        f, star = f - x * move, star - 0.5 * x * move
    if abs(f) < 1e6:  # Nesterov's limit is lower
        path = gradient_descent(
            [[x]], [1.0], 1.0, steps, momentum=momentum, nesterov=nesterov, test=[[0.5 * x]]
        )
        close(path.train[0, 0], f, 1e-9 * max(1.0, abs(f)))
        close(path.test[0, 0], star, 1e-9 * max(1.0, abs(f)))


def test_small_eigenvalues_lose_no_digits():
    """A test point may lean on a direction with eigenvalue 1e-12 by its root, 1e-6: no 1 - (1 - x) there."""
    x, cross = np.diag([1.0, 1e-12]), [[0.0, 1e-6]]
    y = [0.0, 1.0]
    path = gradient_descent(x, y, 2.0, 3, test=cross)
    np.testing.assert_allclose(path.test, [[1e-6 * (3 - 3e-12)]], rtol=1e-14)
    flow = gradient_flow(x, y, 6.0, test=cross)
    np.testing.assert_allclose(flow.test, [[1e-6 * (3 - 4.5e-12)]], rtol=1e-14)
    slow = gradient_descent(x, y, 2.0, 3, momentum=0.5, test=cross)  # 1 + 1.5 + 1.75 of velocity
    np.testing.assert_allclose(slow.test, [[1e-6 * 4.25]], rtol=1e-11)


@pytest.mark.parametrize("momentum, nesterov", MOMENTA)
def test_the_largest_rate_separates_learning_from_divergence(momentum, nesterov):
    """1% below, the loss goes to zero in the end; 1% above, it grows without bound, and says so."""
    model = linear(features=30)
    limit = largest_rate(model.kernel(), momentum=momentum, nesterov=nesterov)
    settings = {"momentum": momentum, "nesterov": nesterov, **model.settings()}
    below = gradient_descent(model.kernel(), model.targets, 0.99 * limit, [0, 20000], **settings)
    assert below.loss[1] < 1e-6 * below.loss[0] and not below.diverged.any()
    above = gradient_descent(model.kernel(), model.targets, 1.01 * limit, [0, 2000, 10**7], **settings)
    assert above.loss[1] > 1e3 * above.loss[0]
    assert above.diverged.tolist() == [False, False, True]
    assert (
        np.isposinf(above.train[2]).all() and np.isposinf(above.test[2]).all() and np.isposinf(above.loss[2])
    )


def test_a_direction_with_nothing_to_learn_does_not_diverge():
    """Twice the largest rate, but the steep direction has no residual: the other one is learned."""
    kernel, y = np.diag([1.0, 4.0]), [1.0, 0.0]
    for momentum in (0.0, 0.5):
        rate = 2 * largest_rate(kernel, momentum=momentum)
        path = gradient_descent(kernel, y, rate, 10**5, momentum=momentum, test=[[0.5, 0.0]])
        assert not path.diverged.any()
        close(path.train[0], y)
        close(path.test[0], [0.5])


def test_many_steps_cost_no_more_than_few():
    """A billion steps of momentum equal the limit of the flow: powers of the recursion, not a loop."""
    model = linear(features=30)
    rate = 0.5 * largest_rate(model.kernel(), momentum=0.9)
    end = gradient_flow(model.kernel(), model.targets, np.inf, **model.settings())
    for momentum in (0.0, 0.9):
        path = gradient_descent(
            model.kernel(), model.targets, rate, 10**9, momentum=momentum, **model.settings()
        )
        close(path.test, end.test, 1e-9)


@given(exponent=st.integers(-8, 8), seed=st.integers(0, 3))
@settings(deadline=None, max_examples=12)
def test_only_kernel_times_time_matters(exponent, seed):
    """A kernel of 1e-8 or 1e8 times the size learns the same in 1e8 or 1e-8 times the time."""
    model, scale = linear(seed, features=20), 10.0**exponent
    given = model.settings()
    scaled = given | {"test": scale * given["test"]}
    times, rate = np.array([0.1, 5.0, np.inf]), 0.5 * largest_rate(model.kernel())
    close(
        gradient_flow(scale * model.kernel(), model.targets, times / scale, **scaled).test,
        gradient_flow(model.kernel(), model.targets, times, **given).test,
    )
    close(
        gradient_descent(scale * model.kernel(), model.targets, rate / scale, [1, 50], **scaled).test,
        gradient_descent(model.kernel(), model.targets, rate, [1, 50], **given).test,
    )


@pytest.mark.parametrize("steps, learned", [(5, True), (20, False), (200, False)])
def test_rounding_is_forgotten_by_the_time_that_momentum_makes_of_the_steps(steps, learned):
    """A step takes the time rate/(1 - momentum): rounding is learned until then, and not after."""
    modes = Spectrum(np.array([1e-3, 1.0]), np.eye(2), floor=1e-2)
    left, dual = descent_factors(modes, 1, 1.0, np.array([steps]), 0.9, False)
    assert (left[0, 0] < 1.0 and dual[0, 0] > 0.0) == learned
    close(dual, (1 - left) / modes.values)
