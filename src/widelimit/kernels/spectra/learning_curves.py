"""Learning curves: what kernel ridge regression learns from n samples, given its spectrum and target."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from widelimit.kernels.matrices import symmetric
from widelimit.kernels.spectra.modes import Spectrum, bisect, check_numbers


@dataclasses.dataclass(frozen=True)
class LearningCurve:
    r"""Kernel ridge regression after n samples, in the mean over training sets.

    Args:
        samples: n.
        kappa: the ridge that the spectrum feels, ``n = sum lam/(lam + kappa) + ridge/kappa``.
        learnabilities: ``L_i = lam_i / (lam_i + kappa)``, shape [modes]: the mean predictor has coefficients
            ``L_i v_i``.
        overfitting: ``E_0 = n / (n - sum L_i^2)``, how many times test error exceeds bias.
        test: mean squared error on new inputs, their noise included.
        train: mean squared error on the training samples, ``(ridge / (n kappa))^2`` of the test error.
        bias: ``sum (1 - L_i)^2 v_i^2 + noise``; the noise of the test targets is counted here.
        variance: test minus bias, over training sets and their noise.

    Reference:
        Simon et al., arXiv 2110.03922, Section 4.
    """

    samples: float
    kappa: float
    learnabilities: np.ndarray
    overfitting: float
    test: float
    train: float
    bias: float
    variance: float


def learning_curve(
    eigenvalues: ArrayLike,
    coefficients: ArrayLike,
    samples: float,
    *,
    ridge: float = 0.0,
    noise: float = 0.0,
    multiplicities: ArrayLike | None = None,
) -> LearningCurve:
    r"""Test and train error of kernel ridge regression from the eigenvalues of the kernel on the population.

    The kernel is ``k(x, x') = sum_i lam_i phi_i(x) phi_i(x')`` with ``E[phi_i phi_j] = delta_ij``, the target
    ``sum_i v_i phi_i`` plus noise, and the ridge is added to K (not to K / n). Then, with kappa from
    ``n = sum_i lam_i / (lam_i + kappa) + ridge / kappa`` and ``L_i = lam_i / (lam_i + kappa)``,

        test = n / (n - sum L_i^2) (sum (1 - L_i)^2 v_i^2 + noise).

    Conservation: ``sum L_i <= n``, with equality at ridge 0. For Gaussian features in the limit of many; real
    kernels follow it closely, with deviations that fall as n grows.

    Args:
        eigenvalues: lam_i, zero or more, shape [modes]. Of a kernel matrix K on M points drawn from the
            population: those of K / M.
        coefficients: v_i, shape [modes]; for an eigenvalue of multiplicity m the root of the summed squares.
        samples: n, positive; need not be whole.
        ridge: zero or more.
        noise: variance of the noise of the targets.
        multiplicities: how often each eigenvalue occurs, shape [modes]; None is once.

    Raises:
        ValueError: if shapes or signs are wrong, or the ridge is 0 and there are as many samples as modes
            with an eigenvalue: no kappa above 0 balances them (the test error diverges at n = modes).

    Example:
        >>> index = np.arange(1.0, 601.0)
        >>> curve = learning_curve(index**-1.5, 1 / index, samples=64, ridge=0.01, noise=0.05)
        >>> [f"{value:.3g}" for value in (curve.kappa, curve.overfitting, curve.test, curve.train)]
        ['0.00552', '1.65', '0.121', '9.73e-05']

    Reference:
        Simon et al., arXiv 2110.03922, Eqs. 4-11; Bordelon, Canatar and Pehlevan, arXiv 2002.02561, whose
        kappa is n times this one.
    """
    spectrum = Spectrum.of(eigenvalues, coefficients, multiplicities)
    check_numbers(samples=samples, ridge=ridge, noise=noise)
    if ridge == 0 and samples >= spectrum.rank:
        raise ValueError(
            f"samples must be fewer than the {spectrum.rank:g} modes with an eigenvalue where the ridge is "
            f"0, as no kappa > 0 balances them; got {samples:g}. Pass a ridge."
        )

    def excess(kappa: float) -> float:
        return samples - spectrum.count(kappa) - ridge / kappa

    kappa = bisect(excess, spectrum, samples, ridge)
    learned = spectrum.learnabilities(kappa)
    overfitting = samples / (samples - float(spectrum.multiplicities @ learned**2))
    bias = float(np.sum((1 - learned) ** 2 * spectrum.powers)) + noise
    test = overfitting * bias
    train = (ridge / (samples * kappa)) ** 2 * test
    return LearningCurve(samples, kappa, learned, overfitting, test, train, bias, test - bias)


def learnabilities(kernel: ArrayLike, train: ArrayLike, *, ridge: float = 0.0) -> np.ndarray:
    r"""Measured learnabilities of a kernel's eigenfunctions for one training set, on a domain of M points.

    With ``phi_i = sqrt(M) u_i`` the eigenvectors of K on all M points (uniform measure), kernel ridge
    regression is trained on ``phi_i`` at the training points; ``L_i = <phi_i, prediction of phi_i>`` is the
    mean product over all points. Their sum is ``tr K_DD (K_DD + ridge)^-1``: at ridge 0 exactly the number n
    of training samples, whatever kernel, data and training set, if K_DD is invertible. ``learning_curve``
    predicts their mean over training sets.

    Args:
        kernel: on all points, positive semi-definite, shape [M, M].
        train: indices of the training points, without repetition, shape [n].
        ridge: zero or more; added to K_DD.

    Raises:
        ValueError: if the kernel is not symmetric, an index is repeated or out of range, or ``K_DD + ridge``
            cannot be inverted in float64.

    Example:
        >>> points = np.linspace(0, 1, 20)
        >>> kernel = np.exp(-np.abs(points[:, None] - points))
        >>> learned = learnabilities(kernel, train=[2, 7, 11, 18])
        >>> round(float(learned.sum()), 9), bool(learned[0] > learned[10])
        (4.0, True)

    Reference:
        Simon et al., arXiv 2110.03922, Theorem 3.2 (conservation of learnability).
    """
    matrix = symmetric(kernel)
    points = np.asarray(train)
    if (
        points.ndim != 1
        or not points.size
        or points.dtype.kind not in "iu"
        or len(set(points.tolist())) < len(points)
    ):
        raise ValueError(f"train must hold indices [n], each once; got {train!r}.")
    if points.min() < 0 or points.max() >= len(matrix):
        raise ValueError(
            f"train must hold indices from 0 to {len(matrix) - 1}; got {points.min()} to {points.max()}."
        )
    if not 0 <= ridge < np.inf:
        raise ValueError(f"ridge must be finite and 0 or more; got {ridge}.")
    inside = matrix[np.ix_(points, points)] + ridge * np.eye(len(points))
    spread = np.linalg.eigvalsh(inside)
    if spread[0] <= len(points) * np.finfo(float).eps * spread[-1]:
        raise ValueError(
            "the kernel must be invertible on the training points, but its eigenvalues run from "
            f"{spread[0]:.3g} to {spread[-1]:.3g}; pass a ridge, or leave out duplicates."
        )
    vectors = np.linalg.eigh(matrix)[1][:, ::-1]
    smoother = np.linalg.solve(inside, matrix[points])  # [n, M]
    return np.einsum("nm,mi,ni->i", smoother, vectors, vectors[points], optimize=True)
