"""Files of tokens in their true formats, and the windows that training steps see."""

from __future__ import annotations

import numpy as np
import pytest

from widelimit.training.data import Tokens, batch_table, token_batch, token_file, windows

RNG = np.random.default_rng(0)
SEQUENCE = RNG.integers(0, 300, 1000)


def written(place, tokens, dtype="uint16", name="train.bin"):
    """Writes a file as nanoGPT does, or as NumPy does."""
    path = place / name
    array = np.asarray(tokens, dtype)
    np.save(path, array) if path.suffix == ".npy" else array.tofile(path)
    return path


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
@pytest.mark.parametrize("name", ["train.bin", "train.npy"])
def test_files_are_mapped_and_whole(tmp_path, dtype, name):
    """Every token comes back, from disk; the last share is validated on."""
    given = {"dtype": dtype} if name == "train.bin" else {}
    tokens = token_file(written(tmp_path, SEQUENCE, dtype, name), validation=0.2, **given)
    assert isinstance(tokens.train, np.memmap) and tokens.train.dtype == dtype
    assert tokens.vocabulary == SEQUENCE.max() + 1
    np.testing.assert_array_equal(tokens.train, SEQUENCE[:800])
    np.testing.assert_array_equal(tokens.validation, SEQUENCE[800:])
    with pytest.raises(ValueError, match="read-only"):
        tokens.train[0] = 1


def test_raw_files_are_little_endian(tmp_path):
    """Byte by byte, whatever the machine."""
    path = tmp_path / "train.bin"
    path.write_bytes(bytes([1, 2, 3, 0, 5, 0, 7, 1]))
    assert token_file(path, validation=0.25).train.tolist() == [513, 3, 5]


def test_a_second_file_is_validated_on(tmp_path):
    """Both parts whole, one vocabulary for both."""
    train = written(tmp_path, SEQUENCE)
    other = written(tmp_path, [5, 400, 2], name="val.bin")
    tokens = token_file(train, validation=other)
    assert len(tokens.train) == 1000 and tokens.validation.tolist() == [5, 400, 2]
    assert tokens.vocabulary == 401 and tokens.name == "train.bin and val.bin"


def test_the_fingerprint_knows_every_token():
    """It changes with a token, the split and the vocabulary, and with nothing else."""
    parts = np.asarray(SEQUENCE[:800], np.uint16), np.asarray(SEQUENCE[800:], np.uint16)
    known = Tokens("a", *parts, 300).fingerprint()
    assert Tokens("b", *(part.copy() for part in parts), 300).fingerprint() == known
    changed = parts[0].copy()
    changed[417] ^= 1
    moved = np.split(np.concatenate(parts), [799])
    others = [Tokens("a", changed, parts[1], 301), Tokens("a", *parts, 301), Tokens("a", *moved, 300)]
    assert len({known, *(other.fingerprint() for other in others)}) == 4


def test_windows_predict_every_token_once():
    """Targets of all windows, in order, are the sequence without its first token and its ragged end."""
    part = np.asarray(SEQUENCE, np.uint16)
    for context in (1, 7, 37, 999):
        rows = windows(part, context)
        assert rows.shape == (999 // context, context + 1) and rows.dtype == np.int32
        np.testing.assert_array_equal(rows[:, 1:].ravel(), part[1 : 1 + rows[:, 1:].size])
        np.testing.assert_array_equal(rows[1:, 0], rows[:-1, -1])


def test_a_batch_is_what_a_sweep_sees():
    """Step by step and table by table are the same rows of the same windows, at any step, without replay."""
    tokens = Tokens("a", np.asarray(SEQUENCE, np.uint16), np.uint16([1, 2]), 300)
    rows = windows(tokens, 9)
    table = batch_table(3, 0, 50, 8, len(rows))
    for step in (49, 0, 13, 14):  # 13 steps to an epoch
        batch = token_batch(tokens, seed=3, step=step, batch=8, context=9)
        np.testing.assert_array_equal(batch, rows[table[step]])
    assert batch.dtype == np.int32


def test_every_window_is_seen_once_an_epoch():
    """Without replacement: after an epoch each start has come up once."""
    part = np.arange(1 + 60 * 4, dtype=np.uint16)
    starts = np.concatenate([token_batch(part, seed=5, step=s, batch=6, context=4)[:, 0] for s in range(10)])
    assert sorted(starts.tolist()) == list(range(0, 240, 4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"context": 1000}, "context must be below the 1000 tokens of the sequence; got 1000"),
        ({"context": 0}, "context must be a whole number of at least 1; got 0"),
        ({"batch": 12, "context": 90}, r"at most the 11 windows of 90 \+ 1 tokens in the data; got 12"),
        ({"step": -1}, "step must be a whole number of at least 0; got -1"),
    ],
)
def test_batches_that_cannot_be(arguments, message):
    """A sequence longer than the data, or more windows than there are, is said before training."""
    given = {"seed": 0, "step": 0, "batch": 2, "context": 10} | arguments
    with pytest.raises(ValueError, match=message):
        token_batch(np.asarray(SEQUENCE, np.uint16), **given)


