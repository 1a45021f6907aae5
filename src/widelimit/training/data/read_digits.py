"""The 1797 handwritten digits that come with scikit-learn: real data without a download."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from widelimit.training.data.dataset import Dataset
from widelimit.training.data.labelled import Selection, TargetKind, check_choice, standardise_features
from widelimit.training.data.streams import split


def digits(
    seed: int = 0,
    *,
    test_fraction: float = 0.2,
    samples: int | None = None,
    test_samples: int | None = None,
    classes: Sequence[int] | None = None,
    targets: TargetKind = "labels",
    form: Literal["flat", "image"] = "flat",
    smallest_std: float = 0.0,
) -> Dataset:
    """Returns scikit-learn's 8 x 8 digits, split by the seed and standardised per pixel.

    Each pixel (0..16 grey levels) becomes ``(x - mean) / std`` with the mean and std of the whole training
    split (of the chosen classes), also when ``samples`` keeps only part of it: the same image has the same
    numbers at every training-set size. **Constant pixels.** Pixels 0, 32 and 39 are 0 in every image, and a
    few more are constant in some splits; a pixel that is constant over the training split is set to exactly 0
    in training and test. **Rare pixels.** Some pixels are set in one or two training images only, so that
    their std is tiny: over the seeds 0..49 single values reach 38 in training and 303 in test (median over
    the seeds 42). ``smallest_std=1``, one grey level, keeps every value within 16.

    Args:
        seed: fixes the split and the order of the training samples.
        test_fraction: share of the 1797 images held out, between 0 and 1.
        samples: keep the first so many training samples. None keeps all.
        test_samples: keep the first so many test samples. None keeps all.
        classes: keep these digits, renumbered 0, 1, ... in the order given. None keeps all ten.
        targets: ``"labels"``; ``"one_hot"`` vectors; or ``"signs"``, -1 for the first of two classes and +1
            for the second.
        form: ``"flat"`` inputs [P, 64] or ``"image"`` [P, 8, 8, 1].
        smallest_std: floor under a pixel's std, in grey levels.

    Raises:
        ImportError: if scikit-learn is not installed.
        ValueError: if an option is out of its range.

    Example:
        >>> digits(seed=0, samples=20, classes=(3, 8), targets="signs", form="image")
        Dataset('digits': 20 training and 61 test samples of shape (8, 8, 1), 1 target(s))

    Reference:
        Kaynak and Alpaydin, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository
        (1998).
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        message = "digits needs scikit-learn, which is not installed: pip install 'widelimit[experiments]'."
        raise ImportError(message) from error
    check_choice("form", form, ("flat", "image"))
    selection = Selection(classes, samples, test_samples, targets)
    pixels, labels = load_digits(return_X_y=True)
    picked = []
    for part in split(seed, len(labels), test_fraction):
        kept, new_labels = selection.pick(labels[part], classes=10)
        picked.append((pixels[part][kept], new_labels))
    (train, train_labels), (test, test_labels) = picked
    shape = (-1, 64) if form == "flat" else (-1, 8, 8, 1)
    train, test = (part.reshape(shape) for part in standardise_features(train, test, smallest_std))
    x, y, x_test, y_test = selection.trim("digits", (train, train_labels), (test, test_labels))
    return selection.build("digits", (x, y), (x_test, y_test), classes=10)
