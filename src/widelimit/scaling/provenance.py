"""Where the numbers of a traced program come from: constants, data, or axes of parameters."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Sequence
from math import prod
from typing import Any

Label = tuple[int, int]
"""One axis of one parameter: (index of the parameter among the leaves, axis)."""

Labels = frozenset[Label]
NONE: Labels = frozenset()


class Kind(enum.Enum):
    """What a traced array depends on; DATA wins over PARAM, PARAM over CONSTANT."""

    CONSTANT = 0
    PARAM = 1
    DATA = 2


@dataclasses.dataclass(frozen=True)
class Joint:
    """Two groups of axes summed against each other before any data came in; an empty side is a constant."""

    left: Labels
    right: Labels

    def sides(self) -> tuple[tuple[Labels, Labels], tuple[Labels, Labels]]:
        """Both directions in which the sum can be walked."""
        return (self.left, self.right), (self.right, self.left)


@dataclasses.dataclass(frozen=True)
class Value:
    """What is known of one traced array.

    Args:
        kind: what it depends on.
        dims: for every axis, the parameter axes it runs along.
        leaves: parameters it is made of (kind PARAM only).
        joints: sums over parameters against parameters (or constants) inside it.
        hadamard: pairs of parameters multiplied entry by entry inside it.
        reduced: parameter axes summed over alone.
        picked: parameter axes of which one entry was taken (the layer of a stack).
        products: products of a parameter with data inside it (kind DATA), whose sum may still come.
        single: the array is read once only, so that a sum that comes is the only use of the product.
        spread: axes along which the array was repeated.
    """

    kind: Kind
    dims: tuple[Labels, ...]
    leaves: frozenset[int] = frozenset()
    joints: frozenset[Joint] = frozenset()
    hadamard: frozenset[frozenset[int]] = frozenset()
    reduced: Labels = NONE
    picked: Labels = NONE
    products: frozenset[int] = frozenset()
    single: bool = True
    spread: frozenset[int] = frozenset()

    def like(self, dims: Sequence[Labels]) -> Value:
        """The same history with other axes."""
        return dataclasses.replace(self, dims=tuple(dims), spread=frozenset())

    def labels(self) -> Labels:
        """Every parameter axis that an axis of the array runs along."""
        return NONE.union(*self.dims)


def shape_of(variable: Any) -> tuple[int, ...]:
    """The shape of a traced variable; () for tokens and the like."""
    return tuple(getattr(variable.aval, "shape", ()))


def plain(kind: Kind, rank: int) -> Value:
    """An array without a history worth keeping."""
    return Value(kind, (NONE,) * rank)


def parameter(leaf: int, shape: Sequence[int]) -> Value:
    """A parameter as it enters the program; an axis of size 1 carries nothing."""
    dims = tuple(frozenset({(leaf, axis)}) if size > 1 else NONE for axis, size in enumerate(shape))
    return Value(Kind.PARAM, dims, frozenset({leaf}))


def union(values: Sequence[Value], dims: Sequence[Labels]) -> Value:
    """Joins the histories of several arrays into an array with the given axes."""
    kind = max((value.kind for value in values), key=lambda kind: kind.value, default=Kind.CONSTANT)
    return Value(
        kind,
        tuple(dims),
        leaves=frozenset[int]().union(*(value.leaves for value in values)),
        joints=frozenset[Joint]().union(*(value.joints for value in values)),
        hadamard=frozenset[frozenset[int]]().union(*(value.hadamard for value in values)),
        reduced=NONE.union(*(value.reduced for value in values)),
        picked=NONE.union(*(value.picked for value in values)),
    )


def factor(value: Value) -> Value:
    """Parameters summed to a mere number (a norm, a spectral radius) scale what they meet and no more."""
    if value.kind is Kind.PARAM and value.joints and not value.labels():
        summed = NONE.union(*(joint.left | joint.right for joint in value.joints))
        return dataclasses.replace(value, joints=frozenset(), reduced=value.reduced | summed)
    return value


def aligned(values: Sequence[Value], shapes: Sequence[Sequence[int]], shape: Sequence[int]) -> list[Labels]:
    """Axes of an entry-by-entry result: the union over the operands, where they are not repeated."""
    dims = [NONE] * len(shape)
    for value, own in zip(values, shapes, strict=True):
        if len(own) == len(shape):
            dims = [
                old | (new if size > 1 else NONE)
                for old, new, size in zip(dims, value.dims, own, strict=True)
            ]
    return dims


def reshaped(value: Value, old: Sequence[int], new: Sequence[int]) -> Value:
    """Axes after a reshape: a merged axis runs along all its parts, each part of a split one along it."""
    if 0 in old:
        return value.like([NONE] * len(new))
    dims: list[Labels] = [NONE] * len(new)
    spread: set[int] = set()
    i = j = 0
    while i < len(old) or j < len(new):
        start_i, start_j = i, j
        i, j = min(i + 1, len(old)), min(j + 1, len(new))
        while (left := prod(old[start_i:i])) != (right := prod(new[start_j:j])):
            if left < right:
                i += 1
            else:
                j += 1
        run = NONE.union(*value.dims[start_i:i])
        repeated = all(axis in value.spread for axis in range(start_i, i) if old[axis] > 1)
        for axis in range(start_j, j):
            dims[axis] = run if new[axis] > 1 else NONE
            if repeated and new[axis] > 1:
                spread.add(axis)
    return dataclasses.replace(value.like(dims), spread=frozenset(spread))


def axes_of(labels: Iterable[Label]) -> dict[int, frozenset[int]]:
    """Groups parameter axes by parameter."""
    grouped: dict[int, set[int]] = {}
    for leaf, axis in labels:
        grouped.setdefault(leaf, set()).add(axis)
    return {leaf: frozenset(axes) for leaf, axes in grouped.items()}
