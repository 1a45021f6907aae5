"""Taylor models of a network: derivatives at the start, exactness where the network is its own model."""

from __future__ import annotations

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.kernels.dynamics.networks import network, tangent_kernel
from widelimit.kernels.dynamics import linearise, quadratic, telescoping, telescoping_step


def test_models_agree_with_derivatives_of_the_network():
    """g is f + J d (+ d^T H d / 2) with J and H from automatic differentiation of the output as a whole."""
    with jax.enable_x64(True):
        apply, params, new, x = network(width=4)
        flat, unravel = jax.flatten_util.ravel_pytree(params)
        d = jax.flatten_util.ravel_pytree(new)[0] - flat

        def outputs(w):
            return apply(unravel(w), x)

        jacobian, hessian = jax.jit(jax.jacobian(outputs))(flat), jax.jit(jax.hessian(outputs))(flat)
        first = outputs(flat) + jacobian @ d
        second = first + 0.5 * hessian @ d @ d
        np.testing.assert_allclose(linearise(apply, params)(new, x), first, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(quadratic(apply, params)(new, x), second, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("model, order", [(linearise, 2), (quadratic, 3)])
def test_taylor_remainder_has_its_order(model, order):
    """Halving the distance from w_0 divides the error by 4 (linearised) or 8 (quadratic)."""
    with jax.enable_x64(True):
        apply, params, new, x = network()
        taylor = model(apply, params)
        gaps = []
        for size in (2.0**-4, 2.0**-5, 2.0**-6):
            near = jax.tree.map(lambda a, b, s=size: a + s * (b - a), params, new)
            gaps.append(float(jnp.abs(taylor(near, x) - apply(near, x)).max()))
        np.testing.assert_allclose(np.diff(np.log2(gaps)), -order, atol=0.1)


def test_the_linearisation_keeps_the_kernel_it_starts_from():
    """Its tangent kernel at any parameters is that of the network at w_0."""
    with jax.enable_x64(True):
        apply, params, new, x = network()
        kernel = tangent_kernel(apply, params, x, x)
        moved = tangent_kernel(linearise(apply, params), new, x, x)
        np.testing.assert_allclose(moved, kernel, rtol=1e-12, atol=1e-12)
        assert float(jnp.abs(tangent_kernel(apply, new, x, x) - kernel).max()) > 1e-3


def test_models_work_under_jit_grad_and_vmap():
    """They are used like the network: compiled, differentiated, and mapped over parameters."""
    with jax.enable_x64(True):
        apply, params, new, x = network()
        both = jax.tree.map(lambda a, b: jnp.stack([a, b]), params, new)
        for model in (linearise, quadratic):
            g = model(apply, params)
            mapped = jax.jit(jax.vmap(g, in_axes=(0, None)))(both, x)
            np.testing.assert_allclose(mapped[0], apply(params, x), rtol=1e-12)
            np.testing.assert_allclose(mapped[1], g(new, x), rtol=1e-12)
            slope = jax.grad(lambda p, g=g: jnp.sum(g(p, x)))(params)
            exact = jax.grad(lambda p: jnp.sum(apply(p, x)))(params)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), slope, exact)


def adam_path(apply, params, x, y, steps=6):
    """Trajectory [T + 1, ...] of a few steps of Adam, whose moves are no gradients."""
    optimizer = optax.adam(0.05)

    def step(carry, _):
        params, state = carry
        gradient = jax.grad(lambda p: 0.5 * jnp.mean(jnp.sum((apply(p, x) - y) ** 2, axis=1)))(params)
        with jax.numpy_dtype_promotion("standard"):  # optax raises float64 to its int32 count
            updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    _, path = jax.lax.scan(step, (params, optimizer.init(params)), length=steps)
    return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), params, path)


def test_telescoping_is_the_sum_of_its_steps():
    """Along a trajectory of Adam: Jacobians written out, and the running form, give the same sums."""
    with jax.enable_x64(True):
        apply, params, new, x = network()
        path = adam_path(apply, params, x, apply(new, x))
        found = jax.jit(lambda path: telescoping(apply, path, x))(path)
        at = [jax.tree.map(lambda leaf, t=t: leaf[t], path) for t in range(7)]
        total = running = apply(params, x)
        for t in range(6):
            np.testing.assert_allclose(found[t], total, rtol=1e-12, atol=1e-13)
            running = running + telescoping_step(apply, at[t], at[t + 1], x)
            jacobian = jax.jacobian(apply)(at[t], x)
            move = jax.tree.map(jnp.subtract, at[t + 1], at[t])
            terms = jax.tree.map(lambda j, d: j.reshape(5, 2, -1) @ d.ravel(), jacobian, move)
            total = total + sum(jax.tree.leaves(terms))
        np.testing.assert_allclose(found[6], total, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(found[6], running, rtol=1e-12, atol=1e-13)


def test_telescoping_of_a_linear_model_is_exact():
    """Its Jacobian is the same everywhere, so nothing is lost from step to step."""
    with jax.enable_x64(True):
        apply, params, new, x = network()
        g = linearise(apply, params)
        path = adam_path(g, params, x, apply(new, x))
        exact = jax.vmap(g, in_axes=(0, None))(path, x)
        np.testing.assert_allclose(telescoping(g, path, x), exact, rtol=1e-12, atol=1e-13)


def test_parameters_that_were_not_stacked_are_refused():
    """A plain pytree of parameters has leaves of different lengths."""
    apply, params, _, x = network(dtype="float32")
    with pytest.raises(ValueError, match="stacked along a leading axis"):
        telescoping(apply, params, x)
