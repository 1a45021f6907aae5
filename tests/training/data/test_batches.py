"""Batches are a pure function of (seed, step): whole epochs, any step without replay, the same everywhere."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from widelimit.training.data import batch_indices, batch_table

SIZES = st.integers(1, 40).flatmap(lambda samples: st.tuples(st.integers(1, samples), st.just(samples)))
SEEDS = st.integers(0, 2**70)


@settings(deadline=None, max_examples=60)
@given(seed=SEEDS, sizes=SIZES, epoch=st.integers(0, 5))
def test_every_epoch_visits_every_sample_at_most_once(seed, sizes, epoch):
    """Sampling is without replacement, and an epoch leaves out only what does not fill a batch."""
    batch_size, samples = sizes
    per_epoch = samples // batch_size
    visited = batch_table(seed, epoch * per_epoch, per_epoch, batch_size, samples).ravel()
    assert len(set(visited.tolist())) == len(visited) == samples - samples % batch_size
    assert visited.min() >= 0 and visited.max() < samples and visited.dtype == np.int32


@settings(deadline=None, max_examples=60)
@given(seed=SEEDS, sizes=SIZES, start=st.integers(0, 100), head=st.integers(0, 20), tail=st.integers(0, 20))
def test_resuming_continues_the_run(seed, sizes, start, head, tail):
    """Stopping after any step and asking for the rest gives what an undisturbed run sees."""
    whole = batch_table(seed, start, head + tail, *sizes)
    first, rest = batch_table(seed, start, head, *sizes), batch_table(seed, start + head, tail, *sizes)
    np.testing.assert_array_equal(np.concatenate([first, rest]), whole)
    assert whole.shape == (head + tail, sizes[0])


@settings(deadline=None, max_examples=30)
@given(seed=SEEDS, sizes=SIZES, step=st.integers(0, 10**12))
def test_any_step_is_reached_without_replay(seed, sizes, step):
    """A step far ahead costs what the first one does, and is a row of the table around it."""
    np.testing.assert_array_equal(
        batch_indices(seed, step, *sizes), batch_table(seed, max(step - 3, 0), 7, *sizes)[min(step, 3)]
    )


def test_orders_differ_between_epochs_and_seeds():
    """A repeated order, or one shared by neighbouring seeds, would correlate runs that are to be averaged."""
    rows = [batch_table(seed, 0, 20, 50, 50) for seed in range(20)]
    assert len(np.unique(np.concatenate(rows), axis=0)) == 400


def test_every_order_is_equally_likely():
    """Each of the 6 orders of 3 samples is drawn 1/6 of the time: chi-square with 5 degrees of freedom."""
    rows = batch_table(3, 0, 6000, 3, 3)
    _, counts = np.unique(rows, axis=0, return_counts=True)
    assert len(counts) == 6
    assert ((counts - 1000) ** 2 / 1000).sum() < 20.5  # exceeded by chance once in a thousand seeds


def test_the_order_never_changes():
    """Results are compared across machines and versions, so the indices themselves are promised."""
    assert batch_table(7, 0, 3, 4, 10).tolist() == [[6, 4, 0, 5], [8, 2, 9, 3], [9, 5, 7, 0]]


def test_a_table_drives_a_scan():
    """Inside jit a run is a scan over rows; each row gathers its batch."""
    data = jnp.arange(12, dtype=jnp.float32)
    rows = jnp.asarray(batch_table(1, 0, 3, 4, 12))
    _, sums = jax.jit(lambda rows: jax.lax.scan(lambda carry, row: (carry, data[row].sum()), 0, rows))(rows)
    assert float(sums.sum()) == 66.0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"batch_size": 11}, ValueError, "at most the 10 training samples; got 11"),
        ({"batch_size": 0}, ValueError, "batch_size must be a whole number of at least 1; got 0"),
        ({"samples": -1}, ValueError, "samples must be a whole number of at least 1; got -1"),
        ({"start": -1}, ValueError, "start must be a whole number of at least 0; got -1"),
        ({"steps": 2.5}, TypeError, "steps must be a whole number; got 2.5"),
        ({"seed": -3}, ValueError, "seed must be a whole number of at least 0; got -3"),
        ({"seed": "7"}, TypeError, "seed must be a whole number; got '7'"),
        ({"seed": True}, ValueError, "seed must be a whole number of at least 0; got True"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    """One sentence says which number is wrong and what it was."""
    good = {"seed": 0, "start": 0, "steps": 2, "batch_size": 4, "samples": 10}
    with pytest.raises(error, match=message):
        batch_table(**(good | arguments))
