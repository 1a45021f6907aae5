"""The reparametrization symmetry: the same network, trained alike, under another name for its weights."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

import jax

from widelimit.scaling.parametrization import FAMILIES, SHIFT_POWER, Parametrization, PerRole, Rate
from widelimit.scaling.rules import Rules


def _add(first: PerRole[Fraction], second: PerRole[Fraction], factor: int = 1) -> PerRole[Fraction]:
    """Returns ``first + factor * second``, role by role."""
    return PerRole(*(x + factor * y for x, y in zip(first, second, strict=True)))


def shift(parametrization: Parametrization, theta: PerRole[Fraction], optimizer: str) -> Parametrization:
    r"""Returns the equivalent parametrization whose multipliers carry ``n^-theta`` more.

    Per role, ``a += theta``, ``b -= theta``, ``d += theta``, and ``c -= 2 theta`` (SGD), ``theta``
    (sign-like rules) or 0 (Adafactor with parameter scaling). Networks of both parametrizations follow the
    same trajectory in function space at every finite width.

    Args:
        parametrization: the one to shift.
        theta: exact exponents per role (see ``exponents``); scalars must stay.
        optimizer: the family whose rates are kept: the symmetry acts on the others differently.

    Raises:
        ValueError: for an unknown optimizer or a scalar shift.

    Example:
        >>> from widelimit.scaling import exponents, mup
        >>> table3 = shift(mup(table=8), exponents(0, 0, -1), "sgd")
        >>> table3.init == mup(table=3).init, table3.rates[0] == mup(table=3).rate("sgd")
        (True, True)

    Reference:
        Yang & Hu, arXiv 2011.14522, Eq. 5 (SGD); Yang & Littwin, arXiv 2308.01814, Proposition 2.2.3
        (entrywise rules).
    """
    if optimizer not in FAMILIES:
        raise ValueError(f"optimizer must be one of {', '.join(FAMILIES)}; got {optimizer!r}.")
    if theta.scalar != 0:
        raise ValueError(
            f"a scalar-like parameter does not see the width and cannot be shifted; got {theta.scalar}."
        )

    def shifted(row: Rate) -> Rate:
        # A rate that leaves epsilon alone by design ("global") is no longer global once shifted: epsilon
        # moves too.
        return dataclasses.replace(
            row,
            learning_rate=_add(row.learning_rate, theta, -SHIFT_POWER[optimizer]),
            epsilon=_add(row.epsilon, theta),
        )

    return dataclasses.replace(
        parametrization,
        name=f"{parametrization.name}, shifted",
        multiplier=_add(parametrization.multiplier, theta),
        init=_add(parametrization.init, theta, -1),
        rates=tuple(shifted(row) for row in parametrization.rates if row.family == optimizer),
    )


def fold(rules: Rules) -> Rules:
    r"""Returns rules that train the same network alike without multipliers: they move into the weights.

    With the raw weight ``w' = mu w``: ``init_std * mu``, ``learning_rate * mu^2`` (SGD) or ``mu``
    (sign-like) or 1 (Adafactor), ``epsilon / mu``, and a weight decay that removes the same share per step.
    A model whose code knows no multipliers can then use any equivalent form.

    Raises:
        ValueError: if a multiplier belongs to a tied readout, which has no weight of its own to move into.

    Example:
        >>> from widelimit.scaling import leaf_from_axes, make_rules, mup
        >>> from fractions import Fraction
        >>> leaf = leaf_from_axes("w", (256, 10), (64, 10), contracted=(0,), width=Fraction(4), base_width=64)
        >>> folded, table3 = (make_rules([leaf], mup(table=t), "adam") for t in (8, 3))
        >>> fold(folded).learning_rate == table3.learning_rate, fold(folded).init_std == table3.init_std
        (True, True)

    Reference:
        Yang et al., arXiv 2203.03466, Lemma J.1.
    """
    flat_multipliers = jax.tree.leaves(rules.multiplier)
    for leaf, multiplier in zip(rules.leaves, flat_multipliers, strict=True):
        if leaf.tied and multiplier != 1:
            raise ValueError(
                f"{leaf.path} is embedding and readout at once, so the readout's multiplier "
                f"{multiplier:g} cannot be folded into it; multiply the logits by it in the model's code."
            )
    power = SHIFT_POWER[rules.optimizer]

    def scaled(tree: Any, exponent: int) -> Any:
        return jax.tree.map(lambda number, multiplier: number * multiplier**exponent, tree, rules.multiplier)

    return dataclasses.replace(
        rules,
        init_std=scaled(rules.init_std, 1),
        multiplier=jax.tree.map(lambda _: 1.0, rules.multiplier),
        learning_rate=scaled(rules.learning_rate, power),
        epsilon=scaled(rules.epsilon, -1),
        weight_decay=rules.weight_decay
        if rules.decay == "independent"
        else scaled(rules.weight_decay, -power),
        gradient_norm=scaled(rules.gradient_norm, 1),
        parametrization=dataclasses.replace(
            rules.parametrization, name=f"{rules.parametrization.name}, folded"
        ),
    )
