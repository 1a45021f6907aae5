"""Text that is there already: the source of this Python's own library, or files of the user's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from widelimit.training.data.corpus.bpe import BPE
from widelimit.training.data.corpus.files import read_texts
from widelimit.training.data.corpus.tokens import Tokens
from widelimit.training.data.labelled import check_choice

_SEPARATOR = 256  # the token between files, beside the 256 bytes
_PIECES = 4096


def text(
    source: str | Path = "python",
    tokenizer: Literal["bytes", "bpe"] = "bytes",
    *,
    vocabulary: int | None = None,
    suffixes: Sequence[str] | None = None,
    validation: float = 0.1,
    cache: str | Path | None = None,
) -> Tokens:
    """Returns the tokens of text that needs no download, split by file into training and validation part.

    A file is validated on if the SHA-256 of its relative path says so, with probability ``validation``: the
    split is the same everywhere, and adding files moves none. Files are joined in the order of their paths,
    a separator token after each.

    * ``"python"`` is the source of the running Python's standard library without its tests, about 12 MB in
      700 files: the same on each installation of one version, not between versions.
    * A directory is searched for files that end in ``suffixes``, hidden ones left out. Files that cannot be
      read or are not UTF-8 are skipped; how many is in ``.notes``.
    * A single file is split at a line end instead: its last share is validated on.

    ``"bytes"`` has 257 tokens, the bytes of UTF-8 and the separator 256. ``"bpe"`` trains a byte-pair
    encoding on the training part (with sentencepiece; some seconds) and keeps it in the cache directory.

    Args:
        source: ``"python"``, a directory, or a file.
        tokenizer: ``"bytes"`` or ``"bpe"``.
        vocabulary: number of pieces of ``"bpe"``, at least 300; None takes 4096.
        suffixes: endings of the files of a directory; None takes ``(".txt",)``.
        validation: share to validate on.
        cache: directory for trained encodings; None takes ``widelimit`` in the user's cache directory.

    Raises:
        FileNotFoundError: if there is no such directory or file.
        ImportError: if ``"bpe"`` is asked for and sentencepiece is not installed.
        ValueError: if there is no text, all of it falls on one side, or an option has no use here.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("a", "b", "c", "d"):
        ...         _ = Path(folder, f"{name}.txt").write_text(f"text of {name}")
        ...     tokens = text(folder, validation=0.5)
        >>> bytes(tokens.train[:9].astype(np.uint8)), tokens.train[9], tokens.notes
        (b'text of b', np.uint16(256), ('2 files to train on, 2 to validate on.',))
    """
    check_choice("tokenizer", tokenizer, ("bytes", "bpe"))
    if tokenizer == "bytes" and (vocabulary is not None or cache is not None):
        raise ValueError(
            "tokenizer 'bytes' has 257 tokens and learns nothing; leave vocabulary and cache out, or "
            "take 'bpe'."
        )
    texts = read_texts(source, suffixes, validation)
    if tokenizer == "bytes":
        train, held_out, size = _bytes(texts.train), _bytes(texts.validation), _SEPARATOR + 1
    else:
        size = _PIECES if vocabulary is None else vocabulary
        encoding = BPE(texts.train, size, None if cache is None else Path(cache))
        train, held_out = encoding.encode(texts.train), encoding.encode(texts.validation)
    return Tokens(f"{texts.name}, {tokenizer}", train, held_out, size, texts.notes)


def _bytes(texts: Sequence[bytes]) -> np.ndarray:
    """Returns the bytes of some texts, a separator after each."""
    parts = [
        np.append(np.frombuffer(one, np.uint8).astype(np.uint16), np.uint16(_SEPARATOR)) for one in texts
    ]
    return np.concatenate(parts)
