"""One weight matrix as single sites see it: the Gaussian field it makes, and what it answers to itself."""

from __future__ import annotations

import numpy as np

from widelimit.dmft.residual_noise import Noise, Side


class Channel:
    r"""The Gaussian field whose covariance is the two-time kernel of a source field, drawn as time goes on.

    Sources ``x(0), x(1), ...`` come one at a time and are orthogonalised, ``x(t) = sum_s C(t, s) w(s)`` with
    ``<w w^T> = Id``, so that ``C C^T = <x x^T>`` without a factorisation; the field is ``u = C eps``. Stein's
    lemma turns ``sum_s <d y / d u(s)> x(s)`` into ``<y eps^T> w``: no inverse, no derivative.
    Directions that add less than ``tolerance`` of the first source's variance are left out.

    Args:
        noise: where standard normal numbers come from.
        side: which of a weight's two fields this is.
        layer: number of the weight, from 1.
        rows: size of a source at one time.
        times: how many there will be.
        tolerance: see above.
    """

    def __init__(self, noise: Noise, side: Side, layer: int, rows: int, times: int, tolerance: float) -> None:
        self._noise, self._side, self._layer = noise, side, layer
        self._rows, self._tolerance, self._time, self._scale = rows, tolerance, 0, 0.0
        self._white = np.zeros((0, noise.size))
        self._eps = np.zeros((0, noise.size))
        self._inverse = np.zeros((0, rows * times))
        self.clipped = 0

    def advance(self, source: np.ndarray) -> np.ndarray:
        """Returns the field of this time, [rows, size], given the source of this time, alike."""
        size, rows = self._noise.size, self._rows
        cross = source @ self._white.T / size
        new = source - cross @ self._white
        if self._time == 0:
            self._scale = float(np.mean(new**2))
        field: np.ndarray = cross @ self._eps
        values, vectors = np.linalg.eigh(new @ new.T / size)
        kept = values > self._tolerance * self._scale
        self.clipped += int(rows - kept.sum())
        if kept.any():
            vectors, roots = vectors[:, kept], np.sqrt(values[kept])
            eps = self._noise.block(self._side, self._layer, self._time, rows)
            inverse = (vectors / roots) @ vectors.T
            field += (vectors * roots) @ vectors.T @ eps
            step = -cross @ self._inverse
            step[:, self._time * rows : (self._time + 1) * rows] += np.eye(rows)
            self._white = np.concatenate([self._white, inverse @ new])
            self._eps = np.concatenate([self._eps, eps])
            self._inverse = np.concatenate([self._inverse, inverse @ step])
        self._time += 1
        return field

    def answer(self, field: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns what a field's response to this Gaussian one adds, and the response itself.

        Args:
            field: y, [rows', size].

        Returns:
            ``sum_s R(s) x(s)``, [rows', size], and ``R(s) = <d y / d u(s)>``, [rows', rows times].
        """
        weights = field @ self._eps.T / self._noise.size
        return weights @ self._white, weights @ self._inverse

    @property
    def rank(self) -> int:
        """Directions of the source that were kept."""
        return self._time * self._rows - self.clipped
