"""What the proportional theory says of the transfer experiment: losses, best rates, and their limits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from widelimit.dmft import Diverged, ProportionalProblem, proportional

if TYPE_CHECKING:
    from experiments.linear_transfer import Config

PARAMETRIZATIONS = ("mup", "ntk")
NAMES = {"mup": "muP", "ntk": "NTK"}


def rates(config: Config, depth: int) -> np.ndarray:
    """Returns log2 of the learning rates of a depth's grid."""
    count = math.floor((config.highest - config.lowest) / config.spacing + 1e-9) + 1
    return np.asarray(lazy_rate(config, depth) + config.lowest + config.spacing * np.arange(count))


def lazy_rate(config: Config, depth: int) -> float:
    """Returns log2 of the best rate of a lazy network: the limit of the NTK parametrization.

    Its tangent kernel stays L + 1, so that a step multiplies the loss by ``(1 - k)^2 + k^2 / batch``, k = (L
    + 1) eta0.
    """
    return math.log2(1 / (1 + 1 / config.batch) / (depth + 1))


def problem(config: Config, depth: int, ratio: float, name: str, log2_rate: float) -> ProportionalProblem:
    """Returns what one network of the experiment is in the limit of large sizes."""
    g = config.richness
    if name == "ntk":
        g *= math.sqrt(config.ratios[0] / ratio)
    return ProportionalProblem(
        nu=ratio, depth=depth, g=g, steps=config.steps, eta0=2.0**log2_rate, batch=config.batch
    )


def losses(config: Config, depth: int, ratio: float, name: str, log2_rates: np.ndarray) -> np.ndarray:
    """Returns the final loss at every rate; infinite where training diverges."""
    return np.array([_loss(config, depth, ratio, name, rate) for rate in log2_rates])


def best_rate(config: Config, depth: int, ratio: float, name: str) -> tuple[float, float]:
    """Returns log2 of the rate of least loss, to three digits, and log2 of that loss.

    At infinite ratio muP is the limit of width alone, and the NTK parametrization is lazy.
    """
    from scipy.optimize import minimize_scalar

    if name == "ntk" and math.isinf(ratio):
        k = 1 / (1 + 1 / config.batch)
        start = 1 + 1 / (config.richness**2 * config.ratios[0])
        factor = (1 - k) ** 2 + k**2 / config.batch
        return lazy_rate(config, depth), math.log2(start) + config.steps * math.log2(factor)
    grid = np.arange(-4.0, 1.0, 0.125) + lazy_rate(config, depth)
    values = losses(config, depth, ratio, name, grid)
    place = grid[int(np.argmin(values))]
    found = minimize_scalar(
        lambda rate: np.log2(min(_loss(config, depth, ratio, name, rate), 1e300)),
        bounds=(place - 0.125, place + 0.125),
        method="bounded",
        options={"xatol": 1e-4},
    )
    return float(found.x), float(found.fun)


def _loss(config: Config, depth: int, ratio: float, name: str, log2_rate: float) -> float:
    """The final loss at one rate."""
    try:
        return float(proportional(problem(config, depth, ratio, name, log2_rate)).loss.values[-1])
    except Diverged:
        return math.inf
