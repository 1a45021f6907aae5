"""What the empirical kernel asks of two sets of inputs and of the outputs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from widelimit.kernels.checks import samples
from widelimit.kernels.empirical.costs import FORMS, Form


def pair(x1: Any, x2: Any, form: Form) -> tuple[int, int]:
    """Returns the numbers of samples of both sides.

    Raises:
        ValueError: if the form is unknown, or the two sides do not fit together.
        TypeError: if a leaf is no array of numbers.
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}; got {form!r}.")
    rows = samples(x1, "x1")
    if x2 is None:
        return rows, rows
    columns = samples(x2, "x2")
    kinds = [
        (jax.tree.structure(x), [(leaf.shape[1:], jnp.dtype(leaf.dtype).name) for leaf in jax.tree.leaves(x)])
        for x in (x1, x2)
    ]
    if kinds[0] != kinds[1]:
        raise ValueError(
            "x1 and x2 must hold samples of the same shapes and dtypes; "
            f"got {kinds[0][1]} and {kinds[1][1]} in {kinds[0][0]} and {kinds[1][0]}."
        )
    if form == "self" and rows != columns:
        raise ValueError(
            f"form='self' pairs sample i of x1 with sample i of x2, which needs as many of both; "
            f"got {rows} and {columns}."
        )
    return rows, columns


def outputs(made: Any) -> None:
    """Checks what ``apply`` returns for one sample.

    Raises:
        TypeError: if that is not one array of floating-point numbers.
        ValueError: if it has no axis of samples.
    """
    if not hasattr(made, "shape") or not hasattr(made, "dtype"):
        raise TypeError(
            f"apply must return one array of outputs [N, ...]; it returned a {type(made).__name__}. "
            "Return the outputs alone (of a model with mutable state, those without the new state)."
        )
    if not jnp.issubdtype(made.dtype, jnp.floating):
        raise TypeError(f"apply must return floating-point outputs; it returned {made.dtype.name}.")
    if made.shape[:1] != (1,):
        raise ValueError(
            "apply must return outputs [N, ...] with the samples of its inputs as leading axis; "
            f"for one sample it returned shape {made.shape}."
        )
