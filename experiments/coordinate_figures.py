"""The figures of the coordinate check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments import coordinate_theory as theory
from experiments.coordinate_report import Cells
from widelimit.compare import Claim
from widelimit.figures import exponents_against_theory, size_against_width
from widelimit.training import Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_all(
    results: Results, cells: Cells, asked: Sequence[theory.Asked], claims: Sequence[Claim]
) -> dict[str, str]:
    """Draws and saves the figures; returns their captions by file name."""
    points = [
        {
            "network": f"{one.case}, {one.optimizer}",
            "kind": one.kind,
            "predicted": claim.predicted,
            "measured": claim.measured,
            "stderr": claim.stderr,
        }
        for one, claim in zip(asked, claims, strict=True)
    ]
    figure, _ = exponents_against_theory(points, tolerance=claims[0].tolerance)
    results.save_figure("exponents.png", figure)
    captions = {
        "exponents.png": "Every exponent that theory fixes: measured against predicted, and their difference "
        "network by network. Bars are standard errors over seeds."
    }
    for optimizer in cells.config.optimizers:
        results.save_figure(f"changes_{optimizer}.png", _changes(cells, optimizer))
        results.save_figure(f"contributions_{optimizer}.png", _contributions(cells, optimizer))
        captions |= {
            f"changes_{optimizer}.png": f"{optimizer} at its ordinary rate: size of each layer at first, and "
            "of its change after each step. Dashed: theory, where it gives one power of the width.",
            f"contributions_{optimizer}.png": f"{optimizer}: what the first update of each weight alone "
            "changes in each layer, measured at a small rate and scaled to the ordinary one. Dashed: theory.",
        }
    return captions


def _changes(cells: Cells, optimizer: str) -> Figure:
    """Sizes at first and changes step by step: a row of panels per parametrization, a panel per layer."""
    names, steps = theory.layers(cells.config.depth), range(1, cells.config.steps + 1)
    sizes, slopes = {}, {}
    for case in cells.config.parametrizations:
        prediction = theory.predict(case, optimizer, cells.config.depth)
        for layer in names:
            fields = [f"initial {layer}", *(f"step {t} {layer}" for t in steps)]
            sizes[f"{case}: {layer}"] = np.stack([cells.sizes(case, optimizer, field) for field in fields])
            power = prediction.totals[layer]
            later = np.nan if power is None else power
            slopes[f"{case}: {layer}"] = [prediction.initial[layer], *(later for _ in steps)]
    return size_against_width(
        cells.config.widths,
        sizes,
        ["0 (size)", *steps],
        predicted=slopes,
        quantity="size, change (RMS)",
        columns=len(names),
    )[0]


def _contributions(cells: Cells, optimizer: str) -> Figure:
    """The first step taken apart: a row of panels per parametrization, a colour per weight."""
    names = theory.layers(cells.config.depth)
    weights = [source for source in theory.sources(cells.config.depth) if source.startswith("weight")]
    sizes, slopes = {}, {}
    for case in cells.config.parametrizations:
        powers = theory.predict(case, optimizer, cells.config.depth).contributions
        shares = cells.shares(case, optimizer)
        for layer in names:
            parts = [
                cells.sizes(case, optimizer, f"{source} -> {layer}") / shares[source] for source in weights
            ]
            above = [(source, layer) in powers for source in weights]  # a weight cannot move what is below it
            sizes[f"{case}: {layer}"] = np.where(np.reshape(above, (-1, 1, 1)), parts, np.nan)
            slopes[f"{case}: {layer}"] = [powers.get((source, layer), np.nan) for source in weights]
    return size_against_width(
        cells.config.widths,
        sizes,
        weights,
        predicted=slopes,
        quantity="change (RMS)",
        legend="moved alone",
        columns=len(names),
    )[0]
