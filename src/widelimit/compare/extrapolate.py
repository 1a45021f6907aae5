"""Finite networks extrapolated to infinite width, and two estimates of one limit held against each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from widelimit.compare.finite import Ensembles
from widelimit.compare.orders import NAMES, side_by_side
from widelimit.compare.statistics import family_quantile
from widelimit.dmft import Labelled, Solution

_CHANCE = 0.05  # of seeing a bend in an order parameter that has none


def richardson(ensembles: Ensembles, *, order: Literal[1, 2, "auto"] = "auto") -> Solution:
    r"""Extrapolates every order parameter to infinite width: an estimate of the limit without its theory.

    Means over seeds are ``limit + b / N + c / N^2 + ...``. Least squares in these powers, weighted by ``S N``
    (a network's variance is ~ 1/N), gives the limit as ``sum_i a_i mean(N_i)`` with ``sum_i a_i = 1`` and a
    standard error ``sqrt(sum_i a_i^2 stderr_i^2)``. Two widths N and 2N give ``2 mean(2N) - mean(N)``.

    Args:
        ensembles: of two or more widths.
        order: the highest power, 1 or 2 (three widths or more). ``"auto"`` takes 2 for an order parameter of
            which some entry bends by more than chance explains (at 5%, in view of their number). A bend
            that is not seen may still shift a line's limit by a few of its standard errors: what must be
            sure takes 2, or wider networks.

    Returns:
        A solution with standard errors; diagnostics hold ``order`` and ``weights`` by name, ``widths``,
        ``seeds`` and ``times``.

    Raises:
        ValueError: if there are fewer widths than unknowns, or a width has one seed only.

    Example:
        >>> from widelimit.compare import finite_ensemble
        >>> from widelimit.dmft import Problem
        >>> problem = Problem(
        ...     targets=[1.0], kernel=[[1.0]], steps=8, learning_rate=0.1, activation="identity"
        ... )
        >>> limit = richardson(finite_ensemble(problem, [32, 64], [300, 600], measures=["ntk"]))
        >>> abs(limit.ntk.values[0].item() - 2.0) < 4 * limit.ntk.stderr[0].item()
        True

    Reference:
        Richardson (1911); Bordelon & Pehlevan, arXiv 2304.03408 (corrections to DMFT in powers of 1/N).
    """
    if order not in (1, 2, "auto"):
        raise ValueError(f'order must be 1, 2 or "auto"; got {order!r}.')
    widths = np.array(ensembles.widths, float)
    seeds = [ensembles.members[width].seeds for width in ensembles.widths]
    least = 3 if order == 2 else 2
    if widths.size < least or min(seeds) < 2:
        raise ValueError(
            f"Extrapolation of order {order} needs {least} widths or more with two seeds or more; got widths "
            f"{list(ensembles.widths)} with {seeds} seeds."
        )
    found: dict[str, Any] = {}
    orders: dict[str, int] = {}
    weights: dict[str, list[float]] = {}
    for name in ensembles.measures:
        means = [ensembles.members[width].moments[name].mean() for width in ensembles.widths]
        bent = order == 2 or (order == "auto" and _bends(means, widths, seeds))
        row = _row(widths, seeds, 2 if bent else 1)
        errors = [np.asarray(mean.stderr) for mean in means]
        found[name] = Labelled(
            np.tensordot(row, np.stack([mean.values for mean in means]), axes=1),
            means[0].axes,
            np.sqrt(np.tensordot(row**2, np.stack(errors) ** 2, axes=1)),
            means[0].first_layer,
        )
        orders[name], weights[name] = (2 if bent else 1), row.tolist()
    about = {"widths": list(ensembles.widths), "seeds": seeds, "times": list(ensembles.times)}
    return Solution(
        problem=ensembles.problem,
        solver="richardson",
        diagnostics={**about, "order": orders, "weights": weights, "seconds": ensembles.seconds},
        **found,
    )


def _design(widths: np.ndarray, order: int) -> np.ndarray:
    """Columns 1, 1/N, ..., scaled to be of one size."""
    return np.stack([(widths.min() / widths) ** power for power in range(order + 1)], axis=1)


def _row(widths: np.ndarray, seeds: Sequence[int], order: int) -> np.ndarray:
    """The weights of the means in the limit, by least squares."""
    root = np.sqrt(widths * np.asarray(seeds))
    return np.asarray(np.linalg.pinv(root[:, None] * _design(widths, order))[0] * root)


def _bends(means: Sequence[Labelled], widths: np.ndarray, seeds: Sequence[int]) -> bool:
    """Whether the quadratic coefficient of some entry is more than noise, in view of how many there are."""
    if widths.size < 3:
        return False
    root = np.sqrt(widths * np.asarray(seeds))
    row = np.linalg.pinv(root[:, None] * _design(widths, 2))[2] * root
    coefficient = np.tensordot(row, np.stack([mean.values for mean in means]), axes=1)
    variance = np.tensordot(row**2, np.stack([np.square(mean.stderr) for mean in means]), axes=1)  # type: ignore[arg-type]
    varies = variance > 1e-14 * np.max(coefficient**2, initial=0.0)
    z = np.abs(coefficient[varies]) / np.sqrt(variance[varies])
    return bool(z.size and z.max() > family_quantile(z.size, alpha=_CHANCE))


def agreement(first: Solution, second: Solution, names: Sequence[str] = NAMES) -> dict[str, Labelled]:
    r"""Returns how far two independent estimates of one limit are apart, in joint standard errors.

    ``z = (first - second) / sqrt(stderr_first^2 + stderr_second^2)``, entry by entry, for what both hold, at
    the layers and times that both have. Entries where both are exact give 0 if they agree to 1e-5 of the
    largest, and infinity otherwise. Entries are far from independent: judge the largest against
    ``family_quantile`` of a number of claims fixed beforehand.

    Args:
        first: a solution: of a solver, ``richardson``, or ``Ensembles.solution``.
        second: another of the same problem.
        names: what is compared.

    Raises:
        ValueError: if the two do not fit together.

    Example:
        >>> from widelimit import dmft
        >>> problem = dmft.Problem(
        ...     targets=[1.0], kernel=[[1.0]], steps=5, learning_rate=0.1, activation="identity"
        ... )
        >>> exact = dmft.linear(problem)
        >>> sampled = dmft.two_layer(problem, samples=512)
        >>> bool((abs(agreement(exact, sampled)["loss"].values) < 5).all())
        True
    """
    found = {}
    for name in names:
        pair = side_by_side(first, second, name)
        if pair is None:
            continue
        a, b = pair
        errors = [np.zeros(x.values.shape) if x.stderr is None else x.stderr for x in pair]
        joint = np.hypot(*errors)
        difference = a.values - b.values
        scale = max(np.abs(a.values).max(), np.abs(b.values).max(), 1e-300)
        exact = joint <= 1e-7 * scale
        z = np.where(exact, 0.0, difference / np.where(exact, 1.0, joint))
        wrong = exact & (np.abs(difference) > 1e-5 * scale)
        found[name] = Labelled(
            np.where(wrong, np.copysign(np.inf, difference), z), a.axes, None, a.first_layer
        )
    return found
