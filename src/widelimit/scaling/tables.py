"""The parametrizations of the literature, cell by cell.

Each learning-rate row is (input, hidden, output). The rows "full" and "none" are also *derived*, in
``stability``, and a test holds the two against each other.
"""

from __future__ import annotations

import dataclasses
from fractions import Fraction

from widelimit.scaling.parametrization import (
    ZERO,
    Alignment,
    Family,
    Parametrization,
    PerRole,
    Rate,
    exponents,
    gradient_exponents,
)

_Rows = dict[tuple[Family, Alignment], PerRole[Fraction]]


def _build(name: str, a: PerRole[Fraction], b: PerRole[Fraction], rows: _Rows) -> Parametrization:
    """Assembles a parametrization; epsilon follows the gradient except where nothing is scaled by design."""
    bare = Parametrization(name, a, b, ())
    gradient = gradient_exponents(bare)
    rows = rows | _muon(a, rows)
    rates = tuple(
        Rate(family, alignment, c, ZERO if alignment == "global" else gradient)
        for (family, alignment), c in rows.items()
    )
    return dataclasses.replace(bare, rates=rates)


def _muon(a: PerRole[Fraction], rows: _Rows) -> _Rows:
    """Returns Muon's rows: Adam's, but for hidden matrices, whose update has the spectral norm of a weight.

    Orthogonalised and multiplied by ``sqrt(fan_out/fan_in)`` it changes the next layer by order one at every
    width, behind a forward multiplier ``n^-a`` at ``c = -a`` (arXiv 2310.17813, Condition 1).
    """
    return {
        ("muon", alignment): c if alignment == "global" else dataclasses.replace(c, hidden=-a.hidden)
        for (family, alignment), c in rows.items()
        if family == "adam" and alignment in ("full", "global")
    }


def standard() -> Parametrization:
    r"""Returns the standard parametrization (SP): every weight ~ N(0, 1/fan_in), nothing else scaled.

    Its default is practice: one learning rate for all layers, at every width. The alignments ``"full"`` and
    ``"none"`` are the per-layer rates of Everett et al.; ``"kernel"`` is the image of the NTK's rates, the
    same network trained alike.

    Example:
        >>> tuple(str(c) for c in standard().rate("adam", "full").learning_rate)
        ('0', '1', '1', '0')

    Reference:
        Everett et al., arXiv 2407.05872, Table 1; Yang et al., arXiv 2203.03466, Table 3 (in brackets).
    """
    rows: _Rows = {
        ("sgd", "global"): ZERO,
        ("sgd", "full"): exponents("-1/2", "1/2", 1),
        ("sgd", "none"): exponents("-1/2", 0, "1/2"),
        ("sgd", "kernel"): exponents(0, 1, 1),
        ("adam", "global"): ZERO,
        ("adam", "full"): exponents(0, 1, 1),
        ("adam", "none"): exponents(0, "1/2", "1/2"),
        ("adam", "kernel"): exponents("1/2", "3/2", 1),
        ("adafactor", "global"): ZERO,
        ("adafactor", "full"): exponents(0, "1/2", "1/2"),
        ("adafactor", "none"): ZERO,
    }
    return _build("standard", ZERO, exponents(0, "1/2", "1/2"), rows)


def ntk(*, unit_variance: bool = False) -> Parametrization:
    r"""Returns the neural-tangent parametrization (NTP): multiplier n^-1/2 where the fan-in grows.

    Its default rates keep a constant learning rate on the raw weights (SGD), or its Adam counterpart: the
    kernel regime.

    Args:
        unit_variance: the absolute form in which kernel theory writes it: every weight ~ N(0, 1), with the
            multiplier ``1/sqrt(fan_in)``, input layer included, and no base width. Otherwise the relative
            form, which is the standard network at the base width.

    Example:
        >>> tuple(str(a) for a in ntk().multiplier)
        ('0', '1/2', '1/2', '0')
        >>> ntk(unit_variance=True).form
        'absolute'

    Reference:
        Jacot et al., arXiv 1806.07572; Yang & Littwin, arXiv 2308.01814, Definition 2.4.1; rates: arXiv
        2407.05872.
    """
    rows: _Rows = {
        ("sgd", "kernel"): ZERO,
        ("sgd", "full"): exponents("-1/2", "-1/2", 0),
        ("sgd", "none"): exponents("-1/2", -1, "-1/2"),
        ("adam", "kernel"): exponents("1/2", 1, "1/2"),
        ("adam", "full"): exponents(0, "1/2", "1/2"),
        ("adam", "none"): ZERO,
        ("adafactor", "full"): exponents(0, "1/2", "1/2"),
        ("adafactor", "none"): ZERO,
    }
    built = _build("ntk", exponents(0, "1/2", "1/2"), ZERO, rows)
    return dataclasses.replace(built, form="absolute", unit_variance=True) if unit_variance else built


