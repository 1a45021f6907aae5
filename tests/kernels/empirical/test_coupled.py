"""Samples that see one another have no kernel between single samples: refused, with the way out."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from tests.kernels.empirical.reference import compare
from widelimit.kernels import empirical


class Normalised(nn.Module):
    """A network with batch norm and dropout."""

    training: bool = True
    rate: float = 0.0

    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=not self.training)(nn.Dense(6)(x))
        x = nn.Dropout(self.rate, deterministic=not self.training)(nn.relu(x))
        return nn.Dense(2)(x)


@pytest.fixture(autouse=True)
def foreign_models():
    """Linen's own layers promote ranks and dtypes."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def network(**options):
    """The model as a function, its parameters and inputs."""
    model = Normalised(**options)
    x = jax.random.normal(jax.random.key(0), (5, 3))
    variables = Normalised(training=False).init(jax.random.key(1), x)
    stats = jax.tree.map(lambda a: a + 0.3, variables["batch_stats"])

    def apply(params, x):
        given = {"params": params, "batch_stats": stats}
        out = model.apply(given, x, mutable=["batch_stats"], rngs={"dropout": jax.random.key(2)})
        return out[0]

    return apply, variables["params"], x


def test_batch_norm_in_training_mode_is_refused():
    """The outputs of a sample change with its neighbours, whichever samples are given."""
    apply, params, x = network()
    for inputs in (x, x[:1], jnp.stack([x[0]] * 3)):
        with pytest.raises(ValueError, match="use_running_average=True"):
            empirical.ntk(apply, params, inputs, form="trace")


def test_dropout_is_refused():
    """A mask over the batch gives a sample another mask when it is alone."""
    apply, params, x = network(rate=0.5)
    with pytest.raises(ValueError, match="switch dropout off"):
        empirical.ntk(apply, params, x)


def test_running_averages_are_the_way_out():
    """In evaluation mode batch norm is a gain and a bias, and the kernel is exact."""
    apply, params, x = network(training=False)
    paths = {path.name: path.kind for path in empirical.plan(apply, params, x).leaves()}
    assert paths["BatchNorm_0/scale"] == "gain" and paths["BatchNorm_0/bias"] == "bias"
    compare(apply, params, x, x[:2], forms=("full", "trace"))


def test_samples_that_only_round_differently_are_not_refused():
    """A wide sum in another order, and values of 1e8 or 1e-8, are no coupling."""
    x = jax.random.normal(jax.random.key(0), (7, 300))
    for scale in (1e-8, 1.0, 1e8):
        params = scale * jax.random.normal(jax.random.key(1), (300, 4))
        theta = empirical.ntk(lambda p, x: jnp.tanh(x @ p / scale) * scale, params, x, form="trace")  # noqa: B023
        assert theta.shape == (7, 7)
