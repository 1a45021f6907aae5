"""Independent random streams from one seed, the same on every machine."""

from __future__ import annotations

import operator
import zlib

import numpy as np
from jaxtyping import Int64


def as_count(name: str, value: int, least: int) -> int:
    """Returns ``value`` as a plain int, or says what was wrong with it."""
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number; got {value!r}.") from None
    if count < least or isinstance(value, bool):
        raise ValueError(f"{name} must be a whole number of at least {least}; got {value!r}.")
    return count


def stream(seed: int, purpose: str, index: int = 0) -> np.random.Generator:
    """Returns the generator of one purpose, so that drawing more for one never shifts another.

    Args:
        seed: the user's seed, a non-negative whole number.
        purpose: what the numbers are for, e.g. ``"split"``.
        index: a counter within the purpose, e.g. the epoch.

    Raises:
        ValueError: if the seed is negative.
        TypeError: if the seed is not a whole number.

    Example:
        >>> bool(stream(0, "noise").random() == stream(0, "noise").random())
        True
    """
    key = (zlib.crc32(purpose.encode()), index)
    return np.random.Generator(
        np.random.PCG64(np.random.SeedSequence(as_count("seed", seed, 0), spawn_key=key))
    )


def permutation(seed: int, purpose: str, samples: int, index: int = 0) -> Int64[np.ndarray, " samples"]:
    """Returns a random order of ``0..samples-1``: the ranks of raw 64-bit numbers ``u_1, ..., u_samples``.

    Sorting the raw output of the bit generator, instead of calling ``Generator.permutation``, ties the order
    to the one thing NumPy promises never to change between versions.

    Args:
        seed: the user's seed.
        purpose: what the order is for.
        samples: how many indices to order.
        index: a counter within the purpose.

    Example:
        >>> sorted(permutation(0, "split", 5).tolist())
        [0, 1, 2, 3, 4]
    """
    return np.argsort(stream(seed, purpose, index).bit_generator.random_raw(samples), kind="stable")


def split(
    seed: int, samples: int, test_fraction: float
) -> tuple[Int64[np.ndarray, " train"], Int64[np.ndarray, " test"]]:
    """Returns training and test positions: a random order of the samples, whose last share is held out.

    Args:
        seed: the user's seed.
        samples: how many there are.
        test_fraction: share held out, between 0 and 1.

    Raises:
        ValueError: if the share leaves one side empty.

    Example:
        >>> [len(part) for part in split(0, 10, 0.2)]
        [8, 2]
    """
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction must lie strictly between 0 and 1; got {test_fraction!r}.")
    held_out = round(samples * test_fraction)
    if not 0 < held_out < samples:
        raise ValueError(
            "test_fraction must leave at least one sample on either side of the split; got "
            f"{test_fraction!r} of {samples} samples."
        )
    order = permutation(seed, "split", samples)
    return order[: samples - held_out], order[samples - held_out :]
