"""The figures of the NTK experiment."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.ntk_convergence_fits import NAMES, QUANTITIES, Found, mean_laws
from widelimit.figures import eigenvalues_before_and_after, errors_against_width, training_curves
from widelimit.training import Results

_LAST = "ensemble: distance from GP mean"


def save_all(results: Results, found: Found) -> dict[str, str]:
    """Draws and saves all figures; returns their captions by file name."""
    axes = {quantity.title: quantity.axis for quantity in QUANTITIES.values()}
    axes[_LAST] = "rms over inputs"
    results.save_figure("convergence.png", errors_against_width(_panels(found), quantities=axes)[0])
    times, panels = _curves(found)
    results.save_figure("curves.png", training_curves(times, panels)[0])
    width, n = found.widths[-1], found.task.train
    spectra = {
        NAMES[name]: {
            "before": found.spectra(name, "0", width),
            "after": found.spectra(name, "T", width),
        }
        for name in NAMES
    }
    infinite = np.linalg.eigvalsh(found.limit.ntk[:n, :n])
    results.save_figure("eigenvalues.png", eigenvalues_before_and_after(spectra, infinite)[0])
    return {
        "convergence.png": "Root mean squares over networks with one standard error against width. Pale: the "
        "fitted power law, over filled points. Dashed: the predicted slope, which the legends give in "
        "brackets. Last panel: deviations of the ensemble from the Gaussian process's mean.",
        "curves.png": "Outputs while training, of two training and two test images. Line and band: mean and "
        "two standard deviations of the Gaussian process for the discrete steps taken. Points and bars: mean "
        "and two standard deviations over the networks of an ensemble.",
        "eigenvalues.png": f"Eigenvalues of the tangent kernel of the training points at width {width}, "
        "geometric mean and standard deviation over networks, before and after training.",
    }


def _panels(found: Found) -> dict[str, dict[str, dict[str, Any]]]:
    """What ``errors_against_width`` draws."""
    panels: dict[str, dict[str, dict[str, Any]]] = {}
    for key, quantity in QUANTITIES.items():
        panels[quantity.title] = {}
        for name, predicted in quantity.predicted.items():
            if predicted is not None:
                values, errors = found.rms(key, name)
                panels[quantity.title][NAMES[name]] = {
                    "widths": found.widths,
                    "values": values,
                    "errors": errors,
                    "law": found.law(key, name),
                    "predicted": predicted,
                    "fitted": found.fitted,
                }
    lines = {}
    for name, law, predicted in zip(("mean", "network"), mean_laws(found), (-1.0, -0.5), strict=True):
        each = [one.bias if name == "mean" else one.scatter for one in found.bias.values()]
        if np.isfinite(law.exponent):
            lines[name] = {
                "widths": list(found.bias),
                "values": [one.value for one in each],
                "errors": [one.stderr for one in each],
                "law": law,
                "predicted": predicted,
            }
    if lines:
        panels[_LAST] = lines
    return panels


def _curves(found: Found) -> tuple[np.ndarray, dict[tuple[str, str], dict[str, Any]]]:
    """What ``training_curves`` draws: the first training and test image of each class."""
    task, limit = found.task, found.limit
    std = np.sqrt(np.einsum("tii->ti", limit.covariance))
    panels = {}
    for column, part in (
        ("training image", range(task.train)),
        ("test image", range(task.train, len(std[0]))),
    ):
        for target, digit in zip((-1, 1), found.config.classes, strict=True):
            shown = [point for point in part if task.targets[point, 0] == target]
            if not shown:
                continue
            point = shown[0]
            measured = {
                f"width {width}": (one.mean[:, point], one.std[:, point])
                for width, one in found.ensembles.items()
            }
            panels[column, f"digit {digit}"] = {
                "mean": limit.mean[:, point],
                "std": std[:, point],
                "target": float(task.targets[point, 0]),
                "measured": measured,
            }
    return np.arange(task.steps + 1), panels
