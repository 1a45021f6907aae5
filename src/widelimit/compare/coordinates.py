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
    r"""Trains one network for a few steps and measures every layer: sizes at initialisation, and of the change.

    The change ``x_t - x_0`` is measured, not x_t: a layer that stands still and one that blows up both fail, and
    neither shows in x_t at first. Pure and traceable: vmap it over parameters for several seeds, jit it with the
    rules' numbers as arguments to share one program between parametrizations.

    Args:
        params: the initial parameters.
        activations: ``params -> {layer: array}`` on fixed inputs of the caller's choice, e.g. pre-activations.
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
    params: Mapping[str, PyTree],
    activations: Callable[[PyTree], Mapping[str, Array]],
    loss: Callable[[PyTree, PyTree], Array],
    optimizer: optax.GradientTransformation,
    batch: PyTree,
) -> dict[str, dict[str, Float[Array, ""]]]:
    r"""Splits the change of the first step by its source: the size of each layer's change if only one layer had moved.

    To first order in the rate a layer's change is the sum of what each layer below contributes, and every contribution
    is one power of the width; their sum is not, as long as the leading one has not won. So exponents are
    read off here, where they are clean: ``dz_l`` from the update of layer k.

    Args:
        params: the initial parameters, by layer at the top level.
        activations: ``params -> {layer: array}``.
        loss: ``(params, batch) -> scalar``.
        optimizer: any optax optimizer.
        batch: of the one step.

    Returns:
        ``result[source][layer]``, root-mean-square sizes; exactly 0 for a layer below the source.

    Example:
        >>> weights = {"first": jnp.ones((2, 2)), "second": jnp.ones((2, 1))}
        >>> def activations(params):
        ...     h = jnp.ones((1, 2)) @ params["first"]
        ...     return {"h": h, "f": h @ params["second"]}
        >>> loss = lambda params, batch: batch * jnp.sum(activations(params)["f"])
        >>> split = contributions(weights, activations, loss, optax.sgd(0.1), jnp.asarray(1.0))
        >>> {source: {name: round(float(size), 3) for name, size in sizes.items()} for source, sizes in split.items()}
        {'first': {'h': 0.2, 'f': 0.4}, 'second': {'h': 0.0, 'f': 0.8}}

    Reference:
        The terms of the stability system, arXiv 2407.05872, Section 3, one by one.
    """
    start = activations(params)
    updates, _ = optimizer.update(jax.grad(loss)(params, batch), optimizer.init(params), params)
    moved = optax.apply_updates(params, updates)
    result = {}
    for source in params:
        now = activations({**params, source: moved[source]})
        result[source] = {name: _rms(now[name] - start[name]) for name in start}
    return result
