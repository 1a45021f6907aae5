"""Alignment, CKA, change and effective ranks of dense kernels: invariances and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from widelimit.kernels.spectra import (
    alignment,
    as_matrix,
    centre,
    cka,
    cka_gap,
    degrees_of_freedom,
    effective_rank,
    eigenvalues,
    kernel_velocity,
    relative_change,
    trace_ratio,
)

SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.integers(3, 12)
QUICK = settings(deadline=None, max_examples=25)


def features(seed: int, samples: int, count: int = 6) -> np.ndarray:
    """Random features with a mean, so that centring matters."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(samples, count)) + rng.normal(size=count)


def rotation(seed: int, size: int) -> np.ndarray:
    """A random orthogonal matrix."""
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]


@pytest.mark.parametrize("centred", [False, True])
def test_alignment_of_many_outputs_is_the_cosine_with_their_kernel(centred):
    """Targets of any number of columns: A = <K, Y Y^T> / (|K| |Y Y^T|) from the matrices themselves."""
    phi, y = features(0, 9), features(1, 9, count=3) + 0.5
    kernel, h = phi @ phi.T, np.eye(9) - 1 / 9 if centred else np.eye(9)
    one, two = h @ kernel @ h, h @ y @ y.T @ h
    cosine = np.sum(one * two) / np.linalg.norm(one) / np.linalg.norm(two)
    np.testing.assert_allclose(alignment(kernel, y, centred=centred), cosine, rtol=1e-12)


@QUICK
@given(SEEDS, SIZES, st.floats(1e-8, 1e8))
def test_cosines_ignore_scale_rotation_and_order(seed, samples, scale):
    """CKA and alignment see neither the unit of a kernel, nor the basis of its features, nor sample order."""
    a, b = features(seed, samples), features(seed + 1, samples)
    y = np.random.default_rng(seed + 2).normal(size=(samples, 2))
    turned = scale * a @ rotation(seed, a.shape[1])
    order = np.random.default_rng(seed).permutation(samples)
    k, turned_k, other = a @ a.T, turned @ turned.T, b @ b.T
    for centred in (False, True):
        expected = cka(k, other, centred=centred)
        np.testing.assert_allclose(cka(turned_k, other, centred=centred), expected, atol=1e-12)
        np.testing.assert_allclose(cka(k[np.ix_(order, order)], other[np.ix_(order, order)]), cka(k, other))
        np.testing.assert_allclose(
            alignment(turned_k, scale * y, centred=centred), alignment(k, y, centred=centred), rtol=1e-10
        )
        assert 0 <= expected <= 1 and 0 <= alignment(k, y, centred=centred) <= 1
    np.testing.assert_allclose(cka(turned_k, k), 1, atol=1e-12)
    assert cka(other, k) == cka(k, other)


@QUICK
@given(SEEDS, SIZES)
def test_only_uncentred_measures_see_the_mean_of_the_features(seed, samples):
    """Adding a constant to every feature changes K by 1 v^T + v 1^T, which centring removes exactly."""
    a, b = features(seed, samples), features(seed + 1, samples)
    moved = a + 3.0
    y = np.random.default_rng(seed + 2).normal(size=samples)
    np.testing.assert_allclose(cka(moved @ moved.T, b @ b.T), cka(a @ a.T, b @ b.T), atol=1e-11)
    before, after = (alignment(f @ f.T, y, centred=True) for f in (a, moved))
    np.testing.assert_allclose(after, before, atol=1e-11)
    np.testing.assert_allclose(alignment(moved @ moved.T, y + 5.0, centred=True), before, atol=1e-11)
    assert abs(cka(moved @ moved.T, b @ b.T, centred=False) - cka(a @ a.T, b @ b.T, centred=False)) > 1e-6


def test_cka_is_that_of_explicit_features():
    """With features A, B and centred H: CKA = |A^T H B|^2 / (|A^T H A| |B^T H B|): an independent formula."""
    a, b = features(0, 9, 4), features(1, 9, 5)
    h = np.eye(9) - 1 / 9
    hand = np.linalg.norm(a.T @ h @ b) ** 2
    hand /= np.linalg.norm(a.T @ h @ a) * np.linalg.norm(b.T @ h @ b)
    np.testing.assert_allclose(cka(a @ a.T, b @ b.T), hand, rtol=1e-12)
    np.testing.assert_allclose(centre(a @ a.T), h @ a @ a.T @ h, atol=1e-12)


