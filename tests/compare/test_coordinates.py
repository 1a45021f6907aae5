"""The coordinate check's measurements against hand calculation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from widelimit.compare import contributions, coordinate_sizes

X = np.array([[1.0, -2.0], [0.5, 3.0]])
V, W = np.array([[1.0, 2.0], [-1.0, 0.5]]), np.array([[2.0], [-1.0]])


def activations(params):
    """A linear network of two layers."""
    hidden = jnp.asarray(X, params["V"].dtype) @ params["V"]
    return {"hidden": hidden, "output": hidden @ params["W"]}


def rms(array) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(array))))


def loss(params, target):
    """Half the squared distance, summed."""
    return 0.5 * jnp.sum((activations(params)["output"] - target) ** 2)


def test_sizes_are_those_of_gradient_descent_by_hand():
    """Two steps with different targets; change is measured from the start, not from the step before."""
    targets, rate = np.array([[[1.0], [0.0]], [[-1.0], [2.0]]]), 0.01
    v, w, expected = V.copy(), W.copy(), []
    for target in targets:
        error = X @ v @ w - target
        v, w = v - rate * X.T @ error @ w.T, w - rate * (X @ v).T @ error
        expected.append((rms(X @ v - X @ V), rms(X @ v @ w - X @ V @ W)))
    with jax.enable_x64(True):
        params = {"V": jnp.asarray(V), "W": jnp.asarray(W)}
        sizes = jax.jit(
            lambda params: coordinate_sizes(params, activations, loss, optax.sgd(rate), jnp.asarray(targets))
        )(params)
        np.testing.assert_allclose(float(sizes.initial["hidden"]), rms(X @ V), rtol=1e-12)
        np.testing.assert_allclose(float(sizes.initial["output"]), rms(X @ V @ W), rtol=1e-12)
        np.testing.assert_allclose(
            np.stack([sizes.change["hidden"], sizes.change["output"]], 1), expected, rtol=1e-12
        )


def test_contributions_by_hand():
    """One parameter at a time, the whole step, and half of it, which is not half the change."""
    dv, dw = 0.1 * V[::-1], 0.2 * W[::-1]
    shares = {"V": [1.0, 0.0, 1.0, 0.5], "W": [0.0, 1.0, 1.0, 0.5]}
    trials = list(zip(shares["V"], shares["W"], strict=True))
    hidden = [rms(X @ (a * dv)) for a, _ in trials]
    output = [rms(X @ (V + a * dv) @ (W + b * dw) - X @ V @ W) for a, b in trials]
    with jax.enable_x64(True):
        sizes = contributions(
            {"V": jnp.asarray(V), "W": jnp.asarray(W)},
            {"V": jnp.asarray(dv), "W": jnp.asarray(dw)},
            activations,
            jax.tree.map(jnp.asarray, shares, is_leaf=lambda node: isinstance(node, list)),
        )
        np.testing.assert_allclose(sizes["hidden"], hidden, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(sizes["output"], output, rtol=1e-12)
    assert hidden[1] == 0.0 and abs(output[3] / output[2] - 0.5) > 0.01


def test_one_program_serves_several_seeds():
    """Both measurements are traceable: vmap over the initial weights gives each seed's own sizes."""
    seeds = jnp.asarray([[[1.0], [2.0]], [[3.0], [-1.0]]])

    def measured(weight):
        params = {"V": jnp.asarray(V, jnp.float32), "W": weight}
        updates = jax.tree.map(lambda w: 0.1 * w, params)
        shares = jax.tree.map(lambda _: jnp.ones(1), params)
        return contributions(params, updates, activations, shares)["output"][0]

    np.testing.assert_allclose(
        jax.vmap(measured)(seeds), [0.21 * rms(X @ V @ np.asarray(w)) for w in seeds], rtol=1e-5
    )
