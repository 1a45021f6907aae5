"""A run that is killed and started again ends with the same bits; another run's state is refused."""

from __future__ import annotations

import os
import shutil

import jax
import numpy as np
import pytest

from tests.training.scale.support import mlp_trainer, samples, shared_mlp_trainer
from widelimit.training import Checkpoint, open_results
from widelimit.training.scale import fit, make_mesh
from widelimit.training.scale.fit import checksum

TIMES = ("seconds", "train_seconds", "warmup")
VALIDATION = [samples(1000), samples(1001)]


class Stop(Exception):
    """Ends a run where a kill would: nothing is written after it."""


def run(directory=None, stop=None, trainer=None, **changes):
    """Ten steps in stretches of three; ``stop`` is the step whose batch never comes."""

    def batches(step):
        if step == stop:
            raise Stop
        return samples(step)

    arguments = {
        "steps": 10,
        "key": jax.random.key(0),
        "tokens": 8,
        "log_every": 3,
        "validation": VALIDATION,
        "validate_every": 6,
        "settings": {"seed": 0, "vocabulary": 4},
        **changes,
    }
    if directory is None:
        return fit(trainer or shared_mlp_trainer(), batches, **arguments)
    with open_results(directory / "rows", "fit", {}) as results:
        return fit(
            trainer or shared_mlp_trainer(),
            batches,
            checkpoint=Checkpoint(directory / "state", every=0.0, keep=2),
            results=results,
            **arguments,
        )


def untimed(rows):
    """Rows without what differs between two runs of one program."""
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def assert_same_bits(one, other):
    """States and rows."""
    for a, b in zip(jax.tree.leaves(one.state), jax.tree.leaves(other.state), strict=True):
        np.testing.assert_array_equal(jax.device_get(a), jax.device_get(b))
    assert untimed(one.rows) == untimed(other.rows)


@pytest.fixture(scope="module")
def undisturbed():
    """What every interrupted run must end with."""
    return run()


@pytest.mark.parametrize("stops", [(0, 3), (4, 8)])
def test_killed_at_any_step_it_ends_with_the_same_bits(stops, tmp_path, undisturbed):
    """Before the first step, between two stretches, and inside of two."""
    for stop in stops:
        with pytest.raises(Stop):
            run(tmp_path, stop)
    resumed = run(tmp_path)
    assert resumed.resumed_at == stops[-1] // 3 * 3
    assert_same_bits(resumed, undisturbed)


def test_rows_say_what_happened(undisturbed):
    """A row per stretch; validation before the first step, where it is due, and after the last."""
    rows = undisturbed.rows
    assert [row["step"] for row in rows] == [0, 3, 6, 9, 10]
    assert [row["step"] for row in rows if "validation_loss" in row] == [0, 6, 10]
    assert [row["tokens"] for row in rows] == [0, 24, 48, 72, 80]
    assert [row["steps"] for row in rows[1:]] == [3, 3, 3, 1]
    assert [row["warmup"] for row in rows[1:]] == [True, False, False, False]
    assert rows[2]["checksum"] == checksum([samples(step) for step in (3, 4, 5)]) != rows[3]["checksum"]
    assert rows[-1]["validation_loss"] < rows[0]["validation_loss"]
    state = shared_mlp_trainer().initialise(jax.random.key(0))
    first = [float(shared_mlp_trainer().evaluate(state.params, one)) for one in VALIDATION]
    assert rows[0]["validation_loss"] == np.mean(first)


def test_only_the_newest_states_are_kept_and_a_finished_run_does_nothing(tmp_path, undisturbed):
    """The last state stays, so that the trained weights can be read; starting again asks for no batch."""
    run(tmp_path)
    assert sorted(int(path.name) for path in (tmp_path / "state").iterdir()) == [9, 10]
    again = run(tmp_path, stop=10)
    assert again.resumed_at == 10
    assert_same_bits(again, undisturbed)


