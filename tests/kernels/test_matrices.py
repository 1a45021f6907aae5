"""What is a kernel: one judgement for all rooms, by the dtype that came in."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from widelimit.kernels import matrices
from widelimit.kernels.dynamics import ensemble, gradient_flow, kernel_regression, largest_rate
from widelimit.kernels.spectra import (
    alignment,
    as_matrix,
    centre,
    cka,
    degrees_of_freedom,
    effective_rank,
    eigenvalues,
    from_matrix,
    trace_ratio,
)

Y = np.array([1.0, 2.0])
# Those that look at eigenvalues, and those that ask for a symmetric matrix only.
DEFINITE = {
    "effective rank": effective_rank,
    "degrees of freedom": lambda k: degrees_of_freedom(k, 1.0),
    "regression": lambda k: kernel_regression(k, Y),
    "flow": lambda k: gradient_flow(k, Y, 1.0),
    "ensemble": lambda k: ensemble(np.eye(2), k, Y, 1.0),
    "largest rate": largest_rate,
}
SYMMETRIC = {
    "eigenvalues": eigenvalues,
    "centre": centre,
    "alignment": lambda k: alignment(k, Y),
    "cka": lambda k: cka(k, k),
    "trace ratio": lambda k: trace_ratio(k, k),
    "operator": from_matrix,
}
EVERY = DEFINITE | SYMMETRIC
every = pytest.mark.parametrize("run", EVERY.values(), ids=EVERY)
definite = pytest.mark.parametrize("run", DEFINITE.values(), ids=DEFINITE)
# Half the digits: sqrt(eps) is 0.031, 0.088, 3.5e-4, 1.5e-8.
DTYPES = ["float16", "bfloat16", "float32", "float64"]
by_dtype = pytest.mark.parametrize("dtype", DTYPES)


def kernel(dtype, entries):
    """A kernel in a dtype; NumPy's for float64, since JAX would make it float32."""
    return np.array(entries) if dtype == "float64" else jnp.asarray(entries, dtype)


def half_the_digits(dtype):
    """sqrt(eps) of the dtype."""
    return float(jnp.finfo(dtype).eps) ** 0.5


@definite
@by_dtype
def test_eigenvalues_below_zero_are_judged_by_the_dtype_that_came_in(run, dtype):
    """Half of sqrt(eps) of the largest is taken for rounding, twice is not, whoever asks."""
    share = half_the_digits(dtype)
    run(kernel(dtype, [[1.0, 0.0], [0.0, -share / 2]]))
    with pytest.raises(ValueError, match=r"must be positive semi-definite; .* at relative precision \d"):
        run(kernel(dtype, [[1.0, 0.0], [0.0, -2 * share]]))


@every
@by_dtype
def test_asymmetry_is_judged_by_the_dtype_that_came_in(run, dtype):
    """The same for entries that miss their mirror image, relative to the largest entry."""
    share = half_the_digits(dtype)
    run(kernel(dtype, [[2.0, 0.0], [share, 1.0]]))
    with pytest.raises(ValueError, match=r"must be symmetric; entries differ from their mirror image by up"):
        run(kernel(dtype, [[2.0, 0.0], [4 * share, 1.0]]))


@definite
def test_the_two_kernels_of_the_review(run):
    """float32 diag(1, -1e-4) is a kernel and float64 is none; an asymmetry of 1e-5 is rounding in float32."""
    run(np.diag([1.0, -1e-4]).astype("float32"))
    run(np.array([[1.0, 0.0], [1e-5, 1.0]], "float32"))
    for refused in (np.diag([1.0, -1e-4]), np.array([[1.0, 0.0], [1e-5, 1.0]])):
        with pytest.raises(ValueError, match="more than rounding"):
            run(refused)


@every
def test_what_is_no_kernel_is_refused_in_the_same_words(run):
    """NaN, rectangles, nothing, and complex numbers."""
    for refused, error, sentence in (
        ([[1.0, 0.0], [0.0, np.nan]], ValueError, "must be finite; 1 of its 4 entries"),
        (np.ones((2, 3)), ValueError, r"must have shape|with the training points"),
        (np.zeros((0, 0)), ValueError, r"must have shape|with the training points"),
        (np.eye(2) * 1j, TypeError, "must hold real numbers; got dtype complex128"),
    ):
        with pytest.raises(error, match=sentence):
            run(np.asarray(refused))


def test_the_judgement_does_not_depend_on_the_unit():
    """Relative to the largest entry: 1e150 times a kernel is judged as the kernel."""
    for scale in (1e-150, 1.0, 1e150):
        assert effective_rank(scale * np.diag([1.0, -1e-9])) == 1.0
        with pytest.raises(ValueError, match="positive semi-definite"):
            effective_rank(scale * np.diag([1.0, -1e-7]))


@by_dtype
def test_flattening_and_centring_keep_the_dtype_to_judge_by(dtype):
    """A float32 kernel of low rank stays one on its way through as_matrix and centre."""
    slightly = np.diag([1.0, -half_the_digits(dtype) / 2])
    flat = as_matrix(kernel(dtype, np.einsum("ij,op->ijop", slightly, np.eye(2))))
    assert flat.dtype == centre(flat).dtype == jnp.dtype(dtype)
    assert effective_rank(flat) == pytest.approx(2.0, rel=1e-12)
    kernel_regression(flat, [1.0, 2.0, 3.0, 4.0])


def test_eigenvalues_of_a_float32_kernel_are_still_its_eigenvalues():
    """They are float64 numbers with float32 rounding below zero: the rank is that of the kernel."""
    given = np.diag([1.0, 0.5, -1e-4]).astype("float32")
    assert effective_rank(eigenvalues(given)) == effective_rank(given)
    with pytest.raises(ValueError, match="reach from -0.001 to 1"):
        effective_rank([1.0, -1e-3])


def test_rounding_grows_with_the_kernel():
    """Sums of N terms lose N eps: where that is more than half the digits, it counts."""
    assert matrices.rounding(1e-8, 10) == pytest.approx(1e-4)
    assert matrices.rounding(1e-8, 100_000) == pytest.approx(1e-3)
