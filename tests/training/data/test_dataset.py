"""A dataset that exists is usable: what would become a NaN loss or a silent broadcast is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from widelimit.training.data import Dataset

X = np.float32([[0, 1], [2, 3], [4, 5], [6, 8]])
LABELS = np.int32([0, 1, 2, 1])
VECTORS = np.float32([[1, 0], [0, 1], [1, 1], [0, 0]])
GOOD = {
    "name": "mine",
    "train_inputs": X,
    "train_targets": LABELS,
    "test_inputs": X[:2],
    "test_targets": LABELS[:2],
    "outputs": 3,
}
WITH_NAN = np.where(X == 5, np.nan, X).astype(np.float32)
WITH_INF = np.where(X == 5, np.inf, X).astype(np.float32)

LINEAR = {"train_targets": VECTORS, "test_targets": VECTORS[:2], "outputs": 2}

BAD = {
    "float64 inputs": (
        {"train_inputs": X * np.float64(1)},
        TypeError,
        "train inputs .* float32; got float64",
    ),
    "a list": ({"train_inputs": X.tolist()}, TypeError, "a NumPy array of float32; got list"),
    "byte-swapped": ({"train_inputs": X.astype(">f4")}, TypeError, "float32; got >f4"),
    "int64 labels": ({"train_targets": LABELS.astype(np.int64)}, TypeError, "int32 labels .* got int64"),
    "NaN": ({"train_inputs": WITH_NAN}, ValueError, r"finite; got 1 NaN .* first at index \(2, 1\)"),
    "infinity": ({"test_inputs": WITH_INF[2:]}, ValueError, "test inputs must be finite; got 1"),
    "NaN targets": (
        LINEAR | {"train_targets": VECTORS * np.float32(np.nan)},
        ValueError,
        "train targets must be finite; got 8",
    ),
    "no samples": (
        {"test_inputs": X[:0], "test_targets": LABELS[:0]},
        ValueError,
        r"test inputs must hold at least one sample and one feature; got shape \(0, 2\)",
    ),
    "constant inputs": ({"train_inputs": X * 0}, ValueError, "all 4 training inputs are the same"),
    "constant targets": ({"train_targets": LABELS * 0}, ValueError, "all 4 training targets are the same"),
    "a missing label": ({"train_targets": LABELS[:3]}, ValueError, r"\(4,\), one label an input; got \(3,\)"),
    "vectors of a wrong size": (
        LINEAR | {"outputs": 3},
        ValueError,
        r"train targets must have shape \(4, 3\), one vector an input; got \(4, 2\)",
    ),
    "flat vectors": (
        {"train_targets": VECTORS[:, 0], "test_targets": VECTORS[:2, 0], "outputs": 1},
        ValueError,
        r"must have shape \(4, 1\), one vector an input; got \(4,\)",
    ),
    "mixed kinds": (
        {"test_targets": np.ones((2, 3), np.float32)},
        ValueError,
        "of one kind; got int32 and float32",
    ),
    "a label too large": ({"outputs": 2}, ValueError, r"train labels must lie in 0\.\.1; got 0 to 2"),
    "a negative label": ({"test_targets": np.int32([-1, 1])}, ValueError, r"0\.\.2; got -1 to 1"),
    "no feature axis": ({"train_inputs": X[:, 0]}, ValueError, r"at least one feature axis; got \(4,\)"),
    "other test features": (
        {"test_inputs": np.ones((2, 3), np.float32)},
        ValueError,
        r"features of the training inputs, \(2,\); got \(3,\)",
    ),
    "no outputs": ({"outputs": 0}, ValueError, "outputs must be a whole number of at least 1; got 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data_are_refused_in_one_sentence(case):
    """The message names the dataset and the part at fault, says what came, and is one sentence."""
    change, error, message = BAD[case]
    with pytest.raises(error, match=message) as caught:
        Dataset(**(GOOD | change))
    text = str(caught.value)
    assert text.startswith("mine: ") and text.endswith(".") and "\n" not in text and ". " not in text


def test_both_kinds_of_target():
    """Labels and vectors are told apart by dtype; outputs is the size of the readout either way."""
    labelled = Dataset(**GOOD)
    vectors = Dataset(**(GOOD | {"train_targets": VECTORS, "test_targets": VECTORS[:2], "outputs": 2}))
    assert (labelled.samples, labelled.labelled, vectors.labelled) == (4, True, False)
    assert repr(vectors) == "Dataset('mine': 4 training and 2 test samples of shape (2,), 2 target(s))"


def test_one_sample_is_a_dataset():
    """Theory is often checked on a single training point, where constancy means nothing."""
    assert Dataset(**(GOOD | {"train_inputs": X[:1], "train_targets": LABELS[:1]})).samples == 1


def test_arrays_cannot_be_changed_through_the_dataset():
    """A dataset is shared by all cells of a sweep; the caller's own array stays writable."""
    dataset, mine = Dataset(**GOOD), X
    with pytest.raises(ValueError, match="read-only"):
        dataset.train_inputs[0, 0] = 9
    assert mine.flags.writeable and np.shares_memory(mine, dataset.train_inputs)


def test_the_fingerprint_tells_data_apart_and_not_layouts():
    """It stands for the numbers: one changed bit shows, memory order and the dataset's name do not."""
    base = Dataset(**GOOD)
    columns_first = dataclasses.replace(base, name="other", train_inputs=np.asfortranarray(X))
    assert base.fingerprint() == columns_first.fingerprint()
    changed = X.copy()
    changed[0, 0] = np.nextafter(changed[0, 0], np.float32(1))
    assert base.fingerprint() != dataclasses.replace(base, train_inputs=changed).fingerprint()
    assert base.fingerprint() != dataclasses.replace(base, test_targets=LABELS[1:3]).fingerprint()
