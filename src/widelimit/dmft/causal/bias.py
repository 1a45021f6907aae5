"""What the ridge of Stein's responses does to predictions: one replica again, on the same noise."""

from __future__ import annotations

import numpy as np

from widelimit.dmft.causal.factor import JITTER
from widelimit.dmft.causal.noise import Noise
from widelimit.dmft.causal.replica import Runner
from widelimit.dmft.causal.settings import Settings

WEAKER = 8  # times, the other ridge: with it most of the effect is gone, also in directions of its own size


def ridged(settings: Settings) -> bool:
    """Whether there is a ridge at all: responses, and those of Stein."""
    return settings.response == "stein" and settings.depth > 1


def ridge_bias(runner: Runner, noise: Noise, settings: Settings, predictions: np.ndarray) -> np.ndarray:
    """Returns the estimated bias of a replica's predictions, shape [T + 1, p, c]; zero without a ridge.

    With f at the ridge r and at r' on the same noise, ``(f(r) - f(r')) r / (r - r')``, as if linear in r.
    r' is r / 8, or 2 r where that would be below what factors are regularised by or gives no finite numbers.

    Args:
        runner: of the replica.
        noise: of the replica.
        settings: how it was solved.
        predictions: what it gave.
    """
    if not ridged(settings):
        return np.zeros_like(predictions)
    ridge = settings.ridge
    others = (ridge / WEAKER, 2 * ridge) if ridge / WEAKER >= JITTER[settings.dtype] else (2 * ridge,)
    for other in others:
        _, rows = list(runner.run(noise, other))[-1]
        again = np.asarray(rows.predictions)[: settings.steps + 1]
        if np.isfinite(again).all():
            break
    bias: np.ndarray = (predictions - again) * ridge / (ridge - other)
    return np.where(np.isfinite(bias), bias, np.inf)
