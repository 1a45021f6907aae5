"""Tasks made of Gaussian numbers, whose difficulty theory knows exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import factorial

import numpy as np
from numpy.polynomial import hermite_e

from widelimit.training.data.dataset import Dataset
from widelimit.training.data.streams import as_count, stream


def _task(
    name: str,
    seed: int,
    sizes: tuple[int, int, int],
    target: Callable[[np.ndarray], np.ndarray],
    noise: float,
    scale: np.ndarray | float = 1.0,
) -> Dataset:
    """Inputs and noise have streams of their own, so a smaller set is the beginning of a larger one."""
    if not 0 <= noise < np.inf:
        raise ValueError(f"noise must be a finite standard deviation of at least 0; got {noise!r}.")
    samples, test_samples, dimension = sizes
    counts = (as_count("samples", samples, 1), as_count("test_samples", test_samples, 1))
    x, x_test = (
        stream(seed, purpose).standard_normal((count, dimension)) * scale
        for purpose, count in zip(("train inputs", "test inputs"), counts, strict=True)
    )
    y = target(x)
    y = y + noise * stream(seed, "noise").standard_normal(y.shape)
    x, y, x_test, y_test = (part.astype(np.float32) for part in (x, y, x_test, target(x_test)))
    return Dataset(name, x, y, x_test, y_test, y.shape[1])


def _direction(seed: int, dimension: int, outputs: int = 1) -> np.ndarray:
    """Unit vectors, one per column, uniform on the sphere."""
    vectors = stream(seed, "teacher").standard_normal((as_count("outputs", outputs, 1), dimension)).T
    return vectors / np.linalg.norm(vectors, axis=0)


def gaussian_teacher(
    seed: int = 0,
    *,
    samples: int,
    dimension: int,
    test_samples: int = 1000,
    outputs: int = 1,
    noise: float = 0.0,
) -> Dataset:
    """Returns a linear teacher on isotropic Gaussian inputs.

        ``y_k = beta_k . x + noise * xi_k,   x ~ N(0, I_D),   |beta_k| = 1,   xi_k ~ N(0, 1)``

    with ``beta_k`` uniform on the sphere, so that without noise every component of y has variance 1. Test
    targets are free of noise: the test loss is the excess risk.

    Args:
        seed: fixes teacher, inputs and noise, each in a stream of its own.
        samples: number P of training samples.
        dimension: number D of input components.
        test_samples: number of test samples.
        outputs: number of target components.
        noise: standard deviation of the noise on the training targets.

    Raises:
        ValueError: if a count is below 1, or the noise is negative or not finite.
        TypeError: if a count is not a whole number.

    Example:
        >>> gaussian_teacher(seed=0, samples=64, dimension=10, noise=0.1)
        Dataset('gaussian_teacher': 64 training and 1000 test samples of shape (10,), 1 target(s))

    Reference:
        Bordelon and Pehlevan, Deep Linear Network Training Dynamics (arXiv 2502.02531), whose teacher has
        ``|beta|^2 = D`` instead.
    """
    beta = _direction(seed, as_count("dimension", dimension, 1), outputs)
    return _task("gaussian_teacher", seed, (samples, test_samples, dimension), lambda x: x @ beta, noise)


def single_index(
    seed: int = 0,
    *,
    samples: int,
    dimension: int,
    coefficients: Sequence[float] = (0.0, 0.0, 0.0, 1.0),
    test_samples: int = 1000,
    noise: float = 0.0,
) -> Dataset:
    """Returns a polynomial of one hidden direction of isotropic Gaussian inputs.

        ``y = sum_k c_k He_k(w . x) / sqrt(k!) + noise * xi,   x ~ N(0, I_D),   |w| = 1,   xi ~ N(0, 1)``

    He_k are the probabilists' Hermite polynomials, ``He_0 = 1, He_1 = z, He_2 = z^2 - 1, He_3 = z^3 - 3 z``.
    They are orthonormal after the division, so ``E[y] = c_0`` and ``E[y^2] = sum_k c_k^2`` without noise. The
    smallest ``k >= 1`` with ``c_k != 0`` is the information exponent. Test targets are free of noise.

    Args:
        seed: fixes direction, inputs and noise, each in a stream of its own.
        samples: number P of training samples.
        dimension: number D of input components.
        coefficients: c_0, c_1, ..., in the orthonormal Hermite basis; the default is a pure cubic.
        test_samples: number of test samples.
        noise: standard deviation of the noise on the training targets.

    Raises:
        ValueError: if no coefficient beyond c_0 differs from 0, one is not finite, or a number is out of
            range.
        TypeError: if a count is not a whole number.

    Example:
        >>> single_index(seed=0, samples=64, dimension=10, coefficients=(0, 0.6, 0.8))
        Dataset('single_index': 64 training and 1000 test samples of shape (10,), 1 target(s))

    Reference:
        Ben Arous, Gheissari and Jagannath, Online stochastic gradient descent on non-convex losses from
        high-dimensional inference (arXiv 2003.10409).
    """
    weights = np.asarray(coefficients)
    numbers = weights.dtype.kind in "fiu" and weights.ndim == 1 and np.isfinite(weights).all()
    if not numbers or not weights[1:].any():
        raise ValueError(
            "coefficients must be finite numbers c_0, c_1, ... of which one beyond c_0 is not 0; got "
            f"{coefficients!r}."
        )
    series = weights / np.sqrt([float(factorial(k)) for k in range(len(weights))])
    w = _direction(seed, as_count("dimension", dimension, 1))
    return _task(
        "single_index",
        seed,
        (samples, test_samples, dimension),
        lambda x: hermite_e.hermeval(x @ w, series),
        noise,
    )


def power_law(
    seed: int = 0,
    *,
    samples: int,
    dimension: int,
    alpha: float = 1.0,
    beta: float = 0.5,
    test_samples: int = 1000,
    noise: float = 0.0,
) -> Dataset:
    """Returns a linear task whose input spectrum and target fall as power laws.

        ``x_j = j^-alpha z_j,   y = sum_j j^-beta x_j + noise * xi,   z_j, xi ~ N(0, 1),   j = 1, ..., D``

    so the input covariance has eigenvalues ``j^(-2 alpha)`` and ``E[y^2] = sum_j j^(-2 alpha - 2 beta)``
    without noise. In the source and capacity form (a, b) of arXiv 2402.01092, ``a = 2 alpha + 2 beta`` and
    ``b = 2 alpha``. Test targets are free of noise.

    Args:
        seed: fixes inputs and noise, each in a stream of its own; the target is not random.
        samples: number P of training samples.
        dimension: number D of input components.
        alpha: decay exponent of the inputs' standard deviations.
        beta: decay exponent of the target's coefficients.
        test_samples: number of test samples.
        noise: standard deviation of the noise on the training targets.

    Raises:
        ValueError: if an exponent is negative or not finite, or another number is out of range.
        TypeError: if a count is not a whole number.

    Example:
        >>> power_law(seed=0, samples=64, dimension=100, alpha=1.0, beta=0.3)
        Dataset('power_law': 64 training and 1000 test samples of shape (100,), 1 target(s))

    Reference:
        Paquette et al., 4+3 Phases of Compute-Optimal Neural Scaling Laws (arXiv 2405.15074), section 1.
    """
    for name, exponent in (("alpha", alpha), ("beta", beta)):
        if not 0 <= exponent < np.inf:
            raise ValueError(f"{name} must be a finite exponent of at least 0; got {exponent!r}.")
    index = np.arange(1, 1 + as_count("dimension", dimension, 1), dtype=np.float64)
    coefficients = index[:, None] ** -beta
    return _task(
        "power_law",
        seed,
        (samples, test_samples, dimension),
        lambda x: x @ coefficients,
        noise,
        index**-alpha,
    )
