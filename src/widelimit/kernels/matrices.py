"""Dense kernels as matrices: flattening, centring, eigenvalues, and what is refused, judged by dtype."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

EPS = float(np.finfo(np.float64).eps)


def as_matrix(kernel: ArrayLike) -> np.ndarray:
    """Returns a kernel as a matrix, ``[N1, N2, O, O] -> [N1 O, N2 O]`` with the outputs of a sample together.

    Row ``(i, o)`` is number ``i O + o``, the order of ``f.ravel()`` for outputs ``f`` of shape [N, O]. A
    floating dtype stays, since it says how much of the kernel is rounding; whole numbers become float64.

    Args:
        kernel: shape [N1, N2, O, O], or [N1, N2], which stays.

    Raises:
        ValueError: if the shape is another.
        TypeError: if it holds no real numbers.

    Example:
        >>> as_matrix(np.arange(16.0).reshape(2, 2, 2, 2))[0]  # sample 0, output 0
        array([0., 1., 4., 5.])
    """
    array = np.asarray(kernel)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        array, _ = as_float64(array, "kernel")
    if array.ndim == 2:
        return array
    if array.ndim != 4 or array.shape[2] != array.shape[3]:
        raise ValueError(f"kernel must have shape [N1, N2, O, O] or [N1, N2]; got {array.shape}.")
    n1, n2, outputs, _ = array.shape
    return array.transpose(0, 2, 1, 3).reshape(n1 * outputs, n2 * outputs)


def centre(kernel: ArrayLike) -> np.ndarray:
    """Returns the centred kernel ``H K H``, ``H = I - 1 1^T / N``: that of features less their mean.

    Args:
        kernel: symmetric, shape [N, N]; its floating dtype stays, computed in float64.

    Raises:
        ValueError: if the kernel is not a finite symmetric matrix.
        TypeError: if it holds no real numbers.

    Example:
        >>> centre([[2.0, 0.0], [0.0, 2.0]])
        array([[ 1., -1.],
               [-1.,  1.]])

    Reference:
        Cortes, Mohri and Rostamizadeh, arXiv 1203.0550, Definition 1.
    """
    given = as_matrix(kernel).dtype if np.ndim(kernel) == 2 else np.dtype(float)
    matrix = symmetric(kernel)
    rows = matrix - matrix.mean(axis=0, keepdims=True)
    return (rows - rows.mean(axis=1, keepdims=True)).astype(given)


def eigenvalues(kernel: ArrayLike) -> np.ndarray:
    """Returns the eigenvalues of a symmetric kernel, largest first, in float64, shape [N].

    Nothing is clipped: a kernel of low rank shows rounding, of either sign, where its eigenvalues are zero.

    Args:
        kernel: symmetric, shape [N, N]; flatten [N, N, O, O] with ``as_matrix``.

    Raises:
        ValueError: if the kernel is not a finite symmetric matrix.
        TypeError: if it holds no real numbers.

    Example:
        >>> eigenvalues([[2.0, 1.0], [1.0, 2.0]])
        array([3., 1.])
    """
    return np.linalg.eigvalsh(symmetric(kernel))[::-1]


def positive_eigenvalues(kernel: ArrayLike) -> np.ndarray:
    """Returns eigenvalues (of a kernel, or given as such), largest first, rounding below zero set to zero."""
    if np.ndim(kernel) == 1:
        values, eps = as_float64(kernel, "eigenvalues")
        eps = max(eps, float(np.finfo(np.float32).eps))  # ``eigenvalues`` of a float32 kernel are float64
    else:
        matrix, _, _, eps = square(kernel, outputs=False)
        values = np.linalg.eigvalsh(matrix)
    check_semi_definite(values, eps)
    if values.max(initial=0.0) <= 0:
        raise ValueError("kernel must have a positive eigenvalue, but all are zero.")
    return np.sort(np.maximum(values, 0.0))[::-1]


def symmetric(kernel: ArrayLike, name: str = "kernel") -> np.ndarray:
    """Returns a kernel [N, N] as an exactly symmetric float64 matrix, or says why it is none."""
    return square(kernel, name, outputs=False)[0]


def square(
    kernel: Any, name: str = "kernel", *, outputs: bool = True
) -> tuple[np.ndarray, int, int | None, float]:
    """Returns a kernel of points with themselves as a symmetric float64 matrix, N, O (None: one), and eps.

    With ``outputs=False`` (N, N, O, O) is refused.
    """
    values, eps = as_float64(kernel, name)
    whole = values.ndim == 2 or (outputs and values.ndim == 4 and values.shape[2] == values.shape[3])
    if not whole or values.shape[0] != values.shape[1] or not values.size:
        wanted = ", the same for all outputs, or (N, N, O, O)" if outputs else ""
        hint = " Flatten [N, N, O, O] with as_matrix." if values.ndim == 4 and not outputs else ""
        raise ValueError(f"{name} must have shape [N, N]{wanted}; got shape {values.shape}.{hint}")
    matrix = as_matrix(values)
    largest, gap = np.abs(matrix).max(), np.abs(matrix - matrix.T).max()
    if gap > rounding(eps, len(matrix)) * largest:
        raise ValueError(
            f"{name} must be symmetric; entries differ from their mirror image by up to {gap:.3g} (largest "
            f"entry {largest:.3g}), and that is more than rounding at relative precision {eps:.1g}. Pass the "
            "kernel of one set of inputs with itself."
        )
    return 0.5 * (matrix + matrix.T), len(values), values.shape[2] if values.ndim == 4 else None, eps


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


def rounding(eps: float, size: int) -> float:
    """How much of the largest eigenvalue rounding may take: half the digits, as arccos near 1 does."""
    return max(math.sqrt(eps), size * eps)


def check_semi_definite(values: np.ndarray, eps: float, name: str = "kernel") -> None:
    """Refuses eigenvalues of a kernel that are further below zero than rounding takes them."""
    lowest, largest = values.min(initial=0.0), values.max(initial=0.0)
    if lowest < -rounding(eps, len(values)) * max(largest, -lowest):
        raise ValueError(
            f"{name} must be positive semi-definite; its eigenvalues reach from {lowest:.3g} to "
            f"{values.max():.3g}, and that is more than rounding at relative precision {eps:.1g}. Check how "
            "it was computed, or add a ridge to its diagonal yourself."
        )
