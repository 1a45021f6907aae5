"""An einsum of two arrays as one plain matrix product, with their axes left in place where they can be."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

HIGHEST = jax.lax.Precision.HIGHEST


def einsum(pattern: str, *arrays: Any) -> Any:
    """Returns an einsum that a GPU does not round on the way.

    Two arrays become (batches of) matrices before they are multiplied. Given a product over several axes, or
    with axes of size 1 in between, XLA first transposes an array that may be the largest of all.

    Args:
        pattern: as for ``jnp.einsum``, with single letters and the result's axes.
        arrays: to multiply.

    Example:
        >>> einsum("isk,jtk->isjt", jnp.ones((2, 1, 3)), jnp.ones((4, 1, 3))).shape
        (2, 1, 4, 1)
    """
    given, out = pattern.split("->")
    names = given.split(",")
    shared = [axis for axis in names[0] if axis in names[-1]]
    single = set(given) - {",", *shared}
    if len(names) != 2 or not single <= set(out):
        return jnp.einsum(pattern, *arrays, precision=HIGHEST)
    first = [axis for axis in out if axis in single][:1]
    if not set(first) <= set(names[0]):
        names, arrays = names[::-1], arrays[::-1]
    batch, summed = [a for a in out if a in shared], [a for a in shared if a not in out]
    free = [[a for a in out if a in own and a not in batch] for own in names]
    sizes = {
        a: n for own, array in zip(names, arrays, strict=True) for a, n in zip(own, array.shape, strict=True)
    }
    matrices: list[Any] = []
    contracted: list[int] = []
    for own, rest, array in zip(names, free, arrays, strict=True):
        last = [a for a in own if sizes[a] > 1 and a not in batch][-1:]
        groups = [rest, summed] if set(last) <= set(summed) else [summed, rest]
        order = [*batch, *groups[0], *groups[1]]
        lengths = [math.prod(sizes[a] for a in group) for group in groups]
        moved = array.transpose([own.index(a) for a in order])
        matrices.append(moved.reshape(*(sizes[a] for a in batch), *lengths))
        contracted.append(len(batch) + groups.index(summed))
    axes = tuple(range(len(batch)))
    numbers = (((contracted[0],), (contracted[1],)), (axes, axes))
    product = jax.lax.dot_general(matrices[0], matrices[1], numbers, precision=HIGHEST)
    made = [*batch, *free[0], *free[1]]
    return product.reshape([sizes[a] for a in made]).transpose([made.index(a) for a in out])
