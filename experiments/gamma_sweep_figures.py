"""The figure of the sweep: four measures against gamma0."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments import gamma_sweep_measures as measures
from experiments.gamma_sweep_measures import HELD_OUT, LOSS, TO_FIT
from experiments.gamma_sweep_report import Found
from widelimit.compare import Estimate
from widelimit.figures import theory_beside_networks
from widelimit.training import Results


def save_all(results: Results, found: Found) -> dict[str, str]:
    """Draws and saves the figure; returns its caption by file name."""
    depth, steps = found.config.depth, found.config.steps
    shown = [measures.features(1), *([measures.features(depth)] if depth > 1 else []), measures.NTK]
    last = [measures.features(depth), measures.NTK]
    movement = "movement of kernels"
    training, held_out = f"training loss after {steps} steps", f"held-out loss after {steps} steps"
    alignment, time = "alignment of kernels with the labels", "time to fit"
    panels = {
        training: {"training": _curve(found, LOSS)},
        held_out: {"held out": _curve(found, HELD_OUT)},
        time: {"training": _curve(found, TO_FIT)},
        movement: {name: _curve(found, measures.moved(name), still=True) for name in shown},
        alignment: {name: _curve(found, measures.aligned(name)) for name in last},
    }
    panels[movement][shown[0]]["slope"] = 2.0
    figure, _ = theory_beside_networks(
        found.config.gamma0s,
        panels,
        logarithmic=[movement],
        units={
            training: "mean |f \N{MINUS SIGN} y|² / 2",
            held_out: "mean |f \N{MINUS SIGN} y|² / 2",
            time: f"steps until the loss is {found.config.fitted:g} of its start",
            movement: "|K_T \N{MINUS SIGN} K_0| / |K_0|",
            alignment: "<K_T, y yᵀ> / (|K_T| |y yᵀ|)",
        },
        quantity="gamma0",
        ends=("lazy", "rich"),
        theory="DMFT",
        limit="NTK",
    )
    results.save_figure("gamma_sweep.png", figure)
    return {
        "gamma_sweep.png": "From lazy to rich. Lines: DMFT, with two standard errors; hollow points: "
        "networks of each width; filled: extrapolated to infinite width; bars: one standard error; dashed: "
        "the NTK, the limit of small gamma0; dotted: the predicted power. Movement is over all images, "
        "alignment over the training images, both of the mean kernel over networks."
    }


def _curve(found: Found, name: str, still: bool = False) -> dict[str, Any]:
    """A quantity of theory, of all widths and extrapolated; a kernel that stands still has no level."""
    networks = {f"width {width}": _columns(found.at(width, name)) for width in found.config.widths}
    networks["extrapolated"] = _columns(found.limit(name))
    found_curve = {"theory": _columns(found.at(0, name)), "networks": networks}
    return found_curve if still else {**found_curve, "limit": found.lazy[name]}


def _columns(estimates: list[Estimate]) -> tuple[np.ndarray, np.ndarray]:
    """Values and errors."""
    return np.array([one.value for one in estimates]), np.array([one.stderr for one in estimates])
