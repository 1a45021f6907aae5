"""Dense kernels as float64 matrices: flattening, centring, eigenvalues, and what is refused."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

ASYMMETRY = 1e-4  # relative; a float32 kernel of a few thousand samples stays below 1e-5
ROUNDING = 1e-5  # relative to the largest eigenvalue: what a float32 kernel may have below zero


def as_matrix(kernel: ArrayLike) -> np.ndarray:
    """Returns a kernel as a matrix, ``[N1, N2, O, O] -> [N1 O, N2 O]`` with the outputs of a sample together.

    Row ``(i, o)`` is number ``i O + o``, the order of ``f.ravel()`` for outputs ``f`` of shape [N, O].

    Args:
        kernel: shape [N1, N2, O, O], or [N1, N2], which stays.

    Raises:
        ValueError: if the shape is another.

    Example:
        >>> as_matrix(np.arange(16.0).reshape(2, 2, 2, 2))[0]  # sample 0, output 0
        array([0., 1., 4., 5.])
    """
    array = np.asarray(kernel, float)
    if array.ndim == 2:
        return array
    if array.ndim != 4 or array.shape[2] != array.shape[3]:
        raise ValueError(f"Expected a kernel of shape [N1, N2, O, O] or [N1, N2], got shape {array.shape}.")
    n1, n2, outputs, _ = array.shape
    return array.transpose(0, 2, 1, 3).reshape(n1 * outputs, n2 * outputs)


def centre(kernel: ArrayLike) -> np.ndarray:
    """Returns the centred kernel ``H K H``, ``H = I - 1 1^T / N``: that of features less their mean.

    Args:
        kernel: symmetric, shape [N, N].

    Raises:
        ValueError: if the kernel is not a finite symmetric matrix.

    Example:
        >>> centre([[2.0, 0.0], [0.0, 2.0]])
        array([[ 1., -1.],
               [-1.,  1.]])

    Reference:
        Cortes, Mohri and Rostamizadeh, arXiv 1203.0550, Definition 1.
    """
    matrix = symmetric(kernel)
    rows = matrix - matrix.mean(axis=0, keepdims=True)
    return rows - rows.mean(axis=1, keepdims=True)


def eigenvalues(kernel: ArrayLike) -> np.ndarray:
    """Returns the eigenvalues of a symmetric kernel, largest first, in float64, shape [N].

    Nothing is clipped: a kernel of low rank shows rounding, of either sign, where its eigenvalues are zero.

    Args:
        kernel: symmetric, shape [N, N]; flatten [N, N, O, O] with ``as_matrix``.

    Raises:
        ValueError: if the kernel is not a finite symmetric matrix.

    Example:
        >>> eigenvalues([[2.0, 1.0], [1.0, 2.0]])
        array([3., 1.])
    """
    return np.linalg.eigvalsh(symmetric(kernel))[::-1]


def symmetric(kernel: ArrayLike, name: str = "kernel") -> np.ndarray:
    """Returns a kernel as an exactly symmetric float64 matrix, or says why it is none."""
    matrix = np.asarray(kernel, float)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        hint = " Flatten [N, N, O, O] with as_matrix." if matrix.ndim == 4 else ""
        raise ValueError(f"Expected {name} to be a matrix [N, N], got shape {matrix.shape}.{hint}")
    if not np.isfinite(matrix).all():
        raise ValueError(f"Expected {name} to be finite, but {(~np.isfinite(matrix)).sum()} entries are not.")
    skew = np.abs(matrix - matrix.T).max()
    if skew > ASYMMETRY * np.abs(matrix).max():
        raise ValueError(
            f"Expected {name} to be symmetric, but entries miss their mirror image by up to {skew:.3g}; "
            "pass the kernel of one set of inputs with itself."
        )
    return (matrix + matrix.T) / 2


def positive_eigenvalues(kernel: ArrayLike) -> np.ndarray:
    """Returns eigenvalues (of a kernel, or given as such), largest first, rounding below zero set to zero."""
    values = np.asarray(kernel, float)
    if values.ndim != 1:
        values = eigenvalues(kernel)
    elif not np.isfinite(values).all():
        raise ValueError("Expected finite eigenvalues, but some are not.")
    largest = values.max(initial=0.0)
    if largest <= 0:
        raise ValueError("Expected a kernel with a positive eigenvalue, but all are zero or below.")
    if values.min() < -ROUNDING * largest:
        raise ValueError(
            f"Expected a positive semi-definite kernel, but its smallest eigenvalue is "
            f"{values.min():.3g} where the largest is {largest:.3g}: more than rounding."
        )
    return np.sort(np.clip(values, 0.0, None))[::-1]
