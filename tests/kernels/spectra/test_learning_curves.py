"""Learning curves: fixed numbers, simulations by z-score, limits, and conservation for real kernels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from widelimit.kernels.spectra import (
    degrees_of_freedom,
    learnabilities,
    learning_curve,
    random_feature_curve,
)

# The spectrum of the formula sheet: Gaussian features, 600 modes.
INDEX = np.arange(1.0, 601.0)
LAM, V, NOISE = INDEX**-1.5, 1 / INDEX, 0.05


def curve(samples, ridge):
    """The learning curve of the sheet's spectrum."""
    return learning_curve(LAM, V, samples, ridge=ridge, noise=NOISE)


def features_curve(samples, features, ridge, noise=NOISE):
    """The same with random features."""
    return random_feature_curve(LAM, V, samples, features, ridge=ridge, noise=noise)


def simulated(samples, ridge, trials, features=None, seed=0):
    """Test and train errors of ridge regression on Gaussian features, one row a trial; no theory."""
    rng, errors = np.random.default_rng(seed), []
    for _ in range(trials):
        phi = rng.normal(size=(samples, len(LAM)))
        y = phi @ V + NOISE**0.5 * rng.normal(size=samples)
        design = phi * LAM**0.5
        if features is not None:
            mix = rng.normal(size=(len(LAM), features)) / features**0.5
            design = design @ mix
        dual = np.linalg.solve(design @ design.T + ridge * np.eye(samples), y)
        learned = design.T @ dual if features is None else mix @ (design.T @ dual)
        learned = LAM**0.5 * learned  # coefficients of the predictor
        errors.append([np.sum((V - learned) ** 2) + NOISE, np.mean((ridge * dual) ** 2)])
    return np.array(errors)


def test_numbers_of_the_sheet():
    """n = 64: kappa 5.52e-3, E_0 1.652, test .1215, train 9.73e-5; next to no ridge, test .1228."""
    found = curve(64, 0.01)
    np.testing.assert_allclose(
        [found.kappa, found.overfitting, found.test, found.train],
        [5.52e-3, 1.652, 0.1215, 9.73e-5],
        rtol=5e-4,
    )
    np.testing.assert_allclose(curve(64, 1e-9).test, 0.1228, rtol=5e-4)
    for (n, k), test in {(64, 128): 0.2133, (128, 64): 0.2160, (64, 64): 0.4314}.items():
        np.testing.assert_allclose(features_curve(n, k, 0.01).test, test, rtol=5e-4)


@pytest.mark.parametrize(("samples", "ridge"), [(64, 0.01), (64, 1.0), (150, 0.1)])
def test_kernel_regression_follows_the_curve(samples, ridge):
    """Simulated test and train error, 100 training sets: within 4 standard errors and the theory's O(1/n)."""
    errors, theory = simulated(samples, ridge, trials=100), curve(samples, ridge)
    for measured, predicted in zip(errors.T, (theory.test, theory.train), strict=True):
        stderr = measured.std(ddof=1) / np.sqrt(len(measured))
        assert abs(measured.mean() - predicted) < 4 * stderr + predicted / samples
        assert stderr < 0.05 * predicted


@pytest.mark.parametrize(("samples", "features", "ridge"), [(64, 128, 0.01), (128, 64, 0.01), (64, 64, 0.1)])
def test_random_features_follow_the_curve(samples, features, ridge):
    """The same with random features: more features than samples, fewer, and as many."""
    errors = simulated(samples, ridge, trials=100, features=features, seed=1)
    theory = features_curve(samples, features, ridge)
    for measured, predicted in zip(errors.T, (theory.test, theory.train), strict=True):
        stderr = measured.std(ddof=1) / np.sqrt(len(measured))
        assert abs(measured.mean() - predicted) < 4 * stderr + predicted / min(samples, features)
        assert stderr < 0.05 * predicted


SPECTRA = st.lists(st.floats(1e-6, 1e3), min_size=2, max_size=30)


@settings(deadline=None, max_examples=60)
@given(SPECTRA, st.floats(0.01, 0.99), st.floats(0, 10), st.floats(1e-8, 1e8), st.integers(0, 99))
def test_equations_conservation_and_units(values, share, ridge, unit, seed):
    """kappa solves its equation; sum L_i <= n, equal at ridge 0; errors are free of units."""
    lam, v = np.array(values), np.random.default_rng(seed).normal(size=len(values))
    samples = share * len(lam)
    for delta in (0.0, ridge * lam.sum()):
        found = learning_curve(lam, v, samples, ridge=delta, noise=0.1)
        np.testing.assert_allclose(found.learnabilities.sum() + delta / found.kappa, samples, rtol=1e-9)
        assert found.learnabilities.sum() <= samples * (1 + 1e-9)
        np.testing.assert_allclose(found.bias + found.variance, found.test)
        scaled = learning_curve(unit * lam, v, samples, ridge=unit * delta, noise=0.1)
        np.testing.assert_allclose([scaled.kappa / unit, scaled.test], [found.kappa, found.test], rtol=1e-7)
        np.testing.assert_allclose(scaled.train, found.train, rtol=1e-7, atol=1e-20)
    assert learning_curve(lam, v, samples).train == 0  # interpolation


