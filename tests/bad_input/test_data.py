"""Data that cannot be used: a user's own arrays and files, and directories that are not CIFAR-10."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests.bad_input.doors import arrays, saved, transfer


def spoilt(value: float) -> np.ndarray:
    """Inputs with one number that is none."""
    x = arrays()["x"]
    x[3, 1] = value
    return x


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"y": np.arange(40) % 2 + 0.0}, "must hold whole-number labels y, .*; got floats"),
        ({"x": np.ones((40, 3)) * 1j}, "inputs must be real numbers; got complex128"),
        ({"x": np.full((40, 3), "1.0")}, "inputs must be real numbers; got <U3"),
        ({"x": np.full((40, 3), None)}, "cannot be read as an .npz of plain arrays"),
        ({"x": spoilt(np.nan)}, "finite; got 1 NaN or infinite values"),
        ({"x": spoilt(1e39)}, "must fit float32"),
        ({"x": np.ones((40, 3))}, "training inputs are the same, so there is nothing to learn"),
        ({"y": np.zeros(40, int)}, "training targets are the same, so there is nothing to learn"),
        ({"y": np.arange(39) % 2}, r"one row per sample each; got shapes \(40, 3\) and \(39,\)"),
        ({"y": np.eye(2, dtype=int)[np.arange(40) % 2]}, r"labels must have shape \[P\]; got \(32, 2\)"),
        ({"y": np.arange(40) % 2 - 1}, r"labels must lie in 0..0; got -1 to 0"),
        ({"y": np.arange(40) + 10_000}, "more classes than samples: renumber them"),
        ({"y": None}, "y missing: rename the arrays"),
        ({"samples": 1}, "must leave at least one sample on either side"),
        ({"samples": 0}, "must leave at least one sample on either side"),
    ],
)  # fmt: skip
def test_data_of_ones_own_that_are_not_usable(tmp_path, refused, changes, match):
    flags = saved(tmp_path, **changes)
    refused(lambda: transfer(tmp_path / "runs", *flags), match)


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:500]), "cannot be read as an .npz"),
        (lambda path: path.write_text("1,2,3\n"), "cannot be read as an .npz"),
        (lambda path: path.write_bytes(b""), "cannot be read as an .npz"),
        (lambda path: path.unlink(), "there is no such file"),
        (lambda path: (path.unlink(), path.mkdir()), "it is a directory"),
    ],
)
def test_a_file_that_is_no_npz(tmp_path, refused, spoil, match):
    flags = saved(tmp_path)
    spoil(tmp_path / "mine.npz")
    refused(lambda: transfer(tmp_path / "runs", *flags), match)


def cifar(place: Path, records: int = 2) -> None:
    """CIFAR-10's binary version with few images."""
    place.mkdir()
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        images = np.random.default_rng(0).integers(0, 256, (records, 3073), dtype=np.uint8)
        images[:, 0] = np.arange(records)
        (place / f"{name}.bin").write_bytes(images.tobytes())


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda place: place.mkdir(), "holds no CIFAR-10 batches"),
        (lambda place: place.write_text("x"), "must be the directory of the CIFAR-10 batches; it is a file"),
        (lambda place: None, "it does not exist"),
        (
            lambda place: (place.mkdir(), (place / "cifar-10-python.tar.gz").write_bytes(b"")),
            "unpack cifar-10-python.tar.gz there",
        ),
        (
            lambda place: (cifar(place), (place / "data_batch_2.bin").unlink()),
            "not a whole CIFAR-10 directory: data_batch_2.bin missing",
        ),
        (
            lambda place: (cifar(place), os.truncate(place / "data_batch_3.bin", 4000)),
            "data_batch_3.bin must hold records of 3073 bytes; got 4000",
        ),
        (
            lambda place: (cifar(place), os.truncate(place / "data_batch_3.bin", 3073)),
            "data_batch_3.bin is truncated",
        ),
    ],
)
def test_a_directory_that_is_not_cifar(tmp_path, refused, spoil, match):
    spoil(tmp_path / "images")
    refused(
        lambda: transfer(tmp_path / "runs", "--data", "cifar10", "--data-path", str(tmp_path / "images")),
        match,
    )
