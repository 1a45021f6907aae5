"""Finished cells: a file of rows of which only the last can be half-written, and rows as arrays."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from widelimit.training.files import json_safe, say_why, write_all


class RowLog:
    """A file of finished cells, one JSON object a line, that can be killed at any moment.

    A line counts once its newline is on disk, and rows that were appended together count together: each of
    their lines but the last ends in a space, which JSON ignores. What a kill leaves of a line, or of such a
    group, is cut off when the file is opened, so that its cells are redone; a damaged line with a newline has
    another cause and is an error.

    Args:
        path: the file; made when the first row is appended.

    Raises:
        ValueError: if a finished line is not a JSON object, naming the line.
        OSError: if the file cannot be read or cut.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self.dropped = 0
        """Bytes of a half-written line or group that were cut off when the file was opened."""
        if not path.exists():
            return
        with say_why(f"read {path}"):
            content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        while whole.endswith(b" \n"):  # the rest of the group is missing
            whole = whole[: whole.rfind(b"\n", 0, -1) + 1]
        for number, line in enumerate(whole.split(b"\n")[:-1], 1):
            self.rows.append(self._parsed(line, number))
        self.dropped = len(content) - len(whole)
        if self.dropped:
            with say_why(f"cut the half-written end of {path}"):
                os.truncate(path, len(whole))

    def append(self, *rows: Mapping[str, Any]) -> None:
        """Add finished cells; they are on disk, as they will be read back, when this returns.

        Args:
            *rows: what ``json_safe`` accepts; all in one write.

        Raises:
            OSError: if the file cannot take all of them; then it takes none.
            TypeError: if a value has no JSON form.
        """
        safe: list[dict[str, Any]] = [json_safe(dict(row), "row") for row in rows]
        lines = " \n".join(json.dumps(row, allow_nan=False, ensure_ascii=False) for row in safe) + "\n"
        if not safe:
            return
        with say_why(f"append to {self.path}"):
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                before = os.fstat(handle).st_size
                try:
                    write_all(handle, lines.encode())
                    os.fsync(handle)
                except OSError:
                    with contextlib.suppress(OSError):
                        os.ftruncate(handle, before)
                    raise
            finally:
                os.close(handle)
        self.rows += safe

    def _parsed(self, line: bytes, number: int) -> dict[str, Any]:
        """A finished line was flushed whole; if it does not parse, something else wrote it."""
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise ValueError(
                f"Line {number} of {self.path} is damaged, which a kill cannot cause; delete it and all "
                "lines after it, and their cells are redone."
            )
        return row


def column(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """One field of all rows as floats; None, as NaN is stored, becomes NaN again.

    Args:
        rows: as ``Results.rows`` or ``Results.find`` return them.
        name: the field.

    Raises:
        KeyError: if a row lacks the field.

    Example:
        >>> column([{"loss": 0.5}, {"loss": None}], "loss")
        array([0.5, nan])
    """
    return np.array([np.nan if row[name] is None else row[name] for row in rows], float)


def pivot(
    rows: Sequence[Mapping[str, Any]], value: str, axes: tuple[str, ...]
) -> tuple[np.ndarray, tuple[list[Any], ...]]:
    """Rows as a dense array with one axis per key field, and the sorted values along each axis.

    Args:
        rows: as ``Results.find`` returns them.
        value: field to read; None becomes NaN.
        axes: key fields, e.g. ``("log2_lr", "seed")`` for an array [R, S].

    Raises:
        ValueError: if a cell of the array is missing or occurs twice, naming it.

    Example:
        >>> rows = [{"rate": r, "seed": s, "loss": r + s} for s in (0, 1) for r in (-2.0, -1.0)]
        >>> pivot(rows, "loss", ("rate", "seed"))[0].tolist()
        [[-2.0, -1.0], [-1.0, 0.0]]
    """
    labels = tuple(sorted({row[axis] for row in rows}) for axis in axes)
    places = [{label: i for i, label in enumerate(names)} for names in labels]
    table = np.full([len(names) for names in labels], np.nan)
    seen = np.zeros(table.shape, bool)
    for row, number in zip(rows, column(rows, value), strict=True):
        at = tuple(place[row[axis]] for place, axis in zip(places, axes, strict=True))
        if seen[at]:
            raise ValueError(f"Two rows have {_cell(axes, labels, at)}; select one of them first.")
        table[at], seen[at] = number, True
    if not seen.all():
        at = tuple(np.argwhere(~seen)[0])
        raise ValueError(f"No row has {_cell(axes, labels, at)}; the run is unfinished, so resume it first.")
    return table, labels


def _cell(axes: tuple[str, ...], labels: tuple[list[Any], ...], at: tuple[int, ...]) -> str:
    """Name a cell of a table."""
    return ", ".join(f"{axis}={names[i]}" for axis, names, i in zip(axes, labels, at, strict=True))
