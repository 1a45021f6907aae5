"""The digits: split once by the seed, standardised by the training part alone, and finite everywhere."""

from __future__ import annotations

import builtins

import numpy as np
import pytest
from sklearn.datasets import load_digits

from widelimit.training.data import digits
from widelimit.training.data.streams import split

RAW, RAW_LABELS = load_digits(return_X_y=True)
CONSTANT = [0, 32, 39]


def test_training_pixels_have_mean_0_and_std_1_except_constant_ones():
    """Standardisation uses the training part; a pixel that never varies there becomes 0 in both parts."""
    data = digits(seed=3)
    dead = (data.train_inputs == 0).all(axis=0)
    assert dead[CONSTANT].all() and dead.sum() < 8
    np.testing.assert_allclose(data.train_inputs.mean(axis=0, dtype=np.float64), 0, atol=1e-6)
    np.testing.assert_allclose(data.train_inputs.std(axis=0, dtype=np.float64)[~dead], 1, atol=1e-6)
    assert (data.test_inputs[:, dead] == 0).all() and np.isfinite(data.test_inputs).all()


def test_test_images_do_not_influence_the_statistics():
    """Each test image follows from the training statistics: undoing them must give grey levels 0..16 back."""
    data = digits(seed=1)
    train, test = split(1, 1797, 0.2)
    mean, std = RAW[train].mean(axis=0), RAW[train].std(axis=0)
    dead = std == 0
    back = np.where(dead, RAW[test], data.test_inputs * std + mean)
    np.testing.assert_array_equal(np.rint(back), RAW[test])
    assert not set(train) & set(test) and len(train) + len(test) == 1797
    np.testing.assert_array_equal(data.train_targets, RAW_LABELS[train])


def test_the_seed_fixes_everything():
    """Equal seeds give equal data; another seed gives another split."""
    assert digits(seed=5).fingerprint() == digits(seed=5).fingerprint() != digits(seed=6).fingerprint()


def test_smaller_sets_begin_larger_ones():
    """Learning curves in P compare like with like: the same images, numbers and test set."""
    small, large = digits(samples=20, test_samples=30), digits(samples=300)
    np.testing.assert_array_equal(small.train_inputs, large.train_inputs[:20])
    np.testing.assert_array_equal(small.train_targets, large.train_targets[:20])
    np.testing.assert_array_equal(small.test_inputs, large.test_inputs[:30])
    assert (small.samples, len(small.test_inputs), len(large.test_inputs)) == (20, 30, 359)


def test_images_are_the_flat_inputs_in_rows():
    """Both forms hold the same numbers, row by row, with one channel."""
    flat, image = digits(samples=9), digits(samples=9, form="image")
    np.testing.assert_array_equal(image.train_inputs.reshape(9, 64), flat.train_inputs)
    assert image.train_inputs.shape == (9, 8, 8, 1) and image.test_inputs.shape[1:] == (8, 8, 1)


def test_two_classes_with_signs():
    """The first class named is -1 and the second +1, whatever their order; no other digit is left."""
    signs, labels = digits(classes=(8, 3), targets="signs"), digits(classes=(8, 3))
    assert signs.outputs == 1 and labels.outputs == 2
    np.testing.assert_array_equal(signs.train_targets[:, 0], 2 * labels.train_targets - 1)
    number = {digit: (RAW_LABELS == digit).sum() for digit in (8, 3)}
    every = np.concatenate([labels.train_targets, labels.test_targets])
    assert (every == 0).sum() == number[8] and (every == 1).sum() == number[3]


def test_one_hot_rows_mark_the_label():
    """Squared error on ten outputs sees 1 at the label and 0 elsewhere."""
    one_hot, labels = digits(samples=50, targets="one_hot"), digits(samples=50)
    assert one_hot.train_targets.shape == (50, 10) and one_hot.train_targets.dtype == np.float32
    np.testing.assert_array_equal(one_hot.train_targets.argmax(axis=1), labels.train_targets)
    np.testing.assert_array_equal(one_hot.train_targets.sum(axis=1), 1)


def test_a_floor_under_the_std_tames_rare_pixels():
    """A pixel set in one training image has a tiny std; over one grey level no value exceeds 16."""
    plain, floored = digits(seed=0), digits(seed=0, smallest_std=1.0)
    assert abs(plain.test_inputs).max() > 16 > abs(floored.test_inputs).max()
    common = RAW.std(axis=0) > 1.5
    np.testing.assert_array_equal(plain.train_inputs[:, common], floored.train_inputs[:, common])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": (3, 3)}, "at least two different classes of 0..9"),
        ({"classes": (3, 10)}, "at least two different classes of 0..9"),
        ({"classes": (3,)}, "at least two different classes of 0..9"),
        ({"samples": 5000}, "samples must be at most the 1438 there are; got 5000"),
        ({"samples": 0}, "samples must be a whole number of at least 1; got 0"),
        ({"test_samples": 400}, "test_samples must be at most the 359 there are; got 400"),
        ({"targets": "signs"}, "exactly two classes; got 10"),
        ({"targets": "onehot"}, "targets must be one of 'labels', 'one_hot', 'signs'; got 'onehot'"),
        ({"form": "square"}, "form must be one of 'flat', 'image'; got 'square'"),
        ({"test_fraction": 1.0}, "strictly between 0 and 1; got 1.0"),
        ({"test_fraction": 1e-9}, "at least one sample on either side"),
        ({"smallest_std": -1.0}, "smallest_std must be a finite number of at least 0; got -1.0"),
        ({"seed": -1}, "seed must be a whole number of at least 0; got -1"),
    ],
)
def test_bad_options_are_named(options, message):
    """Nothing falls through to a default."""
    with pytest.raises(ValueError, match=message):
        digits(**options)


def test_a_missing_scikit_learn_is_explained(monkeypatch):
    """It is an optional dependency, so its absence is a sentence with the way out."""
    plain_import = builtins.__import__

    def without_sklearn(name, *rest):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return plain_import(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_sklearn)
    with pytest.raises(ImportError, match=r"needs scikit-learn.*pip install 'widelimit\[experiments\]'"):
        digits()
