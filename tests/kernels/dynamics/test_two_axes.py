"""Two independent axes: the rate for the telescoping model, the width for the single linearisation."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from widelimit.compare import fit_exponent
from widelimit.kernels.dynamics import descend, linearise, telescoping_step

SEEDS, TIME = 64, 20.0  # 64 seeds: the slopes below have standard errors of 0.06 to 0.11


def apply(params, x):
    """A tanh network with one hidden layer, NTK parametrization, scalar output."""
    w, v = params
    return jnp.tanh(x @ w) @ v / np.sqrt(len(v))


def data():
    """Twelve inputs of norm one in eight dimensions, and a smooth target of size one."""
    x = np.random.default_rng(0).normal(size=(12, 8))
    scaled = np.sqrt(8) * x / np.linalg.norm(x, axis=1, keepdims=True)
    return jnp.asarray(scaled / np.sqrt(8)), jnp.asarray(
        np.sin(scaled[:, 0]) + scaled[:, 1] * scaled[:, 2] / 2
    )


@functools.cache
def gaps(width, steps):
    """Rms distance of the trained network from its telescoping model and linearisation, [2, S]."""
    with jax.enable_x64(True):
        x, y = data()
        rate = TIME / steps

        def one(params):
            def step(state, _):
                before, telescoped = state
                after = descend(apply, before, x, y, rate, 1).params
                return (after, telescoped + telescoping_step(apply, before, after, x)), None

            (end, telescoped), _ = jax.lax.scan(step, (params, apply(params, x)), length=steps)
            linear = descend(linearise(apply, params), params, x, y, rate, steps).train[-1]
            f = apply(end, x)
            return jnp.sqrt(jnp.mean((telescoped - f) ** 2)), jnp.sqrt(jnp.mean((linear - f) ** 2))

        rng = np.random.default_rng(1)
        params = (rng.normal(size=(SEEDS, 8, width)), rng.normal(size=(SEEDS, width)))
        return np.array(jax.jit(jax.vmap(one))(jax.tree.map(jnp.asarray, params)))


def test_the_rate_moves_the_telescoping_model_only():
    """Its error halves with the rate (slope 1, its correction of first order); the linearisation's stays."""
    errors = np.array([np.sqrt(np.mean(gaps(64, steps) ** 2, axis=1)) for steps in (80, 160, 320)]).T
    coarse, fine = -np.diff(np.log2(errors[0]))
    assert abs(fine - 1) < 0.02 and abs(2 * fine - coarse - 1) < 0.005  # extrapolated to rate zero
    np.testing.assert_allclose(errors[1], errors[1, -1], rtol=0.02)
    assert errors[1, -1] > 20 * errors[0, -1]


def test_the_width_moves_both():
    """At a fixed rate both errors fall as 1/width: neither tangent rotates much in a wide network."""
    widths = [64, 128, 256, 512]
    found = np.array([gaps(width, 20) for width in widths])
    for model in (0, 1):
        law = fit_exponent(widths, found[:, model].T, mean="rms")
        assert abs(law.exponent + 1) < 3 * law.stderr < 0.4
