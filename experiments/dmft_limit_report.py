"""Claims of the DMFT experiment: predicted rates beside fits, and what the other predictions miss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple
from typing import Any

import numpy as np

from experiments.dmft_limit_regimes import QUANTITIES, Found, Regime
from widelimit.compare import Claim, Summary, family_quantile

# Tolerances are fixed before a run: chance over all claims, at the standard errors that the numbers of
# networks and sites aim at, and what a relative correction of so much over the width does to a slope. A
# pilot with another seed (other images, other networks) found at most 1.6 for single networks; for means
# 2.5 of predictions and of features. Gradient and tangent kernels of the rich regime bend more, 5 and
# beyond: their exponents are fitted together with a factor exp(k / N). DMFT's kernels have no control
# variate, so that less is asked of their exponents; enough to tell -1 from -1/2.
SINGLE, MEAN = 2.0, 3.0
WANTED, WANTED_KERNELS = 0.05, 0.1
NTK_OFF, NTK_CLOSE, NONE_OFF = 0.1, 0.05, 0.02  # distances over |f|, stated before the run
JOINT, RESOLVED = 3.0, 0.01  # joint standard errors, and how large over |f| one may be
# A loss fluctuates to second order once it is small: no single exponent. In the lazy regime the mean of
# kernels has hardly a bias: there is nothing to fit, and the table has it.
CLAIMED = {
    "lazy": {"single": ("predictions", "features", "gradients", "ntk"), "mean": ("predictions", "loss")},
    "rich": {
        "single": ("predictions", "features", "gradients", "ntk"),
        "mean": ("predictions", "loss", "features", "gradients", "ntk"),
    },
}
RATES = {"single": -0.5, "mean": -1.0}
CLAIMS = sum(len(names) for each in CLAIMED.values() for names in each.values()) + 6


def summarise(found: Found, captions: Mapping[str, str], seconds: float) -> Summary:
    """Judges what was found."""
    config = found.config
    claims = []
    for one in found.regimes:
        for which, names in CLAIMED[one.name].items():
            claims += [_slope(one, quantity, which) for quantity in names]
    claims += [_extrapolated(one) for one in found.regimes]
    claims += [_lazy_is_lazy(found), _ntk_fails(found), _responses_matter(found), _responses_alone(found)]
    assert len(claims) == CLAIMS
    labels = "labels -1 and +1" if len(config.classes) == 2 else "one-hot labels"
    note = (
        f"MLPs with {config.depth} hidden layers (tanh, no biases), muP in DMFT's form, centred (f - f_0), "
        f"on digits {', '.join(map(str, config.classes))}: {config.samples} training and "
        f"{config.test_samples} held-out images of norm sqrt(D), {labels}. Full-batch gradient descent on "
        f"the mean of |f - y|^2 / 2, eta {config.rate:g}, {config.steps} steps. DMFT: {config.replicas} "
        f"replicas of {config.sites} sites, explicit steps in time, the same discrete steps as the "
        f"networks. Distances are root mean squares over all steps and images; of kernels at steps "
        f"{', '.join(map(str, found.rich.ensembles.times))}, relative to the kernels' own. Of the mean's "
        "distance the noise of networks and of DMFT is taken off, and DMFT's whole error is in the error bar."
    )
    return Summary("dmft_limit", config.preset, seconds, claims, _tables(found), captions, [note])


def _finite(widths: tuple[int, ...], correction: float) -> float:
    """What a factor 1 + correction / n does to a slope."""
    x = np.log(np.asarray(widths, float))
    x -= x.mean()
    return float(abs(np.sum(x / np.asarray(widths)) / np.sum(x**2)) * correction)


def _slope(one: Regime, quantity: str, which: str) -> Claim:
    """A claim on an exponent."""
    (law, bent), predicted = one.rate(quantity, which), RATES[which]
    size = 0.0 if bent else SINGLE if which == "single" else MEAN
    rough = which == "mean" and quantity not in ("predictions", "loss")
    wanted = WANTED_KERNELS if rough else WANTED
    chance = family_quantile(CLAIMS) * wanted
    finite = _finite(one.widths, size)
    what = "a network misses DMFT" if which == "single" else "the mean over networks misses DMFT"
    left = "a factor exp(k / N) is fitted too" if bent else f"a relative correction of {size:g} / width"
    return Claim(
        f"{one.name}: {what} by width^{predicted:g}, {QUANTITIES[quantity]}",
        f"d log rms({quantity} - DMFT) / d log width" + (", corrected" if bent else ""),
        predicted,
        law.value,
        law.stderr,
        tolerance=chance + finite,
        why=f"{which}{', corrected' if bent else ''}: {chance:.3f} for chance over {CLAIMS} claims at the "
        f"standard error {wanted:g} that the numbers of networks and sites aim at, "
        f"and {finite:.3f} for finite width: {left}.",
    )


def _extrapolated(one: Regime) -> Claim:
    """Richardson extrapolation of the networks is a second, independent estimate of the limit."""
    first, second = one.extrapolated.predictions, one.full.predictions
    gap = np.mean((first.values - second.values) ** 2)
    joint = np.mean(first.stderr**2 + second.stderr**2)  # type: ignore[operator]
    resolved = joint <= RESOLVED**2 * np.mean(first.values**2)
    return Claim(
        f"{one.name}: networks extrapolated to infinite width are where DMFT is",
        "rms distance of f, in joint standard errors",
        predicted=0.0,
        measured=float(np.sqrt(gap / joint)),
        stderr=0.0 if resolved else float("inf"),
        tolerance=JOINT,
        relation="at_most",
        why=f"Richardson: within {JOINT:g} joint standard errors; f of all steps and images moves together, "
        f"so that this is one number and not an average of many; undecided where one is over {RESOLVED:g} "
        "of f.",
    )


def _lazy_is_lazy(found: Found) -> Claim:
    """Small gamma0 is where the NTK predicts."""
    measured, stderr = astuple(found.lazy.off(found.lazy.lazy))
    return Claim(
        "lazy: the NTK predicts the networks",
        "distance of f from the extrapolated networks, over |f|",
        predicted=0.0,
        measured=measured,
        stderr=stderr,
        tolerance=NTK_CLOSE,
        relation="at_most",
        why=f"Lazy: DMFT differs from the NTK by O(gamma0^2) = {found.config.lazy_gamma0**2:.2g} of f.",
    )


def _ntk_fails(found: Found) -> Claim:
    """Large gamma0 is where it does not."""
    measured, stderr = astuple(found.rich.off(found.rich.lazy))
    return Claim(
        "rich: the NTK misses the networks",
        "distance of f from the extrapolated networks, over |f|",
        predicted=NTK_OFF,
        measured=measured,
        stderr=stderr,
        tolerance=0.0,
        relation="above",
        why=f"Rich: {NTK_OFF:g} of f over all steps and images, stated beforehand.",
    )


def _responses_matter(found: Found) -> Claim:
    """Gradient independence is an approximation."""
    measured, stderr = astuple(found.rich.off(found.rich.none))
    rule = found.rich.off(found.rich.euler).value
    return Claim(
        "rich: DMFT without responses misses the networks",
        "distance of f from the extrapolated networks, over |f|",
        predicted=rule + NONE_OFF,
        measured=measured,
        stderr=stderr,
        tolerance=0.0,
        relation="above",
        why=f"Responses: {NONE_OFF:g} of f and three standard errors more than what the Euler rule alone "
        "misses.",
    )


def _responses_alone(found: Found) -> Claim:
    """Full DMFT is closer than the approximation by a wide margin."""
    rich = found.rich
    full, none = rich.off(rich.full), rich.off(rich.none)
    return Claim(
        "rich: the responses explain what is missed",
        "distance from the extrapolated networks with responses over without",
        predicted=0.0,
        measured=full.value / none.value,
        stderr=full.stderr / none.value,
        tolerance=0.2,
        relation="at_most",
        why="Responses: at least four fifths of the distance must go with them.",
    )


def _tables(found: Found) -> dict[str, list[dict[str, Any]]]:
    """Distances by width; loss curves; how far the predictions are."""
    distances = [
        {
            "regime": one.name,
            "quantity": QUANTITIES[quantity],
            "width": width,
            "networks": one.ensembles.members[width].seeds,
            "network": float(one.sizes(quantity, "single").values[i]),
            "mean": float(one.sizes(quantity, "mean").values[i]),
            "mean stderr": float(one.sizes(quantity, "mean").errors[i]),
            "DMFT stderr": one.rates[quantity].floor,
        }
        for one in found.regimes
        for quantity in QUANTITIES
        for i, width in enumerate(one.widths)
    ]
    steps = found.config.steps
    shown = sorted({0, steps // 8, steps // 4, steps // 2, steps})
    losses = []
    for one in found.regimes:
        last = one.ensembles.solution(one.widths[-1])
        for name, solution in (
            (f"networks of width {one.widths[-1]}", last),
            ("DMFT", one.full),
            ("NTK", one.lazy),
            ("DMFT without responses, Euler rule", one.none),
            ("DMFT, Euler rule", one.euler),
        ):
            losses.append(
                {"regime": one.name, "what": name}
                | {f"step {step}": float(solution.loss.values[step]) for step in shown}
            )
    predictions = [
        {
            "regime": one.name,
            "prediction": name,
            "distance from extrapolated networks": one.off(solution).value,
            "stderr": one.off(solution).stderr,
            "pairing residual": solution.diagnostics.get("pairing_residual"),
        }
        for one in found.regimes
        for name, solution in (
            ("DMFT", one.full),
            ("NTK", one.lazy),
            ("DMFT without responses, Euler rule", one.none),
            ("DMFT, Euler rule", one.euler),
        )
    ]
    exponents = [
        {
            "regime": one.name,
            "quantity": QUANTITIES[quantity],
            "predicted": RATES["mean"],
            "fitted": one.rates[quantity].mean_rate.value,
            "stderr": one.rates[quantity].mean_rate.stderr,
            "with a factor exp(k / N)": one.corrected[quantity].mean_rate.value,
            "its stderr": one.corrected[quantity].mean_rate.stderr,
        }
        for one in found.regimes
        for quantity in QUANTITIES
    ]
    return {
        "predictions": predictions,
        "losses": losses,
        "exponents of the mean": exponents,
        "distances": distances,
    }
