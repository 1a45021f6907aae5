"""Text without a download: read as it is, split by file, tokenised so that it can be had back."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from widelimit.training.data import text
from widelimit.training.data.corpus.bpe import BPE, default_cache
from widelimit.training.data.corpus.files import read_texts

# What breaks careless readers: accents, an emoji, tabs, Windows line ends, no line end, runs of blanks.
SAMPLES = (
    "def f(x):\n\treturn x + 1\n\n\n",
    "caf\u00e9 \U0001f600 na\u00efve\r\nsecond line",
    "    indented 1234  \n </s> <unk> <0x41>\n",
    "plain words and plain words\n" * 3,
)


@pytest.fixture
def directory(tmp_path):
    """Forty files in two directories, and things that are no text."""
    root = tmp_path / "texts"
    (root / "deep" / "deeper").mkdir(parents=True)
    for number in range(40):
        place = root / ("deep/deeper" if number % 3 else ".") / f"file{number}.txt"
        place.write_text(f"{number}: {SAMPLES[number % 4]}", newline="")
    return root


def joined(tokens: np.ndarray) -> bytes:
    """Byte tokens back to bytes, with a mark no file holds for the separator."""
    return b"".join(b"\xff" if token == 256 else bytes([token]) for token in tokens)


def test_byte_tokens_are_the_files(directory):
    """Every file appears whole, once, on one side, in the order of the paths, a separator after each."""
    tokens = text(directory)
    assert tokens.vocabulary == 257 and tokens.train.dtype == np.uint16
    paths = sorted(directory.rglob("*.txt"), key=lambda path: path.relative_to(directory).as_posix())
    parts = [joined(part).split(b"\xff")[:-1] for part in (tokens.train, tokens.validation)]
    sides = [path.read_bytes() in parts[1] for path in paths]
    assert 0 < sum(sides) < 20
    for side, part in enumerate(parts):
        assert part == [path.read_bytes() for path, one in zip(paths, sides, strict=True) if one == side]
    assert tokens.notes == (f"{40 - sum(sides)} files to train on, {sum(sides)} to validate on.",)


def test_adding_files_moves_none(directory):
    """The side of a file depends on its own path and the share alone, and grows with the share."""
    before, wider = read_texts(directory, None, 0.2), read_texts(directory, None, 0.5)
    for number in range(40, 60):
        (directory / f"file{number}.txt").write_text(f"{number}: new")
    after = read_texts(directory, None, 0.2)
    assert set(before.train) < set(after.train) and set(before.validation) < set(after.validation)
    assert set(before.validation) < set(wider.validation)


def test_what_is_no_text_is_skipped_and_counted(directory):
    """Binary files, other encodings and dangling links are left out and reported; hidden files unseen."""
    clean = text(directory)
    (directory / "picture.txt").write_bytes(b"\x89PNG\r\n\0\0")
    (directory / "latin1.txt").write_bytes("caf\u00e9".encode("latin1"))
    (directory / "empty.txt").write_bytes(b"")
    (directory / "gone.txt").symlink_to(directory / "nowhere")
    (directory / ".hidden.txt").write_text("hidden")
    (directory / "other.md").write_text("another suffix")
    tokens = text(directory)
    assert tokens.fingerprint() == clean.fingerprint()
    assert tokens.notes[0].endswith("; skipped: 1 unreadable, 2 not UTF-8 text.")
    assert len(text(directory, suffixes=(".txt", ".md")).train) != len(clean.train)


def test_one_file_is_split_at_a_line_end(tmp_path):
    """Nothing is lost or repeated, and the last share is validated on."""
    path = tmp_path / "one.txt"
    path.write_text("".join(f"line {number}\n" for number in range(100)))
    tokens = text(path, validation=0.2)
    assert joined(tokens.train)[-2:] == b"\n\xff"
    assert joined(tokens.train)[:-1] + joined(tokens.validation)[:-1] == path.read_bytes()
    assert 0.2 <= len(tokens.validation) / len(path.read_bytes()) < 0.22


@pytest.fixture
def library(directory, monkeypatch):
    """Stands for the installation: ten megabytes need not be read by every run of the tests."""
    for name in ("test/a.py", "json/tests/b.py", "site-packages/c.py", "idlelib/idle_test/d.py"):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text("left out")
    for path in directory.rglob("*.txt"):
        path.rename(path.with_suffix(".py"))
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(directory))


def test_python_is_the_library_without_tests_and_packages(library):
    """Tests and what was installed beside the library are not in it."""
    tokens = text()
    assert b"left out" not in joined(tokens.train) + joined(tokens.validation)
    assert tokens.name == "python, bytes" and "files to train on" in tokens.notes[0]


def test_the_installed_library_is_there():
    """On the real installation: modules that every Python has are found, and on one side each."""
    texts = read_texts("python", None, 0.1)
    library = Path(sysconfig.get_path("stdlib"))
    for name in ("dataclasses.py", "json/decoder.py"):
        content = (library / name).read_bytes()
        assert (content in texts.train) + (content in texts.validation) == 1
    assert sum(map(len, texts.train)) > 3e6 and not any(b"\0" in one for one in texts.train)


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """A small encoding, and the directory that keeps it."""
    cache = tmp_path_factory.mktemp("cache")
    return BPE([one.encode() for one in SAMPLES], 320, cache), cache


def test_pieces_give_the_text_back(pieces):
    """Encoding loses nothing, characters that were never seen included, and is shorter than bytes."""
    encoding, _ = pieces
    unseen = "\u4e16\u754c \U0001f680 \x01\x7f\n\n\tz\u0308"
    for sample in (*SAMPLES, unseen):
        tokens = encoding.encode([sample.encode()])
        assert tokens[-1] == 1 and 1 not in tokens[:-1] and 0 not in tokens  # separator, unknown
        assert encoding.decode(tokens[:-1]) == sample
    assert len(encoding.encode([SAMPLES[3].encode()])) < len(SAMPLES[3]) / 3


def test_training_is_deterministic_and_kept(pieces, tmp_path, capsys):
    """The same text gives the same bytes; a kept encoding is loaded; another text or size is another."""
    encoding, cache = pieces
    texts = [one.encode() for one in SAMPLES]
    (kept,) = cache.iterdir()
    BPE(texts, 320, tmp_path / "new")
    assert "learning 320 pieces" in capsys.readouterr().err
    assert (tmp_path / "new" / kept.name).read_bytes() == kept.read_bytes()
    again = BPE(texts, 320, cache)
    assert capsys.readouterr().err == "" and [path.name for path in cache.iterdir()] == [kept.name]
    np.testing.assert_array_equal(again.encode(texts), encoding.encode(texts))
    (tmp_path / "new" / kept.name).write_bytes(b"damaged")
    BPE(texts, 320, tmp_path / "new")
    assert (tmp_path / "new" / kept.name).read_bytes() == kept.read_bytes()
    BPE([*texts, b"more"], 320, cache)
    assert len(list(cache.iterdir())) == 2


def test_pieces_learn_from_the_training_part_alone(directory, tmp_path, monkeypatch):
    """Changing a validation file changes neither the pieces nor the training tokens."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    tokens = text(directory, "bpe", vocabulary=330)
    held_out = set(read_texts(directory, None, 0.1).validation)
    changed = next(path for path in sorted(directory.rglob("*.txt")) if path.read_bytes() in held_out)
    changed.write_text("zebra " * 50)
    again = text(directory, "bpe", vocabulary=330)
    np.testing.assert_array_equal(again.train, tokens.train)
    assert again.fingerprint() != tokens.fingerprint() and tokens.vocabulary == 330
    assert len(list((tmp_path / "home" / "widelimit").iterdir())) == 1


