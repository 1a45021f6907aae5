"""Standard normal numbers for single-site fields: antithetic pairs with exact second moments, or a basis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np

Side = Literal["forward", "backward"]
_SPARE = 1.25


class Noise(Protocol):
    """Hands out blocks of standard normal numbers, one for each (side, layer, time)."""

    size: int

    def block(self, side: Side, layer: int, time: int, rows: int) -> np.ndarray:
        """Returns [rows, size]: mean 0, covariance the identity, independent of every other block."""


class GaussianNoise:
    """Pairs that differ by the sign of all backward noise, with second moments as exact as the draws allow.

    Every block is orthogonal to the earlier ones of its side and layer, and to those of time 0 of all layers;
    to fewer, or none, where there would be less than 1.25 pairs for each number that is to be orthogonal.
    Times come in order and see no later one, so a longer run begins with a shorter run's numbers.

    Args:
        key: whole numbers that name the stream.
        samples: how many draws, an even number.
        merge: a layer's noise is the normalised sum of that many layers' of a finer stack: depths share
            their Brownian paths.
    """

    def __init__(self, key: Sequence[int], samples: int, merge: int = 1) -> None:
        self.size = samples
        self._key, self._half, self._merge = tuple(key), samples // 2, merge
        self._start: dict[Side, np.ndarray] = {}
        self._first: dict[tuple[Side, int], np.ndarray] = {}
        self._layer: dict[tuple[Side, int], np.ndarray] = {}

    def block(self, side: Side, layer: int, time: int, rows: int) -> np.ndarray:
        """Returns [rows, samples]; layer 0 is what no branch's weight draws (first layer, readout)."""
        half = self._whitened(side, layer, time, self._raw(side, layer, time, rows))
        return np.concatenate([half, half if side == "forward" else -half], axis=1)

    def _raw(self, side: Side, layer: int, time: int, rows: int) -> np.ndarray:
        """Independent numbers, [rows, half]."""
        fine = range((layer - 1) * self._merge + 1, layer * self._merge + 1) if layer else range(1)
        total = np.zeros((rows, self._half))
        for index in fine:
            key = (*self._key, int(side == "backward"), index, time)
            total += np.random.default_rng(key).standard_normal(total.shape)
        return total / np.sqrt(len(fine))

    def _whitened(self, side: Side, layer: int, time: int, raw: np.ndarray) -> np.ndarray:
        """Orthonormal to what came before, where there are draws enough."""
        none = np.zeros((0, self._half))
        own, start = self._layer.get((side, layer), none), self._start.get(side, none)
        first = self._first.get((side, layer), none)  # the layer's part of start
        everything = np.concatenate([start, own])
        for before in (everything, np.concatenate([first, own])):
            if _SPARE * (len(before) + len(raw)) <= self._half:
                break
        else:
            return raw
        raw = raw - raw.mean(axis=1, keepdims=True)
        for _ in range(2):  # once more for what rounding left
            raw = raw - (raw @ before.T / self._half) @ before
        block = np.linalg.solve(np.linalg.cholesky(raw @ raw.T / self._half), raw)
        if time == 0 and before is everything:
            self._start[side] = np.concatenate([start, block])
            self._first[side, layer] = block
        else:
            self._layer[side, layer] = np.concatenate([own, block])
        return block


class UnitNoise:
    """Each block a part of an orthogonal basis: averages of products of linear fields are exact.

    Args:
        size: of the basis: the number of independent variables.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._used = 0

    def block(self, side: Side, layer: int, time: int, rows: int) -> np.ndarray:
        """Returns the next rows of ``sqrt(size) Id``."""
        del side, layer, time
        block = np.zeros((rows, self.size))
        block[np.arange(rows), self._used + np.arange(rows)] = np.sqrt(self.size)
        self._used += rows
        return block
