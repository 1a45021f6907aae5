"""Muon: the size of its update in every shape, who gets it, and which published scale keeps it maximal."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from widelimit import optim
from widelimit.scaling import leaf_from_axes, make_rules, mup

# A quintic whose fixed point is exactly 1, sixteen times.
CONVERGED = {"ns_steps": 16, "ns_coeffs": ((2.0, -1.5, 0.5),) * 16}
# name -> (shape, base shape, contracted axes, stacked axes, fan-out / fan-in)
HIDDEN = {
    "square": ((8, 8), (4, 4), (0,), (), 1),
    "tall": ((24, 8), (12, 4), (0,), (), 1 / 3),
    "wide": ((8, 24), (4, 12), (0,), (), 3),
    "torch's layout": ((24, 8), (12, 4), (1,), (), 3),
    "stacked": ((3, 8, 16), (3, 4, 8), (1,), (0,), 2),
    "convolution": ((3, 2, 4, 8), (3, 2, 2, 4), (0, 1, 2), (), 8 / 24),
    "heads out": ((8, 2, 6), (4, 1, 6), (0,), (), 12 / 8),
    "heads in": ((2, 6, 8), (1, 6, 4), (0, 1), (), 8 / 12),
    "stacked heads": ((8, 2, 3, 6), (4, 2, 3, 3), (0,), (1,), 18 / 8),
}


def leaf(name, shape, base, contracted, shared=(), growing=None):
    """A parameter at twice the base width."""
    axes = {"contracted": contracted, "shared": shared, "growing": growing}
    return leaf_from_axes(name, shape, base, **axes, width=Fraction(2), base_width=4)


def matrices(array, contracted, shared):
    """The matrices [stack, in, out] that an array holds."""
    free = [axis for axis in range(array.ndim) if axis not in (*contracted, *shared)]
    inputs = math.prod(array.shape[axis] for axis in contracted)
    outputs = math.prod(array.shape[axis] for axis in free)
    return np.transpose(array, (*shared, *contracted, *free)).reshape(-1, inputs, outputs)


def test_the_update_of_every_shape_has_the_spectral_norm_of_the_condition():
    """||update||_2 = lr sqrt(fan_out/fan_in), all singular values alike: U V^T of the gradient's SVD.

    Were optax's own shape factor applied besides, tall, wide and stacked matrices would be off.
    """
    leaves = {name: leaf(name, *facts[:4]) for name, facts in HIDDEN.items()}
    generator = np.random.default_rng(0)
    rate = 0.3
    with jax.enable_x64(True):
        gradients = {name: generator.normal(size=leaves[name].shape) for name in HIDDEN}
        optimizer = optim.muon(rate, make_rules(leaves, mup(), "muon"), **CONVERGED)
        updates = jax.jit(lambda g: optimizer.update(g, optimizer.init(g), g)[0])(gradients)
    for name, (_, _, contracted, shared, ratio) in HIDDEN.items():
        found, gradient = (matrices(tree[name], contracted, shared) for tree in (updates, gradients))
        u, _, vt = np.linalg.svd(gradient, full_matrices=False)
        np.testing.assert_allclose(found, -rate * math.sqrt(ratio) * u @ vt, atol=1e-7, err_msg=name)
        np.testing.assert_allclose(
            np.linalg.norm(found, ord=2, axis=(1, 2)), rate * math.sqrt(ratio), rtol=1e-6, err_msg=name
        )


def test_the_role_decides_and_not_the_number_of_axes():
    """Input-like and output-like matrices take Adam's step of one size, though they are matrices too."""
    leaves = {
        "into": leaf("into", (6, 8), (6, 4), (0,)),
        "out": leaf("out", (8, 6), (4, 6), (0,)),
        "gain": leaf("gain", (8,), (4,), ()),
        "hidden": leaf("hidden", (8, 8), (4, 4), (0,)),
    }
    rules = make_rules(leaves, mup(table=8), "muon")
    assert rules.learning_rate == {"into": 1.0, "out": 1.0, "gain": 1.0, "hidden": 1.0}
    generator = np.random.default_rng(0)
    gradients = {name: generator.normal(size=one.shape).astype(np.float32) for name, one in leaves.items()}
    optimizer = optim.muon(0.5, rules, eps=0.0, nesterov=False, adam_rate=0.1)
    updates, _ = jax.jit(lambda g: optimizer.update(g, optimizer.init(g), g))(gradients)
    for name in ("into", "out", "gain"):
        np.testing.assert_allclose(updates[name], -0.05 * np.sign(gradients[name]), rtol=1e-5)
    assert 0.5 * 0.6 < np.linalg.norm(updates["hidden"], ord=2) < 0.5 * 1.3  # after five steps, not converged


