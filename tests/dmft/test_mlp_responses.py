"""Responses along the path against automatic differentiation of one neuron's equations, written out."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from widelimit import dmft
from widelimit.dmft.causal.collect import arrays
from widelimit.dmft.causal.noise import draw
from widelimit.dmft.causal.planner import make
from widelimit.dmft.causal.replica import Runner
from widelimit.dmft.causal.settings import DEFAULTS, settings

X = np.random.default_rng(5).standard_normal((6, 3))
GAMMA = 1.3


class Layer:
    """What the neurons of one layer (from 0) of a depth-3 network see, as tables [t, point, s, point]."""

    def __init__(self, p, found, layer):
        self.keep, drive = p.memory()
        shape = (p.steps + 1, p.points) * 2
        errors = np.asarray(p.targets) - found["predictions"][:, :2, 0]
        push = np.zeros((p.steps + 1, *shape[:2]))
        push[:, :-1, :2] = GAMMA * drive[:, :, None] * p.shares() * errors[:-1]
        below = np.broadcast_to(np.asarray(p.kernel)[None, :, None, :], shape)
        above, a, b = np.ones(shape), np.zeros(shape), np.zeros(shape)
        if layer > 0:
            below, a = found["features"][layer - 1], GAMMA * found["feature_response"][layer - 1][..., 0]
        if layer < 2:
            above, b = (
                found["gradients"][layer + 1][:, :, 0, :, :, 0],
                found["gradient_response"][layer][:, :, 0],
            )
        keep = self.keep[:, None, None, None]
        self.h_owes_g = keep * a + below * push[:, None]
        self.z_owes_phi = keep * GAMMA * b + above * push[:, None]

    def fields(self, u, r):
        """phi(h) and g, [T + 1, points], of a neuron with noise u and r, one time after the other."""
        phi, g = [], []
        for t in range(len(u)):
            h = self.keep[t] * u[t] + sum(self.h_owes_g[t, :, s] @ g[s] for s in range(t))
            phi.append(jnp.tanh(h))
            z = self.keep[t] * r[t] + sum(self.z_owes_phi[t, :, s] @ phi[s] for s in range(t + 1))
            g.append((1 - jnp.tanh(h) ** 2) * z)
        return jnp.stack(phi), jnp.stack(g)

    def noise(self, h, z):
        """The noise that neurons [T + 1, points, draw] must have had: the equations, solved for it."""
        phi = np.tanh(h)
        u = h - np.einsum("tmsn,sni->tmi", self.h_owes_g, (1 - phi**2) * z)
        r = z - np.einsum("tmsn,sni->tmi", self.z_owes_phi, phi)
        return (np.moveaxis(part / self.keep[:, None, None], -1, 0) for part in (u, r))


@pytest.mark.slow
def test_responses_are_derivatives_of_the_written_out_equations():
    """A and B of all times, the equal-time part of B and a test point's included, equal jacfwd's to 1e-9."""
    p = dmft.Problem(
        targets=[1.0, -1.0],
        kernel=X.T @ X / 6,
        steps=3,
        learning_rate=0.5,
        depth=3,
        gamma0=GAMMA,
        momentum=0.4,
        weight_decay=0.5,
    )
    options = {"samples": 8, "response": "pathwise", "response_samples": 8, "fields": 8, "dtype": "float64"}
    s = settings(p, **{**DEFAULTS, **options})
    with jax.enable_x64(True):
        for _, rows in Runner(p, s, make(s, None).windows).run(draw(s, 0)):
            found = arrays(rows, s, GAMMA)
        for number in range(3):
            layer = Layer(p, found, number)
            u, r = layer.noise(found["h"][number], found["z"][number][:, :, 0])
            phi, _ = jax.vmap(layer.fields)(u, r)
            np.testing.assert_allclose(phi, np.moveaxis(np.tanh(found["h"][number]), -1, 0), atol=1e-10)
            (_, phi_by_r), (g_by_u, _) = jax.vmap(jax.jacfwd(layer.fields, argnums=(0, 1)))(u, r)
            if number < 2:
                a = found["feature_response"][number][..., 0]
                np.testing.assert_allclose(a, phi_by_r.mean(0) / GAMMA, atol=1e-9)
                assert np.abs(a).max() > 1e-3
            if number > 0:
                b = found["gradient_response"][number - 1][:, :, 0]
                np.testing.assert_allclose(b, g_by_u.mean(0) / GAMMA, atol=1e-9)
                now = np.abs(np.einsum("tmtm->tm", b))
                assert now[0].max() < 1e-12 and (now[1:] > 1e-4).all()


@pytest.mark.slow
def test_stein_and_the_path_agree_on_predictions():
    """Two estimators of the responses that share no formula: predictions within joint standard errors."""
    p = dmft.Problem(
        targets=[1.0, -1.0],
        kernel=X.T @ X / 6,
        steps=6,
        learning_rate=0.4,
        depth=3,
        gamma0=1.5,
        activation="erf",
    )
    one, two = (
        dmft.mlp(p, samples=2000, replicas=8, response=response, response_samples=1000)
        for response in ("stein", "pathwise")
    )
    z = (one.predictions.values - two.predictions.values)[1:]
    z = z / np.hypot(one.predictions.stderr, two.predictions.stderr)[1:]
    assert np.abs(z).max() < 5


def test_a_kink_has_no_path():
    """ReLU's second derivative is no function: refused along the path; softplus is not."""
    given = {"targets": [1.0], "kernel": [[1.0]], "steps": 2, "learning_rate": 0.1, "depth": 2}
    for phi in ("relu", lambda h: jnp.where(h > 0, h, jnp.asarray(0.1, h.dtype) * h)):
        with pytest.raises(ValueError, match='kink; use "stein"'):
            dmft.plan(dmft.Problem(**given, activation=phi), response="pathwise")
    assert dmft.plan(dmft.Problem(**given, activation="softplus"), response="pathwise").response == "pathwise"
