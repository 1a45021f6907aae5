"""Order parameters from different sources side by side: the same layers, times and axes."""

from __future__ import annotations

import numpy as np

from widelimit.dmft import Labelled, Solution

NAMES = ("predictions", "loss", "features", "gradients", "ntk")


def times_of(solution: Solution) -> tuple[int, ...]:
    """Returns the steps at which a solution holds order parameters: all, or those of an ensemble.

    Args:
        solution: of a solver, or means over finite networks.
    """
    return tuple(solution.diagnostics.get("times", range(solution.problem.steps + 1)))


def side_by_side(first: Solution, second: Solution, name: str) -> tuple[Labelled, Labelled] | None:
    """Returns an order parameter of two solutions at the layers and times that both have, in the same axes.

    Kernels between times are taken at equal ones where the other side has only those; an axis that one side
    leaves out (a linear network's gradients are the same at all samples) is filled in.

    Args:
        first: a solution.
        second: a solution of a problem with the same points and outputs.
        name: of what both hold.

    Returns:
        The two, or None where one of them does not hold it.

    Raises:
        ValueError: if they share no time, or their points differ.
    """
    a, b = getattr(first, name), getattr(second, name)
    if a is None or b is None:
        return None
    whole = name in ("predictions", "loss")
    own = [range(s.problem.steps + 1) if whole else times_of(s) for s in (first, second)]
    common = [t for t in own[0] if t in own[1]]
    if not common:
        raise ValueError(f"The two hold {name} at no common time: {list(own[0])} and {list(own[1])}.")
    two_time = "time'" in a.axes and "time'" in b.axes
    a, b = (_at(label, list(t), common, two_time) for label, t in ((a, own[0]), (b, own[1])))
    if "layer" in a.axes and "layer" in b.axes:
        a, b = _layers(a, b), _layers(b, a)
    axes = a.axes if len(a.axes) >= len(b.axes) else b.axes
    a, b = (_filled(label, axes, other) for label, other in ((a, b), (b, a)))
    if a.values.shape != b.values.shape:
        raise ValueError(f"The two differ in shape: {name} is {a.values.shape} and {b.values.shape}.")
    return a, b


def _at(label: Labelled, own: list[int], common: list[int], two_time: bool) -> Labelled:
    """At these steps; at equal times unless two are wanted."""
    places = [own.index(t) for t in common]
    axes = list(label.axes)

    def pick(values: np.ndarray | None) -> np.ndarray | None:
        if values is None:
            return None
        found = np.take(values, places, axis=axes.index("time"))
        if "time'" not in axes:
            return found
        found = np.take(found, places, axis=axes.index("time'"))
        if two_time:
            return found
        equal = np.diagonal(found, axis1=axes.index("time"), axis2=axes.index("time'"))
        return np.moveaxis(equal, -1, axes.index("time"))

    values = pick(label.values)
    assert values is not None
    kept = tuple(axis for axis in axes if two_time or axis != "time'")
    return Labelled(values, kept, pick(label.stderr), label.first_layer)


def _layers(label: Labelled, other: Labelled) -> Labelled:
    """The layers that both have."""
    where = label.axes.index("layer")
    first = max(label.first_layer, other.first_layer)
    last = min(
        one.first_layer + one.values.shape[one.axes.index("layer")] for one in (label, other)
    )  # behind the last
    cut = [slice(None)] * label.values.ndim
    cut[where] = slice(first - label.first_layer, last - label.first_layer)
    stderr = None if label.stderr is None else label.stderr[tuple(cut)]
    return Labelled(label.values[tuple(cut)], label.axes, stderr, first)


def _filled(label: Labelled, axes: tuple[str, ...], other: Labelled) -> Labelled:
    """With the axes that it leaves out, constant along them."""
    if label.axes == axes:
        return label
    if not set(label.axes) < set(axes):
        raise ValueError(f"The two differ in axes: {label.axes} and {other.axes}.")
    shape = dict(zip(other.axes, other.values.shape, strict=True))

    def fill(values: np.ndarray | None) -> np.ndarray | None:
        if values is None:
            return None
        order = [label.axes.index(axis) for axis in axes if axis in label.axes]
        spread = np.transpose(values, order)
        for place, axis in enumerate(axes):
            if axis not in label.axes:
                spread = np.expand_dims(spread, place)
        size = tuple(spread.shape[i] if axis in label.axes else shape[axis] for i, axis in enumerate(axes))
        return np.broadcast_to(spread, size)

    values = fill(label.values)
    assert values is not None
    return Labelled(values, axes, fill(label.stderr), label.first_layer)
