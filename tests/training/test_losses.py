"""Losses have the normalisation they state, and refuse what would broadcast."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from widelimit.training import accuracy, cross_entropy, mse


def test_the_gradient_of_mse_is_the_residual_over_the_batch():
    """No factor depends on the number of outputs: kernel dynamics has d f/dt = -K (f - y) / B."""
    rng = np.random.default_rng(0)
    outputs, targets = rng.normal(size=(2, 7, 3)).astype(np.float32)
    gradient = jax.grad(mse)(jnp.asarray(outputs), jnp.asarray(targets))
    np.testing.assert_allclose(gradient, (outputs - targets) / 7, rtol=1e-6)
    np.testing.assert_allclose(mse(outputs, targets), np.sum((outputs - targets) ** 2) / 14, rtol=1e-6)


def test_cross_entropy_is_the_mean_negative_log_likelihood():
    """Value and gradient, also where a naive softmax overflows."""
    logits = np.float32([[1.0, 2.0, -1.0], [500.0, -500.0, 0.0]])
    labels = np.int32([2, 0])
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    chance = np.exp(shifted) / np.exp(shifted).sum(1, keepdims=True)
    np.testing.assert_allclose(
        cross_entropy(logits, labels), -np.log(chance[[0, 1], labels]).mean(), rtol=1e-6
    )
    gradient = jax.grad(cross_entropy)(jnp.asarray(logits), jnp.asarray(labels))
    np.testing.assert_allclose(gradient, (chance - np.eye(3)[labels]) / 2, atol=1e-7)


def test_many_samples_at_once_are_as_good_as_few():
    """A reduction over more than 32768 rows is wrong in jaxlib 0.10.2 (jax-ml/jax #39103), without a word.

    The last of these is the form that was wrong there, on the evaluation of 36 cells: it guards the compiler.
    """

    def naive(z: jax.Array, labels: jax.Array) -> jax.Array:
        picked = jnp.sum(jax.nn.one_hot(labels, 10) * z, axis=-1)
        return jnp.mean(jax.nn.logsumexp(z, axis=-1) - picked)

    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(36, 1437, 10)).astype(np.float32))
    labels = jnp.asarray(rng.integers(0, 10, 1437).astype(np.int32))
    for loss in (cross_entropy, accuracy, naive):
        together = jax.jit(jax.vmap(loss, (0, None)))(logits, labels)
        np.testing.assert_allclose(together, [loss(z, labels) for z in logits], rtol=1e-5)


@pytest.mark.parametrize(
    ("loss", "first", "second", "error", "sentence"),
    [
        (mse, np.ones((4, 1)), np.ones((4, 2)), ValueError, "same shape; got"),
        (cross_entropy, np.ones((4, 3)), np.zeros(3, int), ValueError, r"labels \[batch\]; got"),
        (cross_entropy, np.ones(3), np.zeros(3, int), ValueError, r"shape \[batch, classes\]"),
        (cross_entropy, np.ones((4, 3)), np.zeros(4), TypeError, "labels must be integers"),
        (accuracy, np.ones((4, 3)), np.zeros((4, 1), int), ValueError, r"labels \[batch\]; got"),
    ],
)
def test_shapes_that_would_broadcast_are_refused(loss, first, second, error, sentence):
    """Broadcasting trains on the wrong thing, quietly."""
    with pytest.raises(error, match=sentence):
        loss(jnp.float32(first), jnp.asarray(second))
