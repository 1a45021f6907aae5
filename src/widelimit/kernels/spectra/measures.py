"""How a kernel meets its targets, and how far two kernels are from each other."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from widelimit.kernels.matrices import as_matrix, centre, symmetric


def alignment(kernel: ArrayLike, targets: ArrayLike, *, centred: bool = False) -> float:
    r"""Kernel-target alignment ``A = <K, Y Y^T> / (|K| |Y Y^T|)`` with Frobenius products; between 0 and 1.

    Uncentred by default. ``centred=True`` puts ``H K H`` and ``H Y`` in their places, ``H = I - 1 1^T / N``:
    then the kernel's common offset, large for ReLU networks, does not count. Say which one a number is.

    Args:
        kernel: positive semi-definite, shape [N, N]. For [N, N, O, O] pass ``as_matrix(kernel)`` and
            ``targets.ravel()``.
        targets: shape [N] or [N, outputs].
        centred: remove the means of features and targets first.

    Raises:
        ValueError: if the shapes do not fit, or kernel or targets (after centring) are zero.

    Example:
        >>> y = np.array([1.0, -1.0, 1.0])
        >>> alignment(np.outer(y, y), y), round(alignment(np.eye(3), y), 4)
        (1.0, 0.5774)

    Reference:
        Cristianini et al., "On kernel-target alignment" (2001); centred: Cortes et al., arXiv
        1203.0550, Eq. 2.
    """
    matrix, y = symmetric(kernel), np.asarray(targets, float)
    y = y[:, None] if y.ndim == 1 else y
    if y.ndim != 2 or len(y) != len(matrix) or not np.isfinite(y).all():
        raise ValueError(
            f"targets must be finite, [N] or [N, outputs] with the kernel's N = {len(matrix)}; got shape "
            f"{np.shape(targets)}."
        )
    if centred:
        y = _vanishing(y - y.mean(axis=0, keepdims=True), y, "targets")
    matrix = _part(matrix, centred, "kernel")
    inner = float(np.sum((matrix @ y) * y))
    return inner / (_norm(matrix, "kernel") * _norm(y.T @ y, "targets"))  # |Y Y^T| = |Y^T Y|


def cka(kernel: ArrayLike, other: ArrayLike, *, centred: bool = True) -> float:
    r"""Centred kernel alignment ``<HKH, HK'H> / (|HKH| |HK'H|)``: the cosine between two kernels.

    1 if one is a positive multiple of the other, whatever the rotation of the features they come from.
    Blind to a change of scale, so 1 - CKA is quadratic in the change of the kernel (``cka_gap`` gives it
    without cancellation): report ``relative_change`` beside it.

    Args:
        kernel: shape [N, N].
        other: shape [N, N].
        centred: False leaves out H and gives the plain cosine.

    Raises:
        ValueError: if the shapes differ, or a kernel is zero (after centring).

    Example:
        >>> round(cka(np.diag([1.0, 2.0, 3.0]), np.diag([2.0, 4.0, 6.0]) + 5.0), 12)
        1.0

    Reference:
        Kornblith et al., arXiv 1905.00414, Eq. 3.
    """
    return 1.0 - cka_gap(kernel, other, centred=centred)


def cka_gap(kernel: ArrayLike, other: ArrayLike, *, centred: bool = True) -> float:
    r"""``1 - CKA``, computed as ``|K/|K| - K'/|K'| |^2 / 2``: exact to rounding also where it is tiny.

    Args:
        kernel: shape [N, N].
        other: shape [N, N].
        centred: False leaves out the centring.

    Raises:
        ValueError: if the shapes differ, or a kernel is zero (after centring).

    Example:
        >>> k = np.diag([1.0, 2.0, 4.0])
        >>> [f"{cka_gap(k, k + change * np.diag([1.0, 0.0, 0.0])):.3e}" for change in (1e-3, 1e-6, 1e-9)]
        ['1.387e-08', '1.387e-14', '1.387e-20']
    """
    first, second = _pair(kernel, other)
    first, second = (_part(matrix, centred, "kernel") for matrix in (first, second))
    difference = first / _norm(first, "kernel") - second / _norm(second, "kernel")
    return float(np.sum(difference**2)) / 2


def relative_change(kernel: ArrayLike, reference: ArrayLike) -> float:
    """How far a kernel moved, ``|K - K_0| / |K_0|`` in Frobenius norm.

    Args:
        kernel: K, shape [N1, N2] or [N1, N2, O, O].
        reference: K_0, same shape.

    Raises:
        ValueError: if the shapes differ, an entry is not finite, or the reference is zero.

    Example:
        >>> round(relative_change(1.5 * np.eye(2), np.eye(2)), 12)
        0.5
    """
    first, second = np.asarray(kernel, float), np.asarray(reference, float)
    if first.shape != second.shape or not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError(
            f"kernels must be finite and of one shape; got shapes {first.shape} and {second.shape} with "
            f"{(~np.isfinite(first)).sum() + (~np.isfinite(second)).sum()} entries that are not finite."
        )
    return float(np.linalg.norm(first - second)) / _norm(second, "reference")


def trace_ratio(kernel: ArrayLike, reference: ArrayLike) -> float:
    """Growth of a kernel's scale, ``tr K / tr K_0``, to which alignment and velocity are blind.

    Args:
        kernel: K, shape [N, N] or [N, N, O, O].
        reference: K_0, likewise.

    Raises:
        ValueError: if one is not a finite symmetric kernel, or the reference has no positive trace.

    Example:
        >>> trace_ratio(3 * np.eye(2), np.eye(2))
        3.0
    """
    first, second = _pair(as_matrix(kernel), as_matrix(reference))
    if np.trace(second) <= 0:
        raise ValueError(f"the reference's trace must be positive; got {np.trace(second):.3g}.")
    return float(np.trace(first) / np.trace(second))


def kernel_velocity(kernel: ArrayLike, earlier: ArrayLike, elapsed: float = 1.0) -> float:
    r"""How fast a kernel turns, ``(1 - <K, K'> / (|K| |K'|)) / dt``; uncentred, blind to pure rescaling.

    Args:
        kernel: K at time t + dt, shape [N, N].
        earlier: K' at time t, shape [N, N].
        elapsed: dt, in the unit of time in which the velocity is wanted.

    Raises:
        ValueError: if the shapes differ, a kernel is zero, or ``elapsed`` is not positive.

    Example:
        >>> kernel_velocity(2 * np.eye(2), np.eye(2)), kernel_velocity(np.diag([1, 0]), np.diag([0, 1]), 0.5)
        (0.0, 2.0)

    Reference:
        Fort et al., arXiv 2010.15110, Section 3.
    """
    if not 0 < elapsed < np.inf:
        raise ValueError(f"elapsed must be positive; got {elapsed}.")
    return cka_gap(kernel, earlier, centred=False) / elapsed


def _pair(kernel: ArrayLike, other: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Returns two kernels of one shape."""
    first, second = symmetric(kernel), symmetric(other, "the other kernel")
    if first.shape != second.shape:
        raise ValueError(f"kernels must have one shape; got {first.shape} and {second.shape}.")
    return first, second


def _part(matrix: np.ndarray, centred: bool, name: str) -> np.ndarray:
    """Returns the matrix, centred if asked; what is only rounding after centring is refused."""
    return _vanishing(centre(matrix), matrix, name) if centred else matrix


def _vanishing(centred: np.ndarray, array: np.ndarray, name: str) -> np.ndarray:
    """Refuses an array of which centring leaves nothing but rounding."""
    if np.abs(centred).max() <= 1e-14 * len(array) * np.abs(array).max():
        raise ValueError(f"{name} must vary, but nothing is left after centring; use the uncentred measure.")
    return centred


def _norm(array: np.ndarray, name: str) -> float:
    """Returns the Frobenius norm, or says that there is nothing to compare with."""
    norm = float(np.linalg.norm(array))
    if norm == 0.0:
        raise ValueError(f"{name} must not be zero: there is nothing to measure against.")
    return norm
