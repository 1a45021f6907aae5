"""A sweep that is killed and started again ends with the same bits; a damaged state is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from tests.training.sweep_killed import run
from tests.training.sweep_problem import ADAM, EXTRAS, RATES, SEEDS, batches, data
from widelimit.training import Checkpoint, Mode, Problem, SweepResult, sweep

ROOT = Path(__file__).parents[2]


class Stop(Exception):
    """Ends a sweep from within, where a kill would."""


@pytest.fixture(scope="module")
def undisturbed() -> SweepResult:
    """What every interrupted sweep must end with."""
    return run(None)


def assert_same_bits(one: SweepResult, other: SweepResult) -> None:
    """Every number of a result, NaN included."""
    np.testing.assert_array_equal(one.losses, other.losses)
    np.testing.assert_array_equal(one.diverged_at, other.diverged_at)
    assert one.metrics.keys() == other.metrics.keys()
    for name, values in one.metrics.items():
        np.testing.assert_array_equal(values, other.metrics[name])


def interrupted(directory: Path, chunks: int, **changes: object) -> None:
    """Leaves the state after a number of chunks."""
    calls = []

    def on_chunk(done: int, total: int) -> None:
        calls.append(done)
        if len(calls) == chunks:
            raise Stop

    settings = {"learning_rates": RATES, "extras": EXTRAS, "mode": Mode(1, in_flight=3), **changes}
    with pytest.raises(Stop):
        sweep(
            ADAM,
            seeds=SEEDS,
            data=data(),
            batches=batches(),
            evaluation=data(),
            chunk=3,
            devices=jax.devices()[:1],
            checkpoint=Checkpoint(directory, every=0.0),
            on_chunk=on_chunk,
            **settings,
        )


def test_a_killed_process_is_taken_up_by_another(tmp_path, undisturbed):
    """SIGKILL in the middle of the first wave; another process finishes, bit for bit."""
    command = [sys.executable, "-m", "tests.training.sweep_killed", str(tmp_path / "state"), "2"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": "src"}, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert Checkpoint(tmp_path / "state").latest() == 2
    assert_same_bits(run(tmp_path / "state"), undisturbed)


@pytest.mark.parametrize("chunks", [1, 3])
def test_resumed_after_any_chunk(chunks, tmp_path, undisturbed):
    """Within a wave, and between two: 3 chunks are the whole first wave, whose cells are measured by then."""
    interrupted(tmp_path / "state", chunks)
    assert_same_bits(run(tmp_path / "state"), undisturbed)


def test_resuming_runs_only_what_is_missing(tmp_path):
    """And a finished sweep, resumed, runs nothing at all."""
    interrupted(tmp_path / "state", 2)
    seen: list[int] = []
    arguments = {
        "learning_rates": RATES,
        "seeds": SEEDS,
        "data": data(),
        "batches": batches(),
        "mode": Mode(1, in_flight=3),
        "extras": EXTRAS,
        "evaluation": data(),
        "chunk": 3,
        "devices": jax.devices()[:1],
        "checkpoint": Checkpoint(tmp_path / "state", every=0.0),
    }
    first = sweep(ADAM, on_chunk=lambda done, total: seen.append(done), **arguments)
    assert seen == [21, 30, 39, 42]  # after 9 and 18 of the first wave, which were done
    second = sweep(ADAM, on_chunk=lambda done, total: seen.append(done), **arguments)
    assert len(seen) == 4
    assert_same_bits(first, second)


def test_random_keys_in_the_optimizer_state_survive(tmp_path):
    """Gradient noise draws from a key that the state carries."""
    noisy = Problem(
        ADAM.initialise,
        ADAM.loss,
        lambda rate, extras: optax.chain(
            optax.add_noise(eta=0.01, gamma=0.5, key=jax.random.key(5)), optax.sgd(rate)
        ),
    )

    def train(checkpoint: Checkpoint | None, stop_after: int = 0) -> SweepResult:
        def on_chunk(done: int, total: int) -> None:
            if done == stop_after:
                raise Stop

        with jax.numpy_dtype_promotion("standard"):
            return sweep(
                noisy,
                learning_rates=[0.1],
                seeds=[0],
                data=data(),
                batches=batches(seeds=1),
                mode=Mode(1),
                extras=EXTRAS,
                chunk=3,
                devices=jax.devices()[:1],
                checkpoint=checkpoint,
                on_chunk=on_chunk,
            )

    checkpoint = Checkpoint(tmp_path / "state", every=0.0)
    with pytest.raises(Stop):
        train(checkpoint, stop_after=3)
    assert_same_bits(train(checkpoint), train(None))


@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rates": (0.01, 0.05, 0.3)},
        {"mode": Mode(1, in_flight=2)},
        {"extras": {"scale": np.float32(0.8)}},
    ],
    ids=["rates", "mode", "extras"],
)
def test_the_state_of_another_sweep_is_refused(changes, tmp_path):
    """With one sentence, and nothing of it lost."""
    interrupted(tmp_path / "state", 1, **changes)
    with pytest.raises(ValueError, match="belongs to a sweep with another grid") as caught:
        run(tmp_path / "state")
    assert "\n" not in str(caught.value)
    assert Checkpoint(tmp_path / "state").latest() == 1


@pytest.mark.parametrize("part", ["state", "identity"])
def test_a_truncated_state_is_refused(part, tmp_path):
    """Each part cut to half: one sentence that names the directory and says what to do."""
    interrupted(tmp_path / "state", 1)
    files = [
        path
        for path in (tmp_path / "state" / "1" / part).rglob("*")
        if path.is_file() and path.stat().st_size
    ]
    for path in files:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(
        ValueError, match="seems truncated .* delete .*state to start this sweep again"
    ) as caught:
        run(tmp_path / "state")
    assert "\n" not in str(caught.value) and files


def test_a_half_written_state_is_ignored(tmp_path, undisturbed):
    """A kill while Orbax writes leaves a directory that was not yet renamed to its number."""
    interrupted(tmp_path / "state", 1)
    (tmp_path / "state" / "2.orbax-checkpoint-tmp").mkdir()
    assert Checkpoint(tmp_path / "state").latest() == 1
    assert_same_bits(run(tmp_path / "state"), undisturbed)


def test_a_cleared_state_is_gone(tmp_path):
    """Also when there is none."""
    checkpoint = Checkpoint(tmp_path / "state")
    checkpoint.clear()
    interrupted(tmp_path / "state", 1)
    assert checkpoint.latest() == 1
    checkpoint.clear()
    assert checkpoint.latest() is None and not list(tmp_path.iterdir())


def test_states_are_kept_no_more_often_than_asked(tmp_path):
    """A sweep that is over before it is time for a state writes none."""
    sweep(
        ADAM,
        learning_rates=[0.1],
        seeds=SEEDS,
        data=data(),
        batches=batches(),
        mode=Mode(1),
        extras=EXTRAS,
        evaluation=data(),
        checkpoint=Checkpoint(tmp_path / "state", every=3600.0),
    )
    assert not (tmp_path / "state").exists()
