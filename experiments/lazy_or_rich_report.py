"""Claims, tables and figures of the lazy and the rich network, from rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments import lazy_or_rich_tables as tables
from experiments.lazy_or_rich_tables import EXPONENTS, NAMES
from widelimit.compare import Claim, Estimate, Summary, family_quantile, fit_exponent, paired_difference
from widelimit.figures import error_against_samples
from widelimit.training import Results

# All tolerances are fixed before a run, from pilots with other seeds (width 256, 128 samples).
CLAIMS = 8
# By law: what falls; the std over seeds of its slope; and K, where K / scale is the correction of the next
# order, relative to the law, of the mean over seeds.
LAWS = {
    "kernel_change": ("|Theta_T - Theta_0| / |Theta_0|", 0.03, 0.5),
    "own_distance": ("|F_T - F_own kernel| / |F_own kernel|", 0.005, 0.1),
    "cka_gap": ("1 - CKA(Theta_T, Theta_0)", 0.01, 0.3),
}
SAME_ERROR = 0.005  # share of the test images
TURN = 0.05  # of an alignment
REACH = 0.01  # of accuracy
# Of accuracy, at width 256 and 1,000 samples. Pilots lost .006, .006, .02, .03 at 1000, 500, 125, 32 samples.
WIDTH_LOSS = 0.015


def summarise(config: Any, results: Results) -> Summary:
    """Judges both parts, and draws them."""
    scales, table = tables.scales_of(results)
    errors = tables.errors_of(results)
    sizes = list(config.sizes)
    figures = {
        "scale.png": "Output scale swept. Left: test error of the network and of the kernel of its start. "
        "Middle: what training moves, predicted slopes dashed (dotted where they are not claimed). Right: "
        "centred alignment of the tangent kernel with the labels. Bands: one standard deviation over seeds.",
        "samples.png": "Test error against training-set size: mean and standard error over splits, and the "
        "paired difference from the support-vector machine.",
    }
    results.save_figure("scale.png", tables.scale_figure(config, scales, table))
    shown = {NAMES[name]: errors[name] for name in errors}
    results.save_figure("samples.png", error_against_samples(sizes, shown, reference=NAMES["svm"])[0])
    return Summary(
        experiment="lazy_or_rich",
        preset=config.preset,
        seconds=results.seconds,
        claims=[*_scale_claims(config, scales, table), *_size_claims(config, errors)],
        tables={
            "scale": tables.scale_table(scales, table),
            "accuracy": tables.accuracy_table(results, sizes),
            "tuned": tables.tuned_table(results, sizes),
        },
        figures=figures,
        notes=[
            f"Digits; erf MLP of {config.depth} hidden layers of {config.width} units; {config.steps} full-"
            f"batch steps. Part one: {config.samples} training samples, {config.seeds} seeds, kernel on "
            f"{config.probe} of them. Part two: {config.splits} splits; test set of {config.test_samples} "
            "images, the same for every size of a split.",
            "Squared error on one-hot targets less 1/10 everywhere but in the support-vector machine.",
        ],
    )


def _scale_claims(config: Any, scales: list[int], table: dict[str, np.ndarray]) -> list[Claim]:
    """The lazy end is a power law and the kernel's own prediction; at the rich end the kernel turns."""
    lazy = np.array(scales) >= config.lazy_from
    alpha = 2.0 ** np.array(scales, float)[lazy]
    leverage = np.linalg.pinv(np.stack([np.ones(alpha.shape), np.log2(alpha)], axis=1))[1]
    claims = []
    for name, (quantity, spread, correction) in LAWS.items():
        law, exponent = _law(alpha, table[name][:, lazy]), EXPONENTS[name]
        chance = spread * family_quantile(CLAIMS, degrees=config.seeds - 1) / np.sqrt(config.seeds)
        finite = correction * abs(np.sum(leverage / alpha)) / np.log(2)
        claims.append(
            Claim(
                f"lazy end: {name.replace('_', ' ')} falls like scale^{exponent:g}",
                f"d log2({quantity}) / d log2(scale), scale >= {alpha[0]:g}",
                exponent,
                law.value,
                law.stderr,
                tolerance=float(chance + finite),
                why=f"{name}: {chance:.3f} for chance ({CLAIMS} claims) and {finite:.3f} for the next order, "
                f"{correction:g} / scale.",
            )
        )
    same = _paired(table["test_error"][:, -1], table["own_test_error"][:, -1])
    claims.append(
        Claim(
            f"scale 2^{scales[-1]}: as many test errors as the kernel of the start predicts",
            "test error of the network less that of its own kernel, share of images",
            0.0,
            same.value,
            same.stderr,
            SAME_ERROR,
            why="Images whose two best outputs differ by less than the network is away from its kernel's "
            f"prediction: some in a thousand; {SAME_ERROR:.1%} of the images is the allowance.",
        )
    )
    turn = _paired(table["alignment"][:, 0], table["alignment"][:, -1])
    claims.append(
        Claim(
            f"scale 2^{scales[0]}: training turns the kernel towards the labels more than at 2^{scales[-1]}",
            "difference of the centred alignment with the labels after training",
            0.0,
            turn.value,
            turn.stderr,
            TURN,
            relation="above",
            why=f"A difference of {TURN:g} could be seen in the figure; theory fixes the sign only.",
        )
    )
    return claims


def _size_claims(config: Any, errors: dict[str, np.ndarray]) -> list[Claim]:
    """At the largest size: kernels reach the machine, and the lazy network its kernel."""
    claims = []
    last = f"{config.sizes[-1]} samples"
    for name in ("nngp", "ntk"):
        gain = _paired(errors["svm"][:, -1], errors[name][:, -1])
        claims.append(
            Claim(
                f"{last}: {NAMES[name]} reaches the tuned RBF support-vector machine",
                "test accuracy less the machine's on the same splits",
                0.0,
                gain.value,
                gain.stderr,
                REACH,
                relation="at_least",
                why="Within one point of accuracy, as the question was put.",
            )
        )
    gain = _paired(errors["ntk"][:, -1], errors["lazy"][:, -1])
    tolerance = WIDTH_LOSS * np.sqrt(256 / config.width * max(1000 / config.sizes[-1], 1.0))
    claims.append(
        Claim(
            f"{last}: the lazy network is as accurate as NTK regression",
            "test accuracy less that of NTK regression on the same splits",
            0.0,
            gain.value,
            gain.stderr,
            float(tolerance),
            why="Outputs of lazy networks fluctuate about the infinite one's like 1/sqrt(width): at width "
            f"256 by a quarter of their size. {WIDTH_LOSS:g} is allowed for it with 1,000 samples, more with "
            f"fewer, as more images are in doubt (taken as 1/sqrt(samples)): {tolerance:.3g} here.",
        )
    )
    return claims


def _law(alpha: np.ndarray, values: np.ndarray) -> Estimate:
    """The exponent with its error from seeds; NaN where a cell diverged."""
    if not np.isfinite(values).all() or (values <= 0).any():
        return Estimate(np.nan, np.nan)
    law = fit_exponent(alpha, values)
    return Estimate(law.exponent, law.stderr)


def _paired(first: np.ndarray, second: np.ndarray) -> Estimate:
    """The paired difference; NaN where a cell diverged."""
    if not np.isfinite(first - second).all():
        return Estimate(np.nan, np.nan)
    return paired_difference(first, second)
