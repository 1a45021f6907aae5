"""The particles of a two-layer network: (h, z) of every neuron, moved by gradient descent, compiled once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from widelimit.dmft.losses import Loss, loss_function
from widelimit.dmft.problem import Problem
from widelimit.models import activation

Phi = Callable[[jax.Array], jax.Array]

_SMALL = 0.01
"""Below this gamma0 particles move in float64."""


class Setting(NamedTuple):
    """The numbers of a problem: arrays of one dtype, so that problems of one shape share a program.

    Attributes:
        kernel: of all points, [n, n] with n = P + M.
        targets: [P, C].
        gamma0: feature-learning strength.
        momentum: heavy ball.
        rates: learning rate of every step, [T].
        shrink: 1 - rate * weight_decay of every step, [T].
        shares: weight of each training point in every step, [T, P].
    """

    kernel: Any
    targets: Any
    gamma0: Any
    momentum: Any
    rates: Any
    shrink: Any
    shares: Any


class Form(NamedTuple):
    """What the program depends on beside shapes; hashable.

    Attributes:
        phi: activation.
        loss: of one sample.
        scalar: whether the loss sees scalars, not [C].
        momentum: whether buffers are carried.
    """

    phi: Phi
    loss: Loss
    scalar: bool
    momentum: bool


class Path(NamedTuple):
    """What a run returns, for times 0..T.

    Attributes:
        predictions: f - f_0, [T + 1, n, C].
        ntk: [T + 1, n C, n C], or only the last, [1, n C, n C].
        size: root mean square of h and of z, [T + 1, 2].
        h: [T + 1, n, S], or None.
        z: [T + 1, C, S], or None.
    """

    predictions: jax.Array
    ntk: jax.Array
    size: jax.Array
    h: jax.Array | None
    z: jax.Array | None


def setting(problem: Problem, dtype: type = np.float32) -> Setting:
    """Returns the numbers of a problem in a dtype."""
    rates = np.broadcast_to(np.asarray(problem.learning_rate), (problem.steps,))
    values = (
        problem.kernel,
        np.asarray(problem.targets).reshape(problem.samples, problem.outputs),
        problem.gamma0,
        problem.momentum,
        rates,
        1 - rates * problem.weight_decay,
        problem.shares(),
    )
    return Setting(*(np.asarray(value, dtype) for value in values))


def precision(problem: Problem) -> type:
    """float32, or float64 where gamma0 is so small that f = <z phi> / gamma0 would be made of rounding."""
    return np.float64 if problem.gamma0 < _SMALL else np.float32


def form(problem: Problem) -> Form:
    """Returns what a problem's program depends on beside shapes."""
    scalar = np.asarray(problem.targets).ndim == 1
    return Form(activation(problem.activation), loss_function(problem.loss), scalar, problem.momentum > 0)


def errors(kind: Form, f: jax.Array, targets: jax.Array) -> jax.Array:
    """Delta = -d loss / d f of predictions and targets [P, C]."""

    def one(f: jax.Array, y: jax.Array) -> jax.Array:
        return kind.loss(f[0], y[0]) if kind.scalar else kind.loss(f, y)

    return -jax.vmap(jax.grad(one))(f, targets)


def with_slope(phi: Phi, h: jax.Array) -> tuple[jax.Array, jax.Array]:
    """phi(h) and phi'(h)."""
    value, slope = jax.jvp(phi, (h,), (jnp.ones_like(h),))
    return value, slope


