"""One process per directory of results."""

from __future__ import annotations

import contextlib
import errno
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

from widelimit.training.files import say_why

LOCK = ".lock"
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep a second process out of a directory; the kernel releases the lock however this one ends.

    Args:
        path: the directory; a file ``.lock`` stays in it.

    Raises:
        BlockingIOError: if another process holds the lock, naming it.
        OSError: if the directory cannot be written.
    """
    with say_why(f"write {path / LOCK}"):
        handle = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(handle, 32).decode(errors="replace").strip() or "unknown"
            raise BlockingIOError(
                f"{path} is being written by another process ({owner}); wait for it, or choose another "
                "directory."
            ) from None
        except (ImportError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
                raise
            warnings.warn(f"{path} cannot be locked here; start only one process on it.", stacklevel=4)
        with contextlib.suppress(OSError):  # who holds it is a courtesy
            os.ftruncate(handle, 0)
            os.write(handle, f"pid {os.getpid()}".encode())
        yield
    finally:
        os.close(handle)
