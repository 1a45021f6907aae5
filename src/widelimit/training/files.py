"""Files that survive a kill: whole or not at all, and rows of which only the last can be half-written."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import errno
import json
import math
import os
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

TEMPORARY = ".tmp-"
_FULL = dict.fromkeys(
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free some space, or choose another directory"
)
_LOCKED = dict.fromkeys(
    (errno.EACCES, errno.EPERM, errno.EROFS), "make it writable, or choose another directory"
)
_REMEDY = {**_FULL, **_LOCKED}


def json_safe(value: Any, where: str = "value") -> Any:
    """Turn results into what JSON can say: NaN and infinities become None, arrays of one element numbers.

    Dataclasses become dicts, tuples and arrays lists, enums their value, fractions "p/q", paths strings.

    Args:
        value: a number, string, None, or nested dict, list, tuple, dataclass or array of these.
        where: name of the value, for the error.

    Raises:
        TypeError: if something in it has no JSON form, naming where it sits.

    Example:
        >>> json_safe({"loss": float("nan"), "widths": (64, 128)})
        {'loss': None, 'widths': [64, 128]}
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, enum.Enum):
        return json_safe(value.value, where)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Fraction | Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: json_safe(getattr(value, f.name), f"{where}.{f.name}") for f in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): json_safe(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if hasattr(value, "tolist"):  # NumPy and JAX arrays and scalars
        return json_safe(value.tolist(), where)
    raise TypeError(
        f"Expected numbers, strings, lists and dicts, but {where} is of type {type(value).__name__}; "
        "convert it first."
    )


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace a file at once: written beside it, flushed to disk, then renamed over it.

    A reader, or a run killed at any moment, sees the old file or the new one, never a part.

    Args:
        path: the file.
        content: text (written as UTF-8) or bytes.

    Raises:
        OSError: if the directory is read-only or full, as one sentence; the old file stays.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}")
    with say_why(f"write {path}"):
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            try:
                write_all(handle, data)
                os.fsync(handle)
            finally:
                os.close(handle)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _sync_directory(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically.

    Args:
        path: the file.
        value: what ``json_safe`` accepts.

    Raises:
        OSError: if the directory is read-only or full.
        TypeError: if the value has no JSON form.
    """
    write_atomic(path, json.dumps(json_safe(value), indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file that ``write_json`` wrote.

    Args:
        path: the file.

    Raises:
        ValueError: if it is not JSON, naming the file.
        OSError: if it cannot be read.
    """
    with say_why(f"read {path}"):
        content = path.read_bytes()
    try:
        return json.loads(content)
    except ValueError:
        raise ValueError(
            f"{path} is damaged: it is not valid JSON; restore it, or start again in another directory."
        ) from None


def write_all(handle: int, data: bytes) -> None:
    """Write all bytes: a nearly full disk may take only some of them at a time.

    Args:
        handle: an open file descriptor.
        data: what to write.
    """
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


@contextlib.contextmanager
def say_why(action: str) -> Iterator[None]:
    """Turn the errors of the file system into one sentence that says what to do.

    Args:
        action: what was attempted, e.g. ``"write runs/a/config.json"``.

    Raises:
        OSError: of the same kind, with the sentence.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:  # already a sentence
            raise
        reason = error.strerror or type(error).__name__
        remedy = _REMEDY.get(error.errno, "choose another path")
        raise type(error)(
            f"Could not {action}: {reason[0].lower()}{reason[1:]}; {remedy}, and start again: "
            "what was finished is kept."
        ) from error


def _sync_directory(path: Path) -> None:
    """A rename is durable once its directory is; some file systems cannot sync one, and need not."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
