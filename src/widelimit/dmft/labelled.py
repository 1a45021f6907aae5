"""An array whose axes have names, with its Monte-Carlo standard error."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Labelled(NamedTuple):
    """An order parameter: numbers, the names of their axes, and their standard error.

    Axes are named ``layer``, ``time``, ``sample``, ``output`` and, for the second argument of a two-point
    function, ``time'`` and ``sample'``. Times are numbers of steps, samples count training, then test points.

    Attributes:
        values: the numbers.
        axes: a name for each axis.
        stderr: standard error of each number, like values; None where the numbers are exact.
        first_layer: the number of the first layer on the axis ``layer``.

    Example:
        >>> kernel = Labelled(np.arange(6.0).reshape(2, 3), ("layer", "time"), first_layer=1)
        >>> kernel.at(layer=2).values, kernel.at(layer=2, time=-1).values.item()
        (array([3., 4., 5.]), 5.0)
    """

    values: np.ndarray
    axes: tuple[str, ...]
    stderr: np.ndarray | None = None
    first_layer: int = 1

    def at(self, **where: int) -> Labelled:
        """Returns the part at given places, by the name of the axis (with ``_`` for a prime: ``time_=3``).

        Args:
            where: one whole number for each axis that is to go; negative ones count from the end.

        Raises:
            ValueError: for an axis that is not there.
            IndexError: for a place that is not there.
        """
        places = {name.replace("_", "'"): place for name, place in where.items()}
        unknown = [name for name in places if name not in self.axes]
        if unknown:
            raise ValueError(f"axes are {', '.join(self.axes)}; got {', '.join(unknown)}.")
        index = tuple(self._place(name, places) for name in self.axes)
        axes = tuple(name for name in self.axes if name not in places)
        stderr = None if self.stderr is None else self.stderr[index]
        return Labelled(np.asarray(self.values[index]), axes, stderr, self.first_layer)

    def _place(self, name: str, places: dict[str, int]) -> int | slice:
        """What stands in the index for one axis."""
        if name not in places:
            return slice(None)
        place = places[name]
        if name == "layer" and place >= 0:
            place -= self.first_layer
            if place < 0:
                raise IndexError(f"layers start at {self.first_layer}; got {places[name]}.")
        return place
