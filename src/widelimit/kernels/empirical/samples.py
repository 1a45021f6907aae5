"""Blocks of samples, all of one size, cut from inputs of any number."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from widelimit.kernels.checks import PyTree


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
