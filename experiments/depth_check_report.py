"""The verdict of the depth check: fits, claims and tables from its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import depth_check_data, depth_check_figures, depth_check_network
from experiments import depth_check_theory as theory
from widelimit.compare import Claim, PowerLaw, Summary, family_quantile, fit_exponent
from widelimit.training import Results, pivot

if TYPE_CHECKING:
    from experiments.depth_check import Config

# A slope that changes by less when the rate is halved is that of an infinitesimal step.
HALVING = 0.01
# Bounds the terms (k/n)^2 in the logarithm of a size that the fitted factor exp(k/n) leaves. Depth: the
# stream's start, V0 / (b^2 E phi^2) ~ 1, and the growth of a change per unit of depth, b^2 E phi'^2 / V0 ~ 2;
# twice that in a decoder, whose blocks have two branches.
# Width: half the number of samples and outputs that share a step.
LEFT = {"depth": 2.0, "width": 13.0}
_WHY = (
    "Exponents: as many standard errors as Student's t wants so that chance fails one run in a hundred, "
    "times the one the seeds are meant to reach; plus what a term (k/n)^2, which the finite-size correction "
    "exp(k/n) leaves, would do, with k = 2 in depth (4 with two branches a block) and 13 in width."
)
_WHY_HALVING = (
    "Small steps: halving the rate changes no exponent of the first step by 0.01, in the worst case."
)

Group = tuple[theory.Axis, str, str, int]


class Cells:
    """The rows of a run as arrays, and their fits.

    Args:
        config: of the run.
        rows: all of them.
    """

    def __init__(self, config: Config, rows: Sequence[Mapping[str, Any]]) -> None:
        self.config = config
        self._rows: dict[tuple[str, str, int], list[Mapping[str, Any]]] = {}
        for row in rows:
            key = (row["parametrization"], row["optimizer"], row["branch_depth"])
            self._rows.setdefault(key, []).append(row)

    @property
    def groups(self) -> list[Group]:
        """Axis, parametrization, optimizer and branch depth, in the order of the report."""
        config = self.config
        axes: dict[theory.Axis, tuple[int, ...]] = {"depth": config.branch_depths}
        if config.widths:
            axes["width"] = config.branch_depths[-1:]
        return [
            (axis, case, optimizer, branch_depth)
            for axis, depths in axes.items()
            for branch_depth in depths
            for optimizer in config.optimizers
            for case in theory.cases(config.parametrizations, optimizer)
        ]

    def names(self, branch_depth: int) -> list[str]:
        """Names of the parameters inside a block."""
        shape = depth_check_data.shape(self.config, branch_depth, self.config.depths[0], self.config.at_width)
        return depth_check_network.block_parameters(shape)

    def asked(self) -> list[theory.Asked]:
        """Everything that theory fixes, in the order of the report; what no optimizer has met, once."""
        found = []
        for axis, case, optimizer, branch_depth in self.groups:
            own = theory.asked(
                axis, case, optimizer, self.names(branch_depth), branch_depth, self.config.steps
            )
            first = optimizer == self.config.optimizers[0]
            found += [one for one in own if first or one.kind != "at first"]
        return found

    def sizes(self, group: Group, field: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns depths or widths [n], and a field [S, n]."""
        axis, case, optimizer, branch_depth = group
        fixed, value = {
            "depth": ("width", self.config.at_width), "width": ("depth", self.config.at_depth),
        }[axis]  # fmt: skip
        along = self.config.depths if axis == "depth" else self.config.widths
        rows = self._rows[case, optimizer, branch_depth]
        chosen = [row for row in rows if row[fixed] == value and row[axis] in along]
        sizes, (_, places) = pivot(chosen, field, ("seed", axis))
        return np.asarray(places, float), sizes

    def law(self, group: Group, field: str, over: str | None = None) -> PowerLaw:
        """Returns a field's exponent, with the finite-size correction; or that of a ratio of two fields."""
        places, sizes = self.sizes(group, field)
        if over is not None:
            with np.errstate(invalid="ignore", divide="ignore"):
                sizes = sizes / self.sizes(group, over)[1]
        try:
            return fit_exponent(places, sizes, correction=True, paired=False, missing="mask")
        except ValueError:  # too much diverged
            return PowerLaw(*(np.nan,) * 5, len(places), len(sizes), np.nan)


def tolerance(config: Config, axis: theory.Axis, claims: int) -> float:
    """Returns the tolerance of an exponent, from the config alone.

    Args:
        config: of the run.
        axis: along which it is fitted.
        claims: number of claims in the family.
    """
    n = np.asarray(config.depths if axis == "depth" else config.widths, float)
    slope = np.linalg.pinv(np.stack([np.ones(n.size), np.log2(n), 1 / n], axis=1))[1]
    left = abs(slope @ n**-2) / np.log(2)  # what a term 1/n^2 in the logarithm does to the exponent
    k = LEFT[axis] * (2 if axis == "depth" and config.model == "decoder" else 1)
    return float(family_quantile(claims, degrees=config.seeds - 1) * config.stderr + left * k**2)


