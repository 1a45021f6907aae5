"""The main experiment, end to end: its contract, its window of rates, and what SIGKILL leaves of it."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.experiments.support import stored

ROOT = Path(__file__).parents[2]
TINY = ["--preset", "smoke", "--widths", "8", "16", "--seeds", "2", "--steps", "100", "--optimizers", "adam"]


def start(directory, cache, *flags):
    """Starts the experiment as a user would, in a process of its own with two devices."""
    # jax sets the log level when a test imports it; a user's process starts without.
    inherited = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    environment = inherited | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
        "PYTHONWARNINGS": "ignore",
    }
    command = [sys.executable, "-m", "experiments.lr_transfer", *TINY, "--directory", str(directory), *flags]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process):
    """Returns the exit code and what was printed."""
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run to the end, the cache of its compiled programs, and what it printed."""
    base = tmp_path_factory.mktemp("runs")
    code, out, err = finish(start(base / "run", base / "cache", "--checkpoint-seconds", "0"))
    assert code == 0, err
    # Nothing but progress: no warnings, no log lines of XLA.
    assert all(line.startswith("lr_transfer: ") for line in err.splitlines()), err
    return base / "run", base / "cache", out


def test_contract(undisturbed):
    directory, _, out = undisturbed
    assert {path.name for path in directory.iterdir()} >= {
        "config.json",
        "environment.json",
        "rows.jsonl",
        "summary.json",
        "report.md",
        "loss_against_rate.png",
        "optimum_against_width.png",
    }
    summary = json.loads((directory / "summary.json").read_text())
    assert set(summary) == {"experiment", "preset", "seconds", "claims", "tables"}
    assert set(summary["claims"][0]) >= {
        "name",
        "quantity",
        "predicted",
        "measured",
        "stderr",
        "tolerance",
        "holds",
    }
    assert len(summary["tables"]["optimum"]) == 4
    assert all(claim["name"] in out for claim in summary["claims"])
    rows, _ = stored(directory)
    assert {row["width"] for row in rows} == {8, 16}
    assert (directory / "loss_against_rate.png").stat().st_size > 10_000
    assert not (directory / "checkpoints").exists()


def test_neutral_at_the_base_width(undisturbed):
    """At the base width SP and muP are one network: the same rows to the last bit."""
    rows, _ = stored(undisturbed[0])
    losses = {
        name: [
            (r["log2_lr"], r["seed"], r["train_loss"])
            for r in rows
            if (r["width"], r["parametrization"]) == (8, name)
        ]
        for name in ("standard", "mup")
    }
    assert losses["standard"] == losses["mup"]


def progress(directory):
    """What a run has left behind so far: changes with every row, checkpoint and file."""
    # os.walk passes over what vanishes while it looks.
    names = sorted((place, *sorted(files)) for place, _, files in os.walk(directory))
    rows = directory / "rows.jsonl"
    return names, rows.stat().st_size if rows.exists() else 0


def kill_after(process, directory, changes, delay):
    """Sends SIGKILL a moment after so many changes of the directory; returns whether that was in time."""
    seen = progress(directory)
    while changes and process.poll() is None:
        now = progress(directory)
        changes, seen = changes - (now != seen), now
        time.sleep(0.002)
    time.sleep(delay)
    in_time = process.poll() is None
    process.send_signal(signal.SIGKILL)
    _, err = process.communicate()
    assert in_time or process.returncode == 0, err
    return in_time


@pytest.mark.slow
def test_killed_ten_times_it_ends_with_the_same_bits(undisturbed, tmp_path):
    """SIGKILL at random moments, resume with the same command; rows and summary do not show it."""
    reference, cache, _ = undisturbed
    generator, kills, runs = random.Random(0), 0, 1
    flags = ("--checkpoint-seconds", "0")
    while kills < 10:
        directory = tmp_path / f"run{runs}"
        process = start(directory, cache, *flags)
        if kill_after(process, directory, generator.randrange(8), generator.uniform(0, 0.3)):
            kills += 1
        else:
            assert stored(directory) == stored(reference)
            runs += 1
    code, _, err = finish(start(tmp_path / f"run{runs}", cache, *flags))
    assert code == 0, err
    assert stored(tmp_path / f"run{runs}") == stored(reference)


@pytest.mark.slow
def test_strict_exits_with_one_unless_every_claim_holds(undisturbed, tmp_path):
    directory = undisturbed[0]
    summary = json.loads((directory / "summary.json").read_text())
    code, *_ = finish(start(directory, undisturbed[1], "--checkpoint-seconds", "0", "--strict"))
    assert code == (0 if all(claim["holds"] is True for claim in summary["claims"]) else 1)


def test_windows_follow_the_optimum_and_contain_the_transferred_rate():
    from experiments.lr_transfer import PRESETS

    config = PRESETS["default"]
    assert config.rates >= 12 and config.seeds >= 3 and len(config.widths) >= 5
    assert 40 <= config.steps <= 60
    assert np.log2(config.widths[-1] / config.widths[0]) == 4
