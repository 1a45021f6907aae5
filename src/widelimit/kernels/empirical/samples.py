"""Inputs as samples: how many there are, and blocks of one size cut from them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any


def count(x: PyTree, name: str = "x") -> int:
    """Returns the number of samples, the common leading axis of all arrays in x.

    Args:
        x: a pytree of arrays.
        name: of x, for the error.

    Raises:
        ValueError: if there is no array, no sample, or the leading axes differ.

    Example:
        >>> count({"tokens": np.zeros((5, 8)), "mask": np.ones((5,))})
        5
    """
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(x)]
    sizes = {shape[0] if shape else None for shape in shapes}
    if len(sizes) != 1 or None in sizes or 0 in sizes:
        raise ValueError(
            f"Expected {name} to be arrays with one common leading axis of 1 or more samples, got shapes "
            f"{shapes}."
        )
    return int(sizes.pop() or 0)


def counts(x1: PyTree, x2: PyTree, form: str) -> tuple[int, int]:
    """Returns N1 and N2.

    Args:
        x1: inputs.
        x2: inputs, or None for x1 again.
        form: of the kernel: "self" takes each sample with itself, so there is no x2.

    Raises:
        ValueError: if the inputs have no common leading axis, or there is an x2 where none can be.
    """
    if x2 is not None and form == "self":
        raise ValueError("The form 'self' takes each sample of x1 with itself; leave out x2.")
    n1 = count(x1, "x1")
    return n1, n1 if x2 is None else count(x2, "x2")


def block(x: PyTree, start: int, size: int) -> PyTree:
    """Returns samples start to start + size; past the end, the last sample again.

    So every block has one shape and one compiled program serves all, and what is computed from the padding
    is as harmless as what is computed from a sample.

    Args:
        x: a pytree of arrays with one leading axis.
        start: index of the first sample, at most the last one there is.
        size: number of samples to return.

    Example:
        >>> block(np.arange(5), 3, 4)
        array([3, 4, 4, 4])
    """

    def cut(leaf: Any) -> Any:
        n = leaf.shape[0]
        if start + size <= n:
            return leaf[start : start + size]
        rows = np.minimum(np.arange(start, start + size), n - 1)
        return leaf[rows] if isinstance(leaf, np.ndarray) else jnp.take(leaf, rows, axis=0)

    return jax.tree.map(cut, x)
