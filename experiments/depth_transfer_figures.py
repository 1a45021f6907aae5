"""The figures of the transfer over depth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.depth_transfer_networks import Shape, Task
from widelimit.compare import Optimum, PowerLaw
from widelimit.figures import CATEGORIES, loss_against_rate, new_figure, optimum_against_width, style
from widelimit.training import Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = {"standard": "standard", "mup": "muP", "depth_mup": "depth-muP", "completep": "CompleteP"}


def save_all(
    results: Results,
    optima: Mapping[str, Mapping[str, Mapping[int, Optimum]]],
    laws: Mapping[str, Mapping[str, PowerLaw]],
    predicted: Mapping[str, Mapping[str, float]],
    costs: Mapping[str, Mapping[str, Mapping[str, float]]],
    targets: Mapping[str, Shape],
    task: Task,
) -> dict[str, str]:
    """Draws and saves all figures; returns their captions by file name.

    Args:
        results: where they go.
        optima: by what grows (``"depth"``, ``"width"``), parametrization and size.
        laws: the fitted slopes, likewise.
        predicted: slopes that theory fixes, likewise.
        costs: regret, its standard error and the best loss, by parametrization and target.
        targets: shape of each target.
        task: what was trained, for the axis of the loss.
    """
    captions = {}
    for size, lines in optima.items():
        labels = _one_network(lines)
        panels = {(label, f"over {size}"): lines[name] for name, label in labels.items()}
        figure, _ = loss_against_rate(panels, loss=task.axis_label, log=task.log, size=size)
        results.save_figure(f"loss_over_{size}.png", figure)
        captions[f"loss_over_{size}.png"] = (
            f"Loss after the last step against the learning rate, a curve per {size}, minima marked."
        )
        figure, _ = optimum_against_width(
            {label: lines[name] for name, label in labels.items()},
            {label: laws[size][name] for name, label in labels.items()},
            predicted={
                label: predicted[size][name] for name, label in labels.items() if name in predicted[size]
            },
            size=size,
        )
        results.save_figure(f"optimum_over_{size}.png", figure)
        captions[f"optimum_over_{size}.png"] = f"The best learning rate against {size}, with fitted slopes."
    results.save_figure("regret.png", regret_bars(costs, targets))
    captions["regret.png"] = (
        "What the rate tuned at the base shape costs at larger shapes: the loss there over the best one."
    )
    return captions


def _one_network(lines: Mapping[str, Mapping[int, Optimum]]) -> dict[str, str]:
    """Returns a label for each different line, by the first name; names of one network share a label."""
    firsts: dict[str, list[str]] = {}
    for name, line in lines.items():
        first = next((known for known in firsts if lines[known] == line), name)
        firsts.setdefault(first, []).append(NAMES[name])
    return {first: " = ".join(names) for first, names in firsts.items()}


def regret_bars(
    costs: Mapping[str, Mapping[str, Mapping[str, float]]], targets: Mapping[str, Shape]
) -> Figure:
    """Returns bars of the loss at the transferred rate over the best loss, a group per target.

    Args:
        costs: regret, its standard error and the best loss, by parametrization and target.
        targets: shape of each target.
    """
    places = np.arange(len(targets))
    thick = 0.8 / len(costs)
    with style():
        figure, axes = new_figure(1, 1, panel=(4.6, 3.0), margin=1.6)
        ax = axes[0, 0]
        ax.set_yscale("log", base=2)
        for i, (name, by_target) in enumerate(costs.items()):
            shift = (i - (len(costs) - 1) / 2) * thick
            cells = [by_target[target] for target in targets]
            ratio = np.array([1.0 + cell["regret"] / cell["best_loss"] for cell in cells])
            error = np.array([cell["regret_stderr"] / cell["best_loss"] for cell in cells])
            fine = np.isfinite(ratio)
            look: dict[str, Any] = {"color": CATEGORIES[i], "width": thick * 0.9, "bottom": 1.0}
            ax.bar(places[fine] + shift, ratio[fine] - 1.0, label=NAMES[name], **look)
            ax.errorbar(
                places[fine] + shift, ratio[fine], error[fine], fmt="none", ecolor="#222222", elinewidth=1.0
            )
            for place, value, top in zip(places[fine], ratio[fine], (ratio + error)[fine], strict=True):
                ax.text(place + shift, 1.03 * top, f"{value:#.3g}", ha="center", va="bottom", fontsize=7)
            for place in places[~fine]:
                ax.text(place + shift, 1.02, "diverged", rotation=90, ha="center", va="bottom", fontsize=8)
        ax.axhline(1.0, color="#222222", linewidth=0.8)
        low, high = ax.get_ylim()
        ax.set_ylim(min(low, 0.98), high)
        ticks = 2.0 ** np.arange(0, math.ceil(math.log2(max(high, 2.0))) + 1)
        ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.set_xticks(places, [f"width {shape.width}\ndepth {shape.depth}" for shape in targets.values()])
        ax.grid(visible=False, axis="x")
        ax.set_ylabel("loss at the base shape's rate\n/ best loss")
        figure.legend(loc="outside right upper")
    return figure
