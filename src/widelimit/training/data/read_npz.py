"""A user's own arrays, from one .npz file."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from widelimit.training.data.dataset import Dataset, check_array
from widelimit.training.data.labelled import Selection, TargetKind, standardise_features
from widelimit.training.data.streams import permutation, split

_SPLIT_KEYS = ("x_train", "y_train", "x_test", "y_test")


def _load(path: Path) -> dict[str, np.ndarray]:
    """Reads the arrays that are asked for, and no pickled object."""
    if not path.is_file():
        state = "it is a directory" if path.is_dir() else "there is no such file"
        raise FileNotFoundError(f"{path} must be an .npz file; {state}.")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            names = set(archive.files)
            keys = _SPLIT_KEYS if names & set(_SPLIT_KEYS) else ("x", "y")
            missing = [key for key in keys if key not in names]
            arrays = {} if missing else {key: archive[key] for key in keys}
    # TypeError: a plain .npy file comes back as an array, which is no context manager.
    except (ValueError, EOFError, OSError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{path} cannot be read as an .npz of plain arrays ({error}): write it with numpy.savez, "
            "without objects."
        ) from error
    if missing:
        raise ValueError(
            f"{path} must hold x and y, or {', '.join(_SPLIT_KEYS)}; got {sorted(names)}, so "
            f"{', '.join(missing)} missing: rename the arrays."
        )
    for key in keys[::2]:
        x, y = arrays[key], arrays[key.replace("x", "y", 1)]
        if x.ndim == 0 or y.shape[:1] != x.shape[:1]:
            raise ValueError(
                f"{path}: {key} and its y must have one row per sample each; got shapes "
                f"{x.shape} and {y.shape}."
            )
    return arrays


def _as_float32(what: str, array: np.ndarray) -> np.ndarray:
    """Real numbers of any size become float32; what float32 cannot hold is an error and not an infinity."""
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{what} must be real numbers; got {array.dtype}: store floats or whole numbers.")
    with np.errstate(over="ignore"):
        converted = array.astype(np.float32)
    overflowed = np.isinf(converted) & np.isfinite(array)
    if overflowed.any():
        raise ValueError(
            f"{what} must fit float32, so be below 3.4e38 in size; got {int(overflowed.sum())} larger "
            "values: rescale them."
        )
    check_array(what, converted, (np.float32,), "float32")
    return converted


def _labels(path: Path, y: np.ndarray, y_test: np.ndarray) -> int | None:
    """Returns the number of classes if y holds labels and None if it holds quantities."""
    kinds = [part.dtype.kind in "iu" for part in (y, y_test)]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"{path}: y_train and y_test must both be whole-number labels or both floats; got {y.dtype} and "
            f"{y_test.dtype}: store both in one dtype."
        )
    if not kinds[0]:
        return None
    if y.ndim != 1 or y_test.ndim != 1:
        raise ValueError(
            f"{path}: labels must have shape [P]; got {y.shape} and {y_test.shape}: flatten them, or store "
            "y as floats if it holds quantities."
        )
    classes = 1 + max(int(y.max()), int(y_test.max()))
    if classes > len(y) + len(y_test):
        raise ValueError(
            f"{path}: labels run up to {classes - 1}, which is more classes than samples: renumber them "
            "from 0, or store y as floats if it holds quantities."
        )
    return classes


def npz(
    path: str | Path,
    *,
    seed: int = 0,
    test_fraction: float | None = None,
    samples: int | None = None,
    test_samples: int | None = None,
    classes: Sequence[int] | None = None,
    targets: TargetKind = "labels",
    standardise: bool = False,
) -> Dataset:
    """Returns the user's own data from an ``.npz`` file.

    The file holds either ``x_train, y_train, x_test, y_test``, which are used as they are split, or ``x, y``,
    which are shuffled and split by the seed. Inputs are real numbers of shape [P, ...] and become float32.
    Targets are whole-number labels of shape [P], from 0 on, or floats of shape [P] or [P, K], regression
    targets. Other arrays in the file are not read.

    Args:
        path: the file.
        seed: fixes the order of the training samples, and for ``x, y`` the split.
        test_fraction: share of ``x, y`` held out; None means 0.2. Not to be given for data that come split.
        samples: keep the first so many training samples. None keeps all.
        test_samples: keep the first so many test samples. None keeps all.
        classes: keep these labels, renumbered 0, 1, ... in the order given. None keeps all.
        targets: how labels are written: ``"labels"``, ``"one_hot"`` or ``"signs"``.
        standardise: whether inputs become ``(x - mean) / std`` per feature, by the whole training set;
            constant features become 0.

    Raises:
        FileNotFoundError: if there is no such file.
        TypeError: if an array does not hold real numbers.
        ValueError: if the file is damaged or lacks a key, the arrays disagree, or the data are not usable.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/mine.npz", x=np.arange(20.0).reshape(10, 2), y=np.arange(10) % 2)
        ...     npz(f"{folder}/mine.npz")
        Dataset('mine': 8 training and 2 test samples of shape (2,), labels of 2 classes)
    """
    path = Path(path)
    selection = Selection(classes, samples, test_samples, targets)
    arrays = _load(path)
    if "x" in arrays:
        parts = split(seed, len(arrays["x"]), 0.2 if test_fraction is None else test_fraction)
        x, y, x_test, y_test = (arrays[key][part] for part in parts for key in ("x", "y"))
    elif test_fraction is not None:
        raise ValueError(f"{path} comes with its own test set; leave test_fraction={test_fraction!r} out.")
    else:
        x, y, x_test, y_test = (arrays[key] for key in _SPLIT_KEYS)
        order = permutation(seed, "order", len(x))
        x, y = x[order], y[order]
    x, x_test = (_as_float32(f"{path}: inputs", part) for part in (x, x_test))
    number = _labels(path, y, y_test)
    if number is not None:
        (kept, y), (test_kept, y_test) = selection.pick(y, number), selection.pick(y_test, number)
        x, x_test = x[kept], x_test[test_kept]
    elif classes is not None or targets != "labels":
        raise ValueError(
            f"{path}: classes and targets={targets!r} need whole-number labels; got y of {y.dtype}: store "
            "y as integers, or leave both options out."
        )
    if standardise:
        x, x_test = standardise_features(x.astype(np.float64), x_test.astype(np.float64))
    x, y, x_test, y_test = selection.trim(path.stem, (x, y), (x_test, y_test))
    if number is not None:
        return selection.build(path.stem, (x, y), (x_test, y_test), number)
    y, y_test = (_as_float32(f"{path}: targets", part) for part in (y, y_test))
    y, y_test = (part[:, None] if part.ndim == 1 else part for part in (y, y_test))
    return Dataset(path.stem, x, y, x_test, y_test, outputs=y.shape[-1])
