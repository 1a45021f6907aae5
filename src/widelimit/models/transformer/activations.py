"""Nonlinearities of a block's MLP: those of every network, the squared rectifier, and a gate."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from widelimit.models.activations import ACTIVATIONS, Activation, activation

SWIGLU = "swiglu"


def relu_squared(x: jax.Array) -> jax.Array:
    """Returns ``max(x, 0)^2``, entry by entry."""
    return jnp.square(jax.nn.relu(x))


def feedforward_activation(name: str | Activation) -> Activation:
    """Returns the nonlinearity of an MLP without gate: ``"relu_squared"``, or as ``models.activation``."""
    if name == "relu_squared":
        return relu_squared
    if isinstance(name, str) and name not in ACTIVATIONS:
        known = ", ".join(sorted([*ACTIVATIONS, "relu_squared", SWIGLU]))
        raise ValueError(f"activation must be a function or one of {known}; got {name!r}.")
    return activation(name)
