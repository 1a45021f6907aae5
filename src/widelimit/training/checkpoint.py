"""Where a sweep keeps what it has done, so that it can be killed at any moment."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

PyTree = Any


@dataclasses.dataclass
class Checkpoint:
    """A directory for the state of one sweep, written by Orbax: whole or not at all.

    The newest state replaces the one before it only when it is complete. Keep the directory until the results
    of the sweep are stored elsewhere, then ``clear`` it.

    Args:
        directory: of this sweep alone.
        every: seconds between two states; 0 keeps one after every chunk. A sweep shorter than that
            leaves none, and starts anew after a kill.
        keep: how many of the newest states stay.

    Example:
        >>> Checkpoint(Path("runs/width-64"), every=60.0).latest() is None
        True
    """

    directory: Path
    every: float = 30.0
    keep: int = 1
    _saved: float = dataclasses.field(default_factory=time.monotonic, init=False, repr=False)

    def latest(self) -> int | None:
        """Returns the number of the newest complete state, or None. Does not load Orbax."""
        return max(self._numbers(), default=None)

    def _numbers(self) -> list[int]:
        """Those of all complete states."""
        if not self.directory.is_dir():
            return []
        # Orbax renames a directory to its number once all of it is on disk.
        return [int(path.name) for path in self.directory.iterdir() if path.name.isdecimal()]

    def due(self) -> bool:
        """Whether it is time for the next state."""
        return time.monotonic() - self._saved >= self.every

    def save(self, number: int, identity: str, state: PyTree) -> None:
        """Writes a state, then deletes those before it, but for the newest that are to stay.

        Args:
            number: larger than any before.
            identity: of the sweep, see ``fingerprint``.
            state: pytree of NumPy arrays, or of JAX arrays, which may be split over devices.

        Raises:
            OSError: if the directory is full or read-only.
        """
        import orbax.checkpoint as ocp

        with self._manager() as manager:
            manager.save(
                number,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), identity=ocp.args.JsonSave({"sweep": identity})
                ),
            )
        self._saved = time.monotonic()

    def load(self, identity: str, like: Callable[[int], PyTree]) -> tuple[int, PyTree] | None:
        """Returns the number of the newest state and the state, or None if there is none.

        Args:
            identity: of the sweep.
            like: gives for a number NumPy arrays with the structure, shapes and dtypes of that state (or
                ``jax.ShapeDtypeStruct`` with shardings: the state is then put there).

        Raises:
            ValueError: if the state cannot be read, or belongs to another sweep.
        """
        number = self.latest()
        if number is None:
            return None
        import orbax.checkpoint as ocp

        where = self.directory / str(number)
        if self.identity() != identity:
            raise ValueError(
                f"the checkpoint {where} belongs to a sweep with another grid, mode, data or rules; choose "
                f"another directory, or {self._advice}"
            )
        return number, self._read(number, "state", ocp.args.StandardRestore(like(number)))

    def identity(self) -> str | None:
        """Returns what the newest state was saved with, or None if there is none.

        Raises:
            ValueError: if it cannot be read.
        """
        number = self.latest()
        if number is None:
            return None
        import orbax.checkpoint as ocp

        found = self._read(number, "identity", ocp.args.JsonRestore())
        return str(found.get("sweep", ""))

    @property
    def _advice(self) -> str:
        """What else can be done, as the end of a sentence."""
        return f"delete {self.directory} to start this sweep again from its first step."

    def _read(self, number: int, part: str, how: Any) -> Any:
        """One part of a state, or the sentence that says it is damaged."""
        import orbax.checkpoint as ocp

        try:
            with self._manager() as manager:
                return manager.restore(number, args=ocp.args.Composite(**{part: how}))[part]
        except Exception as error:  # Orbax, tensorstore and json each have their own
            where, older = self.directory / str(number), len(self._numbers()) > 1
            advice = "delete it to go on from the state before it." if older else self._advice
            raise ValueError(
                f"the checkpoint {where} cannot be read and seems truncated "
                f"({type(error).__name__}); {advice}"
            ) from error

    def clear(self) -> None:
        """Deletes the directory and all states in it; does nothing if there is none.

        It is renamed first: a process killed halfway through deleting leaves no half state to resume from.
        """
        discarded = self.directory.with_name(f".{self.directory.name}.discarded")
        shutil.rmtree(discarded, ignore_errors=True)
        if self.directory.exists():
            self.directory.rename(discarded)
            shutil.rmtree(discarded)

    def _manager(self) -> Any:
        """Orbax's manager, which cleans up what an earlier process left half-written."""
        import orbax.checkpoint as ocp

        options = ocp.CheckpointManagerOptions(
            max_to_keep=self.keep, create=True, enable_async_checkpointing=False
        )
        return ocp.CheckpointManager(self.directory.absolute(), options=options)


def fingerprint(arrays: PyTree, settings: tuple[Any, ...]) -> str:
    """Returns a hash of everything that a sweep's numbers follow from, the program aside.

    Args:
        arrays: pytree of arrays and numbers.
        settings: whatever has a ``repr``.

    Example:
        >>> fingerprint({"x": np.ones(2)}, ()) == fingerprint({"x": np.ones((2, 1))}, ())
        False
    """
    digest = hashlib.sha256(repr(settings).encode())
    for path, leaf in jax.tree.leaves_with_path(arrays):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {np.shape(leaf)}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
