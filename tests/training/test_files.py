"""Files and rows under kills, full disks and damage."""

from __future__ import annotations

import enum
import errno
import json
import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from widelimit.training import RowLog, column, json_safe, pivot, read_json, write_atomic, write_json


class Color(enum.Enum):
    """An enumeration as configs have them."""

    RED = "red"


@dataclass(frozen=True)
class Nested:
    """A dataclass inside of a config."""

    widths: tuple[int, ...] = (1, 2)


def test_everything_a_result_holds_becomes_json():
    """Numbers of NumPy and JAX, nested dataclasses, fractions, enums, paths; what is not finite is null."""
    value = {
        "numpy": np.float32(0.1),
        "integer": np.int64(3),
        "flag": np.bool_(True),
        "jax": jnp.arange(2),
        "scalar": jnp.asarray(0.5, jnp.bfloat16),
        "nan": [float("nan"), np.inf, -jnp.inf],
        "config": Nested(),
        "more": (Fraction(1, 2), Color.RED, Path("a/b"), None),
        7: True,
    }
    assert json_safe(value) == {
        "numpy": float(np.float32(0.1)),
        "integer": 3,
        "flag": True,
        "jax": [0, 1],
        "scalar": 0.5,
        "nan": [None, None, None],
        "config": {"widths": [1, 2]},
        "more": ["1/2", "red", "a/b", None],
        "7": True,
    }
    with pytest.raises(TypeError, match=r"row\.a\[1\] is of type function"):
        json_safe({"a": [1, json_safe]}, "row")


def test_floats_survive_a_round_trip_bit_for_bit(tmp_path):
    """A resumed run sees exactly the numbers of the one that was killed."""
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(size=200) * 10.0 ** rng.integers(-300, 300, 200), [5e-324, -0.0]])
    log = RowLog(tmp_path / "rows.jsonl")
    log.append(*({"x": value, "y": np.float32(value % 1)} for value in values))
    again = RowLog(tmp_path / "rows.jsonl")
    assert column(again.rows, "x").tobytes() == values.tobytes()
    assert again.rows == log.rows


@pytest.mark.parametrize("cut", range(1, 25, 4))
def test_half_written_last_row_is_dropped(tmp_path, cut):
    """Whatever a kill leaves of the last line is cut off, and appending goes on from there."""
    path = tmp_path / "rows.jsonl"
    for row in ({"width": 1, "loss": 0.5}, {"width": 2, "loss": 0.25}):
        RowLog(path).append(row)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    log = RowLog(path)
    assert [row["width"] for row in log.rows] == [1] and log.dropped == 27 - cut
    log.append({"width": 2, "loss": 0.25})
    assert path.read_bytes() == whole


@pytest.mark.parametrize("left", range(0, 90, 7))
def test_rows_of_one_append_are_kept_or_dropped_together(tmp_path, left):
    """A grid trained at once is redone at once: a part of it would be trained in another company, and round
    differently."""
    path = tmp_path / "rows.jsonl"
    RowLog(path).append({"width": 1})
    first = path.read_bytes()
    RowLog(path).append()
    RowLog(path).append(*({"width": 2, "seed": seed} for seed in range(4)))
    whole = path.read_bytes()
    assert len(whole) == len(first) + 99 and len(RowLog(path).rows) == 5
    path.write_bytes(whole[: len(first) + left])
    log = RowLog(path)
    assert log.rows == [{"width": 1}] and log.dropped == left and path.read_bytes() == first


def test_damage_that_no_kill_explains_is_an_error(tmp_path):
    """A line that was finished but does not parse is named; the file stays as it is."""
    path = tmp_path / "rows.jsonl"
    for line in ('{"width": 1', "[1]", ""):
        path.write_text(f'{{"width": 0}}\n{line}\n{{"width": 2}}\n')
        before = path.read_bytes()
        with pytest.raises(ValueError, match=r"Line 2 of .*rows.jsonl is damaged"):
            RowLog(path)
        assert path.read_bytes() == before


def test_rows_with_newlines_and_letters_stay_on_a_line(tmp_path):
    """Strings cannot break the one-cell-a-line rule."""
    row = {"name": 'µP\n"x"\u2028', "value": None}
    RowLog(tmp_path / "r").append(row)
    assert RowLog(tmp_path / "r").rows == [row] and (tmp_path / "r").read_bytes().count(b"\n") == 1


def test_full_disk_takes_no_part_of_a_row(tmp_path, monkeypatch):
    """Half a write and then no space: the file is as before, the error a sentence, and a retry succeeds."""
    log, write = RowLog(tmp_path / "rows.jsonl"), os.write
    log.append({"width": 1})
    left = [5]

    def short(handle, data):
        """Takes five bytes in all."""
        if left[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = write(handle, bytes(data[: left[0]]))
        left[0] -= taken
        return taken

    monkeypatch.setattr(os, "write", short)
    with pytest.raises(
        OSError, match="no space left on device; free some space, or choose another directory"
    ):
        log.append({"width": 2})
    monkeypatch.undo()
    assert log.rows == [{"width": 1}] == RowLog(log.path).rows and RowLog(log.path).dropped == 0
    log.append({"width": 2})
    assert len(RowLog(log.path).rows) == 2


@pytest.mark.parametrize("failing", ["open", "write", "fsync", "replace"])
def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch, failing):
    """Wherever the file system refuses, the old content stays and no temporary file is left."""
    path = tmp_path / "summary.json"
    write_json(path, {"a": 1})

    def refuse(*_, **__):
        """A read-only or full file system."""
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, failing, refuse)
    with pytest.raises(OSError, match="Could not write .*read-only file system; make it writable") as caught:
        write_json(path, {"a": 2})
    monkeypatch.undo()
    assert "\n" not in str(caught.value)
    assert read_json(path) == {"a": 1} and [entry.name for entry in tmp_path.iterdir()] == ["summary.json"]


def test_atomic_write_replaces_and_keeps_the_usual_permissions(tmp_path):
    """The new file is whole and as readable as any other."""
    path, plain = tmp_path / "a.txt", tmp_path / "b.txt"
    plain.write_text("x")
    write_atomic(path, "long " * 1000)
    write_atomic(path, b"short")
    assert path.read_bytes() == b"short" and path.stat().st_mode == plain.stat().st_mode


def test_unreadable_json_names_its_file(tmp_path):
    """Damaged or missing, in a sentence."""
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a\.json is damaged"):
        read_json(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError, match=r"Could not read .*b\.json: no such file"):
        read_json(tmp_path / "b.json")


def test_pivot_orders_rows_whatever_their_order():
    """Cells land by their keys, null is NaN, and gaps and doubles are named."""
    rows = [{"rate": r, "seed": s, "loss": 10 * r + s} for r in (3, 1, 2) for s in (1, 0)]
    rows[0]["loss"] = None
    table, (rates, seeds) = pivot(rows, "loss", ("rate", "seed"))
    assert rates == [1, 2, 3] and seeds == [0, 1]
    np.testing.assert_array_equal(table, [[10, 11], [20, 21], [30, np.nan]])
    with pytest.raises(ValueError, match="No row has rate=1, seed=1"):
        pivot([row for row in rows if (row["rate"], row["seed"]) != (1, 1)], "loss", ("rate", "seed"))
    with pytest.raises(ValueError, match="Two rows have rate=3, seed=1"):
        pivot([*rows, rows[0]], "loss", ("rate", "seed"))
    assert json.dumps(rows)  # untouched
