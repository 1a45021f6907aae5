"""Learning curves of ridge regression with random features: few samples, few features."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from widelimit.kernels.spectra.modes import Spectrum, bisect, check_numbers


@dataclasses.dataclass(frozen=True)
class RandomFeatureCurve:
    r"""Ridge regression with k random features after n samples, in the mean over samples and features.

    Args:
        samples: n.
        features: k.
        kappa: implicit constant of the samples, in the unit of the ridge.
        gamma: implicit constant that the spectrum feels, ``L_i = lam_i / (lam_i + gamma)``.
        learnabilities: L_i, shape [modes].
        test: mean squared error on new inputs, their noise included.
        train: mean squared error on the training samples.

    Reference:
        Simon et al., arXiv 2311.14646, Section 4.
    """

    samples: float
    features: float
    kappa: float
    gamma: float
    learnabilities: np.ndarray
    test: float
    train: float


def random_feature_curve(
    eigenvalues: ArrayLike,
    coefficients: ArrayLike,
    samples: float,
    features: float,
    *,
    ridge: float = 0.0,
    noise: float = 0.0,
    multiplicities: ArrayLike | None = None,
) -> RandomFeatureCurve:
    r"""Test error of ridge regression with k random features, ``K = F F^T / k``, ``E[F F^T] / k`` the kernel.

    With ``L_i = lam_i / (lam_i + gamma)``, ``z = sum L_i``, ``q = sum L_i^2`` and the two implicit constants
    from ``n = z + ridge/kappa`` and ``k = z + k kappa/gamma``,

        test = 1/(1 - x) {sum_i [1 - L_i - kappa L_i (1 - L_i)/gamma k/(k - q)] v_i^2 + noise},
        x = (q (k - 2 z) + z^2) / (n (k - q)).

    At its best ridge the error falls with n and with k; at ridge 0 it peaks at n = k. Many features give
    ``learning_curve``.

    Args:
        eigenvalues: lam_i of the kernel that infinitely many features would give, shape [modes].
        coefficients: v_i, shape [modes].
        samples: n, positive.
        features: k, positive.
        ridge: zero or more; added to K (not to K / n).
        noise: variance of the noise of the targets.
        multiplicities: how often each eigenvalue occurs, shape [modes]; None is once.

    Raises:
        ValueError: if shapes or signs are wrong, or the ridge is 0 and samples and features are equal, or
            both at least the number of modes with an eigenvalue.

    Example:
        >>> index = np.arange(1.0, 601.0)
        >>> round(random_feature_curve(index**-1.5, 1 / index, 64, 128, ridge=0.01, noise=0.05).test, 4)
        0.2133

    Reference:
        Simon et al., arXiv 2311.14646, Section 4 (random feature eigenframework).
    """
    spectrum = Spectrum.of(eigenvalues, coefficients, multiplicities)
    check_numbers(samples=samples, ridge=ridge, noise=noise)
    if not 0 < features < np.inf:
        raise ValueError(f"features must be a positive finite number; got {features}.")
    least = min(samples, features)
    if ridge == 0 and (least >= spectrum.rank or samples == features):
        raise ValueError(
            f"ridge must be above 0 where samples and features are equal, or both reach the "
            f"{spectrum.rank:g} modes with an eigenvalue: there the test error has no finite value; got "
            f"{samples:g} samples and {features:g} features."
        )

    # With kappa = gamma (k - z) / k put in: (n - z) gamma (k - z) / k = ridge, rising where z < min(n, k).
    def excess(gamma: float) -> float:
        z = spectrum.count(gamma)
        if z >= least:
            return -1.0
        return (samples - z) * gamma * (features - z) / features - ridge if ridge else 1.0

    gamma = bisect(excess, spectrum, least, ridge)
    learned = spectrum.learnabilities(gamma)
    z, q = (float(spectrum.multiplicities @ learned**power) for power in (1, 2))
    # At ridge 0 one of the two differences is 0 and not what rounding leaves of it.
    spare = 0.0 if ridge == 0 and features < samples else features - z
    kappa = gamma * spare / features
    x = (q * (features - 2 * z) + z**2) / (samples * (features - q))
    lost = (1 - learned) * (1 - spare / (features - q) * learned)  # kappa k / gamma is what is spare
    test = (float(np.sum(lost * spectrum.powers)) + noise) / (1 - x)
    train = test * ((samples - z) / samples) ** 2
    return RandomFeatureCurve(samples, features, kappa, gamma, learned, test, train)