def test_a_run_that_diverges_is_a_result(tmp_path):
    """It stops at the end of the stretch, says where, and does not go on when started again."""

    def batches(step):
        return {**samples(step), "x": np.full((8, 5), np.nan, np.float32)} if step == 4 else samples(step)

    trainer = shared_mlp_trainer()
    arguments = {"steps": 10, "key": jax.random.key(0), "tokens": 8, "log_every": 3}
    for _ in range(2):
        result = fit(trainer, batches, checkpoint=Checkpoint(tmp_path, every=0.0), **arguments)
        assert result.diverged and int(result.state.diverged_at) == int(result.state.step) == 4
    first = fit(trainer, batches, **arguments).rows
    assert [(row["step"], row["diverged"]) for row in first] == [(3, False), (6, True)]
    assert first[-1]["diverged_at"] == 4 and np.isnan(first[-1]["loss"])


def test_a_validation_loss_that_is_not_finite_is_divergence(tmp_path):
    """The run ends there, whatever its training loss is, and does not go on when started again."""
    bad = [{**samples(1000), "x": np.full((8, 5), np.nan, np.float32)}]
    for _ in range(2):
        result = run(tmp_path, validation=bad)
        assert result.diverged and int(result.state.diverged_at) == int(result.state.step) == 6
        assert [row["step"] for row in result.rows] == [0, 3, 6]
        assert [row["diverged_at"] for row in result.rows if "diverged_at" in row] == [6]


def test_a_state_moves_to_another_mesh(tmp_path, undisturbed):
    """Saved from one device, restored in parts on eight: the same bits, each part where it belongs."""
    run(tmp_path)
    trainer = mlp_trainer(make_mesh(2, 4))
    moved = run(tmp_path, trainer=trainer)
    assert_same_bits(moved, undisturbed)
    for array, where in zip(jax.tree.leaves(moved.state), jax.tree.leaves(trainer.shardings), strict=True):
        assert array.sharding.is_equivalent_to(where, array.ndim)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"settings": {"seed": 0, "vocabulary": 5}}, "has vocabulary 4, and here it is 5; choose another"),
        ({"settings": {"seed": 1, "vocabulary": 4}}, "has seed 0, and here it is 1"),
        ({"settings": {"vocabulary": 5, "seed": 1}}, "has vocabulary 4, and here it is 5"),
        ({"settings": {"vocabulary": 4}}, "has seed 0, and here it is None"),
        (
            {"trainer": lambda: mlp_trainer(width=12)},
            r"holds params/Dense_0/bias as float32 \[8\], and here it is float32 \[12\]",
        ),
        ({"trainer": lambda: mlp_trainer(micro_batches=2)}, "was trained with other micro-batches"),
        ({"steps": 8}, "the checkpoint is of step 10, past the 8 steps of this run"),
    ],
)
def test_the_state_of_another_run_is_refused(changes, match, finished):
    """In one sentence that names the first difference."""
    made = {name: value() if name == "trainer" else value for name, value in changes.items()}
    with pytest.raises(ValueError, match=match) as caught:
        run(finished, **made)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that is through."""
    directory = tmp_path_factory.mktemp("finished")
    run(directory)
    return directory


def truncate(state):
    """What a full disk or a bad one leaves."""
    for path in state.rglob("*"):
        if path.is_file():
            os.truncate(path, path.stat().st_size // 2)


def test_a_truncated_state_is_refused(tmp_path):
    """One sentence says which directory, and what to do."""
    with pytest.raises(Stop):
        run(tmp_path, stop=4)
    truncate(tmp_path / "state" / "3")
    with pytest.raises(ValueError, match="state/3 cannot be read and seems truncated .* to start this sweep"):
        run(tmp_path)


def test_without_a_truncated_state_the_one_before_serves(tmp_path, undisturbed):
    """Doing what the sentence says loses a stretch and nothing else."""
    with pytest.raises(Stop):
        run(tmp_path, stop=8)
    truncate(tmp_path / "state" / "6")
    with pytest.raises(ValueError, match="state/6 cannot be .*; delete it to go on from the state before it"):
        run(tmp_path)
    shutil.rmtree(tmp_path / "state" / "6")
    resumed = run(tmp_path)
    assert resumed.resumed_at == 3
    assert_same_bits(resumed, undisturbed)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"validate_every": 4}, "validate_every must be a multiple of log_every; got 4 and 3"),
        ({"validation": []}, "validate_every needs validation batches; got none"),
        ({"steps": 0}, "steps must be a whole number of at least 1"),
    ],
)
def test_settings_that_make_no_sense(changes, match):
    """Before anything is compiled."""
    with pytest.raises(ValueError, match=match):
        run(**changes)
