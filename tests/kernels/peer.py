"""How the tests call neural-tangents."""

from __future__ import annotations

import contextlib

import jax
import jax.numpy as jnp
import numpy as np

from widelimit.kernels import neural_tangents


@contextlib.contextmanager
def peer_style(x64=True):
    """What neural-tangents assumes of JAX: dtypes and ranks are promoted."""
    with (
        jax.enable_x64(x64),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield


def analytic_kernels(*layers, x, **options):
    """NNGP and NTK of layers, float64."""
    with peer_style():
        kernel_fn = neural_tangents().stax.serial(*layers)[2]
        kernels = jax.jit(lambda x: kernel_fn(x, None, ("nngp", "ntk"), **options))(jnp.asarray(x))
        return [np.asarray(k) for k in kernels]


def assert_covariances(*kernels):
    """Finite, symmetric and positive semi-definite, over samples and pixels [N, N, S, S] together."""
    for kernel in kernels:
        size = int(kernel.size**0.5)
        square = kernel.transpose(0, 2, 1, 3).reshape(size, size) if kernel.ndim == 4 else kernel
        np.testing.assert_allclose(square, square.T, rtol=1e-12)
        values = np.linalg.eigvalsh(square)  # of NaN, NaN, which fails
        assert values[0] >= -1e-12 * values[-1]
