"""Gaussian noise, fixed before a run: the same for every problem of one shape, and moment-matched."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from widelimit.dmft.causal.settings import Settings


class Noise(NamedTuple):
    """The noise of one replica, m independent draws on the last axis; antithetic partners are implied.

    Attributes:
        first: of u^1, shape [points, m].
        last: of r^L, shape [outputs, m].
        forward: of u^2 .. u^L, shape [(T + 1) points, m] each.
        backward: of r^1 .. r^(L-1), shape [(T + 1) outputs points, m] each.
    """

    first: jax.Array
    last: jax.Array
    forward: tuple[jax.Array, ...]
    backward: tuple[jax.Array, ...]


def draw(settings: Settings, replica: int) -> Noise:
    """Returns the noise of one replica. That of a time does not depend on how many times follow.

    Args:
        settings: sizes, seed, and whether moments are matched.
        replica: its number.
    """

    def blocks(side: int, layer: int, rows: int, times: int) -> jax.Array:
        random = np.random.default_rng([settings.seed, replica, side, layer])
        raw = random.standard_normal((times, rows, settings.pairs), dtype=np.float32)
        matched = match(raw) if settings.moments else raw
        return jnp.asarray(matched.reshape(times * rows, -1), settings.dtype)

    points, outputs, times = settings.points, settings.outputs, settings.steps + 1
    return Noise(
        blocks(0, 1, points, 1),
        blocks(1, settings.depth, outputs, 1),
        tuple(blocks(0, layer, points, times) for layer in range(2, settings.depth + 1)),
        tuple(blocks(1, layer, outputs * points, times) for layer in range(1, settings.depth)),
    )


def match(raw: np.ndarray) -> np.ndarray:
    """Returns noise whose draws have mean 0 and covariance 1 within each time, and between it and the first.

    Later times are made orthogonal to as many of the first as an eighth of the draws allows, 16 at most:
    kernels are smooth in time, so the first carry nearly all of a field.

    Args:
        raw: standard normal, shape [times, rows, draws].
    """
    times, rows, draws = raw.shape
    if 3 * rows > draws:
        return raw  # too few draws, less those of a first time and the mean, for a covariance of their own
    noise = raw - raw.mean(axis=2, keepdims=True)
    first = min(times, 16, max(1, draws // (8 * rows)))
    for t in range(first):
        noise[t] = _whiten(noise[t] - _project(noise[t], noise[:t].reshape(-1, draws)))
    ahead = noise[:first].reshape(-1, draws)
    rest = noise[first:].reshape(-1, draws)
    noise[first:] = _whiten((rest - _project(rest, ahead)).reshape(-1, rows, draws))
    return noise


def _project(noise: np.ndarray, onto: np.ndarray) -> np.ndarray:
    """The part of noise [..., draws] along orthogonal rows [k, draws]."""
    part: np.ndarray = (noise @ onto.T / noise.shape[-1]) @ onto
    return part


def _whiten(noise: np.ndarray) -> np.ndarray:
    """Noise [..., rows, draws] whose rows have covariance 1."""
    root = np.linalg.cholesky((noise @ np.swapaxes(noise, -1, -2) / noise.shape[-1]).astype(np.float64))
    white: np.ndarray = np.linalg.inv(root).astype(np.float32) @ noise
    return white
