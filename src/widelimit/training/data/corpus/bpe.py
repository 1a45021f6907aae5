"""A small byte-pair encoding, trained once on the training part and kept in the user's cache directory."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from widelimit.training.data.streams import as_count
from widelimit.training.files import write_atomic

SEPARATOR = 1  # the id of the piece between files; 0 is the unknown piece, which byte fallback never needs
_LEAST = 300  # 256 bytes, two special pieces, and a few that are learned
# Nothing is normalised, so that decoding gives the text back; one thread and no shuffling, so that the same
# text gives the same pieces.
_SETTINGS: dict[str, Any] = {
    "model_type": "bpe",
    "byte_fallback": True,
    "split_digits": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "add_dummy_prefix": False,
    "allow_whitespace_only_pieces": True,
    "character_coverage": 0.9995,
    "max_sentence_length": 2**20,
    "shuffle_input_sentence": False,
    "num_threads": 1,
    "unk_id": 0,
    "eos_id": SEPARATOR,
    "bos_id": -1,
    "pad_id": -1,
}


class BPE:
    """A trained byte-pair encoding of a given number of pieces; what no piece covers is spelt in bytes.

    Args:
        texts: UTF-8, what it learns from.
        vocabulary: the number of pieces, at least 300.
        cache: directory that keeps trained encodings; None for the user's own.

    Raises:
        ImportError: if sentencepiece is not installed.
        ValueError: if the vocabulary is too small, or larger than the text can fill.
    """

    def __init__(self, texts: Sequence[bytes], vocabulary: int, cache: Path | None) -> None:
        self.vocabulary = as_count("vocabulary", vocabulary, _LEAST)
        library = _library()
        path = (cache or default_cache()) / f"bpe-{_key(texts, vocabulary, library.__version__)}.model"
        self._processor = _load(library, path) or self._train(library, texts, path)

    def _train(self, library: Any, texts: Sequence[bytes], path: Path) -> Any:
        """Learns the pieces, and keeps them if the cache can be written."""
        size = sum(map(len, texts))
        print(f"bpe: learning {self.vocabulary} pieces from {size / 1e6:.1f} MB of text ...", file=sys.stderr)
        model = io.BytesIO()
        try:
            library.SentencePieceTrainer.train(
                sentence_iterator=_lines(texts),
                model_writer=model,
                vocab_size=self.vocabulary,
                minloglevel=4,
                **_SETTINGS,
            )
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"vocabulary must be a number of pieces that {size} bytes of text can fill; got "
                f"{self.vocabulary}: take a smaller one, or more text."
            ) from error
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, model.getvalue())
        except OSError as error:
            print(f"bpe: learned, but not kept for the next time ({error})", file=sys.stderr)
        return library.SentencePieceProcessor(model_proto=model.getvalue())

    def encode(self, texts: Sequence[bytes]) -> np.ndarray:
        """Returns the tokens of some texts, a separator after each: uint16 [N], or uint32 if need be."""
        dtype = np.uint16 if self.vocabulary <= 2**16 else np.uint32
        pieces = [np.asarray([*self._processor.encode(text.decode()), SEPARATOR], dtype) for text in texts]
        return np.concatenate(pieces)

    def decode(self, tokens: np.ndarray) -> str:
        """Returns the text of some tokens; separators vanish."""
        return str(self._processor.decode(np.asarray(tokens).tolist()))


def default_cache() -> Path:
    """Returns the user's cache directory for this package."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "widelimit"


def _library() -> Any:
    """Imports sentencepiece, whose bindings, in some versions, warn about themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            import sentencepiece
        except ImportError as error:
            raise ImportError(
                "tokenizer 'bpe' needs sentencepiece: pip install 'widelimit[experiments]', or take 'bytes'."
            ) from error
    return sentencepiece


def _key(texts: Sequence[bytes], vocabulary: int, version: str) -> str:
    """The same text, settings and library give the same pieces."""
    digest = hashlib.sha256(json.dumps([_SETTINGS, vocabulary, version], sort_keys=True).encode())
    for text in texts:
        digest.update(len(text).to_bytes(8) + text)
    return digest.hexdigest()[:24]


def _load(library: Any, path: Path) -> Any:
    """Returns the encoding kept from an earlier run; a damaged file is learned anew."""
    with contextlib.suppress(OSError, RuntimeError):
        return library.SentencePieceProcessor(model_proto=path.read_bytes())
    return None


def _lines(texts: Sequence[bytes]) -> Iterator[str]:
    """Pieces never reach over a line end, which is spelt as its byte."""
    return (line for text in texts for line in text.decode().split("\n") if line)
