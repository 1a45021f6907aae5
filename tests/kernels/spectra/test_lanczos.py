"""Top eigenpairs without the matrix, against dense eigenvalues; and what happens where Lanczos stops."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.kernels.spectra.problem import (
    POWER_LAW,
    inputs,
    jacobian_kernel,
    network,
    weights,
    with_spectrum,
)
from widelimit.kernels.spectra import (
    KernelOperator,
    eigenvalues,
    from_matrix,
    operator,
    top_eigenpairs,
)

KEY = jax.random.key(7)


def test_top_of_a_power_law_in_float64():
    """200 x 200 with eigenvalues i^-1.5: the top five to 1e-10 from 60 products, and vectors to match."""
    matrix = with_spectrum(POWER_LAW)
    top = top_eigenpairs(from_matrix(matrix), 5, key=KEY, steps=60)
    np.testing.assert_allclose(top.values, POWER_LAW[:5], rtol=1e-10)
    np.testing.assert_allclose(top.vectors @ top.vectors.T, np.eye(5), atol=1e-12)
    np.testing.assert_allclose(matrix @ top.vectors.T, top.vectors.T * top.values, atol=1e-7)
    assert top.steps == 60 and top.vectors.dtype == np.float64


@pytest.mark.slow
def test_kernel_of_a_network_in_both_precisions():
    """The empirical NTK's eigenvalues from products alone; all of them where the steps exhaust the space."""
    for dtype, tolerance in (("float32", 3e-6), ("float64", 1e-10)):
        with jax.enable_x64(dtype == "float64"):
            params, x = weights(dtype), inputs(dtype)
            dense = eigenvalues(jacobian_kernel(network, params, x))
        theta = operator(network, params, x)
        top = top_eigenpairs(theta, 6, key=KEY)
        np.testing.assert_allclose(top.values, dense[:6], rtol=tolerance, atol=tolerance * dense[0])
        assert (
            top.vectors.shape == (6, *theta.vector_shape) and top.residuals.max() < tolerance * dense[0] * 10
        )


def test_sharded_data_give_the_same_eigenvalues():
    """Samples over 8 devices: Lanczos runs as it does on one."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    x = jax.device_put(inputs(), NamedSharding(mesh, PartitionSpec("data")))
    one, eight = (top_eigenpairs(operator(network, weights(), part), 3, key=KEY) for part in (inputs(), x))
    np.testing.assert_allclose(eight.values, one.values, rtol=1e-5)


def test_one_sample():
    """A kernel of one number: its value is the squared norm of the gradient."""
    theta = operator(lambda p, x: jnp.sin(x) @ p, jnp.ones(3), jnp.array([[1.0, 2.0, 3.0]]))
    top = top_eigenpairs(theta, 1, key=KEY)
    np.testing.assert_allclose(top.values, [np.sum(np.sin([1.0, 2, 3]) ** 2)], rtol=1e-6)
    np.testing.assert_allclose(np.abs(top.vectors), [[[1.0]]], rtol=1e-6)


@pytest.mark.parametrize("steps", [4, 8])
def test_residuals_bound_the_error(steps):
    """Some eigenvalue lies within the residual of each value, values come from below, steps tighten them."""
    matrix = with_spectrum(POWER_LAW)
    top = top_eigenpairs(from_matrix(matrix), 3, key=KEY, steps=steps)
    distance = np.abs(top.values[:, None] - POWER_LAW).min(axis=1)
    assert (distance <= top.residuals + 1e-14).all() and (top.values <= POWER_LAW[:3] + 1e-14).all()
    measured = np.linalg.norm(matrix @ top.vectors.T - top.vectors.T * top.values, axis=0)
    np.testing.assert_allclose(top.residuals, measured, atol=1e-14)
    more = top_eigenpairs(from_matrix(matrix), 3, key=KEY, steps=steps + 4)
    assert (more.values >= top.values - 1e-14).all() and more.residuals[0] < top.residuals[0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "values",
    [
        np.zeros(6),
        np.ones(6),
        [6.0, 0, 0, 0, 0, 0],
        [3.0, 3, 3, 1, 1, 0],
        [5.0, 5, 1, 0.1, 0.01, 0.001],
        [-1.0, -1, -1, 2, 2, 0],
    ],
)
def test_exhausted_subspaces(values, dtype):
    """Few distinct eigenvalues end Lanczos early, in rounding or 0/0; multiples are found by going on.

    A basis that ran on into rounding has eigenvalues twice, or such as no vector has: 1.97 for the identity.
    """
    matrix = with_spectrum(values).astype(dtype)
    values = np.sort(values)[::-1]
    scale = max(np.abs(values).max(), 1.0)
    for k in (4, 6):
        top = top_eigenpairs(from_matrix(matrix), k, key=KEY)
        np.testing.assert_allclose(top.values, values[:k], atol=100 * np.finfo(dtype).eps * scale)
        np.testing.assert_allclose(top.vectors @ top.vectors.T, np.eye(k), atol=1e3 * np.finfo(dtype).eps)
        assert top.residuals.max() < 1e3 * np.finfo(dtype).eps * scale


def test_low_rank_kernel():
    """Rank 5 of 40: five values, then zeros, none of them invented."""
    values = np.concatenate([[9.0, 4, 2, 1, 0.5], np.zeros(35)])
    top = top_eigenpairs(from_matrix(with_spectrum(values)), 8, key=KEY)
    np.testing.assert_allclose(top.values, values[:8], atol=1e-13)
    assert top.residuals.max() < 1e-12


def test_tiny_and_huge_scales():
    """Values scale with the kernel over sixty orders of magnitude in float32, its squares not."""
    matrix = with_spectrum(POWER_LAW[:40]).astype(np.float32)
    for scale in (1e-30, 1e-8, 1e8, 1e30):
        top = top_eigenpairs(from_matrix(np.float32(scale) * matrix), 3, key=KEY)
        np.testing.assert_allclose(top.values, scale * POWER_LAW[:3], rtol=1e-5)


def overflowing():
    """An operator whose products are infinite."""
    return KernelOperator(lambda _, v: v * jnp.inf, (), (5,), "float32")


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: top_eigenpairs(from_matrix(np.eye(3)), 4, key=KEY), "k must be from 1 to 3, .* got 4"),
        (lambda: top_eigenpairs(from_matrix(np.eye(3)), 0, key=KEY), "got 0"),
        (lambda: top_eigenpairs(from_matrix(np.eye(3)), 2, key=KEY, steps=1), "steps must be from 2 to 3"),
        (lambda: top_eigenpairs(from_matrix(np.eye(3)), 2, key=KEY, steps=4), "got 4"),
        (lambda: top_eigenpairs(overflowing(), 1, key=KEY), "products .* must be finite"),
    ],
)
def test_bad_input_is_one_sentence(call, sentence):
    """What Lanczos cannot do says why, and NaN never passes."""
    with pytest.raises(ValueError, match=sentence):
        call()
