"""Numbers and losses as a problem may have them; anything else is refused in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from widelimit.dmft.losses import Loss, loss_function

_ROUNDING = 1e-3  # of a row of probabilities, which may have come in half precision


def number(value: Any, name: str) -> float:
    """Returns a real number as a float, infinity and NaN included, whatever kind of number it came as.

    Args:
        value: a Python number, or an array without axes.
        name: of the argument, for the message.

    Raises:
        TypeError: if it is something else.

    Example:
        >>> number(np.float32(0.5), "gamma0"), number(2, "gamma0")
        (0.5, 2.0)
    """
    given = np.asarray(value)
    real = jnp.issubdtype(given.dtype, jnp.floating) or jnp.issubdtype(given.dtype, jnp.integer)
    if given.ndim or not real:
        came = f"an array of shape {given.shape}" if given.ndim else repr(value)
        raise TypeError(f"{name} must be one real number; got {came}.")
    return float(given)


def whole(value: Any, name: str, least: int = 1) -> int:
    """Returns a whole number as an int; 3.0 and NumPy's numbers count as such.

    Args:
        value: as given.
        name: of the argument, for the message.
        least: what it must not be below.

    Raises:
        TypeError: if it is no number.
        ValueError: if it is not whole, or too small.

    Example:
        >>> whole(3.0, "steps"), whole(np.int64(3), "steps")
        (3, 3)
    """
    found = number(value, name)
    if not np.isfinite(found) or found != round(found) or found < least:
        raise ValueError(f"{name} must be a whole number, {least} or more; got {value!r}.")
    return int(value)


def check_targets(loss: str | Loss, targets: np.ndarray) -> None:
    """Refuses targets [P] or [P, C] that a loss cannot be a likelihood of, and functions that are no loss.

    Args:
        loss: its name, or a function of one sample's (f, y).
        targets: y.

    Raises:
        ValueError: with what the loss takes and what came.

    Example:
        >>> check_targets("cross_entropy", np.eye(3)[[2, 0]])
    """
    if loss == "logistic" and (wrong := targets[np.abs(targets) != 1]).size:
        raise ValueError(
            f'loss="logistic" takes targets -1 and 1; got {wrong[0]:g}: labels y of 0 and 1 become 2 y - 1.'
        )
    if loss == "cross_entropy":
        if targets.ndim != 2 or targets.shape[1] < 2:
            raise ValueError(
                'loss="cross_entropy" takes targets of shape [P, C], probabilities of C >= 2 classes; got '
                f"shape {targets.shape}: labels become np.eye(C)[labels]."
            )
        wrong_rows = (targets < 0).any(1) | (np.abs(targets.sum(1) - 1) > _ROUNDING)
        if wrong_rows.any():
            row = int(np.flatnonzero(wrong_rows)[0])
            raise ValueError(
                'loss="cross_entropy" takes targets that are probabilities, 0 or more and of sum 1 in every '
                f"row (as one-hot labels are); row {row} sums to {targets[row].sum():g} and its least is "
                f"{targets[row].min():g}."
            )
    if not isinstance(loss, str):
        _probe(loss_function(loss), targets.shape[1:])


def _probe(loss: Callable[..., Any], shape: tuple[int, ...]) -> None:
    """Traces a loss of one's own and its derivative once, at nothing."""
    one = jax.ShapeDtypeStruct(shape, jnp.result_type(float))
    try:
        value = jax.eval_shape(loss, one, one)
        alone = isinstance(value, jax.ShapeDtypeStruct)
        if alone and value.shape == () and jnp.issubdtype(value.dtype, jnp.floating):
            jax.eval_shape(jax.grad(loss), one, one)
            return
    except Exception as error:
        said = (str(error).splitlines() or [""])[0].strip()
        raise ValueError(
            f"loss must be a function of one sample's (f, y), both of shape {list(shape)}, that JAX can "
            f"differentiate; it raised {type(error).__name__}: {said}"
        ) from error
    came = f"shape {list(value.shape)} of {value.dtype}" if alone else type(value).__name__
    raise ValueError(
        f"loss must give one real number for one sample's (f, y), both of shape {list(shape)}; got {came}."
    )
