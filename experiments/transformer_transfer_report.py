"""Claims, tables and figures of `transformer_transfer`, from its loss curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.transfer_report import REGRET, relative_regret
from experiments.transfer_search import UNRESOLVED, resolved, resolved_law
from experiments.transformer_transfer_cases import LABELS, MAIN, TRANSFERS
from experiments.transformer_transfer_grids import Grid, Varied
from widelimit.compare import Claim, Estimate, Optimum, PowerLaw, Summary, joint_stderr, transfer
from widelimit.figures import loss_against_rate, optimum_against_width
from widelimit.training import Results
from widelimit.training.data import Tokens

Curves = Mapping[Grid, Optimum]
# Adam's rate per entry must fall like 1/width where updates of hidden matrices align with what they see; the
# embedding's need not fall, so that one rate for all lies between the two.
PREDICTED = {"standard": -1.0, "mup": 0.0}
_LOSS = "validation loss (nats per token)"
_WHY_STEP = "Within one step of the grid: a rate tuned on the grid at the base width stays the best."


def summarise(config: Any, results: Results, curves: Curves, tokens: Tokens) -> Summary:
    """Judges the transfer and draws it."""
    rates = {name: by_width(curves, name) for name in (*MAIN, *config.ablations)}
    laws = {name: transfer(list(best), list(best.values())) for name, best in rates.items()}
    claims = [*_main_claims(config, rates)]
    if config.judge_ablations:
        claims += [_ablation_claim(config, name, rates[name]) for name in config.ablations]
    claims += _regret_claims(curves)
    return Summary(
        experiment="transformer_transfer",
        preset=config.preset,
        seconds=results.seconds,
        claims=claims,
        tables={
            "transfer": [_transfer_row(name, best, laws[name]) for name, best in rates.items()],
            "optimum": [_optimum_row(grid, best) for grid, best in curves.items()],
        },
        figures=_figures(config, results, rates, laws, curves),
        notes=[
            f"Text: {tokens.name}; {len(tokens.train)} tokens to train on, vocabulary {tokens.vocabulary}. "
            + " ".join(tokens.notes),
            f"Loss: cross-entropy on {config.validation_windows} windows of the validation part after "
            f"{config.steps} steps of {config.batch_size} windows of {config.context} tokens.",
            UNRESOLVED,
        ],
    )


def by_width(curves: Curves, name: str, varied: Varied = "learning_rate") -> dict[int, Optimum]:
    """Returns the curves of a case over one hyperparameter, by width."""
    return {g.width: best for g, best in curves.items() if (g.case, g.varied) == (name, varied)}


def shift(law: PowerLaw, best: Mapping[int, Optimum]) -> Estimate:
    """Returns how far the fitted line moves from the smallest to the largest width, in log2 of the rate."""
    doublings = math.log2(max(best) / min(best))
    return Estimate(doublings * law.exponent, doublings * law.stderr)


def _main_claims(config: Any, rates: Mapping[str, Mapping[int, Optimum]]) -> list[Claim]:
    """Over all widths muP's optimum moves by less than a step of the grid, the standard one by more."""
    ends = {}
    for name in MAIN:
        best = rates[name]
        low, high = min(best), max(best)
        ends[name] = shift(_law({width: best[width] for width in (low, high)}), best)
    factor = config.widths[-1] // config.widths[0]
    quantity = f"log2 of the best rate, change over a factor {factor} of width"
    slope = "difference of d log2(lr*) / d log2(width)"
    still, moving = (_law(rates[name]) for name in ("mup", "standard"))
    return [
        Claim(
            "mup: the optimum moves by less than a step of the grid",
            quantity,
            0.0,
            ends["mup"].value,
            ends["mup"].stderr,
            config.spacing,
            why=_WHY_STEP,
        ),
        Claim(
            "standard: the optimum falls by more than a step of the grid",
            quantity,
            0.0,
            ends["standard"].value,
            ends["standard"].stderr,
            config.spacing,
            relation="below",
        ),
        Claim(
            "standard: the optimum falls faster with width than mup's",
            slope,
            0.0,
            moving.exponent - still.exponent,
            joint_stderr(moving.stderr, still.stderr),
            0.0,
            relation="below",
        ),
    ]


def _law(best: Mapping[int, Optimum]) -> PowerLaw:
    """The line through optima that a claim is about."""
    return resolved_law(transfer(list(best), list(best.values())), *best.values())


