"""The tables of the NTK experiment: sizes, findings that theory does not fix, and what each trick bought."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments import ntk_convergence_ensembles as ensembles
from experiments.ntk_convergence_fits import QUANTITIES, Found, mean_laws, rms_law
from experiments.ntk_convergence_networks import PARAMETRIZATIONS


def all_of(found: Found) -> dict[str, list[dict[str, Any]]]:
    """Returns all tables by name."""
    return {
        "sizes": _sizes(found),
        "beside the claims": _findings(found),
        "exponents not claimed": _other_exponents(found),
        "ensemble against predictions": [row for width in found.ensembles for row in _rivals(found, width)],
        "bias of the ensemble's mean": [_bias_row(found, width) for width in found.bias],
    }


def _sizes(found: Found) -> list[dict[str, Any]]:
    """A row per parametrization and width: what the exponents are fitted to."""
    result = []
    for name in PARAMETRIZATIONS:
        sizes = {key: found.rms(key, name)[0] for key in (*QUANTITIES, "motion")}
        for i, width in enumerate(found.widths):
            result.append(
                {"parametrization": name, "width": width}
                | {key: float(size[i]) for key, size in sizes.items()}
            )
    return result


def _findings(found: Found) -> list[dict[str, Any]]:
    """A row per parametrization and width: means over networks of what theory gives no number for."""
    keys = ("train_loss", "test_loss", "trace_ratio", "alignment_0", "alignment_T", "rank_0", "rank_T")
    result = []
    for name in PARAMETRIZATIONS:
        means = {key: found.table(key, name).mean(axis=0) for key in keys}
        for i, width in enumerate(found.widths):
            result.append(
                {"parametrization": name, "width": width}
                | {key: float(mean[i]) for key, mean in means.items()}
            )
    return result


def _other_exponents(found: Found) -> list[dict[str, Any]]:
    """Exponents that are expected only roughly at these widths, or whose constant may be near zero."""
    result = []
    for name, expected in (("ntk", -1.0), ("mup", -0.5)):
        law = found.law("motion", name)
        row = {"parametrization": name, "quantity": "relative motion of the parameters", "expected": expected}
        result.append({**row, "exponent": law.exponent, "stderr": law.stderr})
    for name, expected in (("ntk", -1.0), ("mup", 0.0)):
        change = {
            "change of the alignment with the labels": found.table("alignment_T", name)
            - found.table("alignment_0", name),
            "change of the effective rank": found.table("rank_T", name) - found.table("rank_0", name),
        }
        for quantity, values in change.items():
            law = rms_law(found.fitted, np.abs(values[:, 1:]))
            row = {"parametrization": name, "quantity": quantity, "expected": expected}
            result.append({**row, "exponent": law.exponent, "stderr": law.stderr})
    if len(found.bias) < 3:
        return result
    quantities = ("bias of the ensemble's mean", "scatter of single networks")
    for quantity, expected, law in zip(quantities, (-1.0, -0.5), mean_laws(found, True), strict=True):
        row = {
            "parametrization": "ntk",
            "quantity": f"{quantity}, beside exp(k / width)",
            "expected": expected,
        }
        result.append({**row, "exponent": law.exponent, "stderr": law.stderr})
    return result


def _rivals(found: Found, width: int) -> list[dict[str, Any]]:
    """An ensemble against the prediction and against others, to see what the z-score can tell apart."""
    one = found.ensembles[width]
    result = []
    for prediction, (mean, covariance) in ensembles.predictions(found.task, found.limit).items():
        scores = ensembles.scores(found.task, one, mean, covariance, by=found.limit.covariance[-1])
        row = {"width": width, "networks": one.networks, "prediction": prediction, "scores": scores.size}
        result.append({**row, "z of chi-square": ensembles.together(scores)})
    return result


def _bias_row(found: Found, width: int) -> dict[str, Any]:
    """What the control variate bought at a width."""
    one = found.bias[width]
    return {
        "width": width,
        "networks": one.networks,
        "bias": one.bias.value,
        "stderr": one.bias.stderr,
        "stderr without": one.plain.stderr,
        "variance": one.plain_variance,
        "variance with control variate": one.variance,
        "ratio": one.plain_variance / one.variance,
    }
