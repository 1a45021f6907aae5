"""Claims of the NTK experiment: predictions beside fits, with tolerances fixed before the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from experiments import ntk_convergence_ensembles as ensembles
from experiments import ntk_convergence_tables as tables
from experiments.ntk_convergence_fits import NAMES, QUANTITIES, Found, leverage, mean_laws
from widelimit.compare import Claim, Summary, family_quantile

# Tolerances are fixed before a run: chance over all claims, plus what a relative correction of so much over
# the width does to a slope. Pilots with other seeds found up to 15 / n, under muP; and 2.2 to 3.3 / n for the
# bias and the scatter of the ensemble.
CORRECTION, MEAN_CORRECTION = 20.0, 5.0
VARIANCE_CORRECTION = 15.0  # of the ensemble's covariance, relative, over the width: pilots found 13
CLAIMS = 13
ROUNDING = 1e-5  # of float32 sums in another order


def summarise(found: Found, captions: Mapping[str, str], seconds: float) -> Summary:
    """Judges what was found."""
    config = found.config
    claims = [_same_start(found)]
    for key, quantity in QUANTITIES.items():
        for name, predicted in quantity.predicted.items():
            if predicted is not None:
                claims.append(_slope(found, key, name, predicted))
    claims += [_second_moment(found), *_mean_slopes(found)]
    assert len(claims) == CLAIMS
    note = (
        f"MLPs with {config.depth} hidden layers (tanh, no biases) on digits {config.classes[0]} and "
        f"{config.classes[1]}: {config.samples} training and {config.test_samples} test images of norm "
        f"sqrt(D), targets -1 and +1. Full-batch gradient descent on 1/(2N) sum (f - y)^2, rate "
        f"{config.rate:g}, {config.steps} steps. {config.seeds} networks per width; exponents of root mean "
        f"squares over them, from width {found.fitted[0]} on. Error bars are bootstraps over networks "
        "(jackknife over chunks of networks for the ensembles). Predictions are for the discrete steps that "
        "were taken. Spreads and sizes of corrections, from which tolerances follow, come from pilots with "
        "other seeds."
    )
    notes = [note]
    if found.diverged:
        notes.append(f"{found.diverged} networks or ensembles diverged; claims on them are inconclusive.")
    return Summary("ntk_convergence", config.preset, seconds, claims, tables.all_of(found), captions, notes)


def _same_start(found: Found) -> Claim:
    """Under muP the network starts as the NTK's over sqrt(n), and from its kernel."""
    return Claim(
        "muP starts from the kernel of the NTK parametrization",
        "largest relative difference of the two initial kernels",
        predicted=0.0,
        measured=float(found.table("differs", "mup").max()),
        stderr=0.0,
        tolerance=ROUNDING,
        why="Same start: the two kernels differ by the rounding of float32 only.",
    )


def _finite(widths: Sequence[int], correction: float) -> float:
    """Returns what a factor 1 + correction / n does to a slope."""
    return float(abs(np.sum(leverage(widths) / np.asarray(widths, float))) * correction / np.log(2))


def _slope(found: Found, key: str, name: str, predicted: float) -> Claim:
    """A claim on an exponent, with what chance and finite width can do to it."""
    config, quantity, law = found.config, QUANTITIES[key], found.law(key, name)
    expected = (
        float(np.linalg.norm(leverage(found.fitted)))
        * quantity.spread[name]
        / (2 * np.log(2))
        / np.sqrt(config.seeds)
    )
    chance = family_quantile(CLAIMS, degrees=config.seeds - 1) * expected
    finite = _finite(found.fitted, CORRECTION)
    law_text = f"falls like width^{predicted:g}" if predicted else "does not depend on the width"
    return Claim(
        f"{NAMES[name]}: {quantity.name} {law_text}",
        f"d log2 rms {quantity.formula} / d log2 width",
        predicted,
        law.exponent,
        law.stderr,
        tolerance=chance + finite,
        why=f"{NAMES[name]}, {quantity.formula}: {chance:.3f} for chance over {CLAIMS} claims and "
        f"{finite:.3f} for finite width, a relative correction of {CORRECTION:g} / width.",
    )


def _second_moment(found: Found) -> Claim:
    """The uncentred second moment of the widest ensemble, all its entries in one z-score."""
    width = found.config.ensemble_widths[-1]
    one = found.ensembles[width]
    scores = ensembles.scores(found.task, one, found.limit.mean[-1], found.limit.covariance[-1])
    shift = ensembles.expected_shift(scores.size, one.networks, VARIANCE_CORRECTION / width)
    chance = family_quantile(CLAIMS)
    return Claim(
        f"NTK: the ensemble's second moment at width {width} is the Gaussian process's",
        f"chi-square of {scores.size} independent z-scores, as one z-score",
        predicted=0.0,
        measured=ensembles.together(scores),
        stderr=1.0,
        tolerance=chance + shift,
        why=f"Second moment: {chance:.2f} standard errors for chance over {CLAIMS} claims, and {shift:.2f} "
        f"for a relative correction of {VARIANCE_CORRECTION:g} / width of the covariance, at {one.networks} "
        "networks.",
    )


def _mean_slopes(found: Found) -> list[Claim]:
    """The bias of the ensemble's mean, and the scatter of single networks, through the control variate."""
    config, widths = found.config, list(found.bias)
    bias, scatter = mean_laws(found)
    finite, quantile = _finite(widths, MEAN_CORRECTION), family_quantile(CLAIMS)
    fewest = min(one.networks for one in found.bias.values())
    chances = {
        "bias": quantile * config.mean_stderr,
        "scatter": quantile * float(np.linalg.norm(leverage(widths))) / (2 * np.log(2)) / np.sqrt(fewest),
    }
    why = (
        "Ensemble, {}: {:.3f} for chance, {}, and {:.3f} for finite width, a relative correction of "
        f"{MEAN_CORRECTION:g} / width."
    )
    return [
        Claim(
            "NTK: the ensemble's mean approaches the Gaussian process's like 1/width",
            "d log2 |E f_T - mu| / d log2 width, without the bias of noise",
            -1.0,
            bias.exponent,
            bias.stderr,
            tolerance=chances["bias"] + finite,
            why=why.format(
                "mean",
                chances["bias"],
                f"at the standard error {config.mean_stderr:g} that sets the number of networks",
                finite,
            ),
        ),
        Claim(
            "NTK: single networks scatter about the Gaussian process's mean like width^-0.5",
            "d log2 rms |f_T - A f_0 - mu| / d log2 width",
            -0.5,
            scatter.exponent,
            scatter.stderr,
            tolerance=chances["scatter"] + finite,
            why=why.format("scatter", chances["scatter"], "at a spread of 1 over networks", finite),
        ),
    ]
