"""Rules for depth, on top of any parametrization: residual branches scaled by a power of their number."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

from widelimit.scaling.parametrization import (
    NO_DEPTH,
    SHIFT_POWER,
    DepthExponents,
    Family,
    Parametrization,
)
from widelimit.scaling.tables import mup


def with_depth(parametrization: Parametrization, alpha: Fraction | int | str) -> Parametrization:
    r"""Returns a parametrization with the depth rule of exponent alpha, ``h <- h + m_L^-alpha F(h)``.

    Every branch must move the stream by a share 1/L per step, so the relative change of the weights in it
    is of order ``m_L^(alpha-1)``. Hence, for parameters inside branches, with m_L the ratio of the number
    of blocks to the base number:

    * learning rate ``m_L^(alpha-1)`` for scale-free updates (Adam, Muon, Adafactor) and ``m_L^(2 alpha-1)``
      for SGD, whose gradient is of order ``m_L^-alpha``;
    * epsilon ``m_L^-alpha``;
    * the weight-decay coefficient as it was, and ``m_L^-alpha`` of it for SGD, whose larger rate multiplies
      it: with either, a step of coupled decay removes a share of order ``m_L^(alpha-1)``, like the update.

    The stream stays of order one at initialisation for alpha >= 1/2. alpha = 1/2 is depth-muP; alpha = 1,
    CompleteP, is the only one at which the two layers of a branch keep learning non-linearly together.

    Args:
        parametrization: gives the rules of width, e.g. ``mup(table=8)``.
        alpha: exact, e.g. ``1`` or ``"1/2"``; 0.5 to 1 has a limit, others are for comparison. (At 0 the
            branches stay as they are and rates fall as ``1/m_L``; no rule at all is the parametrization
            itself.)

    Raises:
        ValueError: if the parametrization has a depth rule already, or alpha is negative or no number.

    Example:
        >>> rule = with_depth(mup(table=8), "1/2")
        >>> str(rule.branch), str(rule.rate("adam").depth.learning_rate), rule.name
        ('1/2', '1/2', 'mup (table 8), depth 1/2')

    Reference:
        Dey et al., arXiv 2505.01618, Table 1; SGD: Bordelon et al., arXiv 2309.16620.
    """
    exponent = branch_exponent(alpha)
    if parametrization.branch != 0 or any(row.depth != NO_DEPTH for row in parametrization.rates):
        raise ValueError(
            f"{parametrization.name} has the depth rule alpha = {parametrization.branch} already; "
            "a branch is scaled once."
        )

    def rule(family: Family) -> DepthExponents:
        gradient = exponent if SHIFT_POWER[family] == 2 else Fraction(0)
        return DepthExponents(1 - exponent - gradient, epsilon=exponent, weight_decay=gradient)

    return dataclasses.replace(
        parametrization,
        name=f"{parametrization.name}, depth {exponent}",
        branch=exponent,
        rates=tuple(dataclasses.replace(row, depth=rule(row.family)) for row in parametrization.rates),
    )


def branch_exponent(alpha: object) -> Fraction:
    """Returns alpha as an exact number, or says what is wrong with it."""
    try:
        exponent = Fraction(str(alpha))
    except (ValueError, ZeroDivisionError):
        exponent = Fraction(-1)
    if exponent < 0:
        raise ValueError(
            "alpha, the exponent of the branches' multiplier, must be a number of at least 0, such as 1 or "
            f"'1/2'; got {alpha!r}."
        )
    return exponent


def depth_mup(*, table: int = 8, gamma0: float = 1.0) -> Parametrization:
    r"""Returns depth-muP: muP, with residual branches multiplied by ``m_L^(-1/2)``.

    Args:
        table: of muP's equivalent forms.
        gamma0: feature-learning strength.

    Raises:
        ValueError: for a table that ``mup`` does not have.

    Example:
        >>> str(depth_mup().branch)
        '1/2'

    Reference:
        Yang et al., arXiv 2310.02244 (Tensor Programs VI); Bordelon et al., arXiv 2309.16620.
    """
    return dataclasses.replace(with_depth(mup(table=table, gamma0=gamma0), "1/2"), name="depth_mup")


def completep(*, table: int = 8, gamma0: float = 1.0) -> Parametrization:
    r"""Returns CompleteP: muP, with residual branches multiplied by ``1/m_L``.

    No learning rate depends on depth. For its weight decay make rules with ``weight_decay="undone"``.

    Args:
        table: of muP's equivalent forms; 8 is the form of the paper's table, and allows tied embeddings.
        gamma0: feature-learning strength.

    Raises:
        ValueError: for a table that ``mup`` does not have.

    Example:
        >>> str(completep().branch), str(completep().rate("adam").depth.learning_rate)
        ('1', '0')

    Reference:
        Dey et al., arXiv 2505.01618, Table 1.
    """
    return dataclasses.replace(with_depth(mup(table=table, gamma0=gamma0), 1), name="completep")
