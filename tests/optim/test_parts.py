"""What single parts promise: epsilon zero, the arctangent, the clip, the decay, Adafactor's choices."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.optim.support import arrays, neutral, numbers, uneven
from widelimit import optim
from widelimit.scaling import leaf_from_axes, make_rules, mup


def first(transform, gradient):
    gradient = jnp.asarray(gradient, jnp.float32)
    return np.asarray(transform.update(gradient, transform.init(gradient))[0])


@pytest.mark.parametrize("eps", [0.0, np.float32(0.0), jnp.float32(0.0)], ids=["float", "numpy", "array"])
def test_epsilon_zero(eps):
    """0/0 is 0: no gradient, no step; where g^2 underflows the sign is left; nan is not hidden."""
    result = first(optim.scale_by_adam(eps=eps), [0.0, -0.0, 1e-30, -1e-30, 3.0, math.nan, math.inf])
    np.testing.assert_allclose(result[:5], [0.0, 0.0, 1.0, -1.0, 1.0], rtol=1e-5)
    assert np.isnan(result[5:]).all()


def test_epsilon_zero_after_a_silent_start():
    """A weight whose gradient is 0 at first (a zero-initialised readout above it) starts when one arrives."""
    transform = optim.scale_by_adam(eps=0.0)
    state = transform.init(jnp.zeros(2))
    silent, state = transform.update(jnp.zeros(2), state)
    step, _ = transform.update(jnp.array([1e-3, 0.0]), state)
    np.testing.assert_array_equal(silent, [0.0, 0.0])
    m, v = 0.1 / (1 - 0.9**2), 0.001 / (1 - 0.999**2)
    np.testing.assert_allclose(step, [m / math.sqrt(v), 0.0], rtol=1e-4)


def test_atan2_is_scale_invariant_and_bounded():
    """Scaling by a power of two changes no bit; |update| <= a pi/2; small ratios have slope a/b."""
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(20, 50)).astype(np.float32)
    rows[-1] *= 1e4

    def run(scale):
        transform, state = optim.scale_by_adam_atan2(a=2.0, b=0.5), None
        state = transform.init(rows[0])
        for row in rows:
            update, state = transform.update(scale * row, state)
        return np.asarray(update), state

    update, state = run(1.0)
    np.testing.assert_array_equal(run(2.0**-20)[0], update)
    assert np.abs(update).max() <= 2.0 * math.pi / 2
    m, v = state.mu / (1 - 0.9**20), state.nu / (1 - 0.999**20)
    np.testing.assert_allclose(update, 2.0 * np.arctan(m / (0.5 * np.sqrt(v))), rtol=1e-5)
    assert math.isnan(first(optim.scale_by_adam_atan2(), [math.nan])[0])


def test_atan2_default_steps_like_adam_on_a_steady_gradient():
    np.testing.assert_allclose(first(optim.scale_by_adam_atan2(), [5.0, -1e-6]), [1.0, -1.0], rtol=1e-5)


@pytest.mark.parametrize("max_norm", [0.5, 1e3])
def test_neutral_clip_is_optax_bit_for_bit(max_norm):
    gradients = arrays(0)
    transform = optim.clip_by_global_norm(max_norm, neutral("sgd"))
    ours, _ = jax.jit(transform.update)(gradients, transform.init(gradients))
    theirs, _ = jax.jit(optax.clip_by_global_norm(max_norm).update)(gradients, optax.EmptyState())
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_clip_measures_in_the_units_of_the_rules():
    """The clipped gradient has the threshold as its weighted norm, and every leaf the same factor."""
    gradients, rules = arrays(0), uneven("sgd")
    weights = jax.tree.leaves(rules.gradient_norm)
    squares = [np.sum(g.astype(np.float64) ** 2) for g in jax.tree.leaves(gradients)]
    norm = math.sqrt(sum(k**2 * square for k, square in zip(weights, squares, strict=True)))
    np.testing.assert_allclose(optim.global_norm(gradients, rules), norm, rtol=1e-6)
    transform = optim.clip_by_global_norm(2.0, rules)
    clipped, _ = transform.update(gradients, transform.init(gradients))
    np.testing.assert_allclose(optim.global_norm(clipped, rules), 2.0, rtol=1e-6)
    jax.tree.map(lambda c, g: np.testing.assert_allclose(c, g * 2.0 / norm, rtol=1e-5), clipped, gradients)


def test_clip_handles_zero_broken_and_half_precision_gradients():
    rules = uneven("sgd")
    transform = optim.clip_by_global_norm(1.0, rules)
    zeros = jax.tree.map(np.zeros_like, arrays(0))
    jax.tree.map(np.testing.assert_array_equal, transform.update(zeros, optax.EmptyState())[0], zeros)
    broken = arrays(0)
    broken["input"]["bias"][0] = math.nan
    assert all(
        np.isnan(leaf).all() for leaf in jax.tree.leaves(transform.update(broken, optax.EmptyState())[0])
    )
    half, _ = transform.update(arrays(0, jnp.bfloat16), optax.EmptyState())
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {jnp.bfloat16.dtype}


def test_masked_decay_leaves_the_rest_alone():
    """A mask function, as optax takes it, in a convention that stands behind the learning rate."""
    rules, params = uneven("sgd", "independent"), arrays(0)
    matrices = lambda tree: jax.tree.map(lambda leaf: leaf.ndim == 2, tree)  # noqa: E731
    optimizer = optim.sgd(0.0, rules, weight_decay=0.5, mask=matrices)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert not np.any(updates["input"]["bias"])
    np.testing.assert_allclose(updates["hidden"]["kernel"], -0.5 * params["hidden"]["kernel"], rtol=1e-6)


def test_zero_decay_adds_no_stage():
    params = arrays(0)
    states = [optim.adamw(0.1, neutral("adam"), weight_decay=wd).init(params) for wd in (0.0, 0.1)]
    plain = optim.adam(0.1, neutral("adam")).init(params)
    assert jax.tree.structure(states[0]) == jax.tree.structure(plain) != jax.tree.structure(states[1])


def test_decay_schedule_has_its_own_count():
    """Independent decay follows its schedule and not the learning rate's."""
    params, zeros = arrays(0), jax.tree.map(np.zeros_like, arrays(0))
    optimizer = optim.sgd(0.1, neutral("sgd", "independent"), weight_decay=optax.linear_schedule(0.0, 0.4, 2))
    state = optimizer.init(params)
    for coefficient in (0.0, 0.2, 0.4, 0.4):
        updates, state = optimizer.update(zeros, state, params)
        jax.tree.map(
            lambda u, p, c=coefficient: np.testing.assert_allclose(u, -c * p, rtol=1e-6), updates, params
        )


