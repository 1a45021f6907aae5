"""The modes of a kernel on a population, and the equation that every learning curve solves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """Eigenvalues with multiplicities, and the target's power in each."""

    values: np.ndarray
    powers: np.ndarray
    multiplicities: np.ndarray

    @classmethod
    def of(
        cls, eigenvalues: ArrayLike, coefficients: ArrayLike, multiplicities: ArrayLike | None
    ) -> Spectrum:
        """Checks what no spectrum could have."""
        values, target = np.asarray(eigenvalues, float), np.asarray(coefficients, float)
        counts = np.ones_like(values) if multiplicities is None else np.asarray(multiplicities, float)
        if values.ndim != 1 or not values.shape == target.shape == counts.shape:
            raise ValueError(
                "eigenvalues, coefficients and multiplicities must have one shape [modes]; got "
                f"{values.shape}, {target.shape} and {counts.shape}."
            )
        if not (np.isfinite(values).all() and np.isfinite(target).all() and np.isfinite(counts).all()):
            raise ValueError("eigenvalues, coefficients and multiplicities must be finite; some are not.")
        if not (values > 0).any() or (values < 0).any() or (counts <= 0).any():
            raise ValueError(
                "eigenvalues must be 0 or more, one of them positive, and multiplicities above 0; "
                f"got eigenvalues from {values.min(initial=0.0):.3g} to {values.max(initial=0.0):.3g}: clip "
                "rounding first."
            )
        return cls(values, target**2, counts)

    @property
    def rank(self) -> float:
        """Number of modes with an eigenvalue."""
        return float(self.multiplicities[self.values > 0].sum())

    def learnabilities(self, kappa: float) -> np.ndarray:
        """Returns lam / (lam + kappa)."""
        return self.values / (self.values + kappa)

    def count(self, kappa: float) -> float:
        """Returns their sum, the number of modes learned."""
        return float(self.multiplicities @ self.learnabilities(kappa))


def check_numbers(*, samples: float, ridge: float, noise: float) -> None:
    """Refuses numbers out of range."""
    if not 0 < samples < np.inf:
        raise ValueError(f"samples must be a positive finite number; got {samples}.")
    if not 0 <= ridge < np.inf or not 0 <= noise < np.inf:
        raise ValueError(f"ridge and noise must be finite and 0 or more; got {ridge} and {noise}.")


def bisect(excess: Callable[[float], float], spectrum: Spectrum, samples: float, ridge: float) -> float:
    """Returns the positive root of a rising function, by halving the interval in the logarithm."""
    trace = float(spectrum.multiplicities @ spectrum.values)
    high = 4 * (trace + ridge) / samples  # there at most half the samples are spoken for
    low = high
    while excess(low) > 0:
        low /= 1e3
        if low < np.finfo(float).tiny:
            raise ValueError("the spectrum must balance the samples, but kappa falls below 1e-307.")
    while high / low > 1 + 4 * np.finfo(float).eps:
        middle = float(np.sqrt(low) * np.sqrt(high))
        if middle in (low, high):
            break
        low, high = (low, middle) if excess(middle) > 0 else (middle, high)
    return float(np.sqrt(low) * np.sqrt(high))
