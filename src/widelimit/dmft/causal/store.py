"""Finished replicas in files, so that a run that was killed goes on with the same numbers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
from pathlib import Path

import numpy as np

from widelimit.dmft.causal.settings import Settings
from widelimit.dmft.identity import functions
from widelimit.dmft.problem import Problem
from widelimit.dmft.replicas import Arrays

_FREE = ("replicas", "control_variate")  # settings that leave each replica as it is


class Store:
    """A directory of replicas of one problem.

    Args:
        directory: made if it is not there; None keeps nothing.
        problem: what is solved.
        settings: how.

    Raises:
        ValueError: if the directory holds another problem or other settings.
    """

    def __init__(self, directory: str | Path | None, problem: Problem, settings: Settings) -> None:
        self._path = None if directory is None else Path(directory)
        if self._path is None:
            return
        self._path.mkdir(parents=True, exist_ok=True)
        about, mine = self._path / "problem.json", {"digest": _digest(problem, settings)}
        if about.exists():
            if json.loads(about.read_text()) != mine:
                raise ValueError(
                    f"{directory} holds replicas of another problem or of other settings: give another "
                    "directory, or remove it."
                )
        elif any(self._path.glob("replica-*.npz")):
            raise ValueError(f"{directory} holds replicas but not of which problem: give another directory.")
        else:
            _write(about, json.dumps(mine).encode())

    def load(self, replica: int) -> Arrays | None:
        """Returns the arrays of a replica that is finished, else None."""
        if self._path is None or not (file := self._file(replica)).exists():
            return None
        with np.load(file, allow_pickle=False) as saved:
            return {name: saved[name] for name in saved.files}

    def save(self, replica: int, arrays: Arrays) -> None:
        """Keeps a finished replica, whole or not at all."""
        if self._path is None:
            return
        with tempfile.TemporaryFile() as file:
            np.savez(file, allow_pickle=False, **arrays)
            file.seek(0)
            _write(self._file(replica), file.read())

    def _file(self, replica: int) -> Path:
        """Where a replica lies."""
        assert self._path is not None
        return self._path / f"replica-{replica:04d}.npz"


def _write(target: Path, content: bytes) -> None:
    """Writes a file, whole or not at all."""
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".tmp-", delete=False) as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, target)
        except BaseException:
            os.unlink(file.name)
            raise


def _digest(problem: Problem, settings: Settings) -> str:
    """What a replica's numbers depend on."""
    keep, drive = problem.memory()
    free = {name: value for name, value in dataclasses.asdict(settings).items() if name not in _FREE}
    digest = hashlib.sha256(json.dumps(free, sort_keys=True).encode())
    digest.update(functions(problem).encode())
    for array in (problem.targets, problem.kernel, problem.gamma0, keep, drive, problem.shares()):
        value = np.asarray(array)
        digest.update(str((value.shape, value.dtype)).encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()
