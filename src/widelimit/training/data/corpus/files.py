"""Finding text: which files, which of them are text, and on which side of the split each falls."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import sysconfig
from collections.abc import Sequence
from pathlib import Path

# Not the library itself: its tests, what was installed beside it, and what Python made of it.
_APART = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})


@dataclasses.dataclass(frozen=True)
class Texts:
    """The bytes of the files on either side of the split, each UTF-8 and not empty, and what was left out."""

    name: str
    train: tuple[bytes, ...]
    validation: tuple[bytes, ...]
    notes: tuple[str, ...]


def read_texts(source: str | Path, suffixes: Sequence[str] | None, share: float) -> Texts:
    """Returns the text of ``"python"``, a directory or a file, split into training and validation part.

    Args:
        source: as in `text`.
        suffixes: endings of the files of a directory that are taken.
        share: expected share of files (of a single file: share of its text) to validate on.

    Raises:
        FileNotFoundError: if there is no such directory or file.
        ValueError: if there is no text in it, or all of it falls on one side.
    """
    if not 0 < share < 1:
        raise ValueError(f"validation must be a share between 0 and 1; got {share!r}.")
    if isinstance(suffixes, str):
        raise TypeError(f"suffixes must be a list of endings; got {suffixes!r}: write ({suffixes!r},).")
    if source == "python":
        if suffixes is not None:
            raise ValueError(f"source 'python' reads *.py; leave suffixes={tuple(suffixes)!r} out.")
        return _directory("python", Path(sysconfig.get_path("stdlib")), (".py",), _APART, share)
    path = Path(source)
    if path.is_dir():
        return _directory(path.name, path, tuple(suffixes or (".txt",)), frozenset(), share)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} must be 'python', a directory or a file of text; there is no such file."
        )
    if suffixes is not None:
        raise ValueError(f"{path} is one file; leave suffixes={tuple(suffixes)!r} out.")
    return _one_file(path, share)


def held_out(relative: str, share: float) -> bool:
    """Whether a file is validated on: by its name alone, so that adding files moves none.

    Example:
        >>> sum(held_out(f"file{number}.txt", 0.25) for number in range(1000))
        255
    """
    return (
        int.from_bytes(hashlib.sha256(relative.encode(errors="surrogateescape")).digest()[:8]) < share * 2**64
    )


def _directory(
    name: str, root: Path, suffixes: tuple[str, ...], apart: frozenset[str], share: float
) -> Texts:
    """Reads every file with one of the suffixes, in the order of their names."""
    paths, unreadable = _listed(root, suffixes, apart)
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    other = 0
    for relative in paths:
        try:
            content = (root / relative).read_bytes()
        except OSError:
            unreadable += 1
            continue
        if not _is_text(content):
            other += 1
        elif content:
            parts[held_out(relative, share)].append(content)
    skipped = [
        f"{count} {what}" for count, what in ((unreadable, "unreadable"), (other, "not UTF-8 text")) if count
    ]
    left_out = f"; skipped: {', '.join(skipped)}" if skipped else ""
    if not any(parts):
        raise ValueError(
            f"{root} must hold text in files that end in {', '.join(suffixes)}; found {len(paths)} such "
            f"files and no text{left_out}: name other suffixes, or another directory."
        )
    if not all(parts):
        empty = "train" if not parts[0] else "validate"
        raise ValueError(
            f"{root}: of {len(parts[0]) + len(parts[1])} files of text none falls on the side to {empty} on, "
            f"at a share of {share!r}: take another share, or more files."
        )
    note = f"{len(parts[0])} files to train on, {len(parts[1])} to validate on{left_out}."
    return Texts(name, tuple(parts[0]), tuple(parts[1]), (note,))


def _listed(root: Path, suffixes: tuple[str, ...], apart: frozenset[str]) -> tuple[list[str], int]:
    """Returns the sorted relative paths below a directory, and how many places in it could not be read.

    Hidden files and directories stay out; links to directories are not followed.
    """
    failures: list[OSError] = []
    found = []
    for place, directories, files in os.walk(root, onerror=failures.append):
        directories[:] = [one for one in directories if one not in apart and not one.startswith(".")]
        here = Path(place).relative_to(root)
        found += [
            (here / one).as_posix() for one in files if one.endswith(suffixes) and not one.startswith(".")
        ]
    return sorted(found), len(failures)


def _one_file(path: Path, share: float) -> Texts:
    """Splits one text at the line end before its last share."""
    content = path.read_bytes()
    if not content.strip() or not _is_text(content):
        state = "UTF-8 text" if content.strip() else "text; it is empty"
        raise ValueError(f"{path} must hold {state}: convert it, or take another file.")
    place = 1 + content.rfind(b"\n", 0, round(len(content) * (1 - share)))
    if not 0 < place < len(content):
        raise ValueError(
            f"{path} must have a line end before its last share of {share!r}, to be split there; it has "
            "none: take more text or a smaller share."
        )
    return Texts(path.name, (content[:place],), (content[place:],), ("One file, its end to validate on.",))


def _is_text(content: bytes) -> bool:
    """UTF-8 without the zero byte, which no text holds and most binary files do."""
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return b"\0" not in content
