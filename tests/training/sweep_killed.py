"""Run by test_sweep_resume.py in a process of its own: a sweep that kills itself after a number of chunks.

python sweep_killed.py DIRECTORY CHUNKS
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import jax

from tests.training.sweep_problem import ADAM, EXTRAS, RATES, SEEDS, batches, data
from widelimit.training import Checkpoint, Mode, SweepResult, sweep


def run(directory: Path | None, kill_after: int | None = None, mode: Mode | None = None) -> SweepResult:
    """The sweep that is killed, resumed and compared: two waves of three chunks, keeping every state."""
    calls = 0

    def on_chunk(done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if calls == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)

    return sweep(
        ADAM,
        learning_rates=RATES,
        seeds=SEEDS,
        data=data(),
        batches=batches(),
        mode=mode or Mode(1, in_flight=3),
        extras=EXTRAS,
        evaluation=data(),
        chunk=3,
        devices=jax.devices()[:1],
        checkpoint=None if directory is None else Checkpoint(directory, every=0.0),
        on_chunk=on_chunk,
    )


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]))
