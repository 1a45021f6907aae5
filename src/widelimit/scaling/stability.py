"""The stability system: how fast each layer changes, and the rates that keep the change at order one."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

from widelimit.scaling.parametrization import Parametrization, PerRole

_HALF, _ONE = Fraction(1, 2), Fraction(1)


@dataclasses.dataclass(frozen=True)
class Alignments:
    r"""Assumed alignment exponents: 1/2 as in a random sum (CLT), 1 as in a fully aligned one (LLN).

    ``alpha = log_n ||dW z|| / (||dW|| ||z||)``, ``omega`` the same of ``W dz``, ``u`` of ``dW dz``, in RMS
    norms, one value for all layers but for ``omega_readout``. None drops the term: ``u=None`` is the
    small-step regime, where products of two changes do not count.

    Example:
        >>> FULL.alpha, NO_ALIGNMENT.alpha
        (Fraction(1, 1), Fraction(1, 2))

    Reference:
        Everett et al., arXiv 2407.05872, Section 3.
    """

    alpha: Fraction
    omega: Fraction
    u: Fraction | None
    omega_readout: Fraction


FULL = Alignments(_ONE, _HALF, _ONE, _HALF)
NO_ALIGNMENT = Alignments(_HALF, _HALF, _HALF, _HALF)
# After one step the change of the last features contains the readout's own direction: omega_readout = 1.
TENSOR_PROGRAMS = Alignments(_ONE, _HALF, _ONE, _ONE)
FIRST_SMALL_STEP = Alignments(_ONE, _HALF, None, _ONE)


@dataclasses.dataclass(frozen=True)
class Change:
    """Exponents of the change of every layer in one step: ``dz_l ~ n^-r_l``, ``df ~ n^-logits``.

    Args:
        features: r_1 (after the input layer), ..., r_L.
        logits: the exponent of the output's change; negative means growth.
        own: per layer, the smallest exponent among the terms that contain the layer's own update.

    Example:
        >>> from widelimit.scaling import mup
        >>> change(mup(), mup().rate("adam").learning_rate, "adam", FULL).features
        (Fraction(0, 1), Fraction(0, 1))

    Reference:
        Everett et al., arXiv 2407.05872, Section 3.
    """

    features: tuple[Fraction, ...]
    logits: Fraction
    own: tuple[Fraction, ...]


def change(
    parametrization: Parametrization,
    learning_rate: PerRole[Fraction],
    family: str,
    alignments: Alignments,
    hidden_layers: int = 1,
    first_step: bool = False,
) -> Change:
    r"""Solves the stability recursion forward: from learning-rate exponents to every layer's change.

    For Adam ``r_1 = a_1 + c_1`` and ``r_l = min(a_l + c_l - alpha, a_l + c_l + r_{l-1} - u, 1/2 + r_{l-1} -
    omega)``; SGD adds the gradient's exponent ``g_l = a_l + min(a_out + b_out, 2 a_out + c_out)``; Adafactor
    moves a weight in proportion to its own size. Muon is Adam, but for hidden matrices: of few samples, their
    update of spectral norm one has entries of 1/n. (The paper prints max; the gradient is a sum, so the
    larger term, the smaller exponent, decides.)

    Args:
        parametrization: gives a and b.
        learning_rate: c per role.
        family: ``"sgd"``, ``"adam"``, ``"adafactor"`` or ``"muon"``.
        alignments: assumed alignment exponents.
        hidden_layers: number of width -> width layers, at least 0.
        first_step: the readout still has its initial size: ``g_l = a_l + a_out + b_out``.

    Raises:
        ValueError: for an unknown family or a negative number of layers.

    Example:
        >>> from widelimit.scaling import standard
        >>> sp = standard()
        >>> change(sp, sp.rate("adam").learning_rate, "adam", FIRST_SMALL_STEP, first_step=True).logits
        Fraction(-3, 2)

    Reference:
        Everett et al., arXiv 2407.05872, Section 3 and Appendix B.
    """
    if hidden_layers < 0:
        raise ValueError(f"hidden_layers must be at least 0; got {hidden_layers}.")
    c, out = learning_rate, parametrization.multiplier.output + parametrization.init.output
    backward = out if first_step else min(out, 2 * parametrization.multiplier.output + c.output)
    size = _update_sizes(parametrization, family, backward)

    def own_terms(update: Fraction, below: Fraction) -> Fraction:
        """Returns the smallest exponent among dW z and dW dz."""
        terms = [update - alignments.alpha]
        if alignments.u is not None:
            terms.append(update + below - alignments.u)
        return min(terms)

    features, own = [size.input + c.input], [size.input + c.input]
    for _ in range(hidden_layers):
        own.append(own_terms(size.hidden + c.hidden, features[-1]))
        features.append(min(own[-1], _HALF + features[-1] - alignments.omega))
    own.append(own_terms(size.output + c.output, features[-1]))
    logits = min(own[-1], out + features[-1] - alignments.omega_readout)
    return Change(tuple(features), logits, tuple(own))


def _update_sizes(parametrization: Parametrization, family: str, backward: Fraction) -> PerRole[Fraction]:
    """Returns per role the exponent of ``n^-a`` times an update at rate 1, given that of ``n^-out``."""
    a, b = parametrization.multiplier, parametrization.init
    if family == "sgd":
        return PerRole(2 * a.input + backward, 2 * a.hidden + backward, 2 * a.output, Fraction(0))
    if family == "adam":
        return a
    if family == "adafactor":
        return PerRole(a.input + b.input, a.hidden + b.hidden, a.output + b.output, Fraction(0))
    if family == "muon":
        return PerRole(a.input, a.hidden + 1, a.output, Fraction(0))
    raise ValueError(f"family must be 'sgd', 'adam', 'adafactor' or 'muon'; got {family!r}.")


def contribution_exponents(
    parametrization: Parametrization,
    learning_rate: PerRole[Fraction],
    family: str,
    hidden_layers: int = 1,
    biases: bool = False,
) -> tuple[tuple[Fraction, ...], ...]:
    r"""Returns how much the first update of each layer alone changes every layer above it.

    ``result[k][j]`` is the exponent r in ``dz_(k+j) ~ n^-r``, for a small step of layer k's weight (or
    bias). To first order in the rate the change of a layer is the sum of these, and each is one power of the
    width. A layer's own update is aligned with its input, ``r_k = a_k + c_k - 1`` for Adam, without the 1 if
    the fan-in does not grow; random layers pass it on unchanged; and the readout is aligned with what its own
    gradient brought about, ``r_k + a_out + b_out - 1``. Biases are input-like, the readout's scalar-like.

    Args:
        parametrization: gives a and b.
        learning_rate: c per role.
        family: ``"sgd"``, ``"adam"``, ``"adafactor"`` or ``"muon"``.
        hidden_layers: number of width -> width layers, at least 0.
        biases: the update of each layer's bias instead of its weight.

    Raises:
        ValueError: for an unknown family or a negative number of layers, or for the biases of Adafactor,
            which start at zero and so take no step in proportion to their size.

    Example:
        >>> from widelimit.scaling import standard
        >>> for row in contribution_exponents(standard(), standard().rate("adam").learning_rate, "adam"):
        ...     print(*row)
        0 0 -1/2
        -1 -3/2
        -1

    Reference:
        Everett et al., arXiv 2407.05872, Section 3: the terms of the stability system, one by one.
    """
    own: tuple[Fraction, ...] = change(
        parametrization, learning_rate, family, FIRST_SMALL_STEP, hidden_layers, first_step=True
    ).own
    if biases:
        if family == "adafactor":
            raise ValueError("Adafactor moves a bias in proportion to its size, which is zero at first.")
        own = (own[0],) * (hidden_layers + 1) + (Fraction(0),)
    readout = parametrization.multiplier.output + parametrization.init.output - 1
    below = [(r,) * (hidden_layers + 1 - k) + (r + readout,) for k, r in enumerate(own[:-1])]
    return (*below, own[-1:])


def derive(parametrization: Parametrization, family: str, alignments: Alignments = FULL) -> PerRole[Fraction]:
    r"""Derives the learning-rate exponents: the largest rates at which every layer changes at order one.

    Solves ``r_l = 0`` for all l with zero logit slack. The readout comes first, since its rate enters every
    gradient; each equation has slope one in its own rate, so one Newton step is exact. The full system, with
    every term, then checks the result.

    Args:
        parametrization: gives a and b; its own rates are not looked at.
        family: ``"sgd"``, ``"adam"``, ``"muon"`` or ``"adafactor"``; the last keeps c >= 0, since a weight
            cannot grow by more than its own size.
        alignments: assumed alignment exponents.

    Raises:
        ValueError: if no rates solve the system, because the readout's initial size alone lets the logits
        grow.

    Example:
        >>> from widelimit.scaling import standard
        >>> tuple(str(c) for c in derive(standard(), "sgd"))
        ('-1/2', '1/2', '1', '0')

    Reference:
        Everett et al., arXiv 2407.05872, Table 1.
    """
    c = PerRole(*[Fraction(0)] * 4)
    own_update_only = dataclasses.replace(alignments, u=None)
    for role, layer in (("output", -1), ("input", 0), ("hidden", 1)):
        exponent = change(parametrization, c, family, own_update_only).own[layer]
        solved = getattr(c, role) - exponent
        c = dataclasses.replace(c, **{role: max(solved, Fraction(0)) if family == "adafactor" else solved})
    solution = change(parametrization, c, family, alignments)
    clipped = family == "adafactor"
    if (
        min(solution.features) < 0
        or solution.logits < 0
        or (not clipped and max(*solution.features, solution.logits) > 0)
    ):
        raise ValueError(
            f"no learning rates keep every layer of {parametrization.name} at order one under {alignments}: "
            f"features change as n^-r with r = {[str(r) for r in solution.features]}, "
            f"logits as n^{-solution.logits}."
        )
    return c
