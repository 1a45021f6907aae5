"""Which samples each training step sees: a pure function of the seed and the step."""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Int32

from widelimit.training.data.streams import as_count, permutation


@functools.lru_cache(maxsize=8)
def _epoch(seed: int, epoch: int, samples: int) -> Int32[np.ndarray, " samples"]:
    """Kept for a few epochs, because a loop that asks step by step needs the same order many times."""
    order = permutation(seed, "batches", samples, epoch).astype(np.int32)
    order.flags.writeable = False
    return order


def _checked(seed: int, batch_size: int, samples: int, start: int) -> tuple[int, int, int, int]:
    """Returns the numbers that decide a batch, or says which one makes no sense."""
    seed, start = as_count("seed", seed, 0), as_count("start", start, 0)
    batch_size, samples = as_count("batch_size", batch_size, 1), as_count("samples", samples, 1)
    if batch_size > samples:
        raise ValueError(
            f"batch_size must be at most the {samples} training samples; got {batch_size}: "
            "lower batch_size, or take more samples."
        )
    return seed, batch_size, samples, start


def batch_table(
    seed: int, start: int, steps: int, batch_size: int, samples: int
) -> Int32[np.ndarray, "steps batch"]:
    """Returns the sample indices of the steps ``start, ..., start + steps - 1``, one row a step.

    With ``E = floor(samples / batch_size)`` steps to an epoch and ``pi_e`` a uniform order of the samples
    that depends on (seed, e) alone,

        ``row(t) = pi_e[r B : (r + 1) B],   e = floor(t / E),   r = t mod E,   B = batch_size``.

    The ``samples mod batch_size`` samples at the end of ``pi_e`` sit that epoch out, so that every batch has
    the same size. No state is kept: to resume at step t, ask for step t. Rows are ready for ``jax.lax.scan``.

    Args:
        seed: fixes the order of every epoch; a non-negative whole number.
        start: the first step, from 0.
        steps: how many steps.
        batch_size: samples per step, B; at most ``samples``.
        samples: size of the training set, P.

    Returns:
        Indices in ``0..samples-1``, int32, of shape [steps, batch_size].

    Raises:
        ValueError: if a count is negative or zero where it may not be, or the batch exceeds the training set.
        TypeError: if one of them is not a whole number.

    Example:
        >>> table = batch_table(seed=0, start=0, steps=6, batch_size=2, samples=6)
        >>> [sorted(epoch.ravel().tolist()) for epoch in (table[:3], table[3:])]
        [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]]
    """
    seed, batch_size, samples, start = _checked(seed, batch_size, samples, start)
    steps = as_count("steps", steps, 0)
    per_epoch = samples // batch_size
    first, end = start // per_epoch, -(-(start + steps) // per_epoch)
    rows = np.empty((max(end - first, 1), per_epoch, batch_size), np.int32)
    for epoch in range(first, end):
        rows[epoch - first] = _epoch(seed, epoch, samples)[: per_epoch * batch_size].reshape(per_epoch, -1)
    offset = start - first * per_epoch
    return rows.reshape(-1, batch_size)[offset : offset + steps]


def batch_indices(seed: int, step: int, batch_size: int, samples: int) -> Int32[np.ndarray, " batch"]:
    """Returns the sample indices of one step: a row of `batch_table`, without the rows before it.

    Args:
        seed: fixes the order of every epoch.
        step: the step, from 0.
        batch_size: samples per step; at most ``samples``.
        samples: size of the training set.

    Raises:
        ValueError: as `batch_table`.
        TypeError: as `batch_table`.

    Example:
        >>> bool((batch_indices(7, 1000, 8, 60) == batch_table(7, 990, 20, 8, 60)[10]).all())
        True
    """
    seed, batch_size, samples, step = _checked(seed, batch_size, samples, step)
    epoch, row = divmod(step, samples // batch_size)
    return _epoch(seed, epoch, samples)[row * batch_size : (row + 1) * batch_size].copy()
