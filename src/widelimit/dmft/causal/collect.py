"""What comes of replicas: arrays in the axes of a solution, their means, and standard errors."""

from __future__ import annotations

import dataclasses

import numpy as np

from widelimit.dmft.causal.settings import Settings
from widelimit.dmft.causal.state import Rows
from widelimit.dmft.labelled import Labelled
from widelimit.dmft.problem import Problem
from widelimit.dmft.steps import float64_losses, wide

Arrays = dict[str, np.ndarray]
AXES = {
    "features": "layer time sample time' sample'",
    "gradients": "layer time sample output time' sample' output'",
    "feature_response": "layer time sample time' sample' output'",
    "gradient_response": "layer time sample output time' sample'",
    "ntk": "time sample output sample' output'",
    "predictions": "time sample output",
    "h": "layer time sample draw",
    "z": "layer time sample output draw",
}
RANKED = 600  # rows of a kernel whose eigenvalues are taken; it is smooth in time


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


def labelled(problem: Problem, name: str, values: np.ndarray, stderr: np.ndarray | None) -> Labelled:
    """Returns an order parameter in its axes; without those of outputs where targets have none.

    Args:
        problem: that was solved.
        name: of the order parameter.
        values: with axes of outputs.
        stderr: like values.
    """
    axes = AXES[name].split()
    if not wide(problem):
        index = tuple(0 if axis.startswith("output") else slice(None) for axis in axes)
        values = values[index]
        stderr = None if stderr is None else stderr[index]
        axes = [axis for axis in axes if not axis.startswith("output")]
    return Labelled(values, tuple(axes), stderr)


def loss(problem: Problem, f: np.ndarray, bias: np.ndarray) -> Labelled:
    """Returns the loss of the mean prediction; its error by leaving out each replica in turn, and the bias.

    Args:
        problem: that was solved.
        f: predictions, shape [replicas, T + 1, p, c].
        bias: estimated, of predictions, shape [T + 1, p, c].
    """
    count = len(f)
    f = f[:, :, : problem.samples]
    whole = f.mean(0)
    values = float64_losses(problem, whole)
    left = np.stack([float64_losses(problem, (count * whole - one) / (count - 1)) for one in f])
    spread = ((left - left.mean(0)) ** 2).sum(0) * (count - 1) / count
    shift = float64_losses(problem, whole - bias[:, : problem.samples]) - values
    return Labelled(values, ("time",), np.hypot(np.sqrt(spread), shift))


def effective_rank(totals: dict[str, Moments], settings: Settings) -> float:
    """Returns how many directions of noise the largest kernel uses: ``tr K (K + ridge)^-1``.

    That is the number that responses are found for; ``residual`` has no ridge, and counts directions kept.

    Args:
        totals: of all replicas.
        settings: whose ridge it is.
    """
    ranks = []
    for name in ("features", "gradients"):
        for kernel in np.asarray(totals[name].mean):
            side = kernel.ndim // 2
            rows = int(np.prod(kernel.shape[1:side]))
            times = np.unique(np.linspace(0, len(kernel) - 1, max(1, RANKED // rows)).astype(int))
            part = np.take(np.take(kernel, times, axis=0), times, axis=side).reshape(len(times) * rows, -1)
            values = np.maximum(np.linalg.eigvalsh((part + part.T) / 2), 0.0)
            ridge = settings.ridge * values.mean()
            ranks.append(float((values / (values + ridge)).sum()) if ridge > 0 else 0.0)
    return max(ranks)
