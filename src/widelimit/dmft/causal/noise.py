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
        key = [settings.seed, replica, side, layer]
        raw = [_normal([*key, t], rows, settings.pairs) for t in range(times)]
        return jnp.asarray(np.concatenate(_match(raw) if settings.moments else raw), settings.dtype)

    points, outputs, times = settings.points, settings.outputs, settings.steps + 1
    return Noise(
        blocks(0, 1, points, 1),
        blocks(1, settings.depth, outputs, 1),
        tuple(blocks(0, layer, points, times) for layer in range(2, settings.depth + 1)),
        tuple(blocks(1, layer, outputs * points, times) for layer in range(1, settings.depth)),
    )


def _normal(key: list[int], rows: int, draws: int) -> np.ndarray:
    """Independent standard normal numbers of a key."""
    return np.random.default_rng(key).standard_normal((rows, draws), dtype=np.float32)


def _match(blocks: list[np.ndarray]) -> list[np.ndarray]:
    """Gives the draws mean 0 and covariance 1 within each block and between it and the first ones.

    Later rows are orthogonal to as many of the first as an eighth of the draws allows: kernels are smooth in
    time, so the first rows carry nearly all of a field.
    """
    draws, done = blocks[0].shape[1], []
    rows = len(blocks[0])
    ahead = np.zeros((0, draws), np.float32)
    for block in blocks:
        block = block - block.mean(axis=1, keepdims=True)
        if len(ahead):
            block = block - (block @ ahead.T / draws) @ ahead
        if 2 * rows <= draws:
            covariance = (block @ block.T).astype(np.float64) / draws
            block = np.linalg.solve(np.linalg.cholesky(covariance), block.astype(np.float64)).astype(
                np.float32
            )
        done.append(block)
        if 8 * (len(ahead) + rows) <= draws:
            ahead = np.concatenate([ahead, block])
    return done
