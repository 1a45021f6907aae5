"""How large a tile may be: sizes that are known, plus what the compiler says its programs take."""

from __future__ import annotations

import math
import re
from typing import Any

import jax
import numpy as np

from widelimit.kernels.checks import PyTree

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}

RESERVED = (
    96 * 2**20
)  # bytes for tracing, compiling and the gaps malloc leaves; on CPU 65 to 90 MiB were measured


def parse_bytes(memory: str | float) -> int:
    """Returns a number of bytes.

    Args:
        memory: bytes, or text such as "200MiB", "2 GiB" or "1.5GB".

    Raises:
        ValueError: if it is neither, or not positive.

    Example:
        >>> parse_bytes("1.5 KiB"), parse_bytes("2GB"), parse_bytes(10)
        (1536, 2000000000, 10)
    """
    text = f"{memory:.0f}" if isinstance(memory, float) else str(memory)
    found = re.fullmatch(r"\s*([\d.]+)\s*([kmg]i?|)b?\s*", text.lower())
    try:
        size = int(float(found[1]) * UNITS[found[2]]) if found else 0
    except ValueError:
        size = 0
    if size < 1:
        raise ValueError(f"Expected memory as bytes or text like '200MiB' or '2GiB', got {memory!r}.")
    return size


def for_arrays(memory: str | int) -> int:
    """Returns what is left of a memory for arrays: all but 96 MiB, or half of it where that is less.

    Args:
        memory: as for ``parse_bytes``.

    Example:
        >>> for_arrays("196MiB") == parse_bytes("100MiB"), for_arrays(1000)
        (True, 500)
    """
    size = parse_bytes(memory)
    return size - min(RESERVED, size // 2)


def show_bytes(size: float) -> str:
    """Returns a number of bytes as people read it.

    Args:
        size: in bytes.

    Example:
        >>> show_bytes(1.6e9)
        '1.5 GiB'
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:.3g} {unit}"


def tree_bytes(tree: PyTree) -> int:
    """Returns the bytes of all arrays, concrete or abstract.

    Args:
        tree: of arrays.
    """
    return sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree))


def program_bytes(program: Any) -> int:
    """Returns the bytes that a compiled program takes beside its arguments and results.

    Args:
        program: compiled.
    """
    stats = program.memory_analysis()
    return 0 if stats is None else int(stats.temp_size_in_bytes)  # None: this backend does not say