def test_cka_of_two_vectors_is_their_squared_correlation():
    """Rank-one kernels: CKA(u u^T, v v^T) is the squared correlation, uncentred the squared cosine."""
    u, v = np.random.default_rng(3).normal(size=(2, 20))
    np.testing.assert_allclose(cka(np.outer(u, u), np.outer(v, v)), np.corrcoef(u, v)[0, 1] ** 2, rtol=1e-12)
    cosine = u @ v / np.linalg.norm(u) / np.linalg.norm(v)
    np.testing.assert_allclose(cka(np.outer(u, u), np.outer(v, v), centred=False), cosine**2, rtol=1e-12)
    np.testing.assert_allclose(alignment(np.outer(u, u), v), cosine**2, rtol=1e-12)


def test_rank_one_shift_of_the_identity():
    """K = I + s u u^T against I, |u| = 1: cosine (N + s) / sqrt(N (N + 2 s + s^2)); alignment with u too."""
    size, shift = 7, 2.5
    u = features(4, size, 1)[:, 0]
    u /= np.linalg.norm(u)
    k = np.eye(size) + shift * np.outer(u, u)
    norm = np.sqrt(size + 2 * shift + shift**2)
    np.testing.assert_allclose(cka(k, np.eye(size), centred=False), (size + shift) / norm / size**0.5)
    np.testing.assert_allclose(alignment(k, u), (1 + shift) / norm)
    np.testing.assert_allclose(relative_change(k, np.eye(size)), shift / size**0.5)
    np.testing.assert_allclose(trace_ratio(k, np.eye(size)), (size + shift) / size)


@pytest.mark.parametrize("centred", [False, True])
def test_one_minus_cka_is_quadratic_in_the_change(centred):
    """1 - CKA(K + e D, K) -> e^2 (|K|^2 |D|^2 - <K, D>^2) / (2 |K|^4), down to 1e-20."""
    k, d = (features(seed, 8) @ features(seed, 8).T for seed in (5, 6))
    k0, d0 = (centre(k), centre(d)) if centred else (k, d)
    square, cross = np.sum(k0 * k0), np.sum(k0 * d0)
    coefficient = (square * np.sum(d0 * d0) - cross**2) / (2 * square**2)
    for step in (1e-4, 1e-7, 1e-10):
        gap = cka_gap(k + step * d, k, centred=centred)
        # Next order is step |D|/|K| ~ 1 away in relative terms; rounding is eps / step squared.
        np.testing.assert_allclose(gap, coefficient * step**2, rtol=10 * step + 1e-5)


def test_velocity_and_change_tell_turning_from_growing():
    """Rescaling moves the kernel but turns nothing; orthogonal kernels turn by all, 1 per unit of time."""
    k = features(7, 6) @ features(7, 6).T
    assert kernel_velocity(3 * k, k) < 1e-30 and cka_gap(3 * k, k) < 1e-30
    np.testing.assert_allclose(relative_change(3 * k, k), 2)
    np.testing.assert_allclose(kernel_velocity(np.diag([1.0, 0]), np.diag([0, 1.0]), elapsed=4.0), 0.25)


def test_as_matrix_keeps_the_operator():
    """(Theta v)[i, o] = sum_{j, p} Theta[i, j, o, p] v[j, p] is the matrix times v.ravel()."""
    rng = np.random.default_rng(8)
    kernel, v = rng.normal(size=(3, 4, 2, 2)), rng.normal(size=(4, 2))
    np.testing.assert_allclose(as_matrix(kernel) @ v.ravel(), np.einsum("ijop,jp->io", kernel, v).ravel())
    np.testing.assert_array_equal(as_matrix(np.eye(3)), np.eye(3))


@QUICK
@given(SEEDS, st.integers(1, 6), st.integers(0, 6), st.floats(1e-8, 1e8))
def test_effective_rank_counts_equal_eigenvalues(seed, rank, zeros, scale):
    """r equal eigenvalues, any number of zeros and any basis: all three ranks are r."""
    q = rotation(seed, rank + zeros)[:, :rank]
    for kind in ("entropy", "participation", "largest"):
        np.testing.assert_allclose(effective_rank(scale * q @ q.T, kind), rank, rtol=1e-6)
        np.testing.assert_allclose(effective_rank([scale] * rank + [0.0] * zeros, kind), rank, rtol=1e-12)


