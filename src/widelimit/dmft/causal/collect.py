"""What comes of replicas: arrays in the axes of a solution, their means, and standard errors."""

from __future__ import annotations

import dataclasses

import numpy as np

from widelimit.dmft.causal.settings import Settings
from widelimit.dmft.causal.state import Rows

Arrays = dict[str, np.ndarray]


def arrays(rows: Rows, settings: Settings, gamma0: float) -> Arrays:
    """Returns one replica's results by name, in the axes of a solution, always with those of outputs.

    Args:
        rows: of all times.
        settings: sizes.
        gamma0: responses are divided by it.
    """
    times = settings.steps + 1
    features = np.stack([_both(np.asarray(row)) for row in rows.features])
    gradients = np.stack([_both(np.moveaxis(np.asarray(row), (1, 4), (2, 5))) for row in rows.gradients])
    found = {
        "predictions": np.asarray(rows.predictions)[:times],
        "ntk": np.moveaxis(np.asarray(rows.ntk), (1, 3), (2, 4)),
        "features": features,
        "gradients": gradients,
        "pairing": np.asarray(rows.pairing),
        "h": np.moveaxis(np.asarray(rows.h), 1, 0),
        "z": np.moveaxis(np.asarray(rows.z), (1, 2), (0, 3)),
    }
    if settings.response != "none" and settings.depth > 1:
        found["feature_response"] = (
            np.stack([np.swapaxes(np.asarray(row), 3, 4) for row in rows.feature_response]) / gamma0
        )
        found["gradient_response"] = (
            np.stack([np.swapaxes(np.asarray(row), 1, 2) for row in rows.gradient_response]) / gamma0
        )
    return found


def _both(rows: np.ndarray) -> np.ndarray:
    """A two-point function from its rows up to their own time: it is symmetric."""
    side = rows.ndim // 2
    size = int(np.prod(rows.shape[:side]))
    matrix = rows.reshape(size, size)
    block = size // len(rows)
    later = np.arange(size)[None, :] // block > np.arange(size)[:, None] // block
    return np.where(later, matrix.T, matrix).reshape(rows.shape)


@dataclasses.dataclass
class Moments:
    """Mean and spread of arrays that come one after the other (Welford)."""

    count: int = 0
    mean: np.ndarray | None = None
    squares: np.ndarray | None = None

    def add(self, value: np.ndarray) -> None:
        """Counts one more array."""
        self.count += 1
        if self.mean is None or self.squares is None:
            self.mean, self.squares = value.astype(np.float64), np.zeros(value.shape)
            return
        change = value - self.mean
        self.mean += change / self.count
        self.squares += change * (value - self.mean)

    def stderr(self) -> np.ndarray:
        """Standard error of the mean."""
        return np.sqrt(np.asarray(self.squares) / (self.count * (self.count - 1)))
