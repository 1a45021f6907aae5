"""The grid of a sweep: its cells, its steps in equal chunks, and every check that can be made beforehand."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int32

PyTree = Any


@dataclasses.dataclass(frozen=True, eq=False)
class Grid:
    """R learning rates times S seeds, each trained for T steps. Cell ``r S + s`` has rate r and seed s.

    Args:
        rates: all different, positive.
        seeds: all different.
        batches: rows of the data that each step takes.
        length: steps per chunk.
    """

    rates: Float[np.ndarray, " R"]
    seeds: tuple[int, ...]
    batches: Int32[np.ndarray, "S T batch"]
    length: int

    @property
    def cells(self) -> int:
        """How many cells there are."""
        return len(self.rates) * len(self.seeds)

    @property
    def steps(self) -> int:
        """How many steps each cell takes."""
        return self.batches.shape[1]

    @property
    def chunks(self) -> int:
        """How many chunks the steps fill."""
        return -(-self.steps // self.length)


def check_grid(
    learning_rates: Sequence[float] | np.ndarray,
    seeds: Sequence[int],
    batches: Any,
    data: PyTree,
    evaluation: PyTree,
    chunk: int,
    divergence: float,
) -> Grid:
    """Returns the grid, or says in one sentence why there can be none."""
    rates = np.asarray(learning_rates, dtype=np.float64)
    if rates.ndim != 1 or not rates.size:
        raise ValueError(f"learning_rates must be a list of at least one rate; got shape {rates.shape}.")
    bad = rates[~(np.isfinite(rates) & (rates > 0))]
    if bad.size:
        raise ValueError(f"learning rates must be positive and finite; got {bad[0]}.")
    whole = tuple(_whole("each seed", seed) for seed in seeds)
    outside = [seed for seed in whole if not 0 <= seed < 2**32]
    if outside:
        raise ValueError(f"seeds must lie in 0 to {2**32 - 1}; got {outside[0]}.")
    if not whole:
        raise ValueError("seeds must hold at least one whole number; got none.")
    for name, values in (("learning_rates", rates.tolist()), ("seeds", whole)):
        if len(set(values)) < len(values):
            raise ValueError(
                f"{name} must all be different, as repeated cells fake small error bars; got {values}."
            )
    length = _whole("chunk", chunk)
    if length < 1:
        raise ValueError(f"chunk must be at least 1 step; got {length}.")
    if not divergence >= 1:
        raise ValueError(f"divergence must be a multiple of the first loss, at least 1; got {divergence}.")
    table = _check_batches(batches, len(whole), data)
    for name, tree in (("data", data), ("evaluation", evaluation)):
        _check_finite(name, tree)
    chunks = math.ceil(table.shape[1] / length)
    return Grid(rates, whole, table, math.ceil(table.shape[1] / chunks))


def _whole(name: str, value: Any) -> int:
    """A whole number of any integer type; 3.0 is a mistake that would otherwise surface deep in JAX."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number; got {value!r}.") from None


def _check_batches(batches: Any, seeds: int, data: PyTree) -> Int32[np.ndarray, "S T batch"]:
    """Indices out of range would be clamped without a word when compiled."""
    table = np.asarray(batches)
    if not np.issubdtype(table.dtype, np.integer):
        raise TypeError(f"batches must hold whole numbers, rows of the data; got dtype {table.dtype}.")
    if table.ndim != 3 or table.shape[0] != seeds or 0 in table.shape:
        raise ValueError(
            f"batches must have shape [seeds, steps, batch] with {seeds} seeds, at least one step and one "
            f"sample; got {table.shape}."
        )
    sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(data)}
    if len(sizes) != 1 or sizes == {()}:
        raise ValueError(
            "data must be arrays with one row per sample, as many rows in each; got leading sizes "
            f"{sorted(sizes)}."
        )
    rows = sizes.pop()[0]
    if table.min() < 0 or table.max() >= rows:
        raise ValueError(
            f"batches must index the {rows} rows of data, 0..{rows - 1}; got {table.min()} to {table.max()}."
        )
    return table.astype(np.int32)


def _check_finite(name: str, tree: PyTree) -> None:
    """A NaN in the data would look like divergence in every cell."""
    for where, leaf in _leaves(tree):
        if np.issubdtype(leaf.dtype, np.inexact) and not np.isfinite(leaf).all():
            raise ValueError(
                f"{name}{where} must be finite; it holds NaN or infinite values: remove or replace them."
            )


def _leaves(tree: PyTree) -> Iterator[tuple[str, np.ndarray]]:
    """Arrays of a pytree on the host, with their place in it."""
    for path, leaf in jax.tree.leaves_with_path(tree):
        yield jax.tree_util.keystr(path), np.asarray(leaf)
