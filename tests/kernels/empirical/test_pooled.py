"""Layers before global pooling: their cotangents factorise, and the kernel from the factors is the same."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from widelimit.kernels.empirical import ntk, plan


def network(pool):
    """Two convolutions, an activation, and what `pool` makes of the pixels, through a small head."""
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = {"one": (3, 3, 2, 6), "two": (3, 3, 6, 5), "head": (5, 4), "out": (4, 3)}
    params = {
        name: jax.random.normal(key, shape) for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }
    params["bias"] = jnp.full((1, 1, 1, 5), 0.1)

    def conv(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def apply(p, x):
        x = jax.nn.relu(conv(x, p["one"]))
        x = conv(x, p["two"]) + p["bias"]
        return jnp.tanh(pool(x * jax.nn.sigmoid(x)) @ p["head"]) @ p["out"]

    return apply, params, jax.random.normal(jax.random.key(1), (3, 12, 12, 2))


def mean(x):
    return x.mean((1, 2))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["full", "trace", "diagonal", "self", "sum"])
def test_factors_give_the_kernel_of_jacobians(form):
    """Where all pixels go into one mean, A(k, m) R_o(m) is each gradient, in every form of the kernel."""
    with jax.enable_x64(True):
        _compare(form)


def _compare(form):
    apply, params, x = network(mean)
    params, x = jax.tree.map(lambda array: array.astype("float64"), (params, x))
    made = plan(apply, params, x, form=form)
    many = [use for stack in made.stacks for use in stack if use.sizes[0] > 1]
    assert [use.pool is not None for use in many].count(True) == 1
    jacobian = jax.vmap(lambda one: jax.jacrev(lambda p: apply(p, one[None])[0])(params))(x)
    pattern, scale = {
        "full": ("iok,jpk->ijop", 1),
        "trace": ("iok,jok->ij", 1),
        "diagonal": ("iok,jok->ijo", 1),
        "self": ("iok,ipk->iop", 1),
        "sum": ("iok,jpk->ij", 1 / 3),
    }[form]
    flat = jax.tree.map(lambda j: j.reshape(*j.shape[:2], -1), jacobian)
    expected = jax.tree.map(lambda j: scale * np.einsum(pattern, j, j), flat)
    found = ntk(apply, params, x, form=form, per_layer=True)
    for name, part in expected.items():
        np.testing.assert_allclose(
            found[name], part, atol=1e-11 * np.abs(part).max(), rtol=1e-10, err_msg=name
        )
    other = ntk(apply, params, x, None if form == "self" else x[:2], form=form)
    total = sum(expected.values())
    total = total if form == "self" else total[:, :2]
    np.testing.assert_allclose(other, total, rtol=1e-10, atol=1e-11 * np.abs(total).max())


@pytest.mark.parametrize(
    "pool",
    [
        lambda x: x.mean((1, 2)) + x[:, 0, 0],  # one pixel counts twice
        lambda x: (x * jnp.arange(12.0)[None, :, None, None]).mean((1, 2)),  # weights differ, the sum is one
        lambda x: x.max((1, 2)),
        lambda x: x.mean(1).sum(1),
        lambda x: x.mean((1, 2)) / (1 + (x**2).mean((1, 2, 3)))[:, None],  # a second way to the output
    ],
    ids=["pixel", "weights", "max", "twice", "norm"],
)
def test_what_only_looks_like_pooling_is_right_too(pool):
    """Other ways from pixels to outputs: either they factorise as well, or they are not taken to."""
    apply, params, x = network(pool)
    jacobian = jax.vmap(lambda one: jax.jacrev(lambda p: apply(p, one[None])[0])(params))(x)
    expected = sum(
        np.einsum("iok,jpk->ijop", *[np.reshape(j, (3, 3, -1))] * 2) for j in jax.tree.leaves(jacobian)
    )
    np.testing.assert_allclose(ntk(apply, params, x), expected, rtol=2e-5, atol=2e-5 * np.abs(expected).max())


def test_a_kernel_used_before_and_after_another_layer_is_summed():
    """One kernel in two layers, the last of them pooled: its gradients add up before they are multiplied."""
    with jax.enable_x64(True):
        _, params, x = network(mean)
        kernel = params["two"].astype("float64")[..., :5, :]
        x = jax.random.normal(jax.random.key(1), (2, 6, 6, 5), "float64")

        def conv(x, kernel):
            return jax.lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )

        def apply(p, x):
            return jnp.tanh(conv(jnp.tanh(conv(x, p)), p)).mean((1, 2))

        jacobian = jax.vmap(lambda one: jax.jacrev(lambda p: apply(p, one[None])[0])(kernel))(x)
        expected = np.einsum("iok,jpk->ijop", *[np.reshape(jacobian, (2, 5, -1))] * 2)
        np.testing.assert_allclose(ntk(apply, kernel, x), expected, rtol=1e-10, atol=1e-12)
