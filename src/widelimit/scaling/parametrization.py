"""Parametrizations as data: exact width exponents per role, and the constants beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from fractions import Fraction
from typing import Generic, Literal, TypeVar

from widelimit.scaling.roles import Role

T = TypeVar("T")
Family = Literal["sgd", "adam", "adafactor", "muon"]
Alignment = Literal["full", "none", "global", "kernel"]
Form = Literal["relative", "absolute"]

FAMILIES: tuple[Family, ...] = ("sgd", "adam", "adafactor", "muon")
# Moving a factor s from a raw weight into its multiplier scales its gradient by s; its learning rate must
# make up for s**power, which leaves c + power * a the same in every equivalent form.
SHIFT_POWER = {"sgd": 2, "adam": 1, "adafactor": 0, "muon": 1}
# Exponent of the standard initial std, 1/sqrt(fan_in): it falls with width where the fan-in grows.
STANDARD_INIT = {
    Role.INPUT: Fraction(0),
    Role.HIDDEN: Fraction(1, 2),
    Role.OUTPUT: Fraction(1, 2),
    Role.SCALAR: Fraction(0),
}


@dataclasses.dataclass(frozen=True)
class PerRole(Generic[T]):
    """One value for each role.

    Example:
        >>> PerRole(1, 2, 3, 4)[Role.OUTPUT]
        3
    """

    input: T
    hidden: T
    output: T
    scalar: T

    def __getitem__(self, role: Role) -> T:
        """Returns the value of ``role``."""
        return getattr(self, role.value)

    def __iter__(self) -> Iterator[T]:
        """Iterates in the order of ``Role``."""
        return (self[role] for role in Role)


def exponents(input: object, hidden: object, output: object) -> PerRole[Fraction]:  # noqa: A002
    """Returns exact exponents per role from numbers or strings such as ``"1/2"``; scalars never scale.

    Example:
        >>> exponents("-1/2", 0, "1/2").input
        Fraction(-1, 2)
    """
    return PerRole(Fraction(str(input)), Fraction(str(hidden)), Fraction(str(output)), Fraction(0))


ZERO: PerRole[Fraction] = exponents(0, 0, 0)
ONES: PerRole[float] = PerRole(1.0, 1.0, 1.0, 1.0)


@dataclasses.dataclass(frozen=True)
class DepthExponents:
    r"""How a parameter inside a residual branch meets the depth, whatever its role in width.

    With ``m_L`` the ratio of the number of blocks to the base number, factors are ``m_L^-exponent``.

    Args:
        learning_rate: exponent of the learning rate.
        epsilon: exponent of epsilon.
        weight_decay: exponent of the weight-decay coefficient.

    Reference:
        Dey et al., arXiv 2505.01618, Table 1.
    """

    learning_rate: Fraction = Fraction(0)
    epsilon: Fraction = Fraction(0)
    weight_decay: Fraction = Fraction(0)


NO_DEPTH = DepthExponents()


@dataclasses.dataclass(frozen=True)
class Rate:
    r"""How the learning rate and epsilon of one optimizer family scale under one alignment assumption.

    The raw weight of a role trains at ``C n^-c`` times the global learning rate, and Adam's epsilon is
    ``E n^-d`` times the global one, which is the same as multiplying the gradient by ``n^d / E``.

    Args:
        family: ``"sgd"`` (also with momentum), ``"adam"`` (every sign-like rule) or ``"adafactor"`` (with
            parameter scaling) or ``"muon"`` (orthogonalised updates of hidden matrices, Adam for the rest).
        alignment: ``"full"`` or ``"none"`` as in arXiv 2407.05872, ``"global"`` (one rate for all layers) or
            ``"kernel"`` (the largest rates that keep the network in the kernel regime).
        learning_rate: the exponents c.
        epsilon: the exponents d.
        learning_rate_constant: the constants C.
        epsilon_constant: the constants E.
        depth: the exponents of depth, for parameters inside residual branches.

    Reference:
        Everett et al., arXiv 2407.05872, Table 1; Yang & Littwin, arXiv 2308.01814, Definition 2.2.1 (abcd).
    """

    family: Family
    alignment: Alignment
    learning_rate: PerRole[Fraction]
    epsilon: PerRole[Fraction]
    learning_rate_constant: PerRole[float] = ONES
    epsilon_constant: PerRole[float] = ONES
    depth: DepthExponents = NO_DEPTH


@dataclasses.dataclass(frozen=True)
class Parametrization:
    r"""Width exponents and constants: how a network must change as its width n grows.

    In the abcd form the effective weight is ``W = A n^-a w``, the raw weight starts with standard deviation
    ``B n^-b`` (times the width-independent part of 1/sqrt(fan_in)), and a ``Rate`` gives the learning rate
    and epsilon. In *relative* form n is replaced by m = n/n0, so that every rule is neutral at the base
    width n0; in *absolute* form n is the width itself.

    Args:
        name: for tables and messages.
        multiplier: the exponents a of the forward multiplier.
        init: the exponents b of the initial standard deviation.
        rates: one ``Rate`` for each optimizer family and alignment; the first of a family is its default.
        multiplier_constant: the constants A.
        init_constant: the constants B.
        gamma0: feature-learning strength: the readout is divided by it and the learning rate multiplied by
            gamma0^2 (SGD) or gamma0 (sign-like rules, whose update does not feel the readout's factor).
        form: ``"relative"`` or ``"absolute"``.
        unit_variance: put the width-independent part of 1/sqrt(fan_in) into the multiplier, so that raw
            weights have unit variance, as kernel and DMFT theory write them (not neutral at a base width).
        branch: alpha of the residual branches, multiplied by ``m_L^-alpha``; 0 is no depth rule. Depth is
            relative to a base depth in both forms; a base depth of 1 makes it absolute.

    Raises:
        ValueError: if gamma0 is not positive, or unit variance is asked of a relative form.

    Example:
        >>> from widelimit.scaling import mup
        >>> mup(table=8).multiplier.output
        Fraction(1, 1)

    Reference:
        Yang & Hu, arXiv 2011.14522 (abc); Yang & Littwin, arXiv 2308.01814 (abcd); Bordelon & Pehlevan, arXiv
        2205.09653 (gamma0).
    """

    name: str
    multiplier: PerRole[Fraction]
    init: PerRole[Fraction]
    rates: tuple[Rate, ...]
    multiplier_constant: PerRole[float] = ONES
    init_constant: PerRole[float] = ONES
    gamma0: float = 1.0
    form: Form = "relative"
    unit_variance: bool = False
    branch: Fraction = Fraction(0)

    def __post_init__(self) -> None:
        """Checks what no rule could honour."""
        if not self.gamma0 > 0:
            raise ValueError(f"gamma0, the feature-learning strength, must be positive; got {self.gamma0}.")
        if self.form not in ("relative", "absolute"):
            raise ValueError(f"form must be 'relative' or 'absolute'; got {self.form!r}.")

    def rate(self, family: str, alignment: str | None = None) -> Rate:
        """Returns the learning-rate rule of an optimizer family; None asks for the default alignment.

        Raises:
            ValueError: if this parametrization has no such rule.
        """
        rows = [row for row in self.rates if row.family == family]
        if not rows:
            known = ", ".join(sorted({row.family for row in self.rates}))
            raise ValueError(f"{self.name} has learning rates for {known}; got optimizer {family!r}.")
        for row in rows:
            if alignment in (None, row.alignment):
                return row
        known = ", ".join(row.alignment for row in rows)
        raise ValueError(f"{self.name} with {family} has rates for alignment {known}; got {alignment!r}.")


def gradient_exponents(parametrization: Parametrization) -> PerRole[Fraction]:
    r"""Returns g, where entries of the raw weights' gradient scale as ``n^-g`` at initialisation.

    ``g_l = a_l + a_out + b_out`` for every layer below the readout, and ``g_out = a_out``.

    Example:
        >>> from widelimit.scaling import mup
        >>> tuple(str(g) for g in gradient_exponents(mup(table=3)))
        ('1', '1', '0', '0')

    Reference:
        Yang & Littwin, arXiv 2308.01814, Lemma 2.8.11.
    """
    a, out = parametrization.multiplier, parametrization.multiplier.output + parametrization.init.output
    return PerRole(a.input + out, a.hidden + out, a.output, Fraction(0))


def _times_power(constants: PerRole[float], powers: PerRole[Fraction], base: float) -> PerRole[float]:
    """Multiplies each constant by ``base**power``."""
    return PerRole(*(value * base ** float(power) for value, power in zip(constants, powers, strict=True)))


def _rebase(parametrization: Parametrization, base: float, form: Form) -> Parametrization:
    """Moves the factors ``base**exponent`` into the constants and switches the form."""
    # With unit variance the factor 1/sqrt(fan_in) is in the multiplier, and n^-b is all there is.
    standard = ZERO if parametrization.unit_variance else PerRole(*STANDARD_INIT.values())
    extra_init = PerRole(*(b - s for b, s in zip(parametrization.init, standard, strict=True)))
    return dataclasses.replace(
        parametrization,
        multiplier_constant=_times_power(
            parametrization.multiplier_constant, parametrization.multiplier, base
        ),
        init_constant=_times_power(parametrization.init_constant, extra_init, base),
        rates=tuple(
            dataclasses.replace(
                row,
                learning_rate_constant=_times_power(row.learning_rate_constant, row.learning_rate, base),
                epsilon_constant=_times_power(row.epsilon_constant, row.epsilon, base),
            )
            for row in parametrization.rates
        ),
        form=form,
    )


def to_absolute(parametrization: Parametrization, base_width: int) -> Parametrization:
    r"""Writes a relative parametrization in the width itself: the same numbers at every width.

    ``A m^-a = (A n0^a) n^-a``, and likewise for every other rule.

    Args:
        parametrization: in relative form.
        base_width: n0, where the relative rules are neutral.

    Raises:
        ValueError: if it is absolute already, or the width is not positive.

    Example:
        >>> from widelimit.scaling import mup
        >>> to_absolute(mup(table=8), base_width=64).multiplier_constant.output
        64.0

    Reference:
        The change of variable n = m n0.
    """
    if parametrization.form != "relative":
        raise ValueError(f"{parametrization.name} is in absolute form already; nothing to convert.")
    return _rebase(parametrization, _positive(base_width), "absolute")


def to_relative(parametrization: Parametrization, base_width: int) -> Parametrization:
    r"""Writes an absolute parametrization relative to a base width: the same numbers at every width.

    The result is neutral at the base width only if the absolute form was made by ``to_absolute``; otherwise
    its constants say by how much the absolute form differs there from the standard parametrization.

    Args:
        parametrization: in absolute form, without unit variance (whose factors differ from array to array).
        base_width: n0.

    Raises:
        ValueError: if it is relative already, has unit variance, or the width is not positive.

    Example:
        >>> from widelimit.scaling import mup
        >>> to_relative(to_absolute(mup(), base_width=64), base_width=64) == mup()
        True

    Reference:
        The change of variable n = m n0.
    """
    if parametrization.form != "absolute":
        raise ValueError(f"{parametrization.name} is in relative form already; nothing to convert.")
    return _rebase(parametrization, 1.0 / _positive(base_width), "relative")


def _positive(base_width: int) -> float:
    """Returns the width as a float, or says what is wrong with it."""
    if not base_width > 0:
        raise ValueError(f"base_width must be a positive width; got {base_width}.")
    return float(base_width)
