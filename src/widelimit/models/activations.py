"""Entrywise nonlinearities by name."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

Activation = Callable[[jax.Array], jax.Array]


def _identity(x: jax.Array) -> jax.Array:
    """Makes an MLP a deep linear network."""
    return x


def _gelu(x: jax.Array) -> jax.Array:
    """The exact form, x times the Gaussian distribution function, which kernels of infinite networks know.

    By erf, which costs half of the complementary function on a CPU; in float32 at least, where 1 + erf loses
    nothing that an activation needs.
    """
    h = x if x.dtype.itemsize >= 4 else x.astype(jnp.float32)
    return (0.5 * h * (1.0 + jax.lax.erf(h * 0.5**0.5))).astype(x.dtype)


#: Names that ``activation`` knows; all keep the dtype of their argument.
ACTIVATIONS: Mapping[str, Activation] = types.MappingProxyType(
    {
        "erf": jax.lax.erf,
        "gelu": _gelu,
        "identity": _identity,
        "relu": jax.nn.relu,
        "sigmoid": jax.nn.sigmoid,
        "silu": jax.nn.silu,
        "sin": jnp.sin,
        "softplus": jax.nn.softplus,
        "tanh": jnp.tanh,
    }
)


def activation(name: str | Activation) -> Activation:
    r"""Returns the entrywise function that a name stands for; a function stands for itself.

    ``"gelu"`` is the exact ``x (1 + erf(x / sqrt 2)) / 2``, not its tanh approximation.

    Args:
        name: a key of ``ACTIVATIONS``, or a function that maps an array entry by entry.

    Raises:
        ValueError: for an unknown name.
        TypeError: for neither a name nor a function, or one that cannot be hashed.

    Example:
        >>> float(activation("relu")(jnp.array(-2.0)))
        0.0
        >>> activation("swishy")
        Traceback (most recent call last):
        ...
        ValueError: activation must be a function or one of erf, gelu, ..., softplus, tanh; got 'swishy'.
    """
    if isinstance(name, str):
        if name in ACTIVATIONS:
            return ACTIVATIONS[name]
        raise ValueError(f"activation must be a function or one of {', '.join(ACTIVATIONS)}; got {name!r}.")
    if callable(name) and type(name).__hash__ is None:
        raise TypeError(
            f"activation must be hashable, since programs are kept by it; got a {type(name).__name__}: give "
            "its class a __hash__ (a frozen dataclass has one), or wrap it in a function."
        )
    if callable(name):
        return name
    raise TypeError(f"activation must be a function or the name of one; got {name!r}.")
