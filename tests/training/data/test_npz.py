"""A user's own arrays: what they stored is what trains, and what cannot train is refused before it does."""

from __future__ import annotations

import numpy as np
import pytest

from widelimit.training.data import npz

X = np.random.default_rng(0).normal(size=(40, 3)) * [1, 10, 0] + [0, 5, 7]
LABELS = np.arange(40) % 4
VALUES = X[:, 0] - X[:, 1]


@pytest.fixture
def save(tmp_path):
    """Writes arrays to a file and returns its path."""

    def write(**arrays):
        np.savez(tmp_path / "mine.npz", **arrays)
        return tmp_path / "mine.npz"

    return write


def test_unsplit_arrays_are_split_by_the_seed(save):
    """Every row lands in exactly one part, with its own target; the share held out is as asked."""
    path = save(x=X, y=VALUES, note=np.array("other arrays are not read"))
    data = npz(path, seed=1, test_fraction=0.25)
    rows = np.concatenate([data.train_inputs, data.test_inputs])
    targets = np.concatenate([data.train_targets, data.test_targets])
    assert (data.samples, len(data.test_inputs), data.outputs, data.name) == (30, 10, 1, "mine")
    np.testing.assert_array_equal(np.sort(rows[:, 0]), np.sort(X[:, 0].astype(np.float32)))
    np.testing.assert_allclose(targets[:, 0], rows[:, 0] - rows[:, 1], rtol=1e-4, atol=1e-5)
    assert data.fingerprint() == npz(path, seed=1, test_fraction=0.25).fingerprint()
    assert data.fingerprint() != npz(path, seed=2, test_fraction=0.25).fingerprint()


def test_split_arrays_stay_split(save):
    """The user's own test set is kept as it is; the seed orders the training samples only."""
    data = npz(save(x_train=X[:30], y_train=LABELS[:30], x_test=X[30:], y_test=LABELS[30:]), samples=12)
    np.testing.assert_array_equal(data.test_inputs, X[30:].astype(np.float32))
    np.testing.assert_array_equal(data.test_targets, LABELS[30:])
    assert data.samples == 12 and data.outputs == 4 and data.train_targets.dtype == np.int32
    known = {tuple(row): label for row, label in zip(X.astype(np.float32).tolist(), LABELS, strict=True)}
    assert all(
        known[tuple(x)] == y for x, y in zip(data.train_inputs.tolist(), data.train_targets, strict=True)
    )


def test_standardise_uses_the_training_part(save):
    """Mean 0 and std 1 in training, constant features 0, test values by the same map."""
    path = save(x_train=X[:30], y_train=LABELS[:30], x_test=X[30:], y_test=LABELS[30:])
    data = npz(path, standardise=True)
    np.testing.assert_allclose(data.train_inputs.std(axis=0), [1, 1, 0], atol=1e-5)
    expected = (X[30:] - X[:30].mean(axis=0))[:, :2] / X[:30].std(axis=0)[:2]
    np.testing.assert_allclose(data.test_inputs[:, :2], expected, rtol=1e-4, atol=1e-5)
    assert (data.test_inputs[:, 2] == 0).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint64])
def test_classes_and_signs_of_stored_labels(save, dtype):
    """Unsigned labels must not wrap around when they become -1 and +1."""
    data = npz(save(x=X, y=LABELS.astype(dtype)), classes=(2, 0), targets="signs")
    assert data.samples + len(data.test_inputs) == 20
    assert set(data.train_targets.ravel().tolist()) == {-1.0, 1.0}


def test_unsigned_labels_of_two_classes(save):
    """The same without a choice of classes, where labels reach the encoding as they were stored."""
    data = npz(save(x=X, y=(LABELS % 2).astype(np.uint8)), targets="signs")
    assert set(data.train_targets.ravel().tolist()) == {-1.0, 1.0}


def test_images_and_several_targets(save):
    """Any feature shape passes through, and float targets may have several columns."""
    data = npz(save(x=np.arange(640, dtype=np.uint8).reshape(10, 8, 8, 1), y=np.eye(10)))
    assert data.train_inputs.shape == (8, 8, 8, 1) and data.train_inputs.dtype == np.float32
    assert data.outputs == 10 and not data.labelled


