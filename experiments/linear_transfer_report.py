"""Claims of the transfer experiment: theory beside trained networks, tolerances fixed before the run."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from experiments import linear_transfer_figures as figures
from experiments import linear_transfer_tables as tables
from experiments.linear_transfer_tables import Found
from experiments.linear_transfer_theory import NAMES, PARAMETRIZATIONS
from widelimit.compare import Claim, Summary, chi_square_score, family_quantile
from widelimit.training import Results

# From pilots with other seeds (sizes 32, 64, 128; see the page). For L hidden layers and dimension D:
SPREAD = 0.45  # a network's best log2 rate scatters by SPREAD (L + 1) / sqrt(D) over seeds
SHIFT = 0.02  # and its mean is off its limit by up to SHIFT (L + 1) sqrt(128 / D), hardly depending on width
REMAINDER = 1.0  # what extrapolation to infinite size leaves, in the z-score of all losses together
RISES = 0.1  # powers of two per doubling of the width that the two parametrizations differ by at least


def line(config: Any, results: Results, depth: int, ratio: float) -> str:
    """What was found at one width, for the terminal."""
    found = Found(config, results)
    best = {name: found.optimum(depth, ratio, name) for name in PARAMETRIZATIONS}
    said = ", ".join(
        f"{NAMES[name]} {one.log2_lr:.3f} (theory {found.predicted(depth, ratio, name).log2_lr:.3f})"
        for name, one in best.items()
    )
    return f"{depth} hidden, width {ratio * config.size:g}: log2 of the best rate {said}"


def summarise(config: Any, results: Results) -> Summary:
    """Judges what was found, and draws it."""
    found = Found(config, results)
    captions = figures.save_all(results, found)
    claims = [_losses(found, name) for name in PARAMETRIZATIONS]
    for depth in config.depths:
        claims += [_place(found, depth, name) for name in PARAMETRIZATIONS]
        claims += [_slope(found, depth, name, config.ratios) for name in PARAMETRIZATIONS]
        claims += [_slope(found, depth, "mup", config.ratios[-3:]), _apart(found, depth)]
    assert len(claims) == count(config)
    notes = [
        f"Deep linear networks of width nu D, D = {config.size}, on Gaussian inputs with a linear teacher; "
        f"{config.steps} steps on fresh batches of {config.batch:g} D samples. {config.seeds} networks per "
        f"width ({2 * config.seeds} at D = {config.size // 2}); weights and batches are shared by all rates "
        f"and both parametrizations, which are one network at nu = {config.ratios[0]:g}. Rates are eta0: the "
        "NTK parametrization trains by eta0 D at every width.",
        "Best rates are minima of log2(loss), averaged over networks, by one local fit for networks and "
        "theory on the same grid.",
    ]
    return Summary(
        "linear_transfer", config.preset, results.seconds, claims, tables.all_of(found), captions, notes
    )


def count(config: Any) -> int:
    """Returns the number of claims."""
    return 2 + 6 * len(config.depths)


def _losses(found: Found, name: str) -> Claim:
    """All widths and depths at half the best rate, extrapolated to infinite size."""
    config = found.config
    scores = [found.half_rate(depth, ratio, name).z for depth in config.depths for ratio in config.ratios]
    chance = family_quantile(count(config))
    finite = bool(np.isfinite(scores).all())
    return Claim(
        f"{NAMES[name]}: at half the best rate networks have the loss that theory gives",
        f"chi-square of {len(scores)} z-scores of losses extrapolated to infinite size, as one z-score",
        0.0,
        chi_square_score(scores) if finite else float("nan"),
        1.0,
        chance + REMAINDER,
        relation="at_most",
        why=f"Losses: {chance:.2f} standard errors for chance over {count(config)} claims, and "
        f"{REMAINDER:g} for what is left after extrapolating the finite-size correction. A chi-square that "
        "is too small is no finding.",
    )


def _shift(config: Any, depth: int) -> float:
    """Finite-size shift of a best rate that pilots allow."""
    return SHIFT * (depth + 1) * math.sqrt(128 / config.size)


def _chance(config: Any, depth: int, weights: np.ndarray) -> float:
    """What chance may do to a weighted sum of best rates at several widths."""
    spread = SPREAD * (depth + 1) / math.sqrt(config.size * config.seeds)
    return family_quantile(count(config), degrees=config.seeds - 1) * spread * float(np.linalg.norm(weights))


def _place(found: Found, depth: int, name: str) -> Claim:
    """The best rates themselves, on average over the widths."""
    config = found.config
    pairs = [(found.optimum(depth, r, name), found.predicted(depth, r, name)) for r in config.ratios]
    off = [one.log2_lr - theory.log2_lr for one, theory in pairs]
    error = math.sqrt(sum(one.stderr**2 for one, _ in pairs)) / len(pairs)
    chance = _chance(config, depth, np.full(len(pairs), 1 / len(pairs)))
    shift = _shift(config, depth)
    return Claim(
        f"{NAMES[name]}, {depth} hidden: networks' best rates are theory's",
        "mean over widths of log2(best rate / theory's)",
        0.0,
        float(np.mean(off)),
        error,
        chance + shift,
        why=f"Best rates, {depth} hidden: {chance:.3f} for chance and {shift:.3f} for the finite size, "
        f"{SHIFT:g} (L + 1) sqrt(128 / D).",
    )


def _slope(found: Found, depth: int, name: str, ratios: tuple[float, ...]) -> Claim:
    """How fast the best rate moves with width."""
    config, law = found.config, found.slope(depth, name, ratios)
    weights = _leverage(ratios)
    chance = _chance(config, depth, weights)
    span = math.log2(ratios[-1] / ratios[0])
    shift = _shift(config, depth) / span
    whole = ratios == config.ratios
    said = "moves as theory says" if whole else "moves as theory says at the three largest widths"
    return Claim(
        f"{NAMES[name]}, {depth} hidden: the best rate {said}",
        f"d log2(best rate) / d log2(width), nu = {ratios[0]:g} to {ratios[-1]:g}",
        found.predicted_slope(depth, name, ratios),
        law.exponent,
        law.stderr,
        chance + shift,
        why=f"Slopes, {depth} hidden, {span:g} doublings: {chance:.3f} for chance and {shift:.3f} for the "
        "finite size, a shift that is all at one end.",
    )


def _apart(found: Found, depth: int) -> Claim:
    """What the parametrization does: one line rises above the other."""
    config = found.config
    laws = {name: found.slope(depth, name, config.ratios) for name in PARAMETRIZATIONS}
    predicted = found.predicted_slope(depth, "ntk", config.ratios) - found.predicted_slope(
        depth, "mup", config.ratios
    )
    return Claim(
        f"{depth} hidden: with width the NTK parametrization's best rate rises above muP's",
        f"difference of the two slopes (theory: {predicted:.3f})",
        0.0,
        laws["ntk"].exponent - laws["mup"].exponent,
        math.hypot(laws["ntk"].stderr, laws["mup"].stderr),
        RISES,
        relation="above",
        why=f"Apart: {RISES:g} per doubling is a quarter of a power of two over five widths, the spacing of "
        "the grid, and can be seen in the figure.",
    )


def _leverage(ratios: tuple[float, ...]) -> np.ndarray:
    """Weights of the best rates in the slope."""
    x = np.log2(ratios) - np.log2(ratios).mean()
    return np.asarray(x / (x @ x))
