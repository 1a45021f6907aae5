"""Responses along the path: how some samples' fields move when the noise of one time and point moves."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from widelimit.dmft.causal.products import at, dot, put
from widelimit.dmft.causal.settings import Settings
from widelimit.models.activations import Activation


class Paths(NamedTuple):
    """How one layer's fields move, in i samples, with the noise of a kind at time W and training point q.

    None where the layer needs none: r of the last layer and u of the first respond to nothing.
    """

    x_r: jax.Array | None  # d phi(h) / d r, shape=(W, p, i, W, c, q)
    g_r: jax.Array | None  # d g / d r, shape=(W, c, p, i, W, c, q)
    x_u: jax.Array | None  # d phi(h) / d u, shape=(W, p, i, W, q)
    g_u: jax.Array | None  # d g / d u, shape=(W, c, p, i, W, q)


def start(settings: Settings, window: int) -> tuple[Paths, ...]:
    """Returns the derivatives before the first step, for each layer; none if responses are not pathwise."""
    if settings.response != "pathwise" or settings.depth == 1:
        return ()
    w, p, c, q, i = window, settings.points, settings.outputs, settings.train, settings.response_samples
    layers = []
    for layer in range(settings.depth):
        last, first = layer == settings.depth - 1, layer == 0
        layers.append(
            Paths(
                None if last else jnp.zeros((w, p, i, w, c, q), settings.dtype),
                None if last else jnp.zeros((w, c, p, i, w, c, q), settings.dtype),
                None if first else jnp.zeros((w, p, i, w, q), settings.dtype),
                None if first else jnp.zeros((w, c, p, i, w, q), settings.dtype),
            )
        )
    return tuple(layers)


def chosen(settings: Settings, field: jax.Array) -> jax.Array:
    """Returns the samples of a field that carry derivatives: whole pairs where there are pairs."""
    count = settings.response_samples
    if not settings.antithetic:
        return field[..., :count]
    half = settings.pairs
    return jnp.concatenate([field[..., : count // 2], field[..., half : half + count // 2]], axis=-1)


def curvature(phi: Activation, h: jax.Array) -> jax.Array:
    """Returns phi''(h)."""

    def slope(h: jax.Array) -> jax.Array:
        value, back = jax.vjp(phi, h)
        return back(jnp.ones_like(value))[0]

    return jax.jvp(slope, (h,), (jnp.ones_like(h),))[1]


def forward(
    paths: Paths, drive: jax.Array, slope: jax.Array, keep: jax.Array, t: jax.Array
) -> tuple[Paths, jax.Array | None, jax.Array | None]:
    """Returns paths with phi(h) at t, and the derivatives of h at t by r and by u.

    Args:
        paths: of the times before.
        drive: what h at t owes to g, shape [p, W c p].
        slope: phi'(h) of the chosen samples, [p, i].
        keep: what is left of the first weights.
        t: the time.
    """
    h_r = h_u = None
    if paths.x_r is not None and paths.g_r is not None:
        h_r = _move(drive, paths.g_r, 3)
        paths = paths._replace(x_r=put(paths.x_r, _times(slope, h_r), t))
    if paths.x_u is not None and paths.g_u is not None:
        h_u = _move(drive, paths.g_u, 3)
        w, q = h_u.shape[2:]
        own = keep * _own(t, w, len(h_u), q, drive.dtype)
        h_u = h_u + own[:, None]
        paths = paths._replace(x_u=put(paths.x_u, _times(slope, h_u), t))
    return paths, h_r, h_u


def backward(
    paths: Paths,
    drive: jax.Array,
    slope: jax.Array,
    bend: jax.Array,
    h_r: jax.Array | None,
    h_u: jax.Array | None,
    keep: jax.Array,
    t: jax.Array,
) -> Paths:
    """Returns paths with g at t: ``dg = phi'' z dh + phi' dz``.

    Args:
        paths: with phi(h) at t.
        drive: what z at t owes to phi(h), shape [c, p, W p]; zeros for the readout's own noise.
        slope: phi'(h) of the chosen samples, [p, i].
        bend: phi''(h) z of the chosen samples, [c, p, i].
        h_r: derivatives of h at t by r, [p, i, W, c, q].
        h_u: derivatives of h at t by u, [p, i, W, q].
        keep: what is left of the first weights.
        t: the time.
    """
    c, p = drive.shape[:2]
    if paths.x_r is not None and paths.g_r is not None and h_r is not None:
        z = _move(drive.reshape(c * p, -1), paths.x_r, 2).reshape(c, p, *h_r.shape[1:])
        w, _, q = h_r.shape[2:]
        own = (
            jnp.eye(c, dtype=drive.dtype)[:, None, None, :, None]
            * _own(t, w, p, q, drive.dtype)[None, :, :, None]
        )
        g = _times(bend, h_r[None]) + _times(slope[None], z + keep * own[:, :, None])
        paths = paths._replace(g_r=put(paths.g_r, g, t))
    if paths.x_u is not None and paths.g_u is not None and h_u is not None:
        z = _move(drive.reshape(c * p, -1), paths.x_u, 2).reshape(c, p, *h_u.shape[1:])
        g = _times(bend, h_u[None]) + _times(slope[None], z)
        paths = paths._replace(g_u=put(paths.g_u, g, t))
    return paths


def feature_response(paths: Paths, points: int, t: jax.Array) -> jax.Array:
    """Returns gamma0 A at t, [p, W, c, p]: test points move nothing."""
    assert paths.x_r is not None
    mean = at(paths.x_r, t).mean(axis=1)
    return jnp.pad(mean, [(0, 0), (0, 0), (0, 0), (0, points - mean.shape[-1])])


def gradient_response(paths: Paths, same: jax.Array, t: jax.Array) -> jax.Array:
    """Returns gamma0 B at t, [c, p, W, p].

    Args:
        paths: of the layer above, with g at t.
        same: the equal-time part, d g / d u at the same point, averaged over all samples, [c, p].
        t: the time.
    """
    assert paths.g_u is not None
    mean = at(paths.g_u, t).mean(axis=2)
    mean = jnp.pad(mean, [(0, 0), (0, 0), (0, 0), (0, same.shape[1] - mean.shape[-1])])
    now = same[:, :, None] * jnp.eye(same.shape[1], dtype=same.dtype)[None]
    return jax.lax.dynamic_update_index_in_dim(mean, now, t, 2)


def _move(drive: jax.Array, history: jax.Array, rows: int) -> jax.Array:
    """What fields of all times do to that of one: the first axes of the history are summed over."""
    return dot(drive, history.reshape(drive.shape[1], -1)).reshape(len(drive), *history.shape[rows:])


def _times(factor: jax.Array, field: jax.Array) -> jax.Array:
    """A factor for each sample, times derivatives that have more axes."""
    return factor.reshape(factor.shape + (1,) * (field.ndim - factor.ndim)) * field


def _own(t: jax.Array, window: int, points: int, train: int, dtype: np.dtype) -> jax.Array:
    """One where noise is that of the time and the point, [p, W, q]."""
    here = (jnp.arange(window, dtype=t.dtype) == t).astype(dtype)
    return jnp.eye(points, train, dtype=dtype)[:, None, :] * here[None, :, None]