@settings(deadline=None, max_examples=40)
@given(SPECTRA, st.floats(0.05, 0.95), st.floats(0.05, 2.0), st.floats(1e-3, 10))
def test_random_feature_equations(values, share, more, ridge):
    """kappa and gamma solve their two equations, and gamma is symmetric in (n, k) at fixed k times ridge."""
    lam = np.array(values)
    n, k, delta = share * len(lam), more * len(lam), ridge * lam.sum()
    found = random_feature_curve(lam, np.ones_like(lam), n, k, ridge=delta)
    z = np.sum(lam / (lam + found.gamma))
    np.testing.assert_allclose(z + delta / found.kappa, n, rtol=1e-8)
    np.testing.assert_allclose(z + k * found.kappa / found.gamma, k, rtol=1e-8)
    other = random_feature_curve(lam, np.ones_like(lam), k, n, ridge=delta * k / n)
    np.testing.assert_allclose(other.gamma, found.gamma, rtol=1e-8)


def test_bordelon_canatar_pehlevan():
    """arXiv 2002.02561 solved by its own fixed point: kappa_C = p kappa, and the same error."""
    p, delta = 64, 0.3
    kappa_c = delta + LAM.sum()
    for _ in range(2000):
        kappa_c = delta + kappa_c * np.sum(LAM / (p * LAM + kappa_c))
    g = p * np.sum(LAM**2 / (p * LAM + kappa_c) ** 2)
    error = (np.sum(V**2 * kappa_c**2 / (p * LAM + kappa_c) ** 2) + NOISE) / (1 - g)
    found = curve(p, delta)
    np.testing.assert_allclose([p * found.kappa, found.test], [kappa_c, error], rtol=1e-9)
    np.testing.assert_allclose(np.sum(found.learnabilities**2) / p, g, rtol=1e-9)


def test_many_features_are_the_kernel():
    """k -> infinity: the gap to kernel regression falls as 1/k, slope -1."""
    exact, counts = curve(64, 0.01), np.array([1e4, 1e5, 1e6])
    gaps = [features_curve(64, k, 0.01).test - exact.test for k in counts]
    np.testing.assert_allclose(np.polyfit(np.log(counts), np.log(gaps), 1)[0], -1, atol=0.01)
    last = features_curve(64, 1e6, 0.01)
    np.testing.assert_allclose([last.kappa, last.gamma], exact.kappa, rtol=1e-3)
    np.testing.assert_allclose(last.train, exact.train, rtol=1e-2)


def test_more_is_better_at_the_best_ridge():
    """At its best ridge the error falls with samples and with features; at a tiny one it peaks at n = k."""
    ridges = np.logspace(-6, 3, 60)

    def best(n, k):
        return min(features_curve(n, k, ridge).test for ridge in ridges)

    for sizes in ([(n, 64) for n in (16, 32, 64, 128, 256)], [(64, k) for k in (16, 32, 64, 128, 256)]):
        assert (np.diff([best(*size) for size in sizes]) < 1e-9).all()
    peak = [features_curve(64, k, 1e-6).test for k in (32, 64, 128)]
    assert peak[1] > 10 * peak[0] and peak[1] > 10 * peak[2]


def test_ridge_zero_is_the_limit_of_small_ridges():
    """Both curves are continuous at ridge 0, with more features than samples and with fewer."""
    np.testing.assert_allclose(curve(64, 0.0).test, curve(64, 1e-12).test, rtol=1e-8)
    for n, k in ((64, 128), (128, 64)):
        zero, small = features_curve(n, k, 0.0), features_curve(n, k, 1e-12)
        np.testing.assert_allclose([zero.test, zero.gamma], [small.test, small.gamma], rtol=1e-6)
        np.testing.assert_allclose(zero.train, small.train, rtol=1e-6, atol=1e-15)
        np.testing.assert_allclose(zero.learnabilities.sum(), min(n, k), rtol=1e-9)


def test_multiplicities_are_repetitions():
    """A level of multiplicity m is m modes; its coefficient is the root of the summed squares."""
    levels, counts, v = np.array([1.0, 0.1, 0.01]), np.array([1, 5, 30]), np.array([1.0, 0.5, 0.2])
    repeated, each = np.repeat(levels, counts), np.repeat(v / counts**0.5, counts)
    for function, arguments in ((learning_curve, (12,)), (random_feature_curve, (12, 20))):
        by_level = function(levels, v, *arguments, ridge=0.01, multiplicities=counts)
        by_mode = function(repeated, each, *arguments, ridge=0.01)
        np.testing.assert_allclose([by_level.kappa, by_level.test], [by_mode.kappa, by_mode.test], rtol=1e-10)


def test_a_level_is_learned_when_samples_reach_its_multiplicity():
    """Stages: with levels far apart, n between d and d^2 learns all of the first and hardly the next."""
    counts = np.array([1.0, 50, 2500])
    found = learning_curve([1.0, 1e-4, 1e-10], np.ones(3), 350, ridge=0, multiplicities=counts)
    first, second, third = found.learnabilities
    assert first > 0.999 and second > 0.99 and third < 0.15
    np.testing.assert_allclose(third * 2500, 350 - 51, rtol=1e-2)


