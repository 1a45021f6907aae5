"""CIFAR-10 from a directory the user has, in either of its two published forms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32, UInt8

from widelimit.training.data.dataset import Dataset
from widelimit.training.data.labelled import Selection, TargetKind, check_choice
from widelimit.training.data.streams import permutation
from widelimit.training.data.unpickle import load_plain_dict

_PIXELS = 3 * 32 * 32
_STEMS = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
_FORMS = {"": "cifar-10-batches-py", ".bin": "cifar-10-batches-bin"}  # file suffix -> folder of the archive


def _locate(directory: Path) -> list[Path]:
    """Finds the six batch files, or names those that are missing."""
    if not directory.is_dir():
        state = "is a file" if directory.exists() else "does not exist"
        raise FileNotFoundError(f"{directory} must be the directory of the CIFAR-10 batches; it {state}.")
    best: list[Path] = []
    missing = list(_STEMS)
    for suffix, folder in _FORMS.items():
        for place in (directory, directory / folder):
            files = [place / (stem + suffix) for stem in _STEMS]
            absent = [file.name for file in files if not file.is_file()]
            if len(absent) < len(missing):
                best, missing = files, absent
    if best and not missing:
        return best
    if best:
        raise FileNotFoundError(
            f"{best[0].parent} is not a whole CIFAR-10 directory: {', '.join(missing)} missing; unpack the "
            "archive again."
        )
    packed = sorted(file.name for file in directory.glob("cifar-10*.tar.gz"))
    hint = f"unpack {packed[0]} there" if packed else "pass the directory with the unpacked archive"
    raise FileNotFoundError(
        f"{directory} holds no CIFAR-10 batches (data_batch_1, or data_batch_1.bin in the binary version): "
        f"{hint}."
    )


def _read(path: Path) -> tuple[UInt8[np.ndarray, "n 32 32 3"], UInt8[np.ndarray, " n"]]:
    """Reads one batch file; both forms store an image as its red, green and blue planes, row by row."""
    if path.suffix == ".bin":
        raw = np.fromfile(path, np.uint8)
        if raw.size == 0 or raw.size % (1 + _PIXELS):
            raise ValueError(
                f"{path} must hold records of {1 + _PIXELS} bytes; got {raw.size} bytes: the file is "
                "truncated or of another format, copy or unpack it again."
            )
        records = raw.reshape(-1, 1 + _PIXELS)
        labels, data = records[:, 0], records[:, 1:]
    else:
        with path.open("rb") as file:
            content = load_plain_dict(file, path)
        if not {"data", "labels"} <= content.keys():
            raise ValueError(f"{path} must have the entries 'data' and 'labels'; got {sorted(content)}.")
        data, labels = np.asarray(content["data"]), np.asarray(content["labels"])
        if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != _PIXELS or len(data) == 0:
            raise ValueError(
                f"{path} must hold uint8 data of shape [n, {_PIXELS}]; got {data.dtype} of shape "
                f"{data.shape}."
            )
        if labels.shape != data.shape[:1] or labels.dtype.kind not in "iu":
            raise ValueError(
                f"{path} must hold {len(data)} whole-number labels, one per image; got {labels.dtype} of "
                f"shape {labels.shape}."
            )
    if labels.min() < 0 or labels.max() > 9:
        raise ValueError(
            f"{path} must hold labels 0..9; got {labels.min()} to {labels.max()}: it is not CIFAR-10."
        )
    return data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels.astype(np.uint8)


def _channel_tables(images: UInt8[np.ndarray, "n 32 32 3"]) -> Float32[np.ndarray, "3 256"]:
    """Standardised value of each byte, per channel: exact statistics from counts, no float64 copy."""
    values = np.arange(256)
    tables = np.zeros((3, 256), np.float32)
    for channel in range(3):
        chunks = range(0, len(images), 10_000)
        counts = sum(
            np.bincount(images[at : at + 10_000, ..., channel].ravel(), minlength=256) for at in chunks
        )
        mean = np.average(values, weights=counts)
        std = np.sqrt(np.average((values - mean) ** 2, weights=counts))
        if np.count_nonzero(counts) > 1:
            tables[channel] = (values - mean) / std
    return tables


def _standardise(
    images: UInt8[np.ndarray, "n 32 32 3"], tables: Float32[np.ndarray, "3 256"], form: str
) -> Float32[np.ndarray, " n *features"]:
    """Looks every byte up, one channel at a time: indexing with all at once takes eight bytes for each."""
    out = np.empty(images.shape, np.float32)
    for channel in range(3):
        out[..., channel] = tables[channel][images[..., channel]]
    return out.reshape(len(out), -1) if form == "flat" else out


def cifar10(
    directory: str | Path,
    *,
    seed: int = 0,
    samples: int | None = None,
    test_samples: int | None = None,
    classes: Sequence[int] | None = None,
    targets: TargetKind = "labels",
    form: Literal["flat", "image"] = "image",
) -> Dataset:
    """Returns CIFAR-10 from the user's directory, standardised per colour channel.

    Reads the python version (``data_batch_1`` ... ``data_batch_5``, ``test_batch``) or the binary version
    (the same names with ``.bin``), in the directory or in the archive's own folder within it. Each byte x
    becomes ``(x - mean_c) / std_c`` with the mean and std of channel c over the whole training set (of the
    chosen classes), also when ``samples`` keeps only part of it; a constant channel becomes 0. The python
    version is a pickle: it is read without importing or calling anything it names.

    Args:
        directory: where the batches lie.
        seed: fixes the order of the training images, and so which of them ``samples`` keeps.
        samples: keep the first so many training images. None keeps all.
        test_samples: keep the first so many test images. None keeps all.
        classes: keep these classes, renumbered 0, 1, ... in the order given. None keeps all ten.
        targets: ``"labels"``; ``"one_hot"`` vectors; or ``"signs"``, -1 for the first of two classes and +1
            for the second.
        form: ``"image"`` inputs [P, 32, 32, 3] or ``"flat"`` [P, 3072] (row, column, channel).

    Raises:
        FileNotFoundError: if the directory or a batch file is missing; it is named.
        ValueError: if a file is truncated or not a CIFAR-10 batch, or an option is out of its range.

    Example:
        >>> cifar10("no/such/place")
        Traceback (most recent call last):
        FileNotFoundError: no/such/place must be the directory of the CIFAR-10 batches; it does not exist.

    Reference:
        Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009).
    """
    check_choice("form", form, ("flat", "image"))
    selection = Selection(classes, samples, test_samples, targets)
    files = _locate(Path(directory))
    batches = [_read(file) for file in files]
    sizes = [len(labels) for _, labels in batches[:5]]
    if len(set(sizes)) > 1:
        raise ValueError(
            f"{files[0].parent}: the five training batches must have equal sizes; got {sizes} images: "
            f"{files[sizes.index(min(sizes))].name} is truncated, copy or unpack it again."
        )
    images, labels = (np.concatenate(parts) for parts in zip(*batches[:5], strict=True))
    test_images, test_labels = batches[5]
    order = permutation(seed, "order", len(labels))
    kept, labels = selection.pick(labels[order], classes=10)
    tables = _channel_tables(images[order[kept]])
    at, y, test_at, y_test = selection.trim(
        "cifar10", (order[kept], labels), selection.pick(test_labels, classes=10)
    )
    x, x_test = (_standardise(part, tables, form) for part in (images[at], test_images[test_at]))
    return selection.build("cifar10", (x, y), (x_test, y_test), classes=10)
