"""Tables and figures of the lazy and the rich network, from rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.lazy_or_rich_sizes import PREDICTORS
from widelimit.compare import Estimate, mean_over_seeds
from widelimit.figures import measures_against_scale
from widelimit.training import Results, column, pivot

FITTED = 0.02  # share of its first value below which the training loss counts as fitted
MEASURED = (
    "train_loss", "train_accuracy", "steps_to_fit", "test_error", "own_test_error", "own_distance",
    "kernel_change", "cka_gap", "alignment_before", "alignment",
)  # fmt: skip
NAMES = {
    "nngp": "NNGP regression",
    "ntk": "NTK regression",
    "lazy": "lazy network",
    "rich": "rich network",
    "svm": "RBF SVM",
}
EXPONENTS = {"kernel_change": -1.0, "own_distance": -1.0, "cka_gap": -2.0}  # of the scale, at the lazy end


def scale_line(results: Results) -> str:
    """What the sweep of scales found, for the terminal."""
    scales, table = scales_of(results)
    first, last = (_mean(table["kernel_change"][:, i]).value for i in (0, -1))
    return f"kernel moves by {first:.1%} at scale 2^{scales[0]} and by {last:.2%} at 2^{scales[-1]}"


def size_line(results: Results, samples: int) -> str:
    """Accuracies at a size, for the terminal."""
    found = {
        name: np.mean(
            pivot(results.find(part="size", samples=samples, predictor=name), "accuracy", ("split",))[0]
        )
        for name in PREDICTORS
    }
    return f"{samples:>5} samples: " + ", ".join(f"{name} {value:.3f}" for name, value in found.items())


def scales_of(results: Results) -> tuple[list[int], dict[str, np.ndarray]]:
    """log2 of the scales, and every measure as [seed, scale]; NaN where training diverged."""
    rows = results.find(part="scale")
    table = {name: pivot(rows, name, ("seed", "log2_scale"))[0] for name in MEASURED}
    return sorted({row["log2_scale"] for row in rows}), table


def errors_of(results: Results) -> dict[str, np.ndarray]:
    """Test error by predictor, [split, size]."""
    return {
        name: 1 - pivot(results.find(part="size", predictor=name), "accuracy", ("split", "samples"))[0]
        for name in PREDICTORS
    }


def _mean(values: np.ndarray) -> Estimate:
    """Mean and standard error of the seeds that are finite."""
    finite = values[np.isfinite(values)]
    return mean_over_seeds(finite) if finite.size else Estimate(np.nan, np.nan)


def scale_table(scales: list[int], table: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Returns a row per scale."""
    rows = []
    for i, scale in enumerate(scales):
        row: dict[str, Any] = {"log2_scale": scale}
        for name in ("test_error", "own_test_error", "own_distance", "kernel_change", "cka_gap", "alignment"):
            found = _mean(table[name][:, i])
            row |= {name: found.value, f"{name}_stderr": found.stderr}
        for name in ("train_loss", "train_accuracy", "steps_to_fit"):
            row[name] = _mean(table[name][:, i]).value
        rows.append(row | {"diverged": int(np.isnan(table["train_loss"][:, i]).sum())})
    return rows


def accuracy_table(results: Results, sizes: list[int]) -> list[dict[str, Any]]:
    """Returns a row per size: test accuracy of every predictor, mean and standard error over splits."""
    errors, rows = errors_of(results), []
    for i, samples in enumerate(sizes):
        row: dict[str, Any] = {"samples": samples}
        for name in PREDICTORS:
            found = mean_over_seeds(1 - errors[name][:, i])
            row |= {name: found.value, f"{name}_stderr": found.stderr}
        rows.append(row)
    return rows


def tuned_table(results: Results, sizes: list[int]) -> list[dict[str, Any]]:
    """Returns a row per size: what was chosen (medians over splits), and how far the lazy network is off."""
    chosen = {
        "nngp": ("ridge",),
        "ntk": ("ridge",),
        "lazy": ("infinite_accuracy", "infinite_distance", "train_accuracy", "train_loss"),
        "rich": ("rate_share", "train_accuracy", "train_loss"),
        "svm": ("cost", "gamma"),
    }
    rows = []
    for samples in sizes:
        row: dict[str, Any] = {"samples": samples}
        for predictor, fields in chosen.items():
            found = results.find(part="size", samples=samples, predictor=predictor)
            row |= {f"{predictor}_{name}": float(np.median(column(found, name))) for name in fields}
        rows.append(row)
    return rows


def scale_figure(config: Any, scales: list[int], table: dict[str, np.ndarray]) -> Any:
    """Three panels: errors, what moves, alignment."""
    moves = "relative change in training"
    panels = {
        "test error (share of images)": {
            "network": table["test_error"],
            "kernel of its start": table["own_test_error"],
        },
        moves: {
            "outputs, off own kernel's": table["own_distance"],
            "tangent kernel": table["kernel_change"],
            "1 \N{MINUS SIGN} CKA": table["cka_gap"],
        },
        "alignment with the labels": {
            "after training": table["alignment"],
            "before": table["alignment_before"],
        },
    }
    slopes = [EXPONENTS[name] for name in ("own_distance", "kernel_change", "cka_gap")]
    return measures_against_scale(
        [2.0**scale for scale in scales],
        panels,
        predicted={moves: dict(zip(panels[moves], slopes, strict=True))},
        from_scale=2.0**config.lazy_from,
        logarithmic=[moves],
        quantity=r"output scale $\alpha$",
        ends=("rich", "lazy"),
    )[0]
