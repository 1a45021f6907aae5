"""A small problem that all tests of the sweep share: a tanh network on random data."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from widelimit.training import Problem, accuracy, cross_entropy

RATES = (0.01, 0.05, 0.2)
SEEDS = (3, 11)
STEPS, BATCH = 7, 4


def data(dtype: type = np.float32) -> dict[str, np.ndarray]:
    """Twenty samples of five features in three classes."""
    rng = np.random.default_rng(0)
    return {"x": rng.normal(size=(20, 5)).astype(dtype), "y": rng.integers(0, 3, 20).astype(np.int32)}


def batches(steps: int = STEPS, seeds: int = len(SEEDS)) -> np.ndarray:
    """Different batches for every seed and step."""
    return np.random.default_rng(1).integers(0, 20, (seeds, steps, BATCH)).astype(np.int32)


def initialise(key: jax.Array, extras: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Gaussian weights in the dtype of the extras."""
    first, second = jax.random.split(key)
    dtype = jnp.asarray(extras["scale"]).dtype
    return {
        "w": extras["scale"] * jax.random.normal(first, (5, 6), dtype),
        "v": extras["scale"] * jax.random.normal(second, (6, 3), dtype),
    }


def logits(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """A network with one hidden layer."""
    return jnp.tanh(x @ params["w"]) @ params["v"]


def loss(params: dict[str, jax.Array], batch: dict[str, jax.Array], extras: object) -> jax.Array:
    """Cross-entropy on a batch."""
    return cross_entropy(logits(params, batch["x"]), batch["y"])


def measure(
    params: dict[str, jax.Array], evaluation: dict[str, jax.Array], extras: object
) -> dict[str, jax.Array]:
    """Loss and accuracy on the evaluation set, and a weight that gives away any difference."""
    z = logits(params, evaluation["x"])
    return {
        "loss": cross_entropy(z, evaluation["y"]),
        "accuracy": accuracy(z, evaluation["y"]),
        "weight": params["w"][0, 0],
    }


def adam(learning_rate: jax.Array, extras: object) -> optax.GradientTransformation:
    """Plain optax.adam, which needs the promotion that the tests forbid."""
    inner = optax.adam(learning_rate)

    def update(updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None) -> tuple:
        with jax.numpy_dtype_promotion("standard"):
            return inner.update(updates, state, params)

    return optax.GradientTransformation(inner.init, update)


def sgd(learning_rate: jax.Array, extras: object) -> optax.GradientTransformation:
    """Momentum, so that there is a state to lose."""
    return optax.sgd(learning_rate, momentum=0.9)


ADAM = Problem(initialise, loss, adam, measure)
SGD = Problem(initialise, loss, sgd, measure)
EXTRAS = {"scale": np.float32(0.7)}