def test_tokens_of_another_dtype_are_refused():
    """Signed tokens would wrap around, and text as int64 is four times too large."""
    with pytest.raises(TypeError, match="uint16 or uint32 tokens; got int64"):
        windows(SEQUENCE, 4)
    with pytest.raises(TypeError, match="must have one dtype; got uint16 and uint32"):
        Tokens("a", np.uint16([1, 2]), np.uint32([1, 2]), 3)
    with pytest.raises(ValueError, match=r"shape \[N\]; got shape \(1, 2\)"):
        Tokens("a", np.uint16([[1, 2]]), np.uint16([1]), 3)
    with pytest.raises(ValueError, match=r"at least one token, shape \[N\]; got shape \(0,\)"):
        Tokens("a", np.uint16([1, 2]), np.uint16([]), 3)


def damaged(tmp_path, kind):
    """Files as a broken copy leaves them."""
    path = written(tmp_path, SEQUENCE, name="train.npy" if "npy" in kind else "train.bin")
    content = path.read_bytes()
    if kind == "odd":
        path.write_bytes(content[:-1])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "short npy":
        path.write_bytes(content[:-10])
    elif kind == "long npy":
        path.write_bytes(content + b"00")
    elif kind == "no npy":
        path.write_bytes(b"text" * 100)
    elif kind == "signed npy":
        np.save(path, SEQUENCE)
    elif kind == "matrix npy":
        np.save(path, np.asarray(SEQUENCE, np.uint16).reshape(10, 100))
    elif kind == "wide":
        np.asarray(SEQUENCE, np.uint32).tofile(path)
    elif kind == "wide and large":
        RNG.integers(0, 200_000, 1000).astype(np.uint32).tofile(path)
    elif kind == "gone":
        path.unlink()
    return path


@pytest.mark.parametrize(
    ("kind", "arguments", "error", "message"),
    [
        ("odd", {}, ValueError, "uint16 tokens of 2 bytes each, and at least one; got 1999 bytes"),
        ("empty", {}, ValueError, "at least one; got 0 bytes"),
        ("short npy", {}, ValueError, "train.npy (cannot be read|is longer or shorter)"),
        ("long npy", {}, ValueError, "longer or shorter than its header says"),
        ("no npy", {}, ValueError, "cannot be read as a .npy file"),
        ("signed npy", {}, TypeError, "uint16 or uint32 tokens; got int64"),
        ("matrix npy", {}, ValueError, r"shape \[N\]; got shape \(10, 100\)"),
        ("gone", {}, FileNotFoundError, "train.bin must be a file of tokens; there is no such file"),
        ("wide", {}, ValueError, "looks like a file of uint32: every second .* is at most 0, .* reach 299"),
        ("wide and large", {}, ValueError, "looks like a file of uint32: .* at most 3, and the others reach"),
        ("wide and large", {"vocabulary": 2**16}, ValueError, "read it with dtype uint32"),
        ("fine", {"dtype": "uint32"}, ValueError, "may be a file of another dtype than uint32"),
        ("fine", {"dtype": "int16"}, ValueError, "dtype must be 'uint16' or 'uint32'; got 'int16'"),
        ("fine", {"vocabulary": 256}, ValueError, r"must lie in 0..255; got \d+: the vocabulary must be at"),
        ("fine", {"validation": 1e-6}, ValueError, "a share of 1e-06 of 1000 tokens leaves one part empty"),
        ("fine", {"validation": 2.0}, ValueError, "a file, or a share between 0 and 1; got 2.0"),
    ],
)
def test_damaged_files_are_named(tmp_path, kind, arguments, error, message):
    """Read as it stands, each would train on noise or fail an hour later."""
    with pytest.raises(error, match=message):
        token_file(damaged(tmp_path, kind), **arguments)
