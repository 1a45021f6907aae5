"""A layer, read where a bias is added to it: the sign of the sum, and factors of one number, come along."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from tests.kernels.empirical.reference import compare
from widelimit.kernels import empirical

KEYS = jax.random.split(jax.random.key(11), 5)
PARAMS = {
    "w": jax.random.normal(KEYS[0], (3, 3)),
    "b": jax.random.normal(KEYS[1], (3,)),
    "out": jax.random.normal(KEYS[2], (3, 2)),
}


@pytest.mark.parametrize(
    "second",
    [
        lambda product, bias: bias - product,
        lambda product, bias: product - bias,
        lambda product, bias: bias - 0.3 * product,
    ],
    ids=["bias - product", "product - bias", "bias - 0.3 product"],
)
def test_a_shared_layer_with_two_signs(second):
    """Weights and biases used twice: the product of both uses has the sign and the factor of the second."""

    def apply(p, x):
        h = jnp.tanh(x @ p["w"] + p["b"][None])
        return jnp.tanh(second(h @ p["w"], p["b"][None])) @ p["out"]

    x1, x2 = jax.random.normal(KEYS[3], (4, 3)), jax.random.normal(KEYS[4], (2, 3))
    kinds = {path.name: path.kind for path in empirical.plan(apply, PARAMS, x1).leaves()}
    assert kinds == {"w": "dense", "b": "bias", "out": "dense"}
    compare(apply, PARAMS, x1, x2)
