"""One triangle of a symmetric kernel: the same numbers as both, for half the products."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.ntk_flops import count
from widelimit.kernels.empirical import ntk
from widelimit.kernels.empirical.costs import Size
from widelimit.kernels.empirical.triangle import blocks, whole


@pytest.mark.parametrize("form", ["full", "trace"])
@pytest.mark.parametrize("samples", [1, 7, 130, 513])
def test_blocks_cover_the_triangle_and_mirror_it(form, samples):
    """Cut from a symmetric kernel and put together again, the blocks give that kernel, entry by entry."""
    outputs = 3 if form == "full" else 1
    size = Size(samples, samples, outputs, form, same=True)
    where = blocks(size)
    half = np.random.default_rng(0).normal(size=(samples * outputs,) * 2).astype(np.float32)
    flat = (half + half.T).reshape(samples, outputs, samples, outputs)
    kernel = flat if form == "full" else flat[:, 0, :, 0]
    parts = [
        jnp.asarray(kernel[rows][:, :, columns] if form == "full" else kernel[rows, columns])
        for rows, columns in where
    ]
    expected = flat.transpose(0, 2, 1, 3) if form == "full" else kernel
    np.testing.assert_array_equal(whole(parts, where, size), expected)


@pytest.mark.parametrize("form", ["full", "trace"])
def test_a_symmetric_kernel_costs_little_more_than_half(form):
    """With x2 = None the contraction takes (1 + 1/8)/2 of the products it takes with x2 = x1."""
    x = jnp.ones((512, 4))
    params = {"hidden": jnp.ones((4, 256)), "readout": jnp.ones((256, 2))}

    def apply(p, x):
        return jnp.tanh(x @ p["hidden"]) @ p["readout"]

    one = count(lambda p: ntk(apply, p, x, form=form), params)
    two = count(lambda p: ntk(apply, p, x, x, form=form), params)
    features = count(
        lambda p: jax.vmap(jax.jacrev(lambda z: jnp.tanh(z) @ p["readout"]))(x @ p["hidden"]), params
    )
    assert (one - features) / (two - 2 * features) == pytest.approx(0.5625, abs=0.01)
    np.testing.assert_allclose(
        ntk(apply, params, x, form=form), ntk(apply, params, x, x, form=form), rtol=1e-5
    )
