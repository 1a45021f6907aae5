"""Directories of results that are somebody else's, damaged, in use, full or read-only."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.bad_input.doors import LINEAR, ROOT, again, arrays, one_step
from tests.experiments.support import stored
from widelimit.training import Checkpoint, open_results


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        ("--steps 3", r"another config \(steps is 2 there and 3 here\)"),
        (
            "--widths 8 32 --seed 1",
            r"seed is 0 there and 1 here; widths is \[8, 16\] there and \[8, 32\] here",
        ),
    ],
)
def test_a_directory_of_another_config(copies, refused, flags, match):
    refused(lambda: again(copies, *flags.split()), match)


def test_a_directory_of_another_experiment(copies, refused):
    refused(lambda: one_step(copies / "transfer"), "experiment is lr_transfer there and one_step_rate here")


def test_a_directory_with_files_of_someone_else(tmp_path, refused):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("precious")
    refused(
        lambda: one_step(tmp_path / "thesis"), r"files of something else \(chapter.tex\) and no config.json"
    )


@pytest.mark.parametrize("below", ["", "runs"])
def test_a_file_in_place_of_the_directory(tmp_path, refused, below):
    (tmp_path / "notes").write_text("precious")
    refused(lambda: one_step(tmp_path / "notes" / below), "not a directory; choose another path")


def test_a_place_where_nothing_can_be_made(refused):
    refused(lambda: one_step(Path("/proc/widelimit")), "Could not make the directory /proc/widelimit")


@pytest.mark.parametrize(
    ("name", "spoil", "match"),
    [
        ("config.json", lambda text: text[: len(text) // 2], "config.json is damaged: it is not valid JSON"),
        ("config.json", lambda text: "", "config.json is damaged: it is not valid JSON"),
        ("config.json", lambda text: "[]", "config.json is not one of widelimit"),
        (
            "config.json",
            lambda text: '{"name": "package", "version": 1}',
            "config.json is not one of widelimit",
        ),
        ("config.json", lambda text: re.sub('"plan": {.*', '"plan": []}', text, flags=re.S), "is not one of"),
        ("environment.json", lambda text: "[]", "environment.json is damaged"),
        ("environment.json", lambda text: text[:9], "environment.json is damaged"),
        ("rows.jsonl", lambda text: text.replace('"mup"', '"mu', 1), "Line 1 of .*rows.jsonl is damaged"),
        ("rows.jsonl", lambda text: "7\n" + text, "Line 1 of .*rows.jsonl is damaged"),
        ("rows.jsonl", lambda text: text.replace("}", "\ufeff", 3), "Line 1 of .*rows.jsonl is damaged"),
    ],
)
def test_a_damaged_directory(copies, refused, name, spoil, match):
    path = copies / "one_step" / name
    path.write_text(spoil(path.read_text()))
    refused(lambda: one_step(copies / "one_step"), match)


def test_data_that_changed_since_the_first_run(copies, refused):
    config = json.loads((copies / "transfer" / "config.json").read_text())["config"]
    mine = Path(config["data_path"])
    original = mine.read_bytes()
    try:
        np.savez(mine, **arrays(x=arrays()["x"] + 1))
        refused(lambda: again(copies), "begun with data [0-9a-f]{16}, and now it is [0-9a-f]{16}")
    finally:
        mine.write_bytes(original)


def test_other_devices_than_in_the_first_run(copies, refused, monkeypatch):
    count = jax.device_count()
    monkeypatch.setattr(jax, "device_count", lambda: 3)
    refused(lambda: again(copies), f"begun with devices {count}, and now it is 3")


def test_a_directory_that_another_process_writes(copies, refused):
    stored = json.loads((copies / "one_step" / "config.json").read_text())
    with open_results(copies / "one_step", stored["experiment"], stored["config"]):
        refused(
            lambda: one_step(copies / "one_step"),
            r"being written by another process \(pid \d+\); wait for it",
        )


def unfinished(place: Path) -> Path:
    """Takes the last width from a finished run, and returns where its checkpoint would lie."""
    rows = (place / "transfer" / "rows.jsonl").read_text().splitlines(keepends=True)
    (place / "transfer" / "rows.jsonl").write_text("".join(row for row in rows if '"width": 8,' in row))
    return place / "transfer" / "checkpoints" / "16-mup-sgd"


@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_a_truncated_checkpoint(copies, refused, keep):
    checkpoint = unfinished(copies)
    Checkpoint(checkpoint).save(1, "0" * 64, {"losses": np.zeros((10, 2))})
    for path in [path for path in checkpoint.rglob("*") if path.is_file()]:
        os.truncate(path, int(keep * path.stat().st_size))
    refused(
        lambda: again(copies),
        "16-mup-sgd/1 cannot be read and seems truncated .*; delete .* to start this sweep",
    )


def test_a_checkpoint_of_another_sweep(copies, refused):
    Checkpoint(unfinished(copies)).save(1, "0" * 64, {"losses": np.zeros((10, 2))})
    refused(lambda: again(copies), "16-mup-sgd/1 belongs to a sweep with another grid, mode, data or rules")


@pytest.mark.parametrize("cut", [5, 300])
def test_half_written_rows_are_redone(finished, copies, cut):
    """A kill within the last rows: the run goes on, and ends as if nothing had happened."""
    rows = copies / "transfer" / "rows.jsonl"
    os.truncate(rows, rows.stat().st_size - cut)
    assert again(copies) == 0
    assert stored(copies / "transfer") == stored(finished / "transfer")


@pytest.mark.parametrize("name", ["summary.json", "report.md", "best_rate.png"])
def test_a_damaged_summary_is_written_anew(finished, copies, name):
    """All of it follows from the rows."""
    for spoil in (lambda path: path.write_text('{"claims": ['), lambda path: path.unlink()):
        spoil(copies / "one_step" / name)
        assert one_step(copies / "one_step") == 0
        assert stored(copies / "one_step") == stored(finished / "one_step")


def test_a_read_only_directory(copies, refused, monkeypatch):
    """Also for an administrator, whom no mode of a file keeps from writing: the system call fails."""
    opened = os.open

    def read_only(path, flags, *arguments, **options):
        if flags & (os.O_WRONLY | os.O_RDWR) and str(path).startswith(str(copies)):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return opened(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", read_only)
    refused(
        lambda: one_step(copies / "one_step"), "read-only file system; make it writable, or choose another"
    )


FULL = """
import resource, sys
from experiments.one_step_rate import PRESETS, run
from widelimit.training import main
resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))
sys.exit(main("one_step_rate", PRESETS, run, sys.argv[1:]))
"""


def test_a_full_directory(copies):
    """The system's own limit, hit among the rows: one sentence, whole rows only, and the run can go on."""
    full = copies / "full"
    command = [sys.executable, "-c", FULL, *LINEAR, "--directory", str(full)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    *_, sentence = process.stderr.splitlines()
    assert process.returncode == 2 and "Traceback" not in process.stderr
    assert re.match("one_step_rate: Could not append to .*file too large; free some space", sentence)
    kept = len((full / "rows.jsonl").read_text().splitlines())
    assert 4 <= kept < 24 and kept % 4 == 0  # what one draw of the weights gives
    assert one_step(full) == 0
    assert stored(full) == stored(copies / "one_step")
