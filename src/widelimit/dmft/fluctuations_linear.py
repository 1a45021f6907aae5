"""How the limit of a two-layer network answers to what moves one neuron: both leading moments."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from widelimit.dmft.two_layer_particles import Form, Setting, drives, errors, tangent_kernel


class Moments(NamedTuple):
    """N times the leading bias and variance, of outputs [(T + 1) n C] and of the final NTK [(n C)^2]."""

    bias: np.ndarray
    variance: np.ndarray
    ntk_bias: np.ndarray
    ntk_variance: np.ndarray


class Estimate(NamedTuple):
    """Moments and their standard errors, which quadrature lacks."""

    value: Moments
    stderr: Moments | None


def respond(
    kind: Form, at: Setting, centred: bool, path: jax.Array, u: jax.Array, r: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """What one neuron adds to outputs, [(T + 1) n C], and to the final NTK if training sees outputs ``path``.

    Args:
        kind: the program's form.
        at: the problem's numbers.
        centred: whether its output at the start is subtracted.
        path: outputs at the training points before each step, [T, P, C]; they alone drive the neuron.
        u: h at the start, [n].
        r: z at the start, [C].
    """
    one = jnp.ones((1, 1), u.dtype)

    def outputs(h: jax.Array, z: jax.Array) -> jax.Array:
        return kind.phi(h) @ z.T / at.gamma0

    def step(state: Any, now: Any) -> tuple[Any, jax.Array]:
        (h, z), buffers = state
        f, rate, shrink, share = now
        push = drives(kind, at, h, z, share[:, None] * errors(kind, f, at.targets))
        if kind.momentum:
            push = buffers = jax.tree.map(lambda b, p: at.momentum * b + p, buffers, push)
        after = jax.tree.map(lambda x, p: shrink * x + rate * p, (h, z), push)
        return (after, buffers), outputs(h, z)

    start = (u[:, None], r[:, None])
    buffers = jax.tree.map(jnp.zeros_like, start) if kind.momentum else None
    steps = (path, at.rates, at.shrink, at.shares)
    (end, _), found = jax.lax.scan(step, (start, buffers), steps)
    found = jnp.concatenate([found, outputs(*end)[None]])
    if centred:
        found = found - found[:1]
    return found.ravel(), tangent_kernel(kind, at, *end, one).ravel()


@functools.partial(jax.jit, static_argnames=("kind", "centred"))
def answers(
    kind: Form, at: Setting, centred: bool, path: jax.Array, u: jax.Array, r: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """``respond`` of neurons u [S, n], r [S, C]: [S, (T + 1) n C] and [S, (n C)^2]."""
    return jax.vmap(functools.partial(respond, kind, at, centred, path))(u, r)


@functools.partial(jax.jit, static_argnames=("kind", "centred", "order"))
def slopes(
    kind: Form,
    at: Setting,
    centred: bool,
    path: jax.Array,
    u: jax.Array,
    r: jax.Array,
    weights: jax.Array,
    directions: jax.Array,
    order: int,
) -> tuple[jax.Array, jax.Array]:
    """The first or second derivatives of the average response along directions [d, T, P, C], stacked."""

    def average(path: jax.Array) -> tuple[jax.Array, jax.Array]:
        f, ntk = answers(kind, at, centred, path, u, r)
        return weights @ f, weights @ ntk

    def along(direction: jax.Array) -> Any:
        def first(path: jax.Array) -> Any:
            return jax.jvp(average, (path,), (direction,))[1]

        return first(path) if order == 1 else jax.jvp(first, (path,), (direction,))[1]

    return jax.lax.map(along, directions)


@functools.partial(jax.jit, static_argnames=("kind", "centred"))
def own_slopes(
    kind: Form,
    at: Setting,
    centred: bool,
    path: jax.Array,
    u: jax.Array,
    r: jax.Array,
    weights: jax.Array,
    moved: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The average of each neuron's derivative along a direction of its own, moved [S, T, P, C]."""

    def one(u: jax.Array, r: jax.Array, direction: jax.Array) -> Any:
        return jax.jvp(lambda path: respond(kind, at, centred, path, u, r), (path,), (direction,))[1]

    f, ntk = jax.vmap(one)(u, r, moved)
    return weights @ f, weights @ ntk


def moments(
    kind: Form,
    at: Setting,
    centred: bool,
    path: np.ndarray,
    u: np.ndarray,
    r: np.ndarray,
    weights: np.ndarray,
) -> Moments:
    r"""Returns the leading moments of a network of N neurons around its limit.

    Outputs are f = A[f], with A the average over neurons of what each returns, F_i[f], when training sees f.
    One more neuron of weight eps moves f by ``eps X_i``, ``X_i = (1 - A')^{-1} (F_i - f)``, so that
    ``N Cov(f) = <X X^T>``, and to second order ``N bias = (1 - A')^{-1} (A''[<X X^T>] / 2 + <F_i'[X_i]>)``.

    Args:
        kind: the program's form.
        at: the problem's numbers, float64.
        centred: whether each network's output at the start is subtracted.
        path: the limit's outputs, [T + 1, n, C].
        u: h of neurons at the start, [S, n].
        r: z likewise, [S, C].
        weights: of the average, [S].
    """
    times, points, outputs = path.shape
    trained = np.zeros((times, points, outputs), bool)
    trained[:-1, : len(at.targets)] = True
    seen = np.flatnonzero(trained)
    shape = (times - 1, len(at.targets), outputs)
    drive = path[:-1, : len(at.targets)]
    fixed = (kind, at, centred, drive, u, r)
    units = np.eye(len(seen)).reshape(-1, *shape)
    jacobian, ntk_jacobian = (np.asarray(a).T for a in slopes(*fixed, weights, units, 1))
    propagator = np.linalg.inv(np.eye(len(seen)) - jacobian[seen])

    f, ntk = (np.asarray(a) for a in answers(*fixed))
    source = f - path.ravel()
    moved = source[:, seen] @ propagator.T
    x = source + moved @ jacobian.T
    x_ntk = ntk - weights @ ntk + moved @ ntk_jacobian.T
    del f, ntk, source

    values, vectors = np.linalg.eigh((moved * weights[:, None]).T @ moved)
    kept = values > 1e-9 * max(values[-1], 0.0)
    modes = (vectors[:, kept] * np.sqrt(values[kept])).T.reshape(-1, *shape)
    curved, ntk_curved = (np.asarray(a).sum(0) for a in slopes(*fixed, weights, modes, 2))
    own, ntk_own = (np.asarray(a) for a in own_slopes(*fixed, weights, moved.reshape(-1, *shape)))
    shift, ntk_shift = curved / 2 + own, ntk_curved / 2 + ntk_own
    drift = propagator @ shift[seen]
    return Moments(
        shift + jacobian @ drift, weights @ x**2, ntk_shift + ntk_jacobian @ drift, weights @ x_ntk**2
    )
