"""Losses of one sample, by name."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

Loss = Callable[[jax.Array, jax.Array], jax.Array]


def _mse(f: jax.Array, y: jax.Array) -> jax.Array:
    """Half the squared distance."""
    return jnp.sum((f - y) ** 2) / 2


def _logistic(f: jax.Array, y: jax.Array) -> jax.Array:
    """Minus the log-likelihood of a label -1 or 1."""
    return jnp.sum(jax.nn.softplus(-y * f))


def _cross_entropy(f: jax.Array, y: jax.Array) -> jax.Array:
    """Minus the log-likelihood of a one-hot target."""
    return -jnp.sum(y * jax.nn.log_softmax(f))


LOSSES: Mapping[str, Loss] = types.MappingProxyType(
    {"cross_entropy": _cross_entropy, "logistic": _logistic, "mse": _mse}
)


def loss_function(name: str | Loss) -> Loss:
    """Returns the loss that a name stands for; a function stands for itself.

    Raises:
        ValueError: for an unknown name.
        TypeError: for neither a name nor a function.
    """
    if isinstance(name, str):
        if name in LOSSES:
            return LOSSES[name]
        raise ValueError(f"loss must be a function or one of {', '.join(LOSSES)}; got {name!r}.")
    if callable(name):
        return name
    raise TypeError(f"loss must be a function or the name of one; got {name!r}.")
