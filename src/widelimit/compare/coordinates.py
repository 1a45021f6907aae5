"""The coordinate check: how large each layer's activations are, and how much they change per step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

PyTree = Any


class Sizes(NamedTuple):
    """Root-mean-square sizes of one network's coordinates, by layer.

    Args:
        initial: of the activations before training, by layer.
        change: of ``x_t - x_0`` after step t = 1 .. T, by layer, shape [T].
    """

    initial: dict[str, Float[Array, ""]]
    change: dict[str, Float[Array, " T"]]


def coordinate_sizes(
    params: PyTree,
    activations: Callable[[PyTree], Mapping[str, Array]],
    loss: Callable[[PyTree, PyTree], Array],
    optimizer: optax.GradientTransformation,
    batches: PyTree,
) -> Sizes:
    r"""Trains one network for a few steps and measures every layer: its size at first, and its change.

    The change ``x_t - x_0`` is measured, not x_t: a layer that stands still and one that blows up both fail,
    and neither shows in x_t at first. Pure and traceable: vmap it over parameters for several seeds, jit it
    with the rules' numbers as arguments to share one program between parametrizations.

    Args:
        params: the initial parameters.
        activations: ``params -> {layer: array}`` on fixed inputs, e.g. all pre-activations.
        loss: ``(params, batch) -> scalar``.
        optimizer: any optax optimizer, ours or not.
        batches: one batch per step: a pytree with a leading axis of length T.

    Returns:
        Sizes per layer.

    Example:
        >>> weights = {"w": jnp.ones((2, 3))}
        >>> sizes = coordinate_sizes(
        ...     weights,
        ...     activations=lambda params: {"h": jnp.ones((1, 2)) @ params["w"]},
        ...     loss=lambda params, batch: jnp.sum(batch @ params["w"]),
        ...     optimizer=optax.sgd(0.5),
        ...     batches=jnp.ones((4, 1, 2)),
        ... )
        >>> float(sizes.initial["h"]), sizes.change["h"].tolist()
        (2.0, [1.0, 2.0, 3.0, 4.0])

    Reference:
        Yang et al., arXiv 2203.03466, Appendix D.1 (coordinate checking).
    """
    start = activations(params)

    def step(carry: tuple[PyTree, PyTree], batch: PyTree) -> tuple[tuple[PyTree, PyTree], dict[str, Array]]:
        weights, state = carry
        gradients = jax.grad(loss)(weights, batch)
        updates, state = optimizer.update(gradients, state, weights)
        weights = optax.apply_updates(weights, updates)
        now = activations(weights)
        return (weights, state), {name: _rms(now[name] - start[name]) for name in start}

    _, change = jax.lax.scan(step, (params, optimizer.init(params)), batches)
    return Sizes({name: _rms(array) for name, array in start.items()}, change)


def _rms(array: Array) -> Array:
    """Returns the root mean square of all entries."""
    return jnp.sqrt(jnp.mean(jnp.square(array)))


def contributions(
    params: PyTree,
    updates: PyTree,
    activations: Callable[[PyTree], Mapping[str, Array]],
    shares: PyTree,
) -> dict[str, Float[Array, " K"]]:
    r"""How much each layer changes when only a part of an update is made: ``x(w + s_k u) - x(w)``.

    A share s has one number per parameter. With a single 1 it singles out one parameter's contribution to the
    change of every layer, with ones everywhere it is the whole step, with halves a step at half the rate. To
    first order in the rate the whole change is the sum of the contributions; each of them is one power of the
    width, their sum is not, as long as the leading one has not won. So exponents are read off here.

    Args:
        params: the initial parameters.
        updates: the update of the first step, shaped like the parameters.
        activations: ``params -> {layer: array}`` on fixed inputs.
        shares: shaped like the parameters: for each, K numbers, the factor on its update in each of K trials.

    Returns:
        By layer, the root-mean-square size of its change in each trial.

    Example:
        >>> weights = {"first": jnp.ones((2, 2)), "second": jnp.ones((2, 1))}
        >>> def activations(params):
        ...     h = jnp.ones((1, 2)) @ params["first"]
        ...     return {"h": h, "f": h @ params["second"]}
        >>> updates = {"first": jnp.full((2, 2), 0.1), "second": jnp.full((2, 1), 0.2)}
        >>> shares = {"first": jnp.array([1.0, 0.0, 1.0]), "second": jnp.array([0.0, 1.0, 1.0])}
        >>> sizes = contributions(weights, updates, activations, shares)
        >>> sizes["h"].round(3).tolist(), sizes["f"].round(3).tolist()
        ([0.2, 0.0, 0.2], [0.4, 0.8, 1.28])

    Reference:
        Everett et al., arXiv 2407.05872, Section 3: the terms of the stability system, one by one.
    """
    start = activations(params)

    def trial(share: PyTree) -> dict[str, Array]:
        now = activations(jax.tree.map(lambda w, u, s: w + s * u, params, updates, share))
        return {name: _rms(now[name] - start[name]) for name in start}

    return jax.lax.map(trial, shares)
