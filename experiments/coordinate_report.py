"""The verdict of the coordinate check: fits, claims and tables from its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import coordinate_theory as theory
from widelimit.compare import Claim, PowerLaw, Summary, family_quantile, fit_exponent
from widelimit.training import pivot

if TYPE_CHECKING:
    from experiments.coordinate_check import Config

OUTPUTS = 10  # the digits
# A slope that changes by less when the rate is halved is that of an infinitesimal step: to first order in the
# rate, halving it removes half of what remains.
HALVING = 0.01
_WHY_EQUAL = (
    "Exponents: as many standard errors as Student's t wants so that chance fails one run in a hundred, "
    "times the one the seeds are meant to reach; plus what a term (k/n)^2, which the finite-width correction "
    "exp(k/n) leaves, would do, with k half the number of samples and outputs that share a step."
)
_WHY_HALVING = (
    "Small steps: halving the rate changes no exponent of the first step by 0.01, in the worst case."
)


class Cells:
    """The rows of a run as arrays, and their fits.

    Args:
        config: of the run.
        rows: all of them.
    """

    def __init__(self, config: Config, rows: Sequence[Mapping[str, Any]]) -> None:
        self.config, self.widths = config, np.asarray(config.widths, float)
        self._rows: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for row in rows:
            self._rows.setdefault((row["parametrization"], row["optimizer"]), []).append(row)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Parametrizations and optimizers, in the order of the report."""
        return [(case, name) for name in self.config.optimizers for case in self.config.parametrizations]

    def sizes(self, case: str, optimizer: str, field: str) -> np.ndarray:
        """Returns a field, [S, W]."""
        return pivot(self._rows[case, optimizer], field, ("seed", "width"))[0]

    def law(self, case: str, optimizer: str, field: str) -> PowerLaw:
        """Returns its exponent, with the finite-width correction."""
        return fitted(self.widths, self.sizes(case, optimizer, field))

    def shares(self, case: str, optimizer: str) -> dict[str, float]:
        """Returns by trial the share of the ordinary rate that it was made at."""
        depth = self.config.depth
        largest = theory.trials(case, optimizer, depth, self.widths[-1] / self.widths[0]).max(axis=1)
        return dict(zip(theory.trial_names(depth), largest.tolist(), strict=True))


def fitted(widths: np.ndarray, sizes: np.ndarray, correction: bool = True) -> PowerLaw:
    """Returns an exponent, widths being independent; NaN, and so inconclusive, where too much diverged."""
    try:
        return fit_exponent(widths, sizes, correction=correction, paired=False, missing="mask")
    except ValueError:
        return PowerLaw(*(np.nan,) * 5, len(widths), len(sizes), np.nan)


def exponent_tolerance(config: Config, claims: int) -> float:
    """Returns the tolerance of an exponent, from the config alone.

    Args:
        config: of the run.
        claims: number of claims in the family.
    """
    n = np.asarray(config.widths, float)
    slope = np.linalg.pinv(np.stack([np.ones(n.size), np.log2(n), 1 / n], axis=1))[1]
    left = abs(slope @ n**-2) / np.log(2)  # what a term 1/n^2 in the logarithm does to the exponent
    k = (config.batch_size + OUTPUTS) / 2
    return float(family_quantile(claims, degrees=config.seeds - 1) * config.stderr + left * k**2)


def judge(cells: Cells) -> tuple[list[theory.Asked], list[Claim], list[Claim]]:
    """Returns what was asked, the claim about each exponent, and that each first step was small."""
    config = cells.config
    asked = theory.asked(config.parametrizations, config.optimizers, config.depth, config.steps)
    tolerance = exponent_tolerance(config, len(asked) + len(cells.pairs))
    claims = []
    for one in asked:
        law = cells.law(one.case, one.optimizer, one.field)
        quantity, error = f"exponent of the width, {one.kind}", law.stderr
        claims.append(
            Claim(one.name, quantity, one.predicted, law.exponent, error, tolerance, why=_WHY_EQUAL)
        )
    return asked, claims, [_halving(cells, case, optimizer) for case, optimizer in cells.pairs]


def _halving(cells: Cells, case: str, optimizer: str) -> Claim:
    """The largest change of any contribution's exponent when its rate is halved; seeds are paired."""
    laws = []
    for source, layer in theory.predict(case, optimizer, cells.config.depth).contributions:
        field = f"{source} -> {layer}"
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = cells.sizes(case, optimizer, field) / cells.sizes(case, optimizer, f"half {field}")
        laws.append(fitted(cells.widths, ratio))
    worst = max(laws, key=lambda law: np.nan_to_num(abs(law.exponent), nan=np.inf))
    quantity = "largest change of an exponent when the rate is halved"
    name = f"{case}/{optimizer}: the first step is small"
    return Claim(name, quantity, 0.0, worst.exponent, worst.stderr, HALVING, why=_WHY_HALVING)


