"""One container for training and validation tokens, checked when it is built."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from widelimit.training.data.streams import as_count

CHUNK = 2**24  # tokens looked at together: a memory-mapped file may be larger than memory
_LARGEST = 2**31  # tokens become int32 on the device


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Tokens:
    """Text as whole numbers ``0..vocabulary-1``: a part to train on and one to validate on.

    The arrays are kept as read-only views, so a memory-mapped file stays on disk.

    Args:
        name: what the text is, for tables and figures.
        train: uint16 or uint32 of shape [N].
        validation: the same dtype, of shape [N_validation].
        vocabulary: the number of different tokens: the size of embedding and readout.
        notes: what a report should say of how they were read, e.g. how many files were skipped.

    Raises:
        TypeError: if a part is not a NumPy array of uint16 or uint32.
        ValueError: if a part is empty or has more than one axis, or holds a token beyond the vocabulary.

    Example:
        >>> Tokens("abc", np.uint16([0, 1, 2, 1]), np.uint16([2, 0]), vocabulary=3)
        Tokens('abc': 4 training and 2 validation tokens, vocabulary 3)
    """

    name: str
    train: np.ndarray
    validation: np.ndarray
    vocabulary: int
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        as_count(f"{self.name}: vocabulary", self.vocabulary, 1)
        if self.vocabulary > _LARGEST:
            raise ValueError(f"{self.name}: vocabulary must be at most 2^31; got {self.vocabulary}.")
        for part in ("train", "validation"):
            tokens = getattr(self, part)
            check_tokens(f"{self.name}: {part}", tokens)
            largest = largest_token(tokens)
            if largest >= self.vocabulary:
                raise ValueError(
                    f"{self.name}: {part} tokens must lie in 0..{self.vocabulary - 1}; got {largest}: the "
                    f"vocabulary must be at least {largest + 1}, or the file is damaged or of another dtype."
                )
            view = tokens.view()
            view.flags.writeable = False
            object.__setattr__(self, part, view)
        if self.train.dtype != self.validation.dtype:
            raise TypeError(
                f"{self.name}: train and validation must have one dtype; got {self.train.dtype} and "
                f"{self.validation.dtype}: convert one of them."
            )

    def __repr__(self) -> str:
        return (
            f"Tokens({self.name!r}: {len(self.train)} training and {len(self.validation)} validation tokens, "
            f"vocabulary {self.vocabulary})"
        )

    def fingerprint(self) -> str:
        """Returns 16 hex digits of SHA-256 over all tokens, so that a resumed run can tell its text changed.

        A memory-mapped file is read once from end to end, at the speed of the disk.
        """
        digest = hashlib.sha256(f"{self.vocabulary}".encode())
        for part in (self.train, self.validation):
            digest.update(f"{part.dtype.name}{part.shape}".encode())
            for start in range(0, len(part), CHUNK):
                chunk = part[start : start + CHUNK]
                digest.update(np.ascontiguousarray(chunk, chunk.dtype.newbyteorder("<")).tobytes())
        return digest.hexdigest()[:16]


def check_tokens(what: str, tokens: np.ndarray) -> None:
    """Tokens of another dtype or shape would be read as other text, or fail far from here."""
    if not isinstance(tokens, np.ndarray) or tokens.dtype not in (np.uint16, np.uint32):
        got = tokens.dtype if isinstance(tokens, np.ndarray) else type(tokens).__name__
        raise TypeError(
            f"{what} must be a NumPy array of uint16 or uint32 tokens; got {got}: convert it with "
            "numpy.asarray(..., numpy.uint16)."
        )
    if tokens.ndim != 1 or not tokens.size:
        raise ValueError(
            f"{what} must be one sequence of at least one token, shape [N]; got shape {tokens.shape}."
        )


def largest_token(tokens: np.ndarray) -> int:
    """Returns the largest token, of one piece of the file at a time."""
    return max(int(tokens[start : start + CHUNK].max()) for start in range(0, len(tokens), CHUNK))
