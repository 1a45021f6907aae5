"""What comes of one replica: arrays in the axes of a solution, and the rank of its kernels."""

from __future__ import annotations

import numpy as np

from widelimit.dmft.causal.settings import Settings
from widelimit.dmft.causal.state import Rows
from widelimit.dmft.replicas import Arrays, Moments

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


def effective_rank(totals: dict[str, Moments], settings: Settings) -> float:
    """Returns how many directions of noise the largest kernel uses: ``tr K (K + ridge)^-1``.

    That is the number that responses are found for; ``residual`` has no ridge, and counts directions kept.

    Args:
        totals: of all replicas.
        settings: whose ridge it is.
    """
    ranks = []
    for name in ("features", "gradients"):
        for kernel in totals[name].mean:
            side = kernel.ndim // 2
            rows = int(np.prod(kernel.shape[1:side]))
            times = np.unique(np.linspace(0, len(kernel) - 1, max(1, RANKED // rows)).astype(int))
            part = np.take(np.take(kernel, times, axis=0), times, axis=side).reshape(len(times) * rows, -1)
            values = np.maximum(np.linalg.eigvalsh((part + part.T) / 2), 0.0)
            ridge = settings.ridge * values.mean()
            ranks.append(float((values / (values + ridge)).sum()) if ridge > 0 else 0.0)
    return max(ranks)