def digits(points):
    """Real images, scaled to [0, 1]."""
    return load_digits().data[:points] / 16


def arc_cosine(x):
    """The arc-cosine kernel of order 1, of unit-norm inputs with a bias: the NNGP of a ReLU layer."""
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    norms = np.linalg.norm(x, axis=1)
    angle = np.arccos(np.clip(x @ x.T / np.outer(norms, norms), -1, 1))
    return np.outer(norms, norms) * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / np.pi


def gaussian(x):
    """The Gaussian (RBF) kernel."""
    squares = np.sum(x**2, axis=1)
    return np.exp(-(squares[:, None] + squares - 2 * x @ x.T) / 8)


@pytest.mark.parametrize("kernel", [arc_cosine, gaussian])
def test_conservation_of_learnability_on_digits(kernel):
    """At ridge 0 the learnabilities of any training set sum to its size; less with a ridge.

    Trained predictors, not formulas of the theory: one eigenfunction is regressed on by hand.
    """
    matrix = kernel(digits(300))
    rng = np.random.default_rng(0)
    for size in (1, 10, 100):
        train = rng.choice(300, size, replace=False)
        learned = learnabilities(matrix, train)
        np.testing.assert_allclose(learned.sum(), size, rtol=1e-6)
        ridged = learnabilities(matrix, train, ridge=0.1)
        inside = matrix[np.ix_(train, train)]
        np.testing.assert_allclose(ridged.sum(), degrees_of_freedom(inside, 0.1), rtol=1e-9)
        assert ridged.sum() < size
    mode = np.linalg.eigh(matrix)[1][:, -3] * 300**0.5
    predicted = matrix[:, train] @ np.linalg.solve(inside + 0.1 * np.eye(size), mode[train])
    np.testing.assert_allclose(ridged[2], np.mean(mode * predicted), rtol=1e-9)


def test_the_curve_predicts_real_data():
    """Learnabilities of the arc-cosine kernel on digits, mean over 40 training sets, against the theory.

    The theory takes features for Gaussian; on real data the leading modes agree within 0.05 in L, of 0 to 1.
    """
    matrix, size, ridge = arc_cosine(digits(200)), 40, 0.05
    rng = np.random.default_rng(1)
    sets = [learnabilities(matrix, rng.choice(200, size, replace=False), ridge=ridge) for _ in range(40)]
    lam = np.clip(np.linalg.eigvalsh(matrix)[::-1] / 200, 0, None)
    theory = learning_curve(lam, np.ones(200), size, ridge=ridge).learnabilities
    np.testing.assert_allclose(np.mean(sets, axis=0)[:60], theory[:60], atol=0.05)
    np.testing.assert_allclose(np.mean(sets, axis=0).sum(), theory.sum(), rtol=0.02)


ONES, EYE = np.ones(3), np.eye(3)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: learning_curve(ONES, ONES, 3), "fewer than the 3 modes .* no kappa .* got 3"),
        (lambda: learning_curve([1.0, 0.0], [1.0, 1.0], 1), "fewer than the 1 modes"),
        (lambda: learning_curve(ONES, np.ones(2), 1), r"one shape \[modes\]; got \(3,\), \(2,\)"),
        (lambda: learning_curve([1.0, -1e-9], [1.0, 1.0], 1), "clip rounding first"),
        (lambda: learning_curve([0.0, 0.0], [1.0, 1.0], 1), "one of them positive"),
        (lambda: learning_curve([1.0, np.nan], [1.0, 1.0], 1), "some are not"),
        (lambda: learning_curve(ONES, ONES, 0), "samples must be a positive finite number; got 0"),
        (lambda: learning_curve(ONES, ONES, 1, ridge=-1), "got -1 and 0"),
        (lambda: learning_curve(ONES, ONES, 1, noise=np.nan), "got 0.0 and nan"),
        (lambda: learning_curve(ONES, ONES, 1, multiplicities=[1, 0, 1]), "multiplicities above 0"),
        (lambda: random_feature_curve(ONES, ONES, 1, 0), "features must be a positive finite number; got 0"),
        (lambda: random_feature_curve(ONES, ONES, 2, 2), "samples and features are equal"),
        (lambda: random_feature_curve(ONES, ONES, 4, 5), "both reach the 3 modes"),
        (lambda: learnabilities(EYE, [0, 0]), "each once"),
        (lambda: learnabilities(EYE, [0.5]), "each once"),
        (lambda: learnabilities(EYE, [0, 3]), "from 0 to 2; got 0 to 3"),
        (lambda: learnabilities(EYE, [-1]), "got -1 to -1"),
        (lambda: learnabilities(np.ones((3, 3)), [0, 1]), "pass a ridge, or leave out duplicates"),
        (lambda: learnabilities(EYE, [0], ridge=-1), "ridge must be finite and 0 or more"),
    ],
)
def test_bad_input_is_one_sentence(call, sentence):
    """What has no learning curve says why, and is never NaN."""
    with pytest.raises(ValueError, match=sentence):
        call()
