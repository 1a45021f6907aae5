"""The figures of the depth check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments import depth_check_theory as theory
from widelimit.compare import Claim
from widelimit.figures import exponents_against_theory, size_against_width
from widelimit.training import Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from experiments.depth_check_report import Cells, Group

_SHOWN = {"stream": "stream", "branch": "middle branch", "logits": "logits"}


def save_all(
    results: Results, cells: Cells, asked: Sequence[theory.Asked], claims: Sequence[Claim]
) -> dict[str, str]:
    """Draws and saves the figures; returns their captions by file name."""
    captions = {}
    for axis in dict.fromkeys(group[0] for group in cells.groups):
        own = [pair for pair in zip(asked, claims, strict=True) if pair[0].axis == axis]
        points = [
            {
                "network": f"{one.case}, {one.optimizer}, branch of {one.branch_depth}",
                "kind": one.kind,
                "predicted": claim.predicted,
                "measured": claim.measured,
                "stderr": claim.stderr,
            }
            for one, claim in own
        ]
        figure, _ = exponents_against_theory(points, tolerance=own[0][1].tolerance)
        results.save_figure(f"exponents_{axis}.png", figure)
        captions[f"exponents_{axis}.png"] = (
            f"Every exponent of the {axis} that theory fixes: measured against predicted, and their "
            "difference network by network. Bars are standard errors over seeds."
        )
    for axis, optimizer, branch_depth in dict.fromkeys((group[0], *group[2:]) for group in cells.groups):
        network = f"{optimizer}, {branch_depth} layer{'s' * (branch_depth > 1)} in a branch"
        name = f"changes_{axis}_{optimizer}_{branch_depth}.png"
        results.save_figure(name, _drawn(cells, axis, optimizer, branch_depth, steps=True))
        captions[name] = (
            f"{network}, ordinary rate, against {axis}: size at first, and change after each step. Dashed: "
            "theory, where it gives a power."
        )
        name = f"contributions_{axis}_{optimizer}_{branch_depth}.png"
        results.save_figure(name, _drawn(cells, axis, optimizer, branch_depth, steps=False))
        captions[name] = (
            f"{network}, against {axis}: what parts of a small first step change (scaled to the ordinary "
            "rate). Dashed: theory, where it gives a power."
        )
    return captions


def _drawn(cells: Cells, axis: theory.Axis, optimizer: str, branch_depth: int, *, steps: bool) -> Figure:
    """A row of panels per parametrization, a panel per quantity, a colour per step or trial."""
    config, names = cells.config, cells.names(branch_depth)
    times = range(1, config.steps + 1)
    trials = [
        "input",
        *(f"upper {name}" for name in names if name.endswith("kernel")),
        "middle block",
        "all blocks",
    ]
    sizes, slopes = {}, {}
    for case in theory.cases(config.parametrizations, optimizer):
        group: Group = (axis, case, optimizer, branch_depth)
        asked = theory.asked(axis, case, optimizer, names, branch_depth, config.steps)
        known = {one.field: one.predicted for one in asked}
        spread = config.depths[-1] / config.depths[0]
        share = theory.trials(case, optimizer, names, branch_depth, spread)[0]
        for field, shown in _SHOWN.items():
            fields = [f"initial {field}", *(f"step {t} {field}" for t in times)]
            if not steps:
                fields = [f"{trial} -> {field}" for trial in trials]
            scale = 1.0 if steps else share
            sizes[f"{case}: {shown}"] = np.stack([cells.sizes(group, one)[1] / scale for one in fields])
            slopes[f"{case}: {shown}"] = [known.get(one, np.nan) for one in fields]
    along = config.depths if axis == "depth" else config.widths
    return size_against_width(
        along,
        sizes,
        ["0 (size)", *times] if steps else trials,
        predicted=slopes,
        quantity="size, change (RMS)" if steps else "change (RMS)",
        legend="step" if steps else "moved alone",
        columns=len(_SHOWN),
        axis="depth (blocks)" if axis == "depth" else "width",
    )[0]
