"""Reading a pickle that may hold numbers and strings, and nothing that can run."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np


def _text(value: bytes | str) -> str:
    """Python 2 wrote byte strings where Python 3 writes text."""
    return value.decode("latin1") if isinstance(value, bytes) else value


class _Dtype:
    """Stands in for numpy.dtype: plain numbers only, and no warning about the spelling of old files."""

    def __init__(self, name: bytes | str, *_: object) -> None:
        self.name, self.order = _text(name), "="
        if not re.fullmatch(r"[iuf][1248]|b1", self.name):
            raise pickle.UnpicklingError(f"arrays of {self.name!r} are not read")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = _text(state[1])

    def numpy(self) -> np.dtype:
        return np.dtype(self.order + self.name)


class _Array:
    """Stands in for numpy.ndarray, so that no memory is laid out by the file's word alone."""

    values: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        self.values = np.frombuffer(data, dtype.numpy()).reshape(shape, order="F" if fortran else "C")


def _reconstruct(*_: object) -> _Array:
    """NumPy's constructor of an empty array, whose contents follow as its state."""
    return _Array()


def _frombuffer(data: bytes, dtype: _Dtype, shape: tuple[int, ...], order: bytes | str) -> _Array:
    """NumPy's constructor in pickle protocol 5."""
    array = _Array()
    array.__setstate__((1, shape, dtype, _text(order) == "F", data))
    return array


def _encode(text: str, *_: object) -> bytes:
    """How Python 3 writes bytes in the old protocols."""
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
}
for _core in ("numpy.core", "numpy._core"):
    _ALLOWED[_core + ".multiarray", "_reconstruct"] = _reconstruct
    _ALLOWED[_core + ".numeric", "_frombuffer"] = _frombuffer


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which numbers and strings never need")
        return _ALLOWED[module, name]


def _plain(value: object) -> object:
    """Only now do the stand-ins become arrays."""
    return value.values if isinstance(value, _Array) else value


def load_plain_dict(file: BinaryIO, path: Path) -> dict[str, object]:
    """Returns a pickled dictionary of arrays, lists and strings; keys as text.

    Nothing from the file is imported or called: numpy's names lead to stand-ins, every other name is refused.

    Args:
        file: the open file.
        path: its name, for the message.

    Raises:
        ValueError: if the file is truncated, is no pickle, holds no dictionary, or holds anything else.

    Example:
        >>> import io
        >>> load_plain_dict(io.BytesIO(pickle.dumps({b"labels": [3, 1]})), Path("batch"))
        {'labels': [3, 1]}
    """
    try:
        content = _Unpickler(file, encoding="bytes").load()
        if not isinstance(content, dict):
            raise pickle.UnpicklingError(f"it holds a {type(content).__name__}, not a dictionary")
        return {_text(key): _plain(value) for key, value in content.items()}
    except Exception as error:  # a damaged pickle can raise anything
        raise ValueError(
            f"{path} cannot be read as a data batch ({error}): copy or unpack it again."
        ) from error
