"""Digits as the data of a mean-field problem, alike in every experiment that solves one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from widelimit.training.data import Dataset, digits


def load(seed: int, samples: int, test_samples: int, classes: Sequence[int]) -> Dataset:
    """Returns the images; two classes are labelled -1 and +1, more one-hot.

    Rare pixels count with a std of one grey level, as in the other experiments.
    """
    return digits(
        seed,
        samples=samples,
        test_samples=test_samples,
        classes=classes,
        targets="signs" if len(classes) == 2 else "one_hot",
        smallest_std=1.0,
    )


def of_problem(data: Dataset) -> dict[str, Any]:
    """Returns what a ``dmft.Problem`` takes: images scaled to norm sqrt(D), so that K has diagonal 1."""
    found: dict[str, Any] = {}
    for name, images in (("inputs", data.train_inputs), ("test_inputs", data.test_inputs)):
        x = images.astype(np.float64)
        found[name] = x * np.sqrt(x.shape[1]) / np.linalg.norm(x, axis=1, keepdims=True)
    targets = data.train_targets.astype(np.float64)
    return {**found, "targets": targets[:, 0] if targets.shape[1] == 1 else targets}