def _ablation_claim(config: Any, name: str, best: Mapping[int, Optimum]) -> Claim:
    """What is reported of a change to muP: whether the optimum stays within a step of the grid, or not."""
    law = _law(best)
    factor = config.widths[-1] / config.widths[0]
    moved = math.log2(factor) * law.exponent
    error = math.log2(factor) * law.stderr
    quantity = f"log2 of the best rate, change over a factor {factor:g} of width"
    if TRANSFERS[name]:
        return Claim(
            f"{name}: the rate transfers", quantity, 0.0, moved, error, config.spacing, why=_WHY_STEP
        )
    return Claim(
        f"{name}: the rate does not transfer",
        f"size of {quantity}",
        0.0,
        abs(moved),
        error,
        config.spacing,
        relation="above",
        sigmas=2.0,
        why="What breaks transfer moves the optimum by more than a step, in either direction.",
    )


def _regret_claims(curves: Curves) -> list[Claim]:
    """Under muP what was tuned at the base width costs little at the largest."""
    claims = []
    for varied in dict.fromkeys(grid.varied for grid in curves):
        best = by_width(curves, "mup", varied)
        target, base = best[max(best)], best[min(best)]
        cost, spread = relative_regret(target, base)
        cost = resolved(cost, target, base)
        claims.append(
            Claim(
                f"mup: transferring the {varied.replace('_', ' ')} costs little",
                f"regret at width {max(best)} / loss spread of the grid",
                0.0,
                cost.value / spread,
                cost.stderr / spread,
                REGRET,
                relation="at_most",
            )
        )
    return claims


def _transfer_row(name: str, best: Mapping[int, Optimum], law: PowerLaw) -> dict[str, Any]:
    """Slope and shift of an optimum, and the price of transferring it."""
    cost, spread = relative_regret(best[max(best)], best[min(best)])
    moved = shift(law, best)
    return {
        "case": LABELS[name],
        "widths": f"{min(best)} to {max(best)}",
        "slope": law.exponent,
        "slope_stderr": law.stderr,
        "shift": moved.value,
        "shift_stderr": moved.stderr,
        "regret": cost.value,
        "regret_stderr": cost.stderr,
        "loss_spread": spread,
    }


def _optimum_row(grid: Grid, best: Optimum) -> dict[str, Any]:
    """One curve."""
    return {
        **grid.fields,
        "log2_best": best.log2_lr,
        "stderr": best.stderr,
        "loss": best.loss,
        "loss_stderr": best.loss_stderr,
        "flag": best.flag,
    }


def _figures(
    config: Any,
    results: Results,
    rates: Mapping[str, Mapping[int, Optimum]],
    laws: Mapping[str, PowerLaw],
    curves: Curves,
) -> dict[str, str]:
    """Draws the curves and the optima, and returns their captions."""
    captions = {}

    def panels(file: str, names: Sequence[str], varied: Varied, caption: str) -> None:
        drawn = {(LABELS[name], "AdamW"): by_width(curves, name, varied) for name in names}
        figure, axes = loss_against_rate(drawn, loss=_LOSS, log=False)
        for ax in axes.flat if varied != "learning_rate" else ():
            ax.set_xlabel(f"log2 {varied.replace('_', ' ')}")
        results.save_figure(file, figure)
        captions[file] = caption

    panels(
        "loss_against_rate.png", MAIN, "learning_rate", "Loss against rate, a curve per width, minima marked."
    )
    lines = {LABELS[name]: rates[name] for name in MAIN}
    figure, _ = optimum_against_width(
        lines,
        {LABELS[name]: laws[name] for name in MAIN},
        predicted={LABELS[name]: PREDICTED[name] for name in MAIN},
    )
    results.save_figure("optimum_against_width.png", figure)
    captions["optimum_against_width.png"] = (
        "The best rate against width; dashed: one rate set by hidden layers."
    )
    if config.ablations:
        caption = "Changes to muP at the smallest and the largest width."
        panels("ablations.png", config.ablations, "learning_rate", caption)
    others: tuple[tuple[Varied, tuple[float, ...]], ...] = (
        ("init_scale", config.scales),
        ("weight_decay", config.decays),
    )
    for varied, values in others:
        if values:
            caption = f"Loss against {varied.replace('_', ' ')}, at the rate tuned at the base width."
            panels(f"loss_against_{varied}.png", MAIN, varied, caption)
    return captions
