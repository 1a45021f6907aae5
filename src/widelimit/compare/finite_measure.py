"""What is measured of one finite network at one time, inside a compiled program."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from widelimit.dmft.losses import Loss
from widelimit.models import MLPConfig, ResidualMLPConfig

PyTree = Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """All that a compiled program depends on beside numbers; problems that share it share the program.

    Args:
        config: of the network; its parametrization only as far as raw weights ~ N(0, 1).
        loss: of one sample.
        scalar: whether the loss sees numbers, or vectors of outputs.
        points: training and test points together.
        samples: training points.
        steps: T.
        minibatch: how many training points a step sees; 0 is all of them.
        momentum: whether there is a buffer.
        times: at which order parameters are measured, increasing.
        measures: which of ``"features"``, ``"gradients"``, ``"ntk"``; or ``"fields"`` alone.
        two_time: whether features and gradients are taken between all pairs of times.
        centred: whether f - f_0 is trained, or f.
        dtype: of everything.
        lanes: networks that are computed side by side.
    """

    config: MLPConfig | ResidualMLPConfig
    loss: str | Loss
    scalar: bool
    points: int
    samples: int
    steps: int
    minibatch: int
    momentum: bool
    times: tuple[int, ...]
    measures: tuple[str, ...]
    two_time: bool
    centred: bool
    dtype: str
    lanes: int

    @property
    def residual(self) -> bool:
        """Whether the hidden layers are the stream h^0..h^L of a residual network."""
        return isinstance(self.config, ResidualMLPConfig)


def measure(plan: Plan, numbers: PyTree, taps: PyTree, pull: Any, f: jax.Array) -> PyTree:
    """Returns what is asked of the network as it is now.

    Args:
        plan: what is asked.
        numbers: of the rules.
        taps: what entered and left every layer.
        pull: turns a cotangent of f into those of parameters and pre-activations.
        f: predictions, [P + M, C].
    """
    layers, width = list(plan.config.layers()), plan.config.width
    units = jnp.stack([taps[name]["input"][0] for name in layers[1:]])  # phi(h^l), as the network uses it
    cotangents = _cotangents(plan, pull, f)
    found: dict[str, jax.Array] = {}
    if "ntk" in plan.measures:
        found["ntk"] = _ntk(numbers, layers, taps, cotangents)
    h, g = _fields(plan, numbers, layers, taps, cotangents)
    if plan.two_time:
        found |= {"phi": units} if "features" in plan.measures else {}
        found |= {"g": g} if "gradients" in plan.measures else {}
    else:
        if "features" in plan.measures:
            found["features"] = jnp.einsum("lpn,lqn->lpq", units, units) / width
        if "gradients" in plan.measures:
            found["gradients"] = jnp.einsum("lpcn,lqdn->lpcqd", g, g) / width
    if "fields" in plan.measures:
        found |= {"h": h, "g": g}
    return found


def _cotangents(plan: Plan, pull: Any, f: jax.Array) -> PyTree:
    """df_c / d(pre-activation) of every layer, by name, [sample, output, unit]; samples do not mix."""

    def one(column: jax.Array) -> PyTree:
        return pull(jnp.broadcast_to(column, f.shape))[1]

    shifts = jax.vmap(one, out_axes=1)(jnp.eye(f.shape[1], dtype=f.dtype)[:, None, :])
    return {name: tap["preactivation"] for name, tap in shifts.items()}


def _ntk(numbers: PyTree, layers: list[str], taps: PyTree, cotangents: PyTree) -> jax.Array:
    """Sum over layers of rate multiplier^2 (x . x') (d . d'), x what enters and d = df / d(what leaves)."""
    parts = []
    for name in layers:
        x, d = taps[name]["input"][0], cotangents[name]
        size = numbers["leaf_rate"][name]["kernel"] * numbers["multiplier"][name]["kernel"] ** 2
        parts.append(size * (x @ x.T)[:, None, :, None] * jnp.einsum("pcn,qdn->pcqd", d, d))
    return sum(parts[1:], parts[0])


def _fields(
    plan: Plan, numbers: PyTree, layers: list[str], taps: PyTree, cotangents: PyTree
) -> tuple[jax.Array, jax.Array]:
    """h^l [layer, sample, unit] and g^l = gamma0 N df / dh^l [layer, sample, output, unit]."""
    h = jnp.stack([taps[name]["preactivation"][0] for name in layers[:-1]])
    g = numbers["unit"] * jnp.stack([cotangents[name] for name in layers[:-1]])
    if plan.residual:  # h^{k+1} = h^k + scale y_k, and what is tapped is h^0 and the y_k
        scale = jnp.full(len(h), plan.config.branch_scale, h.dtype).at[0].set(1.0)  # type: ignore[union-attr]
        h = jnp.cumsum(scale[:, None, None] * h, axis=0)
        g = g / scale[:, None, None, None]
    return h, g


def arranged(plan: Plan, measured: PyTree) -> PyTree:
    """Returns layers first, kernels between all pairs of times if asked for, no axis for an only output.

    Args:
        plan: what is asked.
        measured: at each time, times first; and predictions and loss.
    """
    width, found = plan.config.width, dict(measured)
    if "phi" in found:
        phi = found.pop("phi")
        found["features"] = jnp.einsum("tlpn,slqn->ltpsq", phi, phi) / width
    elif "features" in found:
        found["features"] = found["features"].swapaxes(0, 1)
    if plan.two_time and "gradients" in plan.measures:
        g = found.pop("g")
        found["gradients"] = jnp.einsum("tlpcn,slqdn->ltpcsqd", g, g) / width
    elif "gradients" in found:
        found["gradients"] = found["gradients"].swapaxes(0, 1)
    found |= {name: found[name].swapaxes(0, 1) for name in ("h", "g") if name in found}
    if plan.scalar:
        outputs = {"predictions": (-1,), "gradients": (-1, -4 if plan.two_time else -3), "g": (-2,)}
        outputs["ntk"] = (-1, -3)
        found |= {name: jnp.squeeze(found[name], axis) for name, axis in outputs.items() if name in found}
    return found