def test_bad_numbers_are_refused():
    rules = neutral("adam")
    for message, call in {
        "eps must be zero or positive; got -1": lambda: optim.adam(0.1, rules, eps=-1.0),
        "eps_root must be zero or positive": lambda: optim.adam(0.1, rules, eps_root=math.nan),
        "weight_decay must be zero or positive; got -0.1": lambda: optim.adamw(0.1, rules, weight_decay=-0.1),
        "max_norm must be positive; got 0": lambda: optim.clip_by_global_norm(0.0, rules),
        "coupled, undone, independent or sqrt_width; got 'l2'": lambda: optim.add_decayed_weights(
            0.1, dataclasses.replace(rules, decay="l2")
        ),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()


def test_parameters_are_asked_for():
    params = arrays(0)
    for optimizer in (optim.adamw(0.1, neutral("adam")), optim.adafactor(0.1, neutral("adafactor"))):
        with pytest.raises(ValueError, match=r"update\(updates, state, params\)"):
            optimizer.update(params, optimizer.init(params))


def conv(width):
    """A convolution kernel whose channels grow, 4 -> 4 m and 6 -> 6 m."""
    shape = (3, 3, 4 * width, 6 * width)
    return leaf_from_axes(
        "conv", shape, (3, 3, 4, 6), contracted=(0, 1, 2), width=Fraction(width), base_width=4,
        growing=(False, False, True, True),
    )  # fmt: skip


@pytest.mark.parametrize(("smallest", "factored"), [(4, True), (5, False)])
def test_the_base_shape_decides_what_is_factored(smallest, factored):
    """The proxy's optimizer is the target's optimizer: (4, 6) channels are factored or not at every width."""
    for width in (1, 8):
        leaf = conv(width)
        rules = make_rules([leaf], mup(), "adafactor")
        transform = optim.scale_by_factored_rms(rules, min_dim_size_to_factor=smallest)
        state = transform.init([jnp.zeros(leaf.shape)])
        assert state.v[0].shape == ((1,) if factored else leaf.shape)
        if factored:
            assert (state.v_row[0].shape, state.v_col[0].shape) == (
                leaf.shape[:3],
                (*leaf.shape[:2], leaf.shape[3]),
            )


def test_factored_rms_is_optax_at_the_base_width():
    """Four axes, two of them factored: bit for bit, as optax does it."""
    rules = make_rules([conv(1)], mup(), "adafactor")
    gradient = [np.random.default_rng(0).normal(size=(3, 3, 4, 6)).astype(np.float32)]
    ours = optim.scale_by_factored_rms(rules, min_dim_size_to_factor=4)
    theirs = optax.scale_by_factored_rms(min_dim_size_to_factor=4)
    results = []
    for transform in (ours, theirs):
        state = transform.init(gradient)
        for _ in range(2):
            update, state = jax.jit(transform.update)(gradient, state, gradient)
        results.append((update, state))
    jax.tree.map(np.testing.assert_array_equal, *results)


def test_bfloat16_adafactor_keeps_float32_statistics():
    """In bfloat16 a second moment stops moving once 1 - beta < 2^-9."""
    state = optim.adafactor(0.1, neutral("adafactor")).init(arrays(0, jnp.bfloat16))
    kept = {leaf.dtype for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)}
    assert kept == {jnp.float32.dtype}


def test_traced_rules_serve_many_parametrizations():
    """One program takes the rules of two parametrizations as arguments (the metadata being equal)."""
    compiled = []

    @jax.jit
    def step(rules, params):
        compiled.append(1)
        optimizer = optim.adamw(0.1, rules, weight_decay=0.1)
        return optimizer.update(params, optimizer.init(params), params)[0]

    rules, params = uneven("adam"), arrays(0)
    one = step(rules, params)
    other = step(dataclasses.replace(rules, learning_rate=numbers(2.6, 1.4, 5.8, 0.62)), params)
    assert len(compiled) == 1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(2 * a, b, rtol=1e-6), one, other)
