"""With what power of its size does a model's loss end, when data and time are unlimited?

Two answers stand in the literature for random features with eigenvalues k^-b and target power k^-a:
N^-min(a-1, b) and N^-min(a-1, 2b). They answer two questions: a model's, and its ensemble's.
"""

from __future__ import annotations

import numpy as np
import pytest

from widelimit.compare import fit_exponent
from widelimit.kernels.spectra import learning_curve, random_feature_curve

MODES, B, A = 1500, 2.0, 4.6  # min(a - 1, b) = 2, min(a - 1, 2b) = 3.6
SIZES, SEEDS = (8, 16, 32, 64), 24


@pytest.fixture(scope="module")
def spectrum():
    """Eigenvalues and the target's coefficients v = w* sqrt(lam)."""
    index = np.arange(1.0, MODES + 1)
    return index**-B, index ** (-A / 2)


@pytest.fixture(scope="module")
def residuals(spectrum):
    """Diagonal of 1 - projection onto N random features, [sizes, seeds, modes]: what no training can learn.

    Population gradient flow of ``w -> sum_k lam_k (w*_k - (A^T w)_k)^2`` ends in that projection.
    """
    eigenvalues, _ = spectrum
    diagonals = np.zeros((len(SIZES), SEEDS, MODES))
    for i, size in enumerate(SIZES):
        for seed in range(SEEDS):
            features = np.random.default_rng([size, seed]).standard_normal((MODES, size))
            basis, _ = np.linalg.qr(np.sqrt(eigenvalues)[:, None] * features)
            diagonals[i, seed] = 1 - np.sum(basis**2, axis=1)
    return diagonals


def test_a_models_floor_has_the_first_power_of_what_it_cannot_see(spectrum, residuals):
    """Averaged over the target's signs the floor is sum v_k^2 r_k, which `random_feature_curve` predicts."""
    eigenvalues, v = spectrum
    floors = residuals @ v**2
    slope = fit_exponent(SIZES, floors.T)
    assert abs(slope.exponent + min(A - 1, B)) < 0.1 + 3 * slope.stderr  # 0.1: corrections 1/N at N = 8
    assert abs(slope.exponent + min(A - 1, 2 * B)) > 10 * slope.stderr
    for size, floor in zip(SIZES, floors, strict=True):
        predicted = random_feature_curve(eigenvalues, v, samples=1e12, features=size).test
        assert abs(np.log(floor.mean() / predicted)) < 0.25  # the deterministic equivalent, to O(1/N)


def test_an_ensembles_floor_has_the_second_power(spectrum, residuals):
    """The mean of infinitely many models lacks sum v_k^2 <r_k>^2: the exponent with 2b is of the bias."""
    _, v = spectrum
    total = residuals.sum(axis=1)
    # <r>^2 without the bias of its noise: pairs of different seeds.
    pairs = (total**2 - np.sum(residuals**2, axis=1)) / (SEEDS * (SEEDS - 1))
    slope = np.polyfit(np.log(SIZES), np.log(pairs @ v**2), 1)[0]
    assert slope == pytest.approx(-min(A - 1, 2 * B), abs=0.35)
    assert slope < -min(A - 1, B) - 1


def test_the_two_powers_at_large_sizes():
    """Where formulas alone reach: a model's floor falls with N^-b, that of samples with P^-(a - 1)."""
    index = np.arange(1.0, 200_001)
    eigenvalues, v = index**-B, index ** (-A / 2)

    def slope(error):
        """The exponent between doublings, its geometric approach to the limit extrapolated (Aitken)."""
        local = np.diff(np.log2([error(size) for size in (128, 256, 512, 1024)]))
        first, second = np.diff(local)
        return local[-1] - second**2 / (second - first)

    samples = slope(lambda size: learning_curve(eigenvalues, v, samples=size).test)
    features = slope(lambda size: random_feature_curve(eigenvalues, v, samples=1e12, features=size).test)
    assert samples == pytest.approx(-min(A - 1, 2 * B), abs=0.02)
    assert features == pytest.approx(-min(A - 1, B), abs=0.02)
