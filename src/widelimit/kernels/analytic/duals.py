"""What an activation does to covariances: closed forms, written so that rounding cannot decide."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from widelimit.kernels.analytic.hermite import expansion
from widelimit.models.activations import Activation, activation

#: From a covariance c and two variances, broadcastable, to E[phi(u) phi(v)] and E[phi'(u) phi'(v)].
Dual = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

_ROUNDING = 64 * np.finfo(np.float64).eps
"""Correlations this near to 1 are 1: duplicates and the diagonal then are exact."""

_LARGEST_VARIANCE = 1e10
"""Beyond it, rounding in the variances alone moves the kernels of saturating activations by 1e-6."""


class _Pair(NamedTuple):
    """Two Gaussians: covariance, variances, correlation, and 1 minus its square without cancellation."""

    c: np.ndarray
    q1: np.ndarray
    q2: np.ndarray
    rho: np.ndarray
    sine2: np.ndarray


def dual(name: str | Activation, tolerance: float) -> Dual:
    """Returns the map from covariances to those behind the activation, and to those of its derivative.

    Closed forms for relu, erf, gelu, sin and identity; every other function by Hermite series.

    Args:
        name: as in ``activation``.
        tolerance: of the series, relative to the geometric mean of the variances; beyond it, it raises.
    """
    closed = _CLOSED.get(name) if isinstance(name, str) else None
    if closed is None:
        series = expansion(activation(name), str(name), tolerance)
        return lambda c, q1, q2: series(_pair(c, q1, q2).rho, q1, q2)

    def apply(c: np.ndarray, q1: np.ndarray, q2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if name not in _HOMOGENEOUS and max(q1.max(), q2.max()) > _LARGEST_VARIANCE:
            raise ValueError(
                f"The pre-activations of {name} have a variance of {max(q1.max(), q2.max()):.3g}; beyond "
                f"{_LARGEST_VARIANCE:g} rounding would decide the kernel. Scale the inputs down."
            )
        return closed(_pair(c, q1, q2))

    return apply


def _pair(c: np.ndarray, q1: np.ndarray, q2: np.ndarray) -> _Pair:
    """Clips and snaps the correlation, and lets the covariance follow."""
    scale = np.sqrt(q1) * np.sqrt(q2)
    rho = np.divide(c, scale, out=np.zeros(np.broadcast_shapes(c.shape, scale.shape)), where=scale > 0)
    rho = np.where(np.abs(rho) > 1 - _ROUNDING, np.sign(rho), rho)
    return _Pair(rho * scale, q1, q2, rho, (1 - rho) * (1 + rho))


def _relu(pair: _Pair) -> tuple[np.ndarray, np.ndarray]:
    """Arc-cosine kernels of order 1 and 0, Cho & Saul (2009); the derivative at 0 is 0, as in JAX."""
    sine = np.sqrt(pair.sine2)
    angle = np.arctan2(sine, pair.rho)
    scale = np.sqrt(pair.q1) * np.sqrt(pair.q2)
    # Near pi the two terms cancel to order (pi - angle)^3: the difference is then taken from the series.
    rest = np.pi - angle
    both = np.where(rest < 1e-2, rest**3 / 3 - rest**5 / 30, sine + rest * pair.rho)
    return scale * both / (2 * np.pi), np.where(scale > 0, rest / (2 * np.pi), 0.0)


def _erf(pair: _Pair) -> tuple[np.ndarray, np.ndarray]:
    """The arcsine kernel, Williams (1997), as an arc tangent."""
    root = np.sqrt(1 + 2 * (pair.q1 + pair.q2) + 4 * pair.q1 * pair.q2 * pair.sine2)
    return 2 / np.pi * np.arctan2(2 * pair.c, root), 4 / np.pi / root


def _gelu(pair: _Pair) -> tuple[np.ndarray, np.ndarray]:
    """Of x Phi(x), by Stein's lemma, with P = E[Phi(u) Phi(v)] and N = E[n(u) n(v)] = dP/dc."""
    c, q1, q2 = pair.c, pair.q1, pair.q2
    square = 1 + q1 + q2 + q1 * q2 * pair.sine2
    both = 0.25 + np.arctan2(c, np.sqrt(square)) / (2 * np.pi)
    density = 1 / (2 * np.pi * np.sqrt(square))
    inverse = 1 / (1 + q1) + 1 / (1 + q2)
    rest = q1 * q2 * pair.sine2 + c**2 * inverse
    return c * both + density * rest, both + density * c * (2 * inverse - 1 + rest / square)


def _sin(pair: _Pair) -> tuple[np.ndarray, np.ndarray]:
    """Half the difference and half the sum of E[cos(u - v)] and E[cos(u + v)]."""
    apart = (np.sqrt(pair.q1) - np.sqrt(pair.q2)) ** 2 / 2
    scale = np.sqrt(pair.q1) * np.sqrt(pair.q2)
    difference, total = -apart - scale * (1 - pair.rho), -apart - scale * (1 + pair.rho)
    # e^difference - e^total, exact where both are near 1
    larger = np.maximum(difference, total)
    odd = np.exp(larger) * -np.expm1(-np.abs(difference - total)) * np.sign(pair.rho)
    return odd / 2, (np.exp(difference) + np.exp(total)) / 2


def _identity(pair: _Pair) -> tuple[np.ndarray, np.ndarray]:
    """The covariance itself."""
    return pair.c, np.ones_like(pair.c)


_CLOSED: Mapping[str | Activation, Callable[[_Pair], tuple[np.ndarray, np.ndarray]]] = types.MappingProxyType(
    {"erf": _erf, "gelu": _gelu, "identity": _identity, "relu": _relu, "sin": _sin}
)
_HOMOGENEOUS = ("relu", "identity")
