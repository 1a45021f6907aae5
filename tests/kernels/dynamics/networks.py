"""Small networks, and their tangent kernel from whole Jacobians."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from widelimit import models, scaling


@functools.cache
def network(width=16, activation="tanh", dtype="float64"):
    """Returns apply, params, other params and inputs of a small MLP, two outputs; call in enable_x64."""
    config = models.MLPConfig(
        inputs=3,
        outputs=2,
        width=width,
        base_width=width,
        depth=1,
        parametrization=scaling.ntk(),
        activation=activation,
    )
    rules = models.rules(config, "sgd")
    model = models.MLP(config)
    x = jax.random.normal(jax.random.key(2), (5, 3), dtype)

    @jax.jit
    def apply(params, x):
        return model.apply({"params": params, "multipliers": rules.multiplier}, x)

    one, two = (models.initialise(jax.random.key(seed), rules, dtype) for seed in (0, 1))
    return apply, one, jax.tree.map(lambda a, b: a + 0.1 * b, one, two), x


def tangent_kernel(apply, params, x1, x2, rates=None):
    """The full empirical NTK from whole Jacobians, (N1, N2, O, O)."""
    jacobian = jax.jit(jax.jacobian(apply))
    j1, j2 = jacobian(params, x1), jacobian(params, x2)
    rates = jax.tree.map(lambda _: 1.0, params) if rates is None else rates

    def layer(rate, a, b):
        a, b = (j.reshape(*j.shape[:2], -1) for j in (a, b))
        return rate * jnp.einsum("iok,jpk->ijop", a, b)

    return sum(jax.tree.leaves(jax.tree.map(layer, rates, j1, j2)))