def judge(cells: Cells) -> tuple[list[theory.Asked], list[Claim], list[Claim]]:
    """Returns what was asked, the claim about each exponent, and that each first step was small."""
    asked, claims = cells.asked(), []
    number = len(asked) + len(cells.groups)
    for one in asked:
        law = cells.law((one.axis, one.case, one.optimizer, one.branch_depth), one.field)
        quantity, allowed = (
            f"exponent of the {one.axis}, {one.kind}",
            tolerance(cells.config, one.axis, number),
        )
        claims.append(Claim(one.name, quantity, one.predicted, law.exponent, law.stderr, allowed, why=_WHY))
    return asked, claims, [_halving(cells, group) for group in cells.groups]


def _halving(cells: Cells, group: Group) -> Claim:
    """The largest change of any contribution's exponent when its rate is halved; seeds are paired."""
    axis, case, optimizer, branch_depth = group
    powers = theory.contributions(case, optimizer, cells.names(branch_depth), branch_depth)
    fields = [f"{source} -> {field}" for (source, field), power in powers.items() if power is not None]
    laws = [cells.law(group, field, over=f"half {field}") for field in fields]
    worst = max(laws, key=lambda law: np.nan_to_num(abs(law.exponent), nan=np.inf))
    quantity = f"largest change of an exponent of the {axis} when the rate is halved"
    name = f"{axis}: {case}/{optimizer}/{branch_depth}: the first step is small"
    return Claim(name, quantity, 0.0, worst.exponent, worst.stderr, HALVING, why=_WHY_HALVING)


def agreement(asked: Sequence[theory.Asked], claims: Sequence[Claim]) -> list[dict[str, Any]]:
    """Returns a line per network and kind of exponent: how many, and how far off."""
    groups: dict[tuple[Any, ...], list[Claim]] = {}
    for one, claim in zip(asked, claims, strict=True):
        key = (one.axis, one.case, one.optimizer, one.branch_depth, one.kind)
        groups.setdefault(key, []).append(claim)
    rows = []
    for (axis, case, optimizer, branch_depth, kind), own in groups.items():
        off = np.array([claim.measured - claim.predicted for claim in own])
        error = np.array([claim.stderr for claim in own])
        random = error > 1e-4  # Adam moves a bias by the same amount in every network
        z = off[random] / error[random]
        rows.append(
            {"axis": axis, "parametrization": case, "optimizer": optimizer, "branch depth": branch_depth}
            | {"exponents": kind, "number": len(own), "hold": sum(claim.holds is True for claim in own)}
            | {"largest deviation": float(off[np.argmax(np.abs(off))]), "largest stderr": float(error.max())}
            | {"rms z": float(np.sqrt(np.mean(z**2))) if z.size else None}
        )
    return rows


def unclaimed(cells: Cells) -> list[dict[str, Any]]:
    """Returns the exponents that theory leaves open, where the stream grows or the changes do."""
    rows = []
    for group in cells.groups:
        axis, case, optimizer, branch_depth = group
        names = cells.names(branch_depth)
        known = {
            one.field for one in theory.asked(axis, case, optimizer, names, branch_depth, cells.config.steps)
        }
        totals = [
            f"step {t} {field}" for t in (1, cells.config.steps) for field in ("stream", "branch", "logits")
        ]
        powers = theory.contributions(case, optimizer, names, branch_depth)
        fields = [*(f"{source} -> {field}" for source, field in powers), *totals]
        for field in dict.fromkeys(fields):
            if axis == "depth" and field not in known:
                law = cells.law(group, field)
                row = {"parametrization": case, "optimizer": optimizer, "branch depth": branch_depth}
                rows.append(row | {"size": field, "exponent": law.exponent, "stderr": law.stderr})
    return rows


def finish(config: Config, results: Results) -> Summary:
    """Judges and draws what the rows hold."""
    cells = Cells(config, results.rows)
    asked, claims, small = judge(cells)
    captions = depth_check_figures.save_all(results, cells, asked, claims)
    what = f"A residual MLP ({config.activation}) on digits"
    if config.model == "decoder":
        what = f"A decoder on bytes of text, {config.context} tokens"
    note = (
        f"{what}, branches behind an RMS norm, cross-entropy; depths {', '.join(map(str, config.depths))} at "
        f"width {config.at_width}, widths {', '.join(map(str, config.widths)) or 'none'} at depth "
        f"{config.at_depth}; {config.seeds} cells of {config.networks} networks. Exponents are fitted to "
        "geometric means together with a finite-size factor exp(k/n)."
    )
    tables = {"agreement": agreement(asked, claims), "what theory leaves open": unclaimed(cells)}
    claimed = [*claims, *small]
    return Summary("depth_check", config.preset, results.seconds, claimed, tables, captions, [note])
