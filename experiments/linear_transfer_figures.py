"""The figures of the transfer experiment."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import linear_transfer_theory as theory
from experiments.linear_transfer_theory import NAMES, PARAMETRIZATIONS
from widelimit.figures import best_rates_beside_theory, rates_beside_theory
from widelimit.training import Results

if TYPE_CHECKING:
    from experiments.linear_transfer_tables import Found

FINE = 0.03125  # spacing of theory's lines, in powers of two


def save_all(results: Results, found: Found) -> dict[str, str]:
    """Draws and saves all figures; returns their captions by file name."""
    panels = {
        (NAMES[name], _layers(depth)): {
            round(ratio * found.config.size): _curve(found, depth, ratio, name)
            for ratio in found.config.ratios
        }
        for depth in found.config.depths
        for name in PARAMETRIZATIONS
    }
    loss = f"loss after {found.config.steps} steps"
    quantity = r"log2 $\eta_0$ (learning rate)"
    results.save_figure("curves.png", rates_beside_theory(panels, loss=loss, quantity=quantity)[0])
    lines = {
        _layers(depth): {NAMES[name]: _line(found, depth, name) for name in PARAMETRIZATIONS}
        for depth in found.config.depths
    }
    results.save_figure("optimum.png", best_rates_beside_theory(lines, quantity=r"log2 best $\eta_0$")[0])
    size = found.config.size
    return {
        "curves.png": f"Loss against learning rate. Lines: theory of infinite size. Points: networks of "
        f"dimension {size}, geometric mean and standard error. Large points and short bars: the best rates "
        "of networks and theory.",
        "optimum.png": f"Best learning rate against width. Lines: theory, beyond the widths trained. Dotted: "
        f"its limit. Points: networks of dimension {size} with one standard error. At the first width both "
        "parametrizations are one network.",
    }


def _layers(depth: int) -> str:
    """A depth in words."""
    return f"{depth} hidden layer{'s' if depth > 1 else ''}"


def _curve(found: Found, depth: int, ratio: float, name: str) -> dict[str, Any]:
    """What ``rates_beside_theory`` draws of one width."""
    rates, best = theory.rates(found.config, depth), found.optimum(depth, ratio, name)
    fine = np.arange(rates[0], rates[-1] + FINE / 2, FINE)
    losses = theory.losses(found.config, depth, ratio, name, fine)
    place, height = found.exact(depth, ratio, name)
    return {
        "lines": (fine, np.where(np.isfinite(losses), losses, np.nan)),
        "points": (rates, best.curve, best.curve_stderr),
        "minimum": (best.log2_lr, best.stderr, best.loss),
        "expected": (place, 2.0**height),
    }


def _line(found: Found, depth: int, name: str) -> dict[str, Any]:
    """What ``best_rates_beside_theory`` draws of one parametrization."""
    config = found.config
    ratios = [*config.ratios, 2 * config.ratios[-1], 4 * config.ratios[-1]]
    best = [found.optimum(depth, ratio, name) for ratio in config.ratios]
    return {
        "widths": [ratio * config.size for ratio in config.ratios],
        "places": [one.log2_lr for one in best],
        "errors": [one.stderr for one in best],
        "line": (
            [ratio * config.size for ratio in ratios],
            [found.exact(depth, ratio, name)[0] for ratio in ratios],
        ),
        "limit": theory.best_rate(config, depth, math.inf, name)[0],
    }
