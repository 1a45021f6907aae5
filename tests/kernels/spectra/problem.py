"""What the tests of this folder share: a small network, and symmetric matrices with a chosen spectrum."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

SAMPLES, OUTPUTS = 24, 2
POWER_LAW = np.arange(1.0, 201.0) ** -1.5  # eigenvalues


def network(params, x):
    """Two layers with a bias; outputs [N, 2]."""
    return jnp.tanh(x @ params["first"] + params["shift"][None]) @ params["last"]


def weights(dtype="float32"):
    """Parameters of the network."""
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = {"first": (3, 7), "shift": (7,), "last": (7, OUTPUTS)}
    return {
        name: jax.random.normal(key, shape, dtype)
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def inputs(dtype="float32"):
    """Data of the network."""
    return jax.random.normal(jax.random.key(1), (SAMPLES, 3), dtype)


def with_spectrum(values, seed=0):
    """A symmetric matrix with these eigenvalues in a random basis, float64."""
    values = np.asarray(values, float)
    q = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values), len(values))))[0]
    return (q * values) @ q.T


def jacobian_kernel(apply, params, x, rates=None):
    """J R J^T from one dense Jacobian: nothing in common with products of derivatives."""
    jacobian = jax.jit(jax.jacrev(lambda p: apply(p, x).ravel()))(params)
    flat = [leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(jacobian)]
    scales = [1.0] * len(flat) if rates is None else jax.tree.leaves(rates)
    return sum(
        float(scale) * np.asarray(j, float) @ np.asarray(j, float).T
        for scale, j in zip(scales, flat, strict=True)
    )
