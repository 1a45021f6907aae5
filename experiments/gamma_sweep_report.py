"""Claims of the sweep: exponents of the lazy end, and networks beside DMFT at every gamma0."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments import gamma_sweep_measures as measures
from experiments.gamma_sweep_cells import BLOCKS
from experiments.gamma_sweep_measures import DEVIATION, HELD_OUT, LOSS, TO_FIT, jackknife, lazy_slope
from widelimit.compare import Claim, Estimate, Summary, family_quantile, joint_stderr
from widelimit.dmft import Solution

# Fixed before a run.
WANTED = 0.03  # standard error of an exponent that the numbers of networks and sites aim at
HIGHER = 2.0  # gamma0 at which the next correction to the lazy end, ~ gamma0^4, is at most one is 1 / HIGHER
RESOLVED = 0.1  # of what gamma0 changes in a quantity: the joint standard errors must be smaller
LAZY_NOISE, LAZY_TERM = 0.04, 4.0  # steps to fit at the lazy end: four errors of 1%, and so much gamma0^2


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """Everything a run found.

    Args:
        config: of the run.
        lazy: what the NTK predicts, by quantity.
        held_out: targets of the held-out images.
        draws: by width (0 is DMFT) and quantity: of each gamma0, all draws, then without each, [1 + B, G].
    """

    config: Any
    lazy: Mapping[str, float]
    held_out: np.ndarray
    draws: Mapping[int, Mapping[str, np.ndarray]]

    @property
    def names(self) -> list[str]:
        """The quantities in which networks and DMFT are compared."""
        return measures.names(self.config.depth)

    @functools.cached_property
    def weights(self) -> np.ndarray:
        """Of the widths, in the value at 1 / width = 0 of the polynomial through all of them (Richardson)."""
        x = 1 / np.array(self.config.widths, float)
        others = [np.delete(x, i) for i in range(x.size)]
        return np.array([np.prod(rest / (rest - own)) for own, rest in zip(x, others, strict=True)])

    def at(self, width: int, name: str) -> list[Estimate]:
        """A quantity at every gamma0, of networks of one width, or of DMFT (0)."""
        draws = self.draws[width][name]
        return [jackknife(lambda one: float(one[0]), [draws[:, [i]]]) for i in range(draws.shape[1])]

    def limit(self, name: str) -> list[Estimate]:
        """The same of networks, extrapolated to infinite width."""
        by_width = [self.at(width, name) for width in self.config.widths]
        return [
            Estimate(
                float(np.dot(self.weights, [one.value for one in same])),
                joint_stderr(*(self.weights * [one.stderr for one in same])),
            )
            for same in zip(*by_width, strict=True)
        ]

    def apart(self, name: str) -> list[Estimate]:
        """Extrapolated networks less DMFT, at every gamma0."""
        pairs = zip(self.limit(name), self.at(0, name), strict=True)
        return [Estimate(one.value - two.value, joint_stderr(one.stderr, two.stderr)) for one, two in pairs]

    def resolution(self, name: str) -> float:
        """The largest joint standard error, as a share of what gamma0 changes in DMFT's value."""
        values = [one.value for one in self.at(0, name)]
        return float(max(one.stderr for one in self.apart(name)) / np.ptp(values))

    def slope(self, widths: Sequence[int], name: str) -> Estimate:
        """The exponent of gamma0 at the lazy end, as the mean over these widths (0: DMFT)."""
        gamma0s = np.array(self.config.gamma0s[:3])

        def mean(*sizes: np.ndarray) -> float:
            return float(np.mean([lazy_slope(gamma0s, one) for one in sizes]))

        return jackknife(mean, [self.draws[width][name][:, :3] for width in widths])


def gather(config: Any, lazy: Solution, held_out: np.ndarray, rows: Sequence[dict[str, Any]]) -> Found:
    """Returns a finished run's rows as arrays; None, as rows hold NaN, is NaN again."""
    names = [*measures.names(config.depth), DEVIATION]
    draws = {}
    for width in (0, *config.widths):
        by_gamma0 = {row["gamma0"]: row for row in rows if row["width"] == width}
        draws[width] = {
            name: np.array([by_gamma0[gamma0][name] for gamma0 in config.gamma0s], float).T for name in names
        }
    return Found(config, measures.lazy_quantities(lazy, held_out, config.fitted), held_out, draws)


def describe(row: Mapping[str, Any]) -> str:
    """A line about a finished cell."""
    what = row["stage"] if row["stage"] == "DMFT" else f"networks of width {row['width']}"
    return (
        f"gamma0 {row['gamma0']:g}: {what}: final loss {row[LOSS][0]:.4g}, held out {row[HELD_OUT][0]:.4g}, "
        f"{row[TO_FIT][0]:.4g} steps to fit ({row['seconds']:.0f} s)"
    )


