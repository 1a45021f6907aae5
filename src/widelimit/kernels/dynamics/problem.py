"""Kernels and targets as float64 matrices, checked once, and the spectrum of a kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

EPS = float(np.finfo(np.float64).eps)


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


def as_float64(array: Any, name: str) -> tuple[np.ndarray, float]:
    """Returns an array in float64 and the rounding of the dtype it came in; refuses what is not finite."""
    given = array if hasattr(array, "dtype") else np.asarray(array)
    if jnp.issubdtype(given.dtype, jnp.floating):
        eps = float(jnp.finfo(given.dtype).eps)
    elif jnp.issubdtype(given.dtype, jnp.integer) or given.dtype == bool:
        eps = EPS
    else:
        raise TypeError(f"{name} must hold real numbers; got dtype {given.dtype}.")
    values = np.asarray(given).astype(np.float64)
    if not np.isfinite(values).all():
        wrong = int((~np.isfinite(values)).sum())
        raise ValueError(
            f"{name} must be finite; {wrong} of its {values.size} entries are NaN or infinite. "
            "Compute it in float64, or look for an input that overflows."
        )
    return values, max(eps, EPS)


def flatten_kernel(kernel: np.ndarray) -> np.ndarray:
    """(N1, N2, O, O) to [N1 O, N2 O], rows sample by sample; [N1, N2] stays."""
    if kernel.ndim == 2:
        return kernel
    n1, n2, o, p = kernel.shape
    return kernel.transpose(0, 2, 1, 3).reshape(n1 * o, n2 * p)


def square(kernel: Any, name: str = "kernel") -> tuple[np.ndarray, int, int | None, float]:
    """Returns the kernel of the training points as a symmetric matrix, N, O (None: one for all), and eps."""
    values, eps = as_float64(kernel, name)
    whole = values.ndim == 2 or (values.ndim == 4 and values.shape[2] == values.shape[3])
    if not whole or values.shape[0] != values.shape[1] or not values.size:
        raise ValueError(
            f"{name} must have shape [N, N], the same for all outputs, or (N, N, O, O); got {values.shape}."
        )
    matrix = flatten_kernel(values)
    largest, gap = np.abs(matrix).max(), np.abs(matrix - matrix.T).max()
    if gap > rounding(eps, len(matrix)) * largest:
        raise ValueError(
            f"{name} must be symmetric; entries differ from their mirror image by up to {gap:.3g} "
            f"(largest entry {largest:.3g}). Pass the kernel of the training points with themselves."
        )
    outputs = values.shape[2] if values.ndim == 4 else None
    return 0.5 * (matrix + matrix.T), len(values), outputs, eps


def rounding(eps: float, size: int) -> float:
    """How much of the largest eigenvalue rounding may take: half the digits, as arccos near 1 does."""
    return max(math.sqrt(eps), size * eps)


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
        rows, start = flatten_kernel(array), values(initial_test, "initial_test", len(array))
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
    largest, lowest = float(np.abs(values).max()), float(values[0])
    if lowest < -rounding(eps, len(values)) * largest:
        raise ValueError(
            f"{name} must be positive semi-definite; its eigenvalues reach from {lowest:.3g} to "
            f"{values[-1]:.3g}, and that is more than rounding at relative precision {eps:.1g}. Check how it "
            "was computed, or add a ridge to its diagonal yourself."
        )
    floor = max(10 * eps * largest, -2 * lowest)
    return Spectrum(values=np.maximum(values, 0.0), vectors=vectors, floor=floor)
