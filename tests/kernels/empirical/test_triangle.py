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
@pytest.mark.parametrize("samples", [1, 7, 600, 1100])
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


@pytest.mark.parametrize(("form", "samples", "outputs"), [("full", 512, 8), ("trace", 4096, 2)])
def test_a_symmetric_kernel_costs_little_more_than_half(form, samples, outputs):
    """With x2 = None the kernel takes (1 + 1/8)/2 of the products that it takes with x2 = x1."""
    x = jnp.ones((samples, 4))
    params = {"hidden": jnp.ones((4, 64)), "readout": jnp.ones((64, outputs))}

    def apply(p, x):
        return jnp.tanh(x @ p["hidden"]) @ p["readout"]

    one = count(lambda p: ntk(apply, p, x, form=form), params)
    two = count(lambda p: ntk(apply, p, x, x, form=form), params)
    # What is computed for each sample alone is little beside it: 1% at most.
    assert one / two == pytest.approx(0.5625, abs=0.02)


def test_the_triangle_gives_the_kernel_of_both_sides():
    """The same samples as x2, which is not known to be the same, take no triangle."""
    x = jax.random.normal(jax.random.key(0), (300, 4))
    params = {"hidden": jnp.ones((4, 6)), "readout": jax.random.normal(jax.random.key(1), (6, 4))}

    def apply(p, x):
        return jnp.tanh(x @ p["hidden"]) @ p["readout"]

    np.testing.assert_allclose(ntk(apply, params, x), ntk(apply, params, x, x), rtol=1e-5, atol=1e-4)
