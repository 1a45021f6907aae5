"""What every door of the kernels refuses: variables in place of parameters, and coupled samples."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from widelimit.kernels import dynamics, empirical, spectra


class Normed(nn.Module):
    """A network with batch norm."""

    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(2)(nn.BatchNorm(use_running_average=not train)(nn.Dense(4)(x)))


X = jax.random.normal(jax.random.key(0), (5, 3))
NET = Normed()
VARIABLES = NET.init(jax.random.key(1), X, train=False)
PARAMS = VARIABLES["params"]
MOVED = jax.tree.map(lambda leaf: leaf + 0.1, PARAMS)
MESH = jax.make_mesh((1,), ("rows",), devices=jax.devices()[:1])
DOORS = {
    "ntk": lambda f, p: empirical.ntk(f, p, X),
    "plan": lambda f, p: empirical.plan(f, p, X),
    "blocks": lambda f, p: empirical.ntk_in_blocks(f, p, X),
    "sharded": lambda f, p: empirical.ntk_sharded(f, p, X, mesh=MESH),
    "sketch": lambda f, p: empirical.sketch(f, p, X, size=4, key=jax.random.key(0)),
    "hutchinson": lambda f, p: empirical.ntk_hutchinson(f, p, X, probes=2, key=jax.random.key(0)),
    "operator": lambda f, p: spectra.operator(f, p, X),
    "laziness": lambda f, p: spectra.laziness(f, p, jax.tree.map(lambda leaf: leaf + 0.1, p), X),
    "linearise": lambda f, p: dynamics.linearise(f, p),
    "quadratic": lambda f, p: dynamics.quadratic(f, p),
    "descend": lambda f, p: dynamics.descend(f, p, X, jnp.zeros((5, 2)), 0.1, 1),
}
# A plan is abstract, and Taylor models and training are right for coupled samples too.
UNCOUPLED = set(DOORS) - {"plan", "linearise", "quadratic", "descend"}


@pytest.mark.parametrize("door", DOORS)
def test_variables_are_not_parameters(door):
    """Statistics and multipliers beside the parameters would be differentiated by, in silence."""

    def evaluate(variables, x):
        return NET.apply(variables, x, train=False)

    with pytest.raises(ValueError, match=r"a Flax model's variables, with 'batch_stats' beside 'params'"):
        DOORS[door](evaluate, VARIABLES)


@pytest.mark.parametrize("door", sorted(UNCOUPLED))
def test_coupled_samples_are_refused(door):
    """The kernel is between single samples, and batch norm in training mode knows none."""

    def training(params, x):
        variables = {**VARIABLES, "params": params}
        return NET.apply(variables, x, train=True, mutable=["batch_stats"])[0]

    with pytest.raises(ValueError, match="treat every sample alone"):
        DOORS[door](training, PARAMS)


def test_networks_that_start_from_zero_are_judged_by_what_they_compute():
    """Two copies of opposite sign cancel to rounding at the start, and a zero readout hides batch norm."""

    def apart(params, x):
        one, two = (jnp.tanh(x @ p["in"]) @ p["out"] for p in params)
        return one - two

    weights = {"in": jax.random.normal(jax.random.key(2), (3, 512)), "out": jnp.ones((512, 1))}
    mirrored = {name: leaf[..., ::-1] if name == "in" else leaf for name, leaf in weights.items()}
    assert np.isfinite(empirical.ntk(apart, [weights, mirrored], X)).all()

    def training(params, x):
        variables = {**VARIABLES, "params": params}
        return NET.apply(variables, x, train=True, mutable=["batch_stats"])[0]

    silent = {**PARAMS, "Dense_1": jax.tree.map(jnp.zeros_like, PARAMS["Dense_1"])}
    with pytest.raises(ValueError, match="treat every sample alone"):
        empirical.ntk(training, silent, X)


@pytest.mark.parametrize("door", sorted(UNCOUPLED - {"operator", "laziness"}))
def test_no_kernel_is_nan_in_silence(door):
    """Outputs that overflow give a sentence, whichever way the kernel is computed."""
    with pytest.raises(FloatingPointError, match="not finite"):
        DOORS[door](lambda p, x: jnp.exp(200 * (x @ p["w"]) ** 2), {"w": jnp.full((3, 1), 3.0)})
