"""What theory says about the coordinate check before anything is run: exponents of the width."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from widelimit.scaling import (
    Parametrization,
    contribution_exponents,
    mean_field,
    mup,
    ntk,
    standard,
)

CASES: Mapping[str, tuple[Parametrization, str | None]] = {
    "standard": (standard(), None),
    "standard_full": (standard(), "full"),
    "ntk": (ntk(), None),
    "mean_field": (mean_field(), None),
    "mup_3": (mup(table=3), None),
    "mup_8": (mup(table=8), None),
    "mup_9": (mup(table=9), None),
}
SMALL = 0.25  # the small step, as a share of the ordinary rate, where nothing is predicted to grow


def layers(depth: int) -> list[str]:
    """Returns the names of the layers, from the first pre-activations to the logits."""
    return [*(f"layer {i + 1}" for i in range(depth)), "logits"]


def sources(depth: int) -> list[str]:
    """Returns the names of the parameters in the order of the parameter tree."""
    return [f"{kind} {i + 1}" for i in range(depth + 1) for kind in ("bias", "weight")]


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Exponents s of one parametrization and optimizer, ``size ~ n^s``.

    Args:
        initial: of each layer at initialisation.
        contributions: by (source, layer): what the first update of a parameter alone changes.
        totals: of each layer's change at any step; None where its contributions differ in exponent, so that
            the change is no power, or where something grows, so that everything soon bends.
    """

    initial: dict[str, float]
    contributions: dict[tuple[str, str], float]
    totals: dict[str, float | None]


def predict(case: str, optimizer: str, depth: int) -> Prediction:
    """Returns the exponents of a network with so many hidden layers."""
    parametrization, alignment = CASES[case]
    rate = parametrization.rate(optimizer, alignment).learning_rate
    names, found = layers(depth), dict[tuple[str, str], float]()
    for kind, biases in (("bias", True), ("weight", False)):
        rows = contribution_exponents(parametrization, rate, optimizer, depth - 1, biases)
        for k, row in enumerate(rows):
            found |= {(f"{kind} {k + 1}", names[k + j]): 0.0 - float(r) for j, r in enumerate(row)}
    totals: dict[str, float | None] = {}
    for name in names:
        powers = {s for (_, layer), s in found.items() if layer == name}
        totals[name] = powers.pop() if len(powers) == 1 and max(found.values()) <= 0 else None
    logits = 0.5 - float(parametrization.multiplier.output + parametrization.init.output)
    return Prediction(dict.fromkeys(names, 0.0) | {"logits": logits}, found, totals)


def trials(case: str, optimizer: str, depth: int, spread: float) -> np.ndarray:
    """Returns the shares of the first update that are made in each trial, [trials, parameters].

    First each parameter alone, then each alone at half the rate, then all together at one rate. A step is so
    small that what it changes most is no larger at the largest width than at the smallest.

    Args:
        case: key of ``CASES``.
        optimizer: ``"sgd"`` or ``"adam"``.
        depth: number of hidden layers.
        spread: largest width / smallest width.
    """
    powers = predict(case, optimizer, depth).contributions
    growth = {
        source: max(0.0, *(s for (own, _), s in powers.items() if own == source)) for source in sources(depth)
    }
    alone = np.diag([SMALL * spread**-power for power in growth.values()])
    whole = np.full((1, len(alone)), SMALL * spread ** -max(growth.values()))
    return np.concatenate([alone, alone / 2, whole])


def trial_names(depth: int) -> list[str]:
    """Returns a name for each of these trials."""
    names = sources(depth)
    return [*names, *(f"half {name}" for name in names), "all"]


@dataclasses.dataclass(frozen=True)
class Asked:
    """One exponent that theory fixes: of which field of which cell, and what it should be."""

    case: str
    optimizer: str
    kind: str
    field: str
    name: str
    predicted: float


def asked(cases: Sequence[str], optimizers: Sequence[str], depth: int, steps: int) -> list[Asked]:
    """Returns everything that theory fixes, in the order of the report."""
    found = []
    for optimizer in optimizers:
        for case in cases:
            theory, cell = predict(case, optimizer, depth), f"{case}/{optimizer}"
            if optimizer == optimizers[0]:  # no network has met its optimizer yet
                found += [
                    Asked(case, optimizer, "initial size", f"initial {layer}", f"{case}: {layer} at first", s)
                    for layer, s in theory.initial.items()
                ]
            for (source, layer), s in theory.contributions.items():
                name = f"{cell}: {source} moves {layer}"
                found.append(Asked(case, optimizer, "small first step", f"{source} -> {layer}", name, s))
            for layer, power in theory.totals.items():
                for t in range(1, steps + 1) if power is not None else ():
                    name = f"{cell}: {layer} after step {t}"
                    found.append(
                        Asked(case, optimizer, "ordinary steps", f"step {t} {layer}", name, power or 0.0)
                    )
    return found
