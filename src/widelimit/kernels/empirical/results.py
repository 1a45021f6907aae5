"""Where the tiles of a kernel go: an array in memory, or a file that a killed run can go on with."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SAVE_EVERY = 2.0  # seconds of work that a kill may cost, about


class Rectangle(NamedTuple):
    """Rows top..bottom and columns left..right of a kernel, ends excluded."""

    top: int
    bottom: int
    left: int
    right: int


class InMemory:
    """A kernel in an array.

    Args:
        shape: [rows, columns, ...].
        final: shape in which it is returned.
        dtype: of its numbers.
    """

    complete = False

    def __init__(self, shape: tuple[int, ...], final: tuple[int, ...], dtype: Any) -> None:
        self._array, self._final = np.zeros(shape, dtype), final

    def write(self, top: int, left: int, tile: np.ndarray) -> None:
        """Takes a part of the kernel.

        Args:
            top: its first row.
            left: its first column.
            tile: its numbers, [rows, columns, ...].
        """
        self._array[top : top + tile.shape[0], left : left + tile.shape[1]] = tile

    def holds(self, part: Rectangle) -> bool:
        """Returns whether an earlier run finished this part: never.

        Args:
            part: of the kernel.
        """
        del part
        return False

    def finished(self, part: Rectangle) -> None:
        """Does nothing: a kill loses it all.

        Args:
            part: that was written.
        """

    def close(self) -> np.ndarray:
        """Returns the kernel."""
        return self._array.reshape(self._final)

    def abandon(self) -> None:
        """Does nothing: there is nothing to keep."""


class OnDisk:
    """A kernel in a .npy file, written tile by tile beside its final name, with a note of what is finished.

    ``K.npy.part`` becomes ``K.npy`` when it is whole; ``K.npy.json`` says which kernel it is and which parts
    are finished. Rows are written to the file and not through a memory map: mapped pages count as memory of
    the process, and a full disk kills it there without a word.

    Args:
        path: of the finished file.
        shape: [rows, columns, ...].
        final: shape in which it is stored.
        dtype: of its numbers.
        identity: what the kernel is made of, as hashes by name.

    Raises:
        ValueError: if the file is of another kernel, naming what differs.
        FileExistsError: if there is a file that does not say what it is.
        BlockingIOError: if another process writes it.
        OSError: if the disk is full or read-only.
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, ...],
        final: tuple[int, ...],
        dtype: Any,
        identity: Mapping[str, str],
    ) -> None:
        self._path, self._columns, self._dtype = path, shape[1], np.dtype(dtype)
        self._number = self._dtype.itemsize * math.prod(shape[2:])
        self._identity, self._saved = dict(identity), time.monotonic()
        self._part, self._note = (path.with_name(path.name + end) for end in (".part", ".json"))
        self._done = self._read_note()
        self._handle = -1
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(self._part, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(self._handle, path)
            if not self._done:
                np.lib.format.open_memmap(self._part, mode="w+", dtype=self._dtype, shape=final)
            self._offset = np.load(self._part, mmap_mode="r").offset
        except BaseException:
            os.close(self._handle)
            raise

    @property
    def complete(self) -> bool:
        """Whether an earlier run finished the file."""
        return self._handle < 0

    def write(self, top: int, left: int, tile: np.ndarray) -> None:
        """Takes a part of the kernel.

        Args:
            top: its first row.
            left: its first column.
            tile: its numbers, [rows, columns, ...].
        """
        for row, numbers in enumerate(tile):
            start = self._offset + self._number * ((top + row) * self._columns + left)
            view = memoryview(np.ascontiguousarray(numbers, self._dtype).reshape(-1).view(np.uint8).data)
            while view:  # a nearly full disk may take only some of the bytes
                written = os.pwrite(self._handle, view, start)
                view, start = view[written:], start + written

    def holds(self, part: Rectangle) -> bool:
        """Returns whether an earlier run, perhaps with other tiles, finished this part.

        Args:
            part: of the kernel.
        """
        if part in self._done:
            return True
        missing = np.ones((part.bottom - part.top, part.right - part.left), bool)
        for done in self._done:
            rows = slice(max(done.top - part.top, 0), max(done.bottom - part.top, 0))
            missing[rows, max(done.left - part.left, 0) : max(done.right - part.left, 0)] = False
        return not missing.any()

    def finished(self, part: Rectangle) -> None:
        """Notes that a part is written, and saves the notes now and then.

        Args:
            part: that was written.
        """
        self._done.add(part)
        if time.monotonic() - self._saved >= SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Makes what is finished safe: first the numbers reach the disk, then the note that says so."""
        os.fsync(self._handle)
        draft = self._note.with_name(self._note.name + ".tmp")
        draft.write_text(json.dumps({**self._identity, "finished": sorted(self._done)}))
        os.replace(draft, self._note)
        self._saved = time.monotonic()

    def close(self) -> np.ndarray:
        """Gives the whole file its name, and returns it as a read-only memory map."""
        if not self.complete:
            self.save()
            os.replace(self._part, self._path)
            os.close(self._handle)
            self._handle = -1
        return np.load(self._path, mmap_mode="r")

    def abandon(self) -> None:
        """Saves what is finished and lets go of the file, for a later run to go on."""
        if not self.complete:
            with contextlib.suppress(OSError):  # the disk may be what failed
                self.save()
            os.close(self._handle)
            self._handle = -1

    def _read_note(self) -> set[Rectangle]:
        """What an earlier run finished of this kernel; another kernel is refused."""
        try:
            note = json.loads(self._note.read_text())
            done = {Rectangle(*edges) for edges in note.pop("finished")}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            if self._path.exists():
                raise FileExistsError(
                    f"{self._path} is there already, and no {self._note.name} beside it says which kernel it "
                    "holds; choose another file, or move this one away."
                ) from None
            return set()
        differ = [name for name in self._identity if note.get(name) != self._identity[name]]
        if differ and (self._path.exists() or self._part.exists()):
            raise ValueError(
                f"{self._path} belongs to another kernel, with other {', '.join(differ)}; choose another "
                f"file, or delete this one with its {self._part.name} and {self._note.name}."
            )
        return done if self._part.exists() and not differ else set()


def _lock(handle: int, path: Path) -> None:
    """Keeps a second process out; the operating system lets go of the lock however this one ends."""
    try:
        import fcntl
    except ImportError:  # not on this platform
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BlockingIOError(
            f"{path} is being computed by another process; wait for it, or choose another file."
        ) from None
    except OSError:  # a file system without locks
        return
