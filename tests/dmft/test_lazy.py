"""The lazy limit: the kernels of the NTK room and their dynamics, number for number, and what decay adds."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from widelimit import dmft, models
from widelimit.kernels import analytic, dynamics

RNG = np.random.default_rng(0)
INPUTS = RNG.standard_normal((6, 5))
TARGETS = RNG.standard_normal((4, 3))
KINDS = {
    "plain": (dmft.Problem, {}),
    "residual": (dmft.ResidualProblem, {"branch_scale": 0.7}),
    "residual, other scale": (dmft.ResidualProblem, {"branch_exponent": 0.8, "final_activation": True}),
}


def problem(kind=dmft.Problem, **settings):
    """Four training and two test points, three layers."""
    base = {
        "targets": TARGETS[:, 0],
        "inputs": INPUTS[:4],
        "test_inputs": INPUTS[4:],
        "steps": 25,
        "learning_rate": 0.2,
        "depth": 3,
    }
    return kind(**{**base, **settings})


@pytest.mark.parametrize("activation", ["tanh", "relu", "gelu", "erf"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_tangent_kernel_is_that_of_the_network(kind, activation):
    """sum_l G^{l+1} Phi^l is analytic.kernel of the problem's network with its optimizer's learning rates."""
    which, settings = KINDS[kind]
    given = problem(which, activation=activation, gamma0=0.7, **settings)
    theta = analytic.kernel(given.network(64), given.all_inputs, get="ntk")
    np.testing.assert_allclose(dmft.lazy(given).ntk.values[0], theta, rtol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_training_is_that_of_the_kernel(kind, momentum):
    """Same kernel, same rate: the predictions of dynamics.gradient_descent at every step, to 1e-10."""
    which, settings = KINDS[kind]
    given = problem(which, momentum=momentum, **settings)
    solution = dmft.lazy(given)
    theta = solution.ntk.values[0]
    path = dynamics.gradient_descent(
        theta[:4, :4], given.targets, 0.2, np.arange(26), momentum=momentum, test=theta[4:, :4]
    )
    np.testing.assert_allclose(solution.train.values, path.train, atol=1e-10)
    np.testing.assert_allclose(solution.test.values, path.test, atol=1e-10)
    np.testing.assert_allclose(solution.loss.values, path.loss, atol=1e-10)


def test_cross_entropy_is_that_of_the_kernel():
    """Other losses enter through their derivative: three classes, one-hot targets."""
    given = problem(targets=np.eye(3)[[0, 1, 2, 0]], loss="cross_entropy", learning_rate=1.0, momentum=0.3)
    solution = dmft.lazy(given)
    theta = analytic.kernel(given.network(8), given.all_inputs, get="ntk")
    path = dynamics.gradient_descent(
        theta[:4, :4],
        given.targets,
        1.0,
        np.arange(26),
        momentum=0.3,
        loss="cross_entropy",
        test=theta[4:, :4],
    )
    np.testing.assert_allclose(solution.train.values, path.train, atol=1e-10)
    np.testing.assert_allclose(solution.test.values, path.test, atol=1e-10)
    np.testing.assert_allclose(solution.loss.values, path.loss, atol=1e-10)


def test_outputs_do_not_mix():
    """With the squared error three outputs train as three problems; kernels are the identity over outputs."""
    together = dmft.lazy(problem(targets=TARGETS))
    for output in range(3):
        alone = dmft.lazy(problem(targets=TARGETS[:, output]))
        np.testing.assert_allclose(
            together.predictions.values[..., output], alone.predictions.values, atol=1e-13
        )
    expected = np.einsum("tmn,ab->tmanb", alone.ntk.values, np.eye(3))
    np.testing.assert_array_equal(together.ntk.values, expected)
    assert together.gradients.axes[2:4] == ("sample", "output")
    np.testing.assert_array_equal(
        together.gradients.values[:, 3, :, 1, 5, :, 1], alone.gradients.values[:, 0, :, 0]
    )
    assert (together.gradients.values[:, 3, :, 1, 5, :, 2] == 0).all()


def test_static_kernels_take_no_room():
    """Kernels that do not move are views of one copy, whatever the number of steps."""
    values = dmft.lazy(problem(steps=20)).features.values
    assert values.shape == (3, 21, 6, 21, 6) and values.strides[1] == values.strides[3] == 0


def linearised(given, width, seeds):
    """Mean over seeds of the tangent kernel between kept weights: keep(t) theta against keep(s) theta."""
    config = given.network(width)
    rules = models.rules(config, "sgd")
    network, x = models.MLP(config), jnp.asarray(given.all_inputs, jnp.float32)
    keep = given.memory()[0]

    def one(key):
        start = models.initialise(key, rules)

        def jacobian(factor):
            at = jax.tree.map(lambda w: factor * w, start)
            tree = jax.jacrev(
                lambda p: network.apply({"params": p, "multipliers": rules.multiplier}, x)[:, 0]
            )(at)
            return jax.tree.map(lambda j, r: jnp.sqrt(r) * j, tree, rules.learning_rate)

        first, last = (jax.tree.leaves(jacobian(float(keep[t]))) for t in (3, -1))
        return sum(
            jnp.einsum("ap,bp->ab", a.reshape(6, -1), b.reshape(6, -1))
            for a, b in zip(first, last, strict=True)
        )

    found = np.asarray(jax.jit(lambda k: jax.lax.map(one, k))(jax.random.split(jax.random.key(0), seeds)))
    return found.mean(0), found.std(0, ddof=1) / np.sqrt(seeds)


def test_decay_makes_kernels_depend_on_both_times():
    """Weight decay shrinks the weights around which the network is linear: the kernel between times 3 and T
    is that of finite networks with weights keep(3) theta and keep(T) theta, within four standard errors, and
    its equal-time part at the start is the kernel without decay."""
    given = problem(weight_decay=0.6, steps=10, depth=2)
    solution, keep = dmft.lazy(given), given.memory()[0]
    assert keep[-1] < 0.3
    features, gradients = solution.features.values, solution.gradients.values
    theta = gradients[0][3, :, -1] * given.kernel + gradients[1][3, :, -1] * features[0][3, :, -1]
    theta = theta + features[1][3, :, -1]
    mean, error = linearised(given, 512, 24)
    assert np.abs((mean - theta) / error).max() < 4
    without = dmft.lazy(problem(depth=2))
    np.testing.assert_allclose(solution.ntk.values[0], without.ntk.values[0], rtol=1e-12)
    assert (np.diagonal(solution.ntk.values[-1]) < 0.5 * np.diagonal(without.ntk.values[0])).all()


def test_decay_of_predictions_by_hand():
    """With phi = identity, L = 1, P = 1: Theta(t, s) = 2 keep(t) keep(s), and f follows by summation."""
    given = dmft.Problem(
        targets=[1.0],
        kernel=[[1.0]],
        steps=6,
        learning_rate=0.3,
        weight_decay=0.5,
        activation="identity",
        momentum=0.4,
    )
    keep, drive = given.memory()
    f = np.zeros(7)
    for t in range(1, 7):
        f[t] = sum(drive[t, s] * 2 * keep[t] * keep[s] * (1 - f[s]) for s in range(t))
    np.testing.assert_allclose(dmft.lazy(given).train.values[:, 0], f, atol=1e-14)


def test_an_own_activation_and_its_tolerance():
    """A function stands for an activation; a kink whose series misses the tolerance is an error, no guess."""
    own = dmft.lazy(problem(activation=lambda x: jnp.tanh(x)))
    np.testing.assert_array_equal(own.predictions.values, dmft.lazy(problem()).predictions.values)
    with pytest.raises(ValueError, match="exceeds tolerance=1e-06"):
        dmft.lazy(problem(activation=jnp.abs))
    dmft.lazy(problem(activation=jnp.abs, steps=1), tolerance=0.2)
    for solve in (dmft.mlp, dmft.two_layer):
        with pytest.raises(ValueError, match=r"gamma0 = 0 is solved by dmft.lazy\(problem, tolerance=...\)"):
            solve(problem(activation=jnp.abs, depth=1, steps=1, gamma0=0.0))


def test_one_step_of_one_sample():
    """P = 1, T = 1: one step of size eta Theta Delta."""
    solution = dmft.lazy(problem(targets=[2.0], inputs=INPUTS[:1], steps=1))
    np.testing.assert_allclose(
        solution.predictions.values[1], 0.2 * 2.0 * solution.ntk.values[0][:, 0], rtol=1e-14
    )


def test_duplicates_and_contradictions():
    """A kernel of rank one with labels 3 and 1: predictions agree and meet in the middle."""
    given = problem(targets=[3.0, 1.0], inputs=INPUTS[[0, 0]], steps=400)
    train = dmft.lazy(given).train.values
    np.testing.assert_array_equal(train[:, 0], train[:, 1])
    np.testing.assert_allclose(train[-1], 2.0, atol=1e-6)
