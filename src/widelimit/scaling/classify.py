"""The dynamical dichotomy: which parametrizations are stable, and which of those learn features."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Literal

from widelimit.scaling.parametrization import Parametrization, PerRole, gradient_exponents
from widelimit.scaling.symmetry import shift

Regime = Literal["unstable", "trivial", "kernel", "feature-learning"]
_HALF = Fraction(1, 2)


@dataclasses.dataclass(frozen=True)
class Classification:
    """The regime of a parametrization in the infinite-width limit.

    Args:
        regime: what happens to the network.
        r: the features of the last layer change as ``n^-r`` in one step.
        reason: the condition that decided.

    Example:
        >>> from widelimit.scaling import mup
        >>> classify(mup(), "sgd").regime
        'feature-learning'

    Reference:
        Yang & Hu, arXiv 2011.14522, Theorems 3.3-3.8.
    """

    regime: Regime
    r: Fraction
    reason: str


def classify(
    parametrization: Parametrization, optimizer: str = "sgd", alignment: str | None = None
) -> Classification:
    r"""Classifies a parametrization: unstable, trivial, kernel or feature-learning.

    SGD: per-layer rates are shifted away by the symmetry; then with one rate c,
    ``r = min(a_out + b_out, 2 a_out + c) + c - 1 + min_l (2 a_l + 1[l = 1])``.
    Adam: ``r_1 = a_1 + c_1``, ``r_l = a_l + c_l - 1``, ``r = min_l r_l``.
    Stable if activations start at order one, ``r >= 0``, the readout's update does not blow up the logits,
    and ``a_out + b_out + r >= 1``; nontrivial if one of the last two holds with equality; then
    feature-learning iff ``r = 0``.

    Args:
        parametrization: with at least one width -> width layer.
        optimizer: ``"sgd"`` or ``"adam"``.
        alignment: which of its rates; None is the default.

    Raises:
        ValueError: for another optimizer, or rates that the parametrization lacks.

    Example:
        >>> from widelimit.scaling import ntk
        >>> result = classify(ntk(), "sgd")
        >>> result.regime, str(result.r)
        ('kernel', '1/2')

    Reference:
        Yang & Hu, arXiv 2011.14522, Definition 3.2 and Theorems 3.3-3.8 (SGD); Yang & Littwin, arXiv
        2308.01814, Theorem 2.8.12 (entrywise optimizers, faithful epsilon).
    """
    rate = parametrization.rate(optimizer, alignment)
    if optimizer == "sgd":
        r, conditions, update = _sgd(parametrization, rate.learning_rate)
    elif optimizer == "adam":
        r, conditions, update = _adam(parametrization, rate.learning_rate, rate.epsilon)
    else:
        raise ValueError(f"the theorems cover 'sgd' and 'adam'; got {optimizer!r}.")
    a, b = parametrization.multiplier, parametrization.init
    out = a.output + b.output
    conditions = {
        "features start at order one (a + b = 0, 1/2)": a.input + b.input == 0
        and a.hidden + b.hidden == _HALF,
        "logits start bounded (a_out + b_out >= 1/2)": out >= _HALF,
        f"features stay bounded (r >= 0; r = {r})": r >= 0,
        f"the readout's update stays bounded ({update} >= 0)": update >= 0,
        f"the features' change stays bounded in the logits (a_out + b_out + r >= 1; it is {out + r})": out + r
        >= 1,
        **conditions,
    }
    for condition, holds in conditions.items():
        if not holds:
            return Classification("unstable", r, f"violated: {condition}")
    if update > 0 and out + r > 1:
        return Classification(
            "trivial", r, "the function does not move: neither readout nor features change the logits"
        )
    if r > 0:
        return Classification(
            "kernel", r, f"features change as n^-{r}: they stand still in the limit, the function moves"
        )
    return Classification("feature-learning", r, "r = 0: features change at order one")


def _sgd(p: Parametrization, c: PerRole[Fraction]) -> tuple[Fraction, dict[str, bool], Fraction]:
    """Returns r, further conditions, and the readout update's exponent, with every rate shifted to c = 0."""
    uniform = shift(p, PerRole(c.input / 2, c.hidden / 2, c.output / 2, Fraction(0)), "sgd")
    a, b = uniform.multiplier, uniform.init
    r = min(a.output + b.output, 2 * a.output) - 1 + min(2 * a.input + 1, 2 * a.hidden)
    return r, {}, 2 * a.output - 1


def _adam(
    p: Parametrization, c: PerRole[Fraction], d: PerRole[Fraction]
) -> tuple[Fraction, dict[str, bool], Fraction]:
    """Returns r, the conditions of faithfulness, and the exponent of the readout's update."""
    a = p.multiplier
    faithful = all(have == need for have, need in zip(d, gradient_exponents(p), strict=True))
    conditions = {
        "epsilon follows the gradient (faithful)": faithful,
        "the readout keeps its order (b_out <= c_out)": p.init.output <= c.output,
    }
    return min(a.input + c.input, a.hidden + c.hidden - 1), conditions, a.output + c.output - 1
