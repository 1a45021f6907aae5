"""Claims, tables and figures of the transfer over depth, from its optima."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from experiments import depth_transfer_figures as figures
from experiments.depth_transfer_networks import Shape, Task
from experiments.transfer_report import REGRET, relative_regret
from experiments.transfer_search import UNRESOLVED, resolved, resolved_law
from widelimit.compare import Claim, Optimum, PowerLaw, Summary, joint_stderr, transfer
from widelimit.training import Results

Optima = Mapping[str, Mapping[Shape, Optimum]]

# Fixed before the default run. Over four doublings 0.15 moves the optimum by a little more than one cell of
# the grid; a standard error of 0.07 is needed to tell 0.15 from 0.
STILL, RESOLUTION = 0.15, 0.07
_WHY = "Slopes: 0.15 per doubling, about one cell of the grid (a factor sqrt(2)) over four doublings."
# What theory fixes, for figures. Over width the standard optimum must fall like 1/width if updates align with
# what they multiply, like width^(-3/2) if a readout of the standard size aligns with changes below it, too:
# between them lies the truth. Over depth muP's falls, by how much depends on norms; depth-muP's is no claim.
PREDICTED = {
    "depth": {"completep": 0.0},
    "width": {"mup": 0.0, "depth_mup": 0.0, "completep": 0.0},
}


def lines(config: Any, best: Mapping[Shape, Optimum]) -> dict[str, dict[int, Optimum]]:
    """Returns the optima by depth at the base width, and by width at the base depth."""
    width, depth = config.widths[0], config.depths[0]
    return {
        "depth": {deep: best[Shape(width, deep)] for deep in config.depths},
        "width": {wide: best[Shape(wide, depth)] for wide in config.widths},
    }


def targets(config: Any) -> dict[str, Shape]:
    """Returns the shapes that a rate tuned at the base shape is used at."""
    width, depth = config.widths[0], config.depths[0]
    found = {"deepest": Shape(width, config.depths[-1]), "widest": Shape(config.widths[-1], depth)}
    return found | ({"corner": Shape(*config.corner)} if config.corner else {})


def summarise(config: Any, results: Results, optima: Optima, task: Task) -> Summary:
    """Judges the transfer and draws it."""
    slopes = {
        (name, size): transfer(list(line), list(line.values()))
        for name, best in optima.items()
        for size, line in lines(config, best).items()
    }
    judged = {
        (name, size): resolved_law(law, *lines(config, optima[name])[size].values())
        for (name, size), law in slopes.items()
    }
    by_size = {size: {name: lines(config, best)[size] for name, best in optima.items()} for size in PREDICTED}
    laws = {size: {name: slopes[name, size] for name in optima} for size in PREDICTED}
    base = Shape(config.widths[0], config.depths[0])
    costs = {
        name: {place: _cost(best[shape], best[base]) for place, shape in targets(config).items()}
        for name, best in optima.items()
    }
    captions = figures.save_all(results, by_size, laws, PREDICTED, costs, targets(config), task)
    return Summary(
        experiment="depth_transfer",
        preset=config.preset,
        seconds=results.seconds,
        claims=[*slope_claims(judged), *_regret_claims(config, optima)],
        tables={
            "slopes": [_slope_row(name, size, law) for (name, size), law in slopes.items()],
            "regret": [
                {"parametrization": name, "tuned_at": _said(base), "used_at": _said(shape), **row}
                for name in optima
                for (_, shape), row in zip(targets(config).items(), costs[name].values(), strict=True)
            ],
            "optimum": [
                _optimum_row(name, shape, one) for name, best in optima.items() for shape, one in best.items()
            ],
        },
        figures=captions,
        notes=[
            task.note,
            "Where two parametrizations are the same network (all numbers of their rules are equal: the "
            "standard one and muP at the base width, the three with muP's rules at the base depth), it is "
            "trained once.",
            UNRESOLVED,
        ],
    )


def _said(shape: Shape) -> str:
    """A shape in words."""
    return f"width {shape.width}, depth {shape.depth}"


def _cost(target: Optimum, base: Optimum) -> dict[str, float]:
    """What the base shape's rate costs at another shape."""
    cost, spread = relative_regret(target, base)
    return {
        "regret": cost.value,
        "regret_stderr": cost.stderr,
        "best_loss": target.loss,
        "loss_spread": spread,
    }


def slope_claims(slopes: Mapping[tuple[str, str], PowerLaw]) -> list[Claim]:
    """Over depth CompleteP's optimum stays and muP's falls; over width muP's stays and the standard falls."""
    claims = []
    for still, moving, size in (("completep", "mup", "depth"), ("mup", "standard", "width")):
        quantity = f"d log2(lr*) / d log2({size})"
        if (still, size) not in slopes:
            continue
        law = slopes[still, size]
        claims.append(
            Claim(
                f"{still}: optimum does not move with {size}",
                quantity,
                0.0,
                law.exponent,
                law.stderr,
                STILL,
                why=_WHY,
            )
        )
        if (moving, size) in slopes:
            other = slopes[moving, size]
            claims.append(
                Claim(
                    f"{moving}: optimum falls faster with {size} than {still}'s",
                    f"difference of {quantity}",
                    0.0,
                    other.exponent - law.exponent,
                    joint_stderr(other.stderr, law.stderr),
                    0.0,
                    relation="below",
                )
            )
    name, size = max(
        slopes, key=lambda key: math.inf if math.isnan(slopes[key].stderr) else slopes[key].stderr
    )
    worst = slopes[name, size]
    claims.append(
        Claim(
            "every slope is known well enough",
            f"largest standard error of a slope ({name} over {size})",
            0.0,
            worst.stderr,
            # of a standard error from so many degrees of freedom
            worst.stderr / math.sqrt(2 * worst.degrees),
            RESOLUTION,
            relation="at_most",
            why="Resolution: 0.07 tells a slope of 0.15 from 0.",
        )
    )
    return claims


def _regret_claims(config: Any, optima: Optima) -> list[Claim]:
    """CompleteP's rate, tuned at the base shape, costs little at the largest shapes."""
    if "completep" not in optima:
        return []
    best, base = optima["completep"], Shape(config.widths[0], config.depths[0])
    claims = []
    for shape in targets(config).values():
        cost, spread = relative_regret(best[shape], best[base])
        cost = resolved(cost, best[shape], best[base])
        claims.append(
            Claim(
                f"completep: the rate tuned at {_said(base)} costs little at {_said(shape)}",
                "regret / loss spread of the grid",
                0.0,
                cost.value / spread,
                cost.stderr / spread,
                REGRET,
                relation="at_most",
                why="Regret: a tenth of the interquartile range of the losses on the grid.",
            )
        )
    return claims


def _slope_row(name: str, size: str, law: PowerLaw) -> dict[str, Any]:
    """One line."""
    return {
        "parametrization": name,
        "over": size,
        "slope": law.exponent,
        "stderr_seeds": law.stderr_seeds,
        "stderr_residual": law.stderr_residual,
    }


def _optimum_row(name: str, shape: Shape, best: Optimum) -> dict[str, Any]:
    """One curve."""
    return {
        "parametrization": name,
        "width": shape.width,
        "depth": shape.depth,
        "log2_lr": best.log2_lr,
        "stderr": best.stderr,
        "loss": best.loss,
        "loss_stderr": best.loss_stderr,
        "flag": best.flag,
    }
