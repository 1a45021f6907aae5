"""Claims, tables and figures of the learning-rate transfer, from its optima and rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.transfer_search import resolved, resolved_law
from widelimit.compare import (
    Claim,
    Estimate,
    Optimum,
    PowerLaw,
    Summary,
    joint_stderr,
    paired_difference,
    regret,
    transfer,
)
from widelimit.figures import loss_against_rate, optimum_against_width
from widelimit.training import Results

Optima = Mapping[tuple[str, str], Mapping[int, Optimum]]

# Fixed before any run. 0.15 per doubling moves the optimum by less than the half-octave grid over three
# doublings; 0.25 lies between -1 and the -1/2 that no alignment would give.
MUP_SLOPE, SP_ADAM_SLOPE = 0.15, 0.25
# Regret in units of how much the loss varies over the grid (interquartile range of the cells that converged).
REGRET = 0.1
# What theory fixes; SP's slope with SGD depends on the loss and on the number of steps.
PREDICTED = {
    "mup/sgd": 0.0,
    "mup/adam": 0.0,
    "mean_field/sgd": 0.0,
    "mean_field/adam": 0.0,
    "standard/adam": -1.0,
}


def summarise(config: Any, results: Results, optima: Optima) -> Summary:
    """Judges the transfer and draws it."""
    slopes = {
        case: resolved_law(transfer(config.widths, [best[w] for w in config.widths]), *best.values())
        for case, best in optima.items()
    }
    figures = {
        "loss_against_rate.png": "Training loss after the last step against the learning rate, "
        "a curve per width, minimum marked.",
        "optimum_against_width.png": "The best learning rate against width, with the fitted slope.",
    }
    results.save_figure("loss_against_rate.png", loss_against_rate(optima)[0])
    lines = {"/".join(case): best for case, best in optima.items()}
    laws = {"/".join(case): slope for case, slope in slopes.items()}
    predicted = {line: slope for line, slope in PREDICTED.items() if line in lines}
    results.save_figure(
        "optimum_against_width.png", optimum_against_width(lines, laws, predicted=predicted)[0]
    )
    return Summary(
        experiment="lr_transfer",
        preset=config.preset,
        seconds=results.seconds,
        claims=[
            *_slope_claims(slopes),
            *_regret_claims(config, optima),
            *_wider_claims(config, results, optima),
        ],
        tables={
            "optimum": _optimum_table(optima),
            "transfer": _transfer_table(config, optima, slopes),
            "loss_at_the_transferred_rate": _wider_table(config, results, optima),
        },
        figures=figures,
        notes=[
            f"Data: {config.data}; loss: cross-entropy on the whole training set after {config.steps} steps."
        ],
    )


def _slope_claims(slopes: Mapping[tuple[str, str], PowerLaw]) -> list[Claim]:
    """muP's optimum stays, SP's does not."""
    quantity = "d log2(lr*) / d log2(width)"
    claims = []
    for (parametrization, optimizer), slope in slopes.items():
        if parametrization == "mup":
            claims.append(
                Claim(
                    f"mup/{optimizer}: optimum does not move with width",
                    quantity,
                    0.0,
                    slope.exponent,
                    slope.stderr,
                    MUP_SLOPE,
                )
            )
        elif (parametrization, optimizer) == ("standard", "adam"):
            claims.append(
                Claim(
                    "standard/adam: optimum falls like 1/width",
                    quantity,
                    -1.0,
                    slope.exponent,
                    slope.stderr,
                    SP_ADAM_SLOPE,
                )
            )
        elif (parametrization, optimizer) == ("standard", "sgd"):
            claims.append(
                Claim(
                    "standard/sgd: optimum falls with width",
                    quantity,
                    0.0,
                    slope.exponent,
                    slope.stderr,
                    0.0,
                    relation="below",
                )
            )
            if ("mup", "sgd") in slopes:
                still = slopes["mup", "sgd"]
                claims.append(
                    Claim(
                        "standard/sgd: optimum falls faster than mup's",
                        f"difference of {quantity}",
                        0.0,
                        slope.exponent - still.exponent,
                        joint_stderr(slope.stderr, still.stderr),
                        0.0,
                        relation="below",
                    )
                )
    return claims


def relative_regret(target: Optimum, base: Optimum) -> tuple[Estimate, float]:
    """Returns the regret of the transferred rate, and the loss spread of the grid it is compared with."""
    low, high = np.percentile(target.curve[np.isfinite(target.curve)], [25, 75])
    return regret(target, base), float(high - low)


def _regret_claims(config: Any, optima: Optima) -> list[Claim]:
    """Under muP the transferred rate costs little at the largest width."""
    claims = []
    for (parametrization, optimizer), best in optima.items():
        if parametrization == "mup":
            ends = best[config.widths[-1]], best[config.widths[0]]
            cost, spread = relative_regret(*ends)
            cost = resolved(cost, *ends)
            claims.append(
                Claim(
                    f"mup/{optimizer}: transferring the rate costs little",
                    f"regret at width {config.widths[-1]} / loss spread of the grid",
                    0.0,
                    cost.value / spread,
                    cost.stderr / spread,
                    REGRET,
                    relation="at_most",
                )
            )
    return claims


def _transferred_losses(
    config: Any, results: Results, case: tuple[str, str], best: Mapping[int, Optimum]
) -> dict[int, np.ndarray]:
    """Returns by width every seed's training loss at the measured rate next to the base width's optimum."""
    parametrization, optimizer = case
    rate = round(best[config.widths[0]].log2_lr / config.spacing) * config.spacing
    losses = {}
    for width in config.widths:
        rows = results.find(width=width, parametrization=parametrization, optimizer=optimizer, log2_lr=rate)
        losses[width] = np.array(
            [row["train_loss"] for row in sorted(rows, key=lambda row: row["seed"])], float
        )
    return losses


def _rise(wide: np.ndarray, narrow: np.ndarray) -> Estimate:
    """Returns the paired difference of losses, infinite where training diverged."""
    if not np.isfinite(wide - narrow).all():
        return Estimate(math.inf, math.nan)
    return paired_difference(wide, narrow)


def _wider_claims(config: Any, results: Results, optima: Optima) -> list[Claim]:
    """At the transferred rate, on the same batches, no wider muP network is worse than the tuned one."""
    claims = []
    for case, best in optima.items():
        if case[0] != "mup":
            continue
        losses = _transferred_losses(config, results, case, best)
        tuned = config.widths[0]
        for width in config.widths[1:]:
            rise = _rise(losses[width], losses[tuned])
            claims.append(
                Claim(
                    f"{'/'.join(case)}: width {width} is no worse than {tuned} at the rate tuned there",
                    f"training loss after {config.steps} steps, difference on the same batches",
                    0.0,
                    rise.value,
                    rise.stderr,
                    2 * rise.stderr,
                    relation="at_most",
                )
            )
    return claims


def _wider_table(config: Any, results: Results, optima: Optima) -> list[dict[str, Any]]:
    """Returns the loss at the transferred rate by width, and its change from the next smaller width."""
    rows = []
    for case, best in optima.items():
        losses = _transferred_losses(config, results, case, best)
        for small, large in zip(config.widths[:-1], config.widths[1:], strict=True):
            rise = _rise(losses[large], losses[small])
            rows.append(
                {
                    "parametrization": case[0],
                    "optimizer": case[1],
                    "width": large,
                    "loss": float(losses[large].mean()),
                    "change_from_next_smaller": rise.value,
                    "paired_stderr": rise.stderr,
                }
            )
    return rows


def _optimum_table(optima: Optima) -> list[dict[str, Any]]:
    """Returns a row per curve."""
    return [
        {
            "width": width,
            "parametrization": parametrization,
            "optimizer": optimizer,
            "log2_lr": best.log2_lr,
            "stderr": best.stderr,
            "loss": best.loss,
            "flag": best.flag,
        }
        for (parametrization, optimizer), by_width in optima.items()
        for width, best in by_width.items()
    ]


def _transfer_table(
    config: Any, optima: Optima, slopes: Mapping[tuple[str, str], PowerLaw]
) -> list[dict[str, Any]]:
    """Returns a row per case: slope, regret of transferring from the smallest to the largest width."""
    rows = []
    for (parametrization, optimizer), best in optima.items():
        cost, spread = relative_regret(best[config.widths[-1]], best[config.widths[0]])
        slope = slopes[parametrization, optimizer]
        rows.append(
            {
                "parametrization": parametrization,
                "optimizer": optimizer,
                "slope": slope.exponent,
                "slope_stderr": slope.stderr,
                "regret": cost.value,
                "regret_stderr": cost.stderr,
                "loss_spread": spread,
            }
        )
    return rows
