"""A parameter on its way to its use: which entries an array derived from it holds, and times what."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Layout = tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class View:
    """An array that holds entries of one parameter, each times the same number.

    Args:
        leaf: number of the parameter.
        cells: a NumPy array over memory that nobody reads or writes, strided as the entries lie in the
            parameter: NumPy's own rules then say what a reshape, a transposition or a slice makes of it.
        scales: what the entries are multiplied by: plain numbers, and pairs (slot of a scalar, power).
    """

    leaf: int
    cells: np.ndarray
    scales: tuple[Any, ...] = ()

    def of(self, cells: np.ndarray) -> View | None:
        """Returns the view of other cells of the same parameter, or None where NumPy had to copy."""
        whole = cells.size == 0 or np.may_share_memory(cells, self.cells)
        return dataclasses.replace(self, cells=cells) if whole else None

    def times(self, scale: Any) -> View:
        """Returns the view multiplied by a scalar."""
        return dataclasses.replace(self, scales=(*self.scales, scale))

    @property
    def repeats(self) -> bool:
        """Whether some entry of the parameter occurs more than once."""
        pairs = zip(self.cells.shape, self.cells.strides, strict=True)
        return any(size > 1 and stride == 0 for size, stride in pairs)


def whole(leaf: int, shape: Sequence[int]) -> View:
    """Returns a parameter as it stands."""
    return View(leaf, np.empty(shape, np.int8))


def arrange(cells: np.ndarray, axes: Sequence[int]) -> tuple[tuple[int, ...], Layout]:
    """Returns some axes in the order of the parameter's memory, and the sizes and strides they have there.

    Two uses that index the same entries in the same way get the same layout, however their axes were
    ordered, split or joined.
    """
    order = tuple(sorted(axes, key=lambda axis: -abs(cells.strides[axis])))
    layout: list[tuple[int, int]] = []
    for axis in order:
        size, stride = cells.shape[axis], cells.strides[axis]
        if size == 1:
            continue
        if layout and layout[-1][1] == size * stride:
            layout[-1] = (layout[-1][0] * size, stride)
        else:
            layout.append((size, stride))
    return order, tuple(layout)


def _slice(cells: np.ndarray, params: Mapping[str, Any]) -> np.ndarray:
    """A static slice."""
    strides = params["strides"] or (1,) * cells.ndim
    spans = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    return cells[tuple(slice(low, high, step) for low, high, step in spans)]


def _broadcast(cells: np.ndarray, params: Mapping[str, Any]) -> np.ndarray:
    """New axes, and axes of size 1 that are repeated."""
    shape, where = params["shape"], params["broadcast_dimensions"]
    aligned = [1] * len(shape)
    for axis, size in zip(where, cells.shape, strict=True):
        aligned[axis] = size
    return np.broadcast_to(cells.reshape(aligned), shape)


def _reshape(cells: np.ndarray, params: Mapping[str, Any]) -> np.ndarray:
    """Other axes over the same entries."""
    return cells.reshape(params["new_sizes"])


MOVES: dict[str, Callable[[np.ndarray, Mapping[str, Any]], np.ndarray]] = {
    "reshape": _reshape,
    "transpose": lambda cells, params: cells.transpose(params["permutation"]),
    "squeeze": lambda cells, params: np.squeeze(cells, params["dimensions"]),
    "expand_dims": lambda cells, params: np.expand_dims(cells, params["dimensions"]),
    "broadcast_in_dim": _broadcast,
    "slice": _slice,
    "rev": lambda cells, params: np.flip(cells, params["dimensions"]),
    "convert_element_type": lambda cells, params: cells,
    "copy": lambda cells, params: cells,
    "copy_p": lambda cells, params: cells,
    "optimization_barrier": lambda cells, params: cells,
    "pvary": lambda cells, params: cells,
    "pcast": lambda cells, params: cells,
    "sharding_constraint": lambda cells, params: cells,
}


def moved(name: str, params: Mapping[str, Any], view: View) -> View | None:
    """Returns what an operation on a parameter alone makes of its view; None if it is no plain move.

    Example:
        >>> kernel = whole(0, (3, 4))
        >>> moved("transpose", {"permutation": (1, 0)}, kernel).cells.shape
        (4, 3)
        >>> moved("tanh", {}, kernel) is None
        True
    """
    move = MOVES.get(name)
    return None if move is None else view.of(move(view.cells, params))


def split(params: Mapping[str, Any], view: View) -> list[View] | None:
    """Returns the parts of a view that is split along an axis."""
    ends = np.cumsum(params["sizes"])[:-1].tolist()
    parts = [view.of(part) for part in np.split(view.cells, ends, axis=params["axis"])]
    found = [part for part in parts if part is not None]
    return found if len(found) == len(parts) else None