def test_effective_ranks_by_hand_and_in_order():
    """Against traces and norms that need no eigenvalues; Renyi entropies fall with their order."""
    k = features(9, 8) @ features(9, 8).T
    entropy, participation, largest = (
        effective_rank(k, kind) for kind in ("entropy", "participation", "largest")
    )
    np.testing.assert_allclose(participation, np.trace(k) ** 2 / np.trace(k @ k))
    np.testing.assert_allclose(largest, np.trace(k) / np.linalg.norm(k, 2))
    assert 8 > entropy > participation > largest > 1
    # sum p log p = d/ds sum p^s at s = 1
    p, step = eigenvalues(k)[:6] / np.trace(k), 1e-6
    slope = (np.sum(p ** (1 + step)) - np.sum(p ** (1 - step))) / (2 * step)
    np.testing.assert_allclose(np.log(entropy), -slope, rtol=1e-8)


def test_degrees_of_freedom_is_the_trace_of_the_smoother():
    """tr K (K + ridge)^-1 by a solve; between 0 and the rank."""
    k = features(10, 8) @ features(10, 8).T
    for ridge in (1e-3, 1.0, 1e3):
        smoother = np.linalg.solve(k + ridge * np.eye(8), k)
        np.testing.assert_allclose(degrees_of_freedom(k, ridge), np.trace(smoother), rtol=1e-9)
    np.testing.assert_allclose(degrees_of_freedom(k, 1e-9), 6, rtol=1e-6)


def test_rounding_below_zero_is_forgiven_and_no_more():
    """A float32 kernel of low rank has eigenvalues of -1e-7; an indefinite one is not silently clipped."""
    a = features(11, 40).astype(np.float32)
    assert eigenvalues(a @ a.T).min() < 0
    assert effective_rank(a @ a.T) < 6
    with pytest.raises(ValueError, match="eigenvalues reach from -0.1 to 1, and that is more than rounding"):
        effective_rank(np.diag([1.0, -0.1]))


EYE, BAD = np.eye(3), np.array([[1.0, np.nan], [np.nan, 1.0]])


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: alignment(np.ones((2, 2, 3, 3)), np.ones(2)), "Flatten .* with as_matrix"),
        (lambda: alignment(EYE, np.ones(2)), r"N = 3; got shape \(2,\)"),
        (lambda: alignment(EYE, [1.0, np.nan, 0.0]), "targets must be finite"),
        (lambda: alignment(EYE, np.zeros(3)), "targets must not be zero"),
        (lambda: alignment(EYE, np.ones(3), centred=True), "targets must vary"),
        (lambda: alignment(np.ones((3, 3)), [1.0, 2.0, 3.0], centred=True), "kernel must vary"),
        (lambda: cka(0.1 * np.ones((3, 3)), EYE), "kernel must vary"),
        (lambda: cka(EYE, np.eye(2)), "must have one shape"),
        (lambda: cka(0 * EYE, EYE, centred=False), "must not be zero"),
        (lambda: cka(BAD, BAD), "must be finite; 2 of its 4 entries"),
        (lambda: centre([[1.0, 2.0], [0.0, 1.0]]), "mirror image by up to 2"),
        (lambda: relative_change(EYE, np.eye(2)), "of one shape"),
        (lambda: relative_change(BAD, np.eye(2)), "2 entries that are not finite"),
        (lambda: relative_change(EYE, 0 * EYE), "reference must not be zero"),
        (lambda: trace_ratio(EYE, 0 * EYE), "trace must be positive"),
        (lambda: kernel_velocity(EYE, EYE, 0.0), "elapsed must be positive"),
        (lambda: effective_rank(EYE, "renyi"), "'participation' or 'largest'; got 'renyi'"),
        (lambda: effective_rank([np.nan, 1.0]), "eigenvalues must be finite; 1 of its 2"),
        (lambda: effective_rank(0 * EYE), "positive eigenvalue"),
        (lambda: degrees_of_freedom(EYE, 0.0), "ridge must be positive"),
        (lambda: as_matrix(np.ones((2, 2, 3))), "shape .N1, N2, O, O. or"),
        (lambda: eigenvalues(np.zeros((0, 0))), r"got shape \(0, 0\)"),
    ],
)
def test_bad_input_is_one_sentence(call, sentence):
    """What cannot be measured says why, and is never NaN."""
    with pytest.raises(ValueError, match=sentence):
        call()