def agreement(asked: Sequence[theory.Asked], claims: Sequence[Claim]) -> list[dict[str, Any]]:
    """Returns a line per network and kind of exponent: how many, and how far off."""
    groups: dict[tuple[str, str, str], list[Claim]] = {}
    for one, claim in zip(asked, claims, strict=True):
        groups.setdefault((one.case, one.optimizer, one.kind), []).append(claim)
    rows = []
    for (case, optimizer, kind), own in groups.items():
        off = np.array([claim.measured - claim.predicted for claim in own])
        error = np.array([claim.stderr for claim in own])
        random = error > 1e-4  # Adam moves a bias by the same amount in every network
        z = off[random] / error[random]
        rows.append(
            {"parametrization": case, "optimizer": optimizer, "exponents": kind, "number": len(own)}
            | {"hold": sum(claim.holds is True for claim in own)}
            | {"largest deviation": float(off[np.argmax(np.abs(off))]), "largest stderr": float(error.max())}
            | {"rms z": float(np.sqrt(np.mean(z**2))) if z.size else None}
        )
    return rows


def mixtures(cells: Cells) -> list[dict[str, Any]]:
    """Returns the exponents of changes that theory gives none, beside those of the sums they consist of.

    A sum of powers lies between the leading power and the others, and tends to the leading one. It is put
    together from the contributions (powers from theory, factors and finite-width corrections from the run),
    once as if they were aligned and once as if independent. The steps at the ordinary rate also saturate.
    """
    rows = []
    for case, optimizer in cells.pairs:
        prediction = theory.predict(case, optimizer, cells.config.depth)
        for layer in (name for name, power in prediction.totals.items() if power is None):
            powers = {source: s for (source, to), s in prediction.contributions.items() if to == layer}
            sizes = np.array([_law(cells, case, optimizer, source, layer, s) for source, s in powers.items()])
            small = fitted(cells.widths, cells.sizes(case, optimizer, f"all -> {layer}"), correction=False)
            steps = {f"step {t}": f"step {t} {layer}" for t in range(1, cells.config.steps + 1)}
            rows.append(
                {"parametrization": case, "optimizer": optimizer, "layer": layer}
                | {"leading power": max(powers.values())}
                | {"aligned sum": _slope(cells.widths, sizes.sum(axis=0))}
                | {"independent sum": _slope(cells.widths, np.sqrt((sizes**2).sum(axis=0)))}
                | {"small first step": small.exponent, "stderr": small.stderr}
                | {
                    name: fitted(cells.widths, cells.sizes(case, optimizer, field), correction=False).exponent
                    for name, field in steps.items()
                }
            )
    return rows


def _law(cells: Cells, case: str, optimizer: str, source: str, layer: str, power: float) -> np.ndarray:
    """A contribution by its law ``A n^s exp(k/n)`` with s from theory, at the rate of the whole step."""
    shares, n = cells.shares(case, optimizer), cells.widths
    with np.errstate(invalid="ignore", divide="ignore"):
        logs = np.log(cells.sizes(case, optimizer, f"{source} -> {layer}")).mean(axis=0)
    design = np.stack([np.ones(n.size), 1 / n], axis=1)
    smooth = design @ (np.linalg.pinv(design) @ (logs - power * np.log(n)))
    return np.asarray(np.exp(smooth) * n**power * shares["all"] / shares[source])


def _slope(widths: np.ndarray, sizes: np.ndarray) -> float:
    """The slope of the logarithm, without error bar."""
    design = np.stack([np.ones(widths.size), np.log(widths)], axis=1)
    return float((np.linalg.pinv(design) @ np.log(sizes))[1])


def summarise(
    cells: Cells,
    judged: tuple[Sequence[theory.Asked], Sequence[Claim], Sequence[Claim]],
    captions: Mapping[str, str],
    seconds: float,
) -> Summary:
    """Returns the summary of what ``judge`` found."""
    (asked, claims, small), config = judged, cells.config
    note = (
        f"An MLP with {config.depth} hidden layers (tanh) on digits with cross-entropy; widths "
        f"{', '.join(map(str, config.widths))}; {config.seeds} seeds. Exponents are fitted to geometric "
        "means over seeds, together with a finite-width factor exp(k/n)."
    )
    tables = {"agreement": agreement(asked, claims), "changes beside what grows": mixtures(cells)}
    return Summary("coordinate_check", config.preset, seconds, [*claims, *small], tables, captions, [note])
