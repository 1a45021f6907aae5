"""Training in parameter space, and the dynamics that the kernel predicts: the same for linear models."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.kernels.dynamics.networks import network, tangent_kernel
from widelimit import models, scaling
from widelimit.kernels.dynamics import descend, gradient_descent, linearise


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_the_linearisation_follows_the_empirical_kernel(loss):
    """Parameter space and function space meet: full kernel, momentum, rates per layer, test points."""
    with jax.enable_x64(True):
        apply, params, _, x = network()
        test = jax.random.normal(jax.random.key(7), (3, 3), "float64")
        y = jax.nn.softmax(jax.random.normal(jax.random.key(8), (5, 2), "float64"))
        rates = jax.tree.map(lambda leaf: 0.5 + 0.1 * leaf.ndim, params)
        path = descend(
            linearise(apply, params), params, x, y, 0.8, 30, rates=rates, momentum=0.6, loss=loss, test=test
        )
        predicted = gradient_descent(
            tangent_kernel(apply, params, x, x, rates),
            y,
            0.8,
            np.arange(31),
            momentum=0.6,
            loss=loss,
            initial=apply(params, x),
            test=tangent_kernel(apply, params, test, x, rates),
            initial_test=apply(params, test),
        )
    np.testing.assert_allclose(path.train, predicted.train, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(path.test, predicted.test, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_it_takes_the_steps_of_optax(loss):
    """On a network, heavy ball, against optax.sgd and the losses written out; labels are one-hot rows."""
    with jax.enable_x64(True):
        apply, params, _, x = network()
        labels = jnp.array([0, 1, 1, 0, 1])
        y = jax.nn.one_hot(labels, 2, dtype="float64")
        optimizer = optax.sgd(0.3, momentum=0.9)
        path = descend(apply, params, x, y, 0.3, 5, momentum=0.9, loss=loss)
        if loss == "cross_entropy":
            again = descend(apply, params, x, labels, 0.3, 5, momentum=0.9, loss=loss)
            assert jnp.array_equal(again.train, path.train)

        def value(params):
            f = apply(params, x)
            if loss == "mse":
                return jnp.sum((f - y) ** 2) / 10
            return -jnp.mean(jnp.sum(y * jax.nn.log_softmax(f), axis=1))

        state = optimizer.init(params)
        for step in range(6):
            np.testing.assert_allclose(path.train[step], apply(params, x), rtol=1e-12, atol=1e-13)
            if step < 5:
                updates, state = optimizer.update(jax.grad(value)(params), state)
                params = optax.apply_updates(params, updates)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13), path.params, params
        )


def test_it_maps_over_seeds_and_rates_and_reads_rules():
    """One compiled program for an ensemble: each member is the run on its own; Rules give the factors."""
    config = models.MLPConfig(
        inputs=3, outputs=1, width=8, base_width=4, parametrization=scaling.mup(), depth=1
    )
    rules, model = models.rules(config, "sgd"), models.MLP(config)
    x, y = jnp.ones((4, 3)), jnp.ones((4, 1))

    @jax.jit
    def run(key, rate, rates=rules.learning_rate):
        params = models.initialise(key, rules)
        apply = lambda p, x: model.apply({"params": p, "multipliers": rules.multiplier}, x)  # noqa: E731
        return descend(apply, params, x, y, rate, 3, rates=rates, test=x[:2])

    keys, rates = jax.random.split(jax.random.key(0), 3), jnp.array([0.1, 0.2, 0.3])
    path = jax.vmap(lambda key, rate: run(key, rate, rules))(keys, rates)
    assert path.train.shape == (3, 4, 4, 1) and path.test.shape == (3, 4, 2, 1)
    one = run(keys[1], rates[1])
    np.testing.assert_allclose(path.train[1], one.train, rtol=1e-5, atol=1e-6)


def test_targets_of_another_shape_are_refused():
    """A broadcast would train on the wrong thing."""
    apply, params, _, x = network(dtype="float32")
    with pytest.raises(ValueError, match=r"shaped like the outputs, \(5, 2\); got \(5,\)"):
        descend(apply, params, x, jnp.zeros(5), 0.1, 1)
    with pytest.raises(ValueError, match="'hinge'"):
        descend(apply, params, x, jnp.zeros((5, 2)), 0.1, 1, loss="hinge")


@pytest.mark.parametrize("label", [-1, 2, 7])
def test_labels_of_classes_that_do_not_exist_are_refused(label):
    """A one-hot row of zeros would train towards no class. Compiled as well, where the labels are known."""
    apply, params, _, x = network(dtype="float32")
    for kind in (np.array, jnp.array):
        y = kind([0, 1, 1, 0, label])
        run = lambda params, y=y: descend(apply, params, x, y, 0.1, 1, loss="cross_entropy").train  # noqa: E731
        for call in (run, jax.jit(run)):
            with pytest.raises(ValueError, match=rf"labels must lie in 0..1; got {min(label, 0)} to"):
                call(params)


def test_rates_and_momenta_that_do_not_exist_are_refused():
    """In the words of gradient_descent; those that are traced are not looked at."""
    apply, params, _, x = network(dtype="float32")
    y = jnp.array([0, 1, 1, 0, 1])
    run = lambda rate, momentum: (  # noqa: E731
        descend(apply, params, x, y, rate, 1, momentum=momentum, loss="cross_entropy").train
    )
    for rate in (-0.1, 0.0, np.nan, jnp.inf, jnp.array(-0.1), jnp.array([0.1])):
        with pytest.raises(ValueError, match="rate must be a positive number; got"):
            run(rate, 0.0)
    for momentum in (1.0, -0.1, np.nan):
        with pytest.raises(ValueError, match="momentum must be a number from 0 to below 1; got"):
            run(0.1, momentum)
    mapped = jax.jit(jax.vmap(run))(jnp.array([-0.1, 0.1]), jnp.array([0.0, 0.5]))
    np.testing.assert_allclose(mapped[1], run(0.1, 0.5), rtol=1e-5, atol=1e-6)