def hidden_changes(width, seeds):
    """RMS changes of a hidden layer by one update on its own gradient of 6 samples, two scales by seeds."""
    facts = {"contracted": (0,), "growing": (True, True), "width": Fraction(width, 16), "base_width": 16}
    rules = make_rules([leaf_from_axes("w", (width, width), (16, 16), **facts)], mup(), "muon")
    published = optax.contrib.muon(1.0 / width, consistent_rms=0.2, **CONVERGED)

    def one(key):
        first, second = jax.random.split(key)
        h = jnp.tanh(jax.random.normal(first, (6, width)))
        gradient = [h.T @ jax.random.normal(second, (6, width)) / width]
        with jax.numpy_dtype_promotion("standard"):
            updates = [o.update(gradient, o.init(gradient), gradient)[0][0] for o in (ours, published)]
        return jnp.stack([jnp.sqrt(jnp.mean((h @ update) ** 2)) for update in updates])

    ours = optim.muon(1.0, rules, **CONVERGED)
    return jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(width), seeds)).T


def test_which_published_scale_is_maximal():
    """The change of the next layer is flat in width with sqrt(fan_out/fan_in), and fades as n^-1/2 otherwise.

    Condition 1 of arXiv 2310.17813 wants ||dW||_2 ~ 1 of square matrices. 0.2 sqrt(n) O at rate 1/n (arXiv
    2505.02222) has n^-1/2: sub-maximal; at rate n^-1/2 it would be ours up to the constant. Newton-Schulz is
    run to the end: after five steps singular values still depend on where they began, and so on the width.
    """
    widths, seeds = (32, 90, 256), 8
    logs = np.log([hidden_changes(width, seeds) for width in widths])  # [widths, scales, seeds]
    for index, slope in enumerate((0.0, -0.5)):
        fits = np.polyfit(np.log(widths), logs[:, index], 1)[0]
        error = fits.std(ddof=1) / math.sqrt(seeds)
        assert error < 0.02
        assert abs(fits.mean() - slope) < 0.03, f"slope {fits.mean():.3f} +- {error:.3f}"


def test_what_is_wrong_is_said():
    """No matrix, no axes, another family, a negative rate: one sentence each."""
    gain, matrix = leaf("gain", (8,), (4,), ()), leaf("w", (8, 8), (4, 4), (0,))
    params = [jnp.ones(8)]
    with pytest.raises(ValueError, match=r"gain is none \(it is input-like\)"):
        optim.scale_by_muon(make_rules([gain], mup(), "muon")).init(params)
    unknown = dataclasses.replace(matrix, contracted=())
    with pytest.raises(ValueError, match="its Leaf names no contracted axes"):
        optim.muon(0.1, make_rules([unknown], mup(), "muon")).init([jnp.ones((8, 8))])
    with pytest.raises(ValueError, match="muon needs the learning rates of optimizer 'muon'"):
        optim.muon(0.1, make_rules([matrix], mup(), "adam"))
    with pytest.raises(ValueError, match="adam_rate.* must be positive; got 0"):
        optim.muon(0.1, make_rules([matrix], mup(), "muon"), adam_rate=0)