def summarise(found: Found, captions: Mapping[str, str], seconds: float) -> Summary:
    """Judges what was found."""
    config = found.config
    moving = [measures.moved(kernel) for kernel in measures.kernels(config.depth)]
    claims = [_slope(found, (0,), name) for name in (DEVIATION, *moving)]
    claims += [_slope(found, config.widths, name) for name in moving]
    claims += [_lazy_end(found), *(_agreement(found, name) for name in found.names)]
    assert len(claims) == count(config)
    note = (
        f"MLPs with {config.depth} hidden layers (tanh, no biases), muP in DMFT's form, centred (f - f_0), "
        f"on digits {config.classes[0]} (-1) and {config.classes[1]} (+1): {config.samples} training and "
        f"{config.test_samples} held-out images of norm sqrt(D). Full-batch gradient descent on the mean of "
        f"|f - y|^2 / 2, eta {config.rate:g} at every gamma0, {config.steps} steps. DMFT: {config.replicas} "
        f"replicas of {config.sites} sites. Networks: {_networks(config)}, the same starts at every gamma0; "
        f"their kernels are means over networks. Steps to fit: until the mean loss is {config.fitted:g} of "
        "its start, its logarithm linear between steps. Movement |K_T - K_0| / |K_0| is over all images, "
        "alignment <K_T, y y^T> / (|K_T| |y y^T|) over the training images. Extrapolated: the polynomial in "
        f"1 / width through all {len(config.widths)} widths, at 0. Errors: jackknife over replicas and over "
        f"{BLOCKS} blocks of networks, which also takes off the bias of noise in norms."
    )
    return Summary("gamma_sweep", config.preset, seconds, claims, _tables(found), captions, [note])


def count(config: Any) -> int:
    """Number of claims."""
    return 2 * (config.depth + 1) + 2 + len(measures.names(config.depth))


def _networks(config: Any) -> str:
    """How many of which width."""
    return ", ".join(f"{config.networks(width)} of width {width}" for width in config.widths)


def _slope(found: Found, widths: Sequence[int], name: str) -> Claim:
    """Theory is even in gamma0, at every width: a readout of the other sign is as likely."""
    config = found.config
    measured = found.slope(widths, name)
    gamma0s = np.array(config.gamma0s[:3])
    finite = abs(lazy_slope(gamma0s, np.exp((HIGHER * gamma0s) ** 4)))
    chance = family_quantile(count(config)) * WANTED
    return Claim(
        f"{'networks' if any(widths) else 'DMFT'}, lazy end: {name} ~ gamma0^2",
        f"d log {name} / d log gamma0, gamma0 -> 0",
        2.0,
        measured.value,
        measured.stderr,
        tolerance=chance + finite,
        why=f"Slopes: {chance:.3f} for chance over {count(config)} claims at the standard error {WANTED:g} "
        f"aimed at, and {finite:.3f} for a relative term ({HIGHER:g} gamma0)^4 beyond the fitted gamma0^2 "
        "c (1 + k gamma0^2). Networks: the mean over widths, as the power is the same at each.",
    )


def _lazy_end(found: Found) -> Claim:
    """The NTK's time is the limit of all."""
    first, measured = found.config.gamma0s[0], found.limit(TO_FIT)[0]
    lazy = found.lazy[TO_FIT]
    return Claim(
        "networks, lazy end: fitted when the NTK says",
        f"steps to fit at gamma0 = {first:g} / the NTK's",
        1.0,
        measured.value / lazy,
        measured.stderr / lazy,
        tolerance=LAZY_NOISE + LAZY_TERM * first**2,
        why=f"Lazy end: {LAZY_NOISE:g} for chance at the standard error 0.01 aimed at, and O(gamma0^2), "
        f"{LAZY_TERM:g} gamma0^2.",
    )


def _agreement(found: Found, name: str) -> Claim:
    """Two independent ways to infinite width."""
    config, resolution = found.config, found.resolution(name)
    scores = [abs(one.z()) for one in found.apart(name)]
    comparisons = len(found.names) * len(config.gamma0s)
    return Claim(
        f"every gamma0: networks extrapolated to infinite width have DMFT's {name}",
        f"largest |difference| over {len(scores)} gamma0, in joint standard errors",
        0.0,
        float(np.max(scores)),
        stderr=0.0 if resolution <= RESOLVED else float("nan"),
        tolerance=family_quantile(comparisons, degrees=BLOCKS - 1),
        relation="at_most",
        why=f"Agreement: three joint standard errors for one comparison; chance fails one run in a hundred "
        f"over {comparisons} of them, Student's t of {BLOCKS} blocks. Inconclusive where a joint standard "
        f"error exceeds {RESOLVED:g} of what the whole sweep changes in the quantity.",
    )


def _tables(found: Found) -> dict[str, list[dict[str, Any]]]:
    """What the claims rest on: agreement by quantity, exponents by width, and every number."""
    agreement = []
    for name in found.names:
        apart, limit = found.apart(name), found.limit(name)
        scores = [abs(one.z()) for one in apart]
        agreement.append(
            {
                "quantity": name,
                "largest z": float(np.max(scores)),
                "at gamma0": found.config.gamma0s[int(np.argmax(scores))],
                "joint stderr / change over the sweep": found.resolution(name),
                "the NTK in place of DMFT: largest z": max(abs(one.z(found.lazy[name])) for one in limit),
            }
        )
    slopes = [
        {"of": "DMFT" if width == 0 else f"width {width}", "quantity": name}
        | {"exponent": law.value, "stderr": law.stderr}
        for name in (DEVIATION, *map(measures.moved, measures.kernels(found.config.depth)))
        for width in (0, *found.config.widths)
        if (name != DEVIATION or width == 0) and (law := found.slope((width,), name))
    ]
    sweep = []
    for name in found.names:
        theory, limit, widest = found.at(0, name), found.limit(name), found.at(found.config.widths[-1], name)
        for i, gamma0 in enumerate(found.config.gamma0s):
            sweep.append(
                {
                    "quantity": name,
                    "gamma0": gamma0,
                    "NTK": found.lazy[name],
                    "DMFT": theory[i].value,
                    "DMFT stderr": theory[i].stderr,
                    "networks, extrapolated": limit[i].value,
                    "networks stderr": limit[i].stderr,
                    f"width {found.config.widths[-1]}": widest[i].value,
                }
            )
    return {"agreement": agreement, "exponents at the lazy end": slopes, "sweep": sweep}