def mean_field(*, gamma0: float = 1.0) -> Parametrization:
    r"""Returns the mean-field parametrization (MFP): multipliers n^-1/2 (hidden) and 1/(gamma0 n) (readout).

    Args:
        gamma0: feature-learning strength; small is lazy, large is rich.

    Example:
        >>> tuple(str(c) for c in mean_field().rate("sgd").learning_rate)
        ('-1', '-1', '-1', '0')

    Reference:
        Mei et al., arXiv 1804.06561; Bordelon & Pehlevan, arXiv 2205.09653 (any depth); rates: arXiv
        2407.05872.
    """
    rows: _Rows = {
        ("sgd", "full"): exponents(-1, -1, -1),
        ("adam", "full"): exponents(0, "1/2", 0),
        ("adam", "none"): exponents(0, 0, "-1/2"),
        ("adafactor", "full"): exponents(0, "1/2", 0),
        ("adafactor", "none"): ZERO,
    }
    return dataclasses.replace(_build("mean_field", exponents(0, "1/2", 1), ZERO, rows), gamma0=gamma0)


def dmft(*, gamma0: float = 1.0) -> Parametrization:
    r"""Returns mean-field in absolute form, as DMFT writes it: ``f = w.phi(h) / (gamma0 N)``.

    Weights ~ N(0, 1), multipliers ``1/sqrt(D)``, ``1/sqrt(N)``, ``1/(gamma0 N)``; SGD's
    learning rate is ``eta gamma0^2 N``.

    Args:
        gamma0: feature-learning strength.

    Example:
        >>> dmft(gamma0=2.0).form
        'absolute'

    Reference:
        Bordelon & Pehlevan, arXiv 2205.09653, Eqs. 1-3.
    """
    return dataclasses.replace(mean_field(gamma0=gamma0), name="dmft", form="absolute", unit_variance=True)


def mup(*, table: int = 3, gamma0: float = 1.0) -> Parametrization:
    r"""Returns the maximal-update parametrization (muP) in one of its three equivalent forms.

    Table 3 has no multipliers (a model's code need not change), Table 8 divides the readout by the width
    (and allows tied embeddings), Table 9 is the form of Tensor Programs IV, whose SGD has one learning rate.

    Args:
        table: 3, 8 or 9, the table of Tensor Programs V.
        gamma0: feature-learning strength.

    Raises:
        ValueError: for another table.

    Example:
        >>> [tuple(str(c) for c in mup(table=t).rate("adam").learning_rate)[:3] for t in (3, 8, 9)]
        [('0', '1', '1'), ('0', '1', '0'), ('1/2', '1', '1/2')]

    Reference:
        Yang et al., arXiv 2203.03466, Tables 3, 8 and 9.
    """
    forms: dict[int, tuple[PerRole[Fraction], PerRole[Fraction], _Rows]] = {
        3: (
            ZERO,
            exponents(0, "1/2", 1),
            {
                ("sgd", "full"): exponents(-1, 0, 1),
                ("adam", "full"): exponents(0, 1, 1),
                ("adam", "none"): exponents(0, "1/2", "1/2"),
            },
        ),
        8: (
            exponents(0, 0, 1),
            exponents(0, "1/2", 0),
            {
                ("sgd", "full"): exponents(-1, 0, -1),
                ("adam", "full"): exponents(0, 1, 0),
                ("adam", "none"): exponents(0, "1/2", "-1/2"),
            },
        ),
        9: (
            exponents("-1/2", 0, "1/2"),
            exponents("1/2", "1/2", "1/2"),
            {
                ("sgd", "full"): ZERO,
                ("adam", "full"): exponents("1/2", 1, "1/2"),
                ("adam", "none"): exponents("1/2", "1/2", 0),
            },
        ),
    }
    if table not in forms:
        raise ValueError(
            f"muP's equivalent forms are Tables 3, 8 and 9 of arXiv 2203.03466; got table={table!r}."
        )
    a, b, rows = forms[table]
    rows |= {("adafactor", "full"): exponents(0, "1/2", 0), ("adafactor", "none"): ZERO}
    return dataclasses.replace(_build(f"mup (table {table})", a, b, rows), gamma0=gamma0)


def uniform(s: Fraction) -> Parametrization:
    r"""Returns UP_s, the family between muP (s = 0) and the NTK (s = 1/2): features change as n^-s.

    Written without multipliers: ``a_out + b_out = 1 - s``.

    Args:
        s: 0 to 1/2.

    Raises:
        ValueError: outside that range, where the parametrization is unstable or the readout too large.

    Example:
        >>> uniform(Fraction(0)).init == mup(table=3).init
        True

    Reference:
        Yang & Littwin, arXiv 2308.01814, Remark 2.8.25.
    """
    if not 0 <= s <= Fraction(1, 2):
        raise ValueError(f"s must lie between 0 (muP) and 1/2 (NTK); got {s}.")
    rows: _Rows = {("sgd", "full"): exponents(2 * s - 1, 2 * s, 1), ("adam", "full"): exponents(s, 1 + s, 1)}
    return _build(f"uniform (s = {s})", ZERO, exponents(0, "1/2", 1 - s), rows)