SPLIT = {"x_train": X[:30], "y_train": LABELS[:30], "x_test": X[30:], "y_test": LABELS[30:]}
NAN = np.where(np.arange(120).reshape(40, 3) == 7, np.nan, X)
SIGNS = 2 * (LABELS % 2) - 1
ROWS = {"x": X, "y": LABELS}
BAD = {
    "a missing key": ({"x": X}, {}, ValueError, "must hold x and y.*so y missing"),
    "other keys": ({"data": X, "labels": LABELS}, {}, ValueError, r"got \['data', 'labels'\]"),
    "half a split": ({"x_train": X, "y_train": LABELS}, {}, ValueError, "x_test, y_test missing"),
    "other lengths": ({"x": X, "y": LABELS[:9]}, {}, ValueError, r"got shapes \(40, 3\) and \(9,\)"),
    "a scalar": ({"x": 3.0, "y": LABELS}, {}, ValueError, r"one row per sample each; got shapes \(\)"),
    "text": (ROWS | {"x": X.astype(str)}, {}, TypeError, "inputs must be real numbers; got <U"),
    "complex": (ROWS | {"x": X + 0j}, {}, TypeError, "must be real numbers; got complex128"),
    "boolean targets": (ROWS | {"y": LABELS > 1}, {}, TypeError, "targets must be real numbers; got bool"),
    "objects": (ROWS | {"y": np.array([None] * 40)}, {}, ValueError, "without objects"),
    "NaN": (ROWS | {"x": NAN}, {"standardise": True}, ValueError, "inputs must be finite; got 1 NaN"),
    "too large": (ROWS | {"x": X * 1e39}, {}, ValueError, "must fit float32.*: rescale"),
    "constant": (ROWS | {"x": X * 0}, {}, ValueError, "all 32 training inputs are the same"),
    "constant, standardised": (ROWS | {"x": X * 0 + 3}, {"standardise": True}, ValueError, "are the same"),
    "one class": (ROWS | {"y": LABELS * 0}, {}, ValueError, "all 32 training targets are the same"),
    "signs as integers": (ROWS | {"y": SIGNS}, {}, ValueError, r"must lie in 0\.\.1; got -1 to 1"),
    "quantities as integers": (ROWS | {"y": LABELS * 1000}, {}, ValueError, "more classes than samples"),
    "labels in a column": (ROWS | {"y": LABELS[:, None]}, {}, ValueError, r"labels must have shape \[P\]"),
    "mixed kinds": (SPLIT | {"y_test": VALUES[30:]}, {}, ValueError, "got int64 and float64"),
    "a flat x": (ROWS | {"x": X[:, 0]}, {}, ValueError, "at least one feature axis"),
    "no rows": ({"x": X[:0], "y": LABELS[:0]}, {}, ValueError, "at least one sample on either side"),
    "split twice": (SPLIT, {"test_fraction": 0.5}, ValueError, "its own test set; leave test_fraction=0.5"),
    "classes of quantities": ({"x": X, "y": VALUES}, {"classes": (0, 1)}, ValueError, "whole-number labels"),
    "too many samples": (ROWS, {"samples": 99}, ValueError, "at most the 32 there are; got 99"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_in_one_sentence(save, case):
    """The sentence names the file, or the dataset called after it, and what to do."""
    arrays, options, error, message = BAD[case]
    path = save(**arrays)
    with pytest.raises(error, match=message) as caught:
        npz(path, **options)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_a_missing_file(tmp_path):
    """The path is named."""
    with pytest.raises(FileNotFoundError, match=r"none\.npz must be an \.npz file; there is no such file"):
        npz(tmp_path / "none.npz")


@pytest.mark.parametrize("keep", [0, 1, 10, 300, -30])
def test_a_truncated_file_is_refused(save, keep):
    """Cut anywhere (an interrupted copy), it is one sentence and no half-read array."""
    path = save(x=X, y=LABELS)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"cannot be read as an \.npz of plain arrays"):
        npz(path)


def test_a_damaged_array_is_refused(save):
    """A flipped byte inside an array is caught by the archive's own checksum."""
    path = save(x=X, y=LABELS)
    content = bytearray(path.read_bytes())
    content[400] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot be read as an \.npz"):
        npz(path)


def test_a_single_array_file_is_refused(tmp_path):
    """A .npy file under the name of an .npz holds no keys."""
    with (tmp_path / "mine.npz").open("wb") as file:
        np.save(file, X)
    with pytest.raises(ValueError, match=r"cannot be read as an \.npz"):
        npz(tmp_path / "mine.npz")