def test_a_cache_that_cannot_be_written_is_no_reason_to_stop(pieces, tmp_path, capsys):
    """The encoding is the same, and the user is told."""
    (tmp_path / "file").write_text("in the way")
    texts = [one.encode() for one in SAMPLES]
    tokens = BPE(texts, 320, tmp_path / "file").encode(texts)
    np.testing.assert_array_equal(tokens, pieces[0].encode(texts))
    assert "not kept" in capsys.readouterr().err


def test_the_cache_is_the_users(monkeypatch):
    """The usual variable moves it."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_cache() == Path("/somewhere/widelimit")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"source": "nowhere"}, FileNotFoundError, "nowhere must be 'python', a directory or a file"),
        ({"suffixes": (".tex",)}, ValueError, r"end in \.tex; found 0 such files and no text"),
        ({"suffixes": ".txt"}, TypeError, "suffixes must be a list of endings; got '.txt'"),
        ({"source": "python", "suffixes": (".c",)}, ValueError, "leave suffixes=.* out"),
        ({"validation": 1e-9}, ValueError, "none falls on the side to validate on, at a share of 1e-09"),
        ({"validation": 1 - 1e-9}, ValueError, "none falls on the side to train on"),
        ({"validation": 0}, ValueError, "validation must be a share between 0 and 1; got 0"),
        ({"tokenizer": "words"}, ValueError, "tokenizer must be one of 'bytes', 'bpe'; got 'words'"),
        ({"vocabulary": 500}, ValueError, "'bytes' has 257 tokens and learns nothing"),
        ({"tokenizer": "bpe", "vocabulary": 100}, ValueError, "whole number of at least 300; got 100"),
        ({"tokenizer": "bpe", "vocabulary": 60000}, ValueError, "text can fill; got 60000"),
    ],
)
def test_bad_input_is_named(directory, tmp_path, arguments, error, message):
    """One sentence says what is wrong and what to do."""
    given = {"source": directory, **arguments}
    if given.get("tokenizer") == "bpe":
        given["cache"] = tmp_path / "cache"
    with pytest.raises(error, match=message):
        text(**given)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "it is empty"), (b"ab\0c\n" * 9, "must hold UTF-8 text"), (b"one line", "a line end")],
)
def test_a_single_file_must_be_text(tmp_path, content, message):
    """What is skipped in a directory is an error when it is all there is."""
    path = tmp_path / "one.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        text(path)


def test_missing_library_is_named(directory, monkeypatch):
    """The pieces come with an extra, and the message says which."""
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(ImportError, match=r"pip install 'widelimit\[experiments\]'"):
        text(directory, "bpe")
