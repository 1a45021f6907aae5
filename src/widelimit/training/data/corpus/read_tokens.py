"""A file of tokens that someone made already: raw numbers as in nanoGPT's ``.bin``, or ``.npy``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from widelimit.training.data.corpus.tokens import Tokens, check_tokens, largest_token

_RAW: dict[str, np.dtype] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
_GUESSED = 2**20  # the largest vocabulary that is taken from the tokens themselves
_LOOK = 2**16  # tokens at the beginning that show a file of another dtype
_APART = 2**8  # upper halves of uint32 tokens are that much smaller than lower ones: vocabularies up to 2^24


def token_file(
    path: str | Path,
    *,
    dtype: Literal["uint16", "uint32"] = "uint16",
    vocabulary: int | None = None,
    validation: str | Path | float = 0.1,
) -> Tokens:
    """Returns a pre-tokenised text, memory-mapped: it may be larger than memory.

    A ``.npy`` file says its own dtype and length; any other file is raw little-endian numbers from its first
    byte on, as nanoGPT's ``train.bin``. All tokens are read once, to check them.

    Args:
        path: the file.
        dtype: of the numbers of a raw file.
        vocabulary: the number of different tokens; None takes the largest token plus one.
        validation: a second file of the same kind, or the share at the end of the first that is held out.

    Raises:
        FileNotFoundError: if there is no such file.
        TypeError: if a ``.npy`` file holds no uint16 or uint32.
        ValueError: if a file is damaged, a token lies beyond the vocabulary, or a part would be empty.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.arange(40, dtype=np.uint16).tofile(f"{folder}/train.bin")
        ...     token_file(f"{folder}/train.bin", validation=0.25)
        Tokens('train.bin': 30 training and 10 validation tokens, vocabulary 40)
    """
    if dtype not in _RAW:
        raise ValueError(f"dtype must be 'uint16' or 'uint32'; got {dtype!r}.")
    path = Path(path)
    train = _mapped(path, _RAW[dtype])
    name = path.name
    if isinstance(validation, str | Path):
        held_out = _mapped(Path(validation), _RAW[dtype])
        name += f" and {Path(validation).name}"
    else:
        train, held_out = _cut(path, train, validation)
    if vocabulary is None:
        vocabulary = 1 + max(largest_token(train), largest_token(held_out))
        if vocabulary > _GUESSED:
            raise ValueError(
                f"{path}: the largest token is {vocabulary - 1}, so this may be a file of another dtype than "
                f"{train.dtype}: pass the dtype, or the vocabulary if this is right."
            )
    return Tokens(name, train, held_out, vocabulary)


def _mapped(path: Path, raw: np.dtype) -> np.ndarray:
    """Returns the tokens of one file, which stay on disk."""
    if not path.is_file():
        state = "it is a directory" if path.is_dir() else "there is no such file"
        raise FileNotFoundError(f"{path} must be a file of tokens; {state}.")
    size = path.stat().st_size
    if path.suffix == ".npy":
        try:
            tokens = np.load(path, mmap_mode="r", allow_pickle=False)
            whole = isinstance(tokens, np.memmap) and size == tokens.offset + tokens.nbytes
        except (ValueError, EOFError, OSError) as error:
            raise ValueError(f"{path} cannot be read as a .npy file ({error}): write it again.") from error
        if not whole:
            raise ValueError(f"{path} is longer or shorter than its header says: write it again.")
        check_tokens(str(path), tokens)
        return tokens
    if not size or size % raw.itemsize:
        raise ValueError(
            f"{path} must hold {raw.name} tokens of {raw.itemsize} bytes each, and at least one; got {size} "
            "bytes: the file is damaged, or of another dtype."
        )
    tokens = np.memmap(path, raw, mode="r")
    if raw.itemsize == 2 and len(tokens) >= 64 and len(tokens) % 2 == 0:
        lower, upper = (int(tokens[:_LOOK][half::2].max()) for half in (0, 1))
        if not upper or upper * _APART < lower:
            raise ValueError(
                f"{path} looks like a file of uint32: every second uint16 in it is at most {upper}, and the "
                f"others reach {lower}; read it with dtype uint32, or save it as .npy if it is uint16."
            )
    return tokens


def _cut(path: Path, tokens: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the beginning, and the share at the end that is held out."""
    if not 0 < share < 1:
        raise ValueError(f"validation must be a file, or a share between 0 and 1; got {share!r}.")
    held_out = round(len(tokens) * share)
    if not 0 < held_out < len(tokens):
        raise ValueError(
            f"{path}: a share of {share!r} of {len(tokens)} tokens leaves one part empty: take another "
            "share, or a file with more tokens."
        )
    return tokens[:-held_out], tokens[-held_out:]
