"""Solving with a kernel that may be singular, without hidden jitter and without NaN."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from widelimit.kernels.dynamics.problem import spectrum
from widelimit.kernels.matrices import EPS


@dataclass(frozen=True)
class Factor:
    """``A = K + shift``, ready to solve with.

    Args:
        half: B [n, C] to H [r, C] with ``H^T H = B^T A^+ B``.
        solve: B [n, C] to ``A^+ B``; the pseudo-inverse where A is singular.
        rank: how many directions of A are more than rounding.
        log_determinant: of A; minus infinity where it is singular.
    """

    half: Callable[[np.ndarray], np.ndarray]
    solve: Callable[[np.ndarray], np.ndarray]
    rank: int
    log_determinant: float


def check_shift(value: Any, name: str) -> float:
    """Refuses what is no regularisation."""
    if np.ndim(value) != 0 or not np.isfinite(float(value)) or float(value) < 0:
        raise ValueError(f"{name} must be a number from 0, added to the diagonal as it is; got {value!r}.")
    return float(value)


def factorise(matrix: np.ndarray, shift: float, eps: float) -> Factor:
    """Cholesky where the matrix is safely positive definite, else eigenvectors without the rounding ones."""
    from scipy import linalg

    size = len(matrix)
    shifted = matrix + shift * np.eye(size)
    precision = EPS if shift > 0 else eps  # who sets a shift has judged the kernel's noise
    try:
        lower = linalg.cholesky(shifted, lower=True)
    except linalg.LinAlgError:
        return _from_spectrum(matrix, shift, eps, precision)
    inverse_condition, _ = linalg.lapack.dpocon(lower, np.abs(shifted).sum(axis=0).max(), uplo="L")
    if inverse_condition <= 10 * precision:
        return _from_spectrum(matrix, shift, eps, precision)
    return Factor(
        half=lambda b: linalg.solve_triangular(lower, b, lower=True),
        solve=lambda b: linalg.cho_solve((lower, True), b),
        rank=size,
        log_determinant=2.0 * float(np.log(np.diag(lower)).sum()),
    )


def _from_spectrum(matrix: np.ndarray, shift: float, eps: float, precision: float) -> Factor:
    """The pseudo-inverse, from eigenvectors."""
    modes = spectrum(matrix, eps)
    values = modes.values + shift
    floor = 10 * precision * values[-1] if shift > 0 else modes.floor
    kept = values > floor
    vectors, values = modes.vectors[:, kept], values[kept]
    return Factor(
        half=lambda b: (vectors.T @ b) / np.sqrt(values)[:, None],
        solve=lambda b: vectors @ ((vectors.T @ b) / values[:, None]),
        rank=int(kept.sum()),
        log_determinant=float(np.log(values).sum()) if kept.all() else -np.inf,
    )
