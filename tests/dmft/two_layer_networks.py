"""Real two-layer networks of a problem, trained by automatic differentiation: no theory enters."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from widelimit import models


def trained(problem, width, key, dtype="float64"):
    """Trains the network of a problem and returns its initial weights and centred outputs [T + 1, P + M, C].

    SGD with momentum and weight decay as torch has them, at ``models.rules``' rates, on f - f_0.
    """
    config = problem.network(width)
    rules = models.rules(config, "sgd")
    model, params = models.MLP(config), models.initialise(key, rules, dtype)
    x = jnp.asarray(problem.all_inputs, dtype)
    rates, shares = np.broadcast_to(problem.learning_rate, (problem.steps,)), problem.shares()
    multipliers = rules.multiplier

    def outputs(params):
        return model.apply({"params": params, "multipliers": multipliers}, x)

    start = outputs(params)

    @jax.jit
    def gradient(params, share):
        def loss(params):
            f = (outputs(params) - start)[: problem.samples]
            return jnp.sum(share * problem.losses(f))

        return jax.grad(loss)(params)

    first, velocity, path = params, jax.tree.map(jnp.zeros_like, params), [np.zeros(start.shape)]
    for rate, share in zip(rates, shares, strict=True):
        slope = gradient(params, jnp.asarray(share, dtype))
        velocity = jax.tree.map(lambda v, g: problem.momentum * v + g, velocity, slope)
        shrink = 1 - rate * problem.weight_decay
        params = jax.tree.map(
            lambda w, scale, v, rate=rate, shrink=shrink: shrink * w - rate * scale * v,
            params,
            rules.learning_rate,
            velocity,
        )
        path.append(np.asarray(outputs(params) - start))
    return first, np.stack(path)
