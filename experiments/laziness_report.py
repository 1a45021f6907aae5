"""The verdict of the laziness experiment: slopes, claims, tables and the figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import depth_check_theory as theory
from experiments.laziness_network import PARTS
from widelimit.compare import Claim, PowerLaw, Summary, family_quantile, fit_exponent
from widelimit.figures import size_against_width
from widelimit.scaling import depth_slopes
from widelimit.scaling.parametrization import SHIFT_POWER
from widelimit.training import Results, pivot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from experiments.laziness import Config

KINKED = ("relu",)
EXACT = 1e-3  # what rounding may leave of a change that is linear exactly
# Bounds the terms (k/L)^2 in the logarithm that the fitted factor exp(k/L) leaves: at the base depth a step
# moves pre-activations by about 1/2, so that the next orders are at most (1/2)^2 L_base / L.
LEFT = 0.25  # of the base depth
_WHY = (
    "Slopes: as many standard errors as Student's t wants so that chance fails one run in a hundred, times "
    "the one the seeds are meant to reach; plus what a term (k/L)^2, which the finite-depth correction "
    "exp(k/L) leaves, would do, with k a quarter of the base depth."
)
_WHY_EXACT = "Linear exactly: a layer is linear in its weights, and float32 rounds at 1e-7 of the branch."

Group = tuple[str, str, int, str]  # activation, optimizer, branch depth, parametrization


def predicted(group: Group, part: str) -> float | None:
    """Returns the slope of the nonlinear share of a branch's change; None where theory gives none.

    A branch of two layers follows the relative change of its weights, u: the next order of a smooth
    activation is one power of it more. A kinked one is nonlinear only in the units that pass their kink: a
    share u of them, each by a change u, u^(3/2) in root mean square. What changes below moves the branch's
    input by order one under a whole rule, whatever alpha is.
    """
    activation, optimizer, branch_depth, case = group
    slopes = depth_slopes(theory.CASES[case], optimizer, branch_depth=branch_depth, final_norm=True)
    if part == "below":
        return 0.0 if slopes.stream == 0 and slopes.own_change == -1 else None
    if slopes.laziness is None:
        return None
    return 0.0 + float(slopes.laziness) * (0.5 if activation in KINKED else 1.0)


class Ratios:
    """The rows of a run as ratios, and their slopes.

    Args:
        config: of the run.
        results: of the run.
    """

    def __init__(self, config: Config, results: Results) -> None:
        self.config, self._results = config, results

    @property
    def groups(self) -> list[Group]:
        """Everything that is one line over depth, in the order of the report."""
        lines = dict.fromkeys(cell[:3] for cell in self.config.cells())
        return [
            (*line, case) for line in lines for case in theory.cases(self.config.parametrizations, line[1])
        ]

    def of(self, group: Group, part: str) -> np.ndarray:
        """Returns |nonlinear change| / |linear change| of the middle branch, [S, L]."""
        names = ("activation", "optimizer", "branch_depth", "parametrization")
        rows = self._results.find(**dict(zip(names, group, strict=True)))
        sizes = [pivot(rows, f"{kind} {part}", ("seed", "depth"))[0] for kind in ("nonlinear", "linear")]
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(sizes[0] / sizes[1])

    def law(self, group: Group, part: str) -> PowerLaw:
        """Returns the slope of the root mean square over seeds, with the finite-depth correction."""
        depths, ratios = self.config.depths, self.of(group, part)
        try:
            return fit_exponent(depths, ratios, mean="rms", correction=True, paired=False, missing="mask")
        except ValueError:  # too much diverged, or is zero
            return PowerLaw(*(np.nan,) * 5, len(depths), len(ratios), np.nan)


def tolerance(config: Config, claims: int) -> float:
    """Returns the tolerance of a slope, from the config alone.

    Args:
        config: of the run.
        claims: number of claims in the family.
    """
    n = np.asarray(config.depths, float)
    slope = np.linalg.pinv(np.stack([np.ones(n.size), np.log2(n), 1 / n], axis=1))[1]
    left = abs(slope @ n**-2) / np.log(2)  # what a term 1/L^2 in the logarithm does to the slope
    chance = family_quantile(claims, degrees=config.seeds - 1) * config.stderr
    return float(chance + left * (LEFT * config.base_depth) ** 2)


def judge(ratios: Ratios) -> tuple[list[Claim], list[dict[str, Any]]]:
    """Returns the claims, and a line per slope that was measured."""
    wanted, rows, claims = [], [], []
    for group in ratios.groups:
        activation, optimizer, branch_depth, case = group
        for part in PARTS[: 1 if branch_depth == 1 else 2] + PARTS[2:]:
            name = f"{activation}/{case}/{optimizer}/{branch_depth}: {part}"
            theirs, law, values = predicted(group, part), ratios.law(group, part), ratios.of(group, part)
            exact = branch_depth == 1 and part == "own"
            if exact:
                quantity, worst = "largest |nonlinear| / |linear| change", float(np.max(values))
                claim = Claim(name, quantity, 0.0, worst, 0.0, EXACT, relation="at_most", why=_WHY_EXACT)
                claims.append(claim)
            # Of SGD nothing is claimed: its steps are as random as its gradients.
            elif theirs is not None and SHIFT_POWER[theory.family(case, optimizer)] != 2:
                wanted.append((name, theirs, law))
            rows.append(
                {"activation": activation, "parametrization": case, "optimizer": optimizer}
                | {"branch depth": branch_depth, "moved": part, "predicted": None if exact else theirs}
                | {"slope": None if exact else law.exponent, "stderr": None if exact else law.stderr}
                | {
                    f"at {depth}": float(np.sqrt(np.mean(values[:, i] ** 2)))
                    for i, depth in ((0, ratios.config.depths[0]), (-1, ratios.config.depths[-1]))
                }
            )
    allowed = tolerance(ratios.config, max(len(wanted), 1))
    slopes = [
        Claim(
            name,
            "d log(|nonlinear| / |linear| change) / d log(depth)",
            theirs,
            law.exponent,
            law.stderr,
            allowed,
            why=_WHY,
        )
        for name, theirs, law in wanted
    ]
    return slopes + claims, rows


def finish(config: Config, results: Results) -> Summary:
    """Judges and draws what the rows hold."""
    ratios = Ratios(config, results)
    claims, rows = judge(ratios)
    captions = {}
    for optimizer in config.optimizers:
        name = f"laziness_{optimizer}.png"
        results.save_figure(name, drawn(ratios, optimizer))
        captions[name] = (
            f"{optimizer}: the part of the middle branch's change that is not linear in the step, over the "
            "part that is, when only some weights move. Points are geometric means over seeds with one "
            "standard error; dashed: theory. At the base depth all parametrizations are one."
        )
    note = (
        f"One step of residual MLPs on digits, branches behind an RMS norm, width {config.width}, "
        f"{config.batch_size} samples, {config.seeds} seeds. Slopes are fitted to root mean squares over "
        "seeds together with a finite-depth factor exp(k/L)."
    )
    tables = {"slopes": rows}
    return Summary("laziness", config.preset, results.seconds, claims, tables, captions, [note])


def drawn(ratios: Ratios, optimizer: str) -> Figure:
    """A panel per activation, branch depth and part; a colour per parametrization."""
    cases = theory.cases(ratios.config.parametrizations, optimizer)
    sizes: dict[str, list[np.ndarray]] = {}
    slopes: dict[str, list[float]] = {}
    for group in sorted(ratios.groups, key=lambda group: -group[2]):  # a row per activation, then the rest
        activation, own, branch_depth, _ = group
        for part in PARTS if own == optimizer else ():
            if branch_depth == 1 and part != "below":
                continue  # zero but for rounding
            title = f"{activation}, {branch_depth} layer{'s' * (branch_depth > 1)}: {part}"
            sizes.setdefault(title, []).append(ratios.of(group, part))
            slope = predicted(group, part)
            slopes.setdefault(title, []).append(np.nan if slope is None else slope)
    return size_against_width(
        ratios.config.depths,
        {title: np.stack(lines) for title, lines in sizes.items()},
        cases,
        predicted=slopes,
        quantity="|nonlinear| / |linear| change",
        legend="parametrization",
        columns=len(PARTS),
        axis="depth (blocks)",
    )[0]
