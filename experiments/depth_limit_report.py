"""Claims and tables of the depth experiment, from rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments import depth_limit_figures as figures
from experiments.depth_limit_tables import Found, gather
from widelimit.compare import Claim, Estimate, Summary, family_quantile
from widelimit.dmft import ResidualProblem
from widelimit.training import Results

# Fixed before a run, from theory and from pilots with other seeds: what noise is aimed at, and how large the
# next order is: a factor 1 + c / N, or 1 + c / L.
WANTED = {"bias": 0.08, "scatter": 0.02, "depth": 0.09}
NEXT = {"bias": 1.0, "scatter": 0.5, "depth": 0.2}
EXACT = 0.02
SHARE = 0.25


def summarise(config: Any, problem: ResidualProblem, results: Results) -> Summary:
    """Judges what the rows hold, and draws it."""
    found = gather(config, problem, results)
    captions = figures.save_all(results, found)
    count = 2 * len(config.depths) + 4
    claims = [
        *(_width(found, depth, single, count) for single in (False, True) for depth in config.depths),
        _depth(found, count),
        *_independence(found),
    ]
    assert len(claims) == count
    note = (
        f"Residual MLPs h^(k+1) = h^k + {config.branch_scale:g} L^-{config.branch_exponent:g} W phi(h^k) / "
        f"sqrt(N), tanh, readout of h^L, muP in DMFT's form, gamma0 {config.gamma0:g}, f - f_0; digits 3 "
        f"and 8, labels -1 and +1, {config.samples} training and {config.test_samples} held-out images of "
        f"norm sqrt(D). Full-batch gradient descent on the mean of |f - y|^2 / 2, eta {config.rate:g}, "
        f"{config.steps} steps. Limits: {config.repeats} repeats of 2 replicas of {config.sites} sites; all "
        "depths share their noise. Distances are root mean squares over all steps and images; the noise of "
        "networks and limits is taken off, and error bars are jackknives over both."
    )
    tables = {"errors": _errors(found), "depths": _depths(found), "linear": _linear(found)}
    return Summary("depth_limit", config.preset, results.seconds, claims, tables, captions, [note])


def _width(found: Found, depth: int, single: bool, count: int) -> Claim:
    """The exponent of the width at one depth."""
    kind, predicted = ("scatter", -0.5) if single else ("bias", -1.0)
    law = found.width_law(depth, single)
    chance = family_quantile(count) * WANTED[kind]
    finite = _finite(found.config.widths, NEXT[kind])
    what = "a network" if single else "the mean over networks"
    return Claim(
        f"depth {depth}: {what} misses infinite width by N^{predicted:g}",
        "d log2(root mean square distance) / d log2(N)",
        predicted,
        law.value,
        law.stderr,
        tolerance=chance + finite,
        why=f"{chance:.3f} for chance over all claims at a standard error of {WANTED[kind]:g}, {finite:.3f} "
        f"for the next order, a factor 1 + {NEXT[kind]:g} / N.",
    )


def _finite(widths: tuple[int, ...], correction: float) -> float:
    """What a factor 1 + correction / n does to a slope."""
    x = np.log(np.asarray(widths, float))
    x -= x.mean()
    return float(abs(np.sum(x / np.asarray(widths)) / np.sum(x**2)) * correction)


def _depth(found: Found, count: int) -> Claim:
    """The exponent of the depth at infinite width."""
    law = found.depth_law()
    chance = family_quantile(count) * WANTED["depth"]
    finite = _finite(found.config.depths[:-1], NEXT["depth"])
    return Claim(
        "infinite width converges in depth by 1/L",
        "d log2(root mean square of f_2L - f_L) / d log2(L)",
        -1.0,
        law.value,
        law.stderr,
        tolerance=chance + finite,
        why=f"{chance:.3f} for chance over all claims at a standard error of {WANTED['depth']:g}, "
        f"{finite:.3f} for the next order, a factor 1 + {NEXT['depth']:g} / L.",
    )


def _independence(found: Found) -> list[Claim]:
    """Gradient independence: exact at infinite depth for alpha = 1, not for 1/2, linear and on digits."""
    deepest = found.config.depths[-1]
    share = found.gap_share(deepest)
    claims = [
        Claim(
            "linear, alpha 1: what leaving out responses does falls as 1/L",
            "last local exponents of the gap in L, without their 1/L correction",
            -1.0,
            found.exact_slope(1.0),
            0.0,
            tolerance=EXACT,
            why="Exact solutions, no noise; the correction of order 1/L^2 remains.",
        ),
        Claim(
            "linear, alpha 1/2: it does not vanish at infinite depth",
            "gap over the effect of learning features, both extrapolated to 1/L = 0",
            0.0,
            found.exact_share(0.5),
            0.0,
            tolerance=SHARE,
            relation="above",
            why=f"Exact solutions. {SHARE:.0%} of what features do to f is not negligible by any standard.",
        ),
    ]
    alpha = found.config.branch_exponent
    half = alpha == 0.5
    claims.append(
        Claim(
            f"digits, tanh, depth {deepest}: leaving out responses is {'wrong' if half else 'harmless'}",
            "gap over the effect of learning features",
            0.0,
            share.value,
            share.stderr,
            tolerance=SHARE / 2 if half else SHARE,
            relation="above" if half else "at_most",
            why="A nonlinear network at a finite depth: half of what is asked of linear ones.",
        )
    )
    return claims


def _both(name: str, estimate: Estimate) -> dict[str, float]:
    """A number and its error, for a table."""
    return {name: estimate.value, f"{name}_stderr": estimate.stderr}


def _errors(found: Found) -> list[dict[str, Any]]:
    """A row per width and depth."""
    rows = []
    for depth in found.config.depths:
        for width in found.config.widths:
            row: dict[str, Any] = {"depth": depth, "width": width, "networks": found.config.networks(width)}
            row |= _both("mean_to_own_depth", found.bias(depth, width))
            row |= _both("single_to_own_depth", found.scatter(depth, width))
            row |= _both("mean_to_infinite_depth", found.bias(depth, width, 0))
            rows.append(row | {"final_loss": float(found.losses[depth, width][0][-1])})
    return rows


def _depths(found: Found) -> list[dict[str, Any]]:
    """A row per depth: infinite width, what responses do, and on which side networks are."""
    rows = []
    for depth in found.config.depths:
        row: dict[str, Any] = {"depth": depth, **_both("to_infinite_depth", found.missing_depth(depth))}
        if depth != found.config.depths[-1]:
            row |= _both("doubling_does", found.doubled(depth))
        row |= _both("features_do", found.effect(depth))
        row |= _both("responses_do", found.gap(depth))
        row |= _both("networks_to_limit", found.extrapolated(depth, found.limits[depth]))
        row |= _both("networks_to_kernel_rule", found.extrapolated(depth, found.rule[depth]))
        row |= _both("networks_to_none", found.extrapolated(depth, found.without[depth]))
        row["final_loss"] = float(found.curve(found.limits[depth].mean(axis=0))[-1])
        rows.append(row)
    return rows


def _linear(found: Found) -> list[dict[str, Any]]:
    """A row per exponent and depth of linear networks, exact."""
    return [
        {
            "exponent": exponent,
            "depth": depth,
            "responses_do": gap,
            "features_do": effect,
            "share": gap / effect,
        }
        for (exponent, depth), (gap, effect) in sorted(found.exact.items())
    ]
