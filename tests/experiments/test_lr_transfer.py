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

ROOT = Path(__file__).parents[2]
TINY = ["--preset", "smoke", "--widths", "8", "16", "--seeds", "2", "--steps", "60", "--optimizers", "adam"]


def start(directory, cache, *flags):
    """Starts the experiment as a user would, in a process of its own with two devices."""
    environment = os.environ | {
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


def stored(directory):
    """Rows and summary without the fields that hold times."""

    def timeless(value):
        if isinstance(value, dict):
            return {key: timeless(item) for key, item in value.items() if key != "seconds"}
        return [timeless(item) for item in value] if isinstance(value, list) else value

    rows = [json.loads(line) for line in (directory / "rows.jsonl").read_text().splitlines()]
    return timeless(rows), timeless(json.loads((directory / "summary.json").read_text()))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run to the end, how long it took with a warm cache, and the cache."""
    base = tmp_path_factory.mktemp("runs")
    for name in ("cold", "warm"):
        started = time.monotonic()
        code, out, err = finish(start(base / name, base / "cache", "--checkpoint-seconds", "0"))
        assert code == 0, err
    return base / "warm", time.monotonic() - started, base / "cache", out


def test_contract(undisturbed):
    directory, _, _, out = undisturbed
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
    assert set(summary["claims"][0]) >= {"name", "quantity", "predicted", "measured", "stderr", "tolerance", "holds"}
    assert len(summary["tables"]["optimum"]) == 4
    assert all(claim["name"] in out for claim in summary["claims"])
    rows, _ = stored(directory)
    assert {row["width"] for row in rows} == {8, 16}
    assert (directory / "loss_against_rate.png").stat().st_size > 10_000
    assert not list(directory.glob("checkpoints/*/*"))


def test_neutral_at_the_base_width(undisturbed):
    """At the base width SP and muP are one network: the same rows to the last bit."""
    rows, _ = stored(undisturbed[0])
    losses = {
        name: [(r["log2_lr"], r["seed"], r["train_loss"]) for r in rows if (r["width"], r["parametrization"]) == (8, name)]
        for name in ("standard", "mup")
    }
    assert losses["standard"] == losses["mup"]


def test_killed_ten_times_it_ends_with_the_same_bits(undisturbed, tmp_path):
    """SIGKILL at random moments, resume with the same command; rows and summary do not show it."""
    reference, seconds, cache, _ = undisturbed
    directory, generator, kills = tmp_path / "killed", random.Random(0), 0
    flags = ("--checkpoint-seconds", "0")
    while kills < 10:
        process = start(directory, cache, *flags)
        # From the import of JAX to the last figure; a process that is through cannot be killed and tries again.
        time.sleep(seconds * generator.uniform(0.4, 0.95))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate()
        if process.returncode == 0:
            break
    code, _, err = finish(start(directory, cache, *flags))
    assert code == 0, err
    assert stored(directory) == stored(reference)
    assert kills >= 3, "the run was over before it had been killed often enough to mean anything"


def test_strict_exits_with_one_unless_every_claim_holds(undisturbed, tmp_path):
    directory = undisturbed[0]
    summary = json.loads((directory / "summary.json").read_text())
    code, *_ = finish(start(directory, undisturbed[2], "--checkpoint-seconds", "0", "--strict"))
    assert code == (0 if all(claim["holds"] is True for claim in summary["claims"]) else 1)


def test_windows_follow_the_optimum_and_contain_the_transferred_rate():
    from experiments.lr_transfer import PRESETS

    config = PRESETS["default"]
    assert config.rates >= 12 and config.seeds >= 3 and len(config.widths) >= 5
    assert 40 <= config.steps <= 60
    assert np.log2(config.widths[-1] / config.widths[0]) == 4
