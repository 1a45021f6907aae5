"""Kernels and targets as float64 matrices, checked once, and the spectrum of a kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from widelimit.kernels.matrices import as_float64, as_matrix, check_semi_definite, square


@dataclass(frozen=True)
class Problem:
    """Training points in function space: everything flattened to matrices, n = N or N O rows.

    Args:
        matrix: the kernel of the training points, [n, n], symmetric.
        targets: [n, C], C = 1 for a full kernel.
        initial: f_0 at the training points, [n, C].
        test: the kernel of test with training points, [m, n], or None.
        initial_test: f_0 at the test points, [m, C], or None.
        samples: N.
        shape: of one prediction, () or (O,).
        eps: relative rounding of the kernel's own dtype.
    """

    matrix: np.ndarray
    targets: np.ndarray
    initial: np.ndarray
    test: np.ndarray | None
    initial_test: np.ndarray | None
    samples: int
    shape: tuple[int, ...]
    eps: float

    def restore(self, values: np.ndarray) -> np.ndarray:
        """Back from [..., rows, C] to [..., points, outputs]."""
        lead, points = values.shape[:-2], math.prod(values.shape[-2:]) // math.prod(self.shape)
        return values.reshape(*lead, points, *self.shape)


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues, ascending, none below zero; eigenvectors in columns; below the floor is only rounding."""

    values: np.ndarray
    vectors: np.ndarray
    floor: float


def make_problem(
    kernel: Any,
    targets: Any,
    *,
    initial: Any = None,
    test: Any = None,
    initial_test: Any = None,
) -> Problem:
    """Checks shapes and finiteness, and flattens."""
    matrix, samples, outputs, eps = square(kernel)
    y, _ = as_float64(targets, "targets")
    shape = y.shape[1:]
    fits = y.shape[:1] == (samples,) and y.ndim <= 2 and y.size
    if not fits or outputs not in (None, math.prod(shape)):
        raise ValueError(
            f"targets must have shape [{samples}, {outputs or 'O'}] for a kernel of {samples} samples"
            f"{f' and {outputs} outputs' if outputs else ''}; got {y.shape}."
        )
    columns = 1 if outputs is not None else math.prod(shape)
    per_point = outputs or 1

    def values(given: Any, name: str, points: int) -> np.ndarray:
        if given is None:
            return np.zeros((points * per_point, columns))
        array, _ = as_float64(given, name)
        if array.shape != (points, *shape):
            raise ValueError(f"{name} must have shape {(points, *shape)}; got {array.shape}.")
        return array.reshape(points * per_point, columns)

    rows = start = None
    if test is not None:
        array, _ = as_float64(test, "test")
        tail = () if outputs is None else (outputs, outputs)
        if array.ndim < 2 or array.shape[1:] != (samples, *tail):
            raise ValueError(
                "test must be the kernel of test with training points, shape "
                f"{('M', samples, *tail)}; got {array.shape}."
            )
        rows, start = as_matrix(array), values(initial_test, "initial_test", len(array))
    elif initial_test is not None:
        raise ValueError("initial_test needs test, the kernel of test with training points [M, N].")
    return Problem(
        matrix=matrix,
        targets=y.reshape(samples * per_point, columns),
        initial=values(initial, "initial", samples),
        test=rows,
        initial_test=start,
        samples=samples,
        shape=shape,
        eps=eps,
    )


def spectrum(matrix: np.ndarray, eps: float, name: str = "kernel") -> Spectrum:
    """Returns the eigendecomposition; rounding below zero is set to zero, anything more is refused."""
    values, vectors = np.linalg.eigh(matrix)
    check_semi_definite(values, eps, name)
    largest, lowest = float(np.abs(values).max()), float(values[0])
    floor = max(10 * eps * largest, -2 * lowest)
    return Spectrum(values=np.maximum(values, 0.0), vectors=vectors, floor=floor)
