"""Minima of many sampled curves at once: the vectorised core of the optimum finder."""

from __future__ import annotations

import numpy as np

INTERIOR, EDGE_LOW, EDGE_HIGH, CLIFF = range(4)


def locate(
    x: np.ndarray, curves: np.ndarray, window: int, cliff: float, log: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Minimum of each curve by a local parabola: (place, height, code, lies on a cell), each of shape [B].

    Args:
        x: where the curves were sampled, shape [R], increasing.
        curves: shape [B, R], infinite where there is no value.
        window: cells on either side of the best that may enter the fit.
        cliff: ratio to the best value beyond which a cell is not local.
        log: curves are log2 of the values that ``cliff`` is about.
    """
    offsets = np.arange(-window, window + 1)
    best = np.argmin(curves, axis=1)
    cells = best[:, None] + offsets
    inside = (cells >= 0) & (cells < x.size)
    cells = np.clip(cells, 0, x.size - 1)
    lowest = np.take_along_axis(curves, best[:, None], axis=1)
    with np.errstate(invalid="ignore"):  # a curve without any value: inf - inf
        rise = np.take_along_axis(curves, cells, axis=1) - lowest
    rise = np.where(inside, rise, np.inf)
    finite = np.isfinite(rise)
    threshold = np.log2(cliff) if log else (cliff - 1.0) * np.abs(lowest)
    local = finite & (rise <= threshold)

    below, above = window - 1, window + 1
    gone = inside[:, above] & (~finite[:, above] | (~local[:, above] & local[:, below]))
    low, high = best == 0, best == x.size - 1
    code = np.select([low, high, gone], [EDGE_LOW, EDGE_HIGH, CLIFF], INTERIOR)

    use = local & _unbroken(finite, window) & ~(gone[:, None] & (offsets > 0))
    nearest = np.where(gone[:, None], (offsets >= -2) & (offsets <= 0), np.abs(offsets) <= 1)
    use = np.where(use.sum(axis=1, keepdims=True) >= 3, use, _unbroken(finite, window) & nearest)
    fitted = (use.sum(axis=1) >= 3) & ~low & ~high

    at = x[cells] - x[best][:, None]
    vertex, curvature, minimum = _vertex(at, np.where(use, rise, 0.0), use & fitted[:, None])
    fitted &= curvature > 0
    left = np.where(use, at, np.inf).min(axis=1, initial=np.inf)
    right = np.where(use, at, -np.inf).max(axis=1, initial=-np.inf)
    outside = fitted & ((vertex <= left) | (vertex >= right))
    on_cell = ~fitted | outside
    shift = np.where(fitted, np.clip(vertex, left, right), 0.0)
    height = np.where(on_cell, 0.0, minimum) + lowest[:, 0]
    place = np.where(np.isfinite(lowest[:, 0]), x[best] + shift, np.nan)
    return place, height, code, on_cell


def interpolate(x: np.ndarray, curves: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Value of each curve at one place: by a parabola, by a line beside a missing cell, else infinite.

    Args:
        x: where the curves were sampled, shape [R], R >= 3, increasing.
        curves: shape [B, R], infinite where there is no value.
        where: one place per curve, inside ``x``, shape [B].
    """
    where = np.nan_to_num(where, nan=x[0])
    middle = np.clip(np.abs(where[:, None] - x).argmin(axis=1), 1, x.size - 2)
    three = middle[:, None] + np.array([-1, 0, 1])
    parabola = _lagrange(x[three], np.take_along_axis(curves, three, axis=1), where)
    left = np.clip(np.searchsorted(x, where, side="right") - 1, 0, x.size - 2)
    two = left[:, None] + np.array([0, 1])
    line = _lagrange(x[two], np.take_along_axis(curves, two, axis=1), where)
    value = np.where(np.isfinite(parabola), parabola, line)
    return np.where(np.isnan(value), np.inf, value)


def _lagrange(nodes: np.ndarray, values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Polynomial through the nodes; a missing value with no weight does no harm."""
    total = np.zeros(where.shape)
    for i in range(nodes.shape[1]):
        others = [j for j in range(nodes.shape[1]) if j != i]
        ratio = (where[:, None] - nodes[:, others]) / (nodes[:, [i]] - nodes[:, others])
        weight = ratio.prod(axis=1)
        missing = np.where(np.abs(weight) < 1e-12, 0.0, np.nan)
        finite = np.isfinite(values[:, i])
        total += np.where(finite, weight * np.where(finite, values[:, i], 0.0), missing)
    return total


def _unbroken(finite: np.ndarray, window: int) -> np.ndarray:
    """Cells that no missing cell separates from the best one."""
    right = np.logical_and.accumulate(finite[:, window:], axis=1)
    left = np.logical_and.accumulate(finite[:, window::-1], axis=1)[:, ::-1]
    return np.concatenate([left[:, :-1], right], axis=1)


def _vertex(at: np.ndarray, y: np.ndarray, use: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Least-squares parabola of each row: (vertex, curvature, height); curvature 0 where none was fitted."""
    scale = np.abs(np.where(use, at, 0.0)).max(axis=1, initial=0.0)
    scale = np.where(scale > 0, scale, 1.0)
    columns = (at / scale[:, None])[:, :, None] ** np.arange(3)
    weight = use.astype(float)
    normal = np.einsum("bw,bwp,bwq->bpq", weight, columns, columns)
    normal[use.sum(axis=1) < 3] = np.eye(3)
    right = np.einsum("bw,bwp,bw->bp", weight, columns, y)
    c, b, a = np.moveaxis(np.linalg.solve(normal, right[:, :, None])[:, :, 0], 1, 0)
    bowl = a > 1e-12
    safe = np.where(bowl, a, 1.0)
    vertex = np.where(bowl, -b / (2.0 * safe), 0.0)
    return vertex * scale, np.where(bowl, a, 0.0), c - b**2 / (4.0 * safe)