def drives(
    kind: Form, at: Setting, h: jax.Array, z: jax.Array, delta: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """What one step at rate 1 adds to h [n, S] and z [C, S]; delta [P, C] carries its samples' shares."""
    value, slope = with_slope(kind.phi, h[: len(delta)])
    pull = at.kernel[:, : len(delta)] @ (slope * (delta @ z))
    return at.gamma0 * pull, at.gamma0 * (delta.T @ value)


def tangent_kernel(kind: Form, at: Setting, h: jax.Array, z: jax.Array, weights: jax.Array) -> jax.Array:
    """<phi phi> + K <g g>, [n C, n C], its sides running over (sample, output)."""
    value, slope = with_slope(kind.phi, h)
    features = (value * weights) @ value.T
    if len(z) == 1:
        gradients = slope * z
        return features + at.kernel * ((gradients * weights) @ gradients.T)
    gradients = (slope[:, None] * z[None]).reshape(-1, z.shape[1])
    both = (gradients * weights) @ gradients.T
    ones = jnp.ones((len(z), len(z)), both.dtype)
    return jnp.kron(features, jnp.eye(len(z), dtype=both.dtype)) + jnp.kron(at.kernel, ones) * both


@functools.partial(jax.jit, static_argnames=("kind", "ntk", "record", "centred"))
def simulate(
    kind: Form,
    at: Setting,
    u: jax.Array,
    r: jax.Array,
    weights: jax.Array,
    *,
    ntk: bool = True,
    record: bool = False,
    centred: bool = True,
) -> Path:
    """Trains particles, ``f = <z phi(h)> / gamma0`` an average with weights over them.

    With S equal weights this is the centred network of width S; with a quadrature's nodes, the limit.

    Args:
        kind: the program's form.
        at: the problem's numbers.
        u: h at the start, [n, S].
        r: z at the start, [C, S].
        weights: of the average, [1, S] or [1, 1].
        ntk: whether to return the tangent kernel of all times, not only of the last.
        record: whether to return h and z at all times.
        centred: whether outputs at the start are subtracted.
    """

    def outputs(h: jax.Array, z: jax.Array) -> jax.Array:
        return (kind.phi(h) * weights) @ z.T / at.gamma0

    start = outputs(u, r) if centred else jnp.zeros((len(u), len(r)), u.dtype)

    def seen(h: jax.Array, z: jax.Array, f: jax.Array) -> Path:
        size = jnp.stack([jnp.sqrt(jnp.mean(h * h)), jnp.sqrt(jnp.mean(z * z))])
        kernel = tangent_kernel(kind, at, h, z, weights) if ntk else jnp.zeros((0, 0), u.dtype)
        return Path(f, kernel, size, h if record else None, z if record else None)

    def step(state: Any, now: Any) -> tuple[Any, Path]:
        (h, z), buffers = state
        rate, shrink, share = now
        f = outputs(h, z) - start
        delta = share[:, None] * errors(kind, f[: len(share)], at.targets)
        push = drives(kind, at, h, z, delta)
        if kind.momentum:
            push = buffers = jax.tree.map(lambda b, p: at.momentum * b + p, buffers, push)
        after = jax.tree.map(lambda x, p: shrink * x + rate * p, (h, z), push)
        return (after, buffers), seen(h, z, f)

    buffers = jax.tree.map(jnp.zeros_like, (u, r)) if kind.momentum else None
    (end, _), path = jax.lax.scan(step, ((u, r), buffers), (at.rates, at.shrink, at.shares))
    last = seen(*end, outputs(*end) - start)
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), path, last)
    return joined if ntk else joined._replace(ntk=tangent_kernel(kind, at, *end, weights)[None])


@functools.partial(jax.jit, static_argnames=("kind",))
def two_times(kind: Form, h: jax.Array, z: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Phi, [T + 1, n, T + 1, n], and G, [T + 1, n C, T + 1, n C], of recorded particles."""
    value, slope = with_slope(kind.phi, h)
    gradients = (slope[:, :, None] * z[:, None]).reshape(len(h), -1, h.shape[-1])

    def product(a: jax.Array) -> jax.Array:
        flat = a.reshape(-1, a.shape[-1])
        return ((flat * weights) @ flat.T).reshape(a.shape[:2] * 2)

    return product(value), product(gradients)
