"""From images or vectors with labels to a `Dataset`: classes, subsets, kinds of target, standardisation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float32, Float64, Integer

from widelimit.training.data.dataset import Dataset
from widelimit.training.data.streams import as_count

TargetKind = Literal["labels", "one_hot", "signs"]


def check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    """A misspelt choice must not fall through to a default."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {value!r}.")


def standardise_features(
    train: Float64[np.ndarray, " P *features"],
    test: Float64[np.ndarray, " P_test *features"],
    smallest_std: float = 0.0,
) -> tuple[Float32[np.ndarray, " P *features"], Float32[np.ndarray, " P_test *features"]]:
    """Returns ``(x - mean) / std`` per feature, with the mean and std (ddof 0) of the training samples.

    A feature that is constant over the training samples becomes exactly 0 in both parts: it says nothing in
    training, and a test value that differs from it has no scale to be measured in.

    Args:
        train: training inputs, any unit.
        test: test inputs, the same unit.
        smallest_std: a floor under the std, in the unit of the inputs, for features that hardly ever vary.

    Raises:
        ValueError: if ``smallest_std`` is negative or not finite.

    Example:
        >>> train, test = standardise_features(np.array([[1.0, 5.0], [3.0, 5.0]]), np.array([[4.0, 6.0]]))
        >>> train.tolist(), test.tolist()
        ([[-1.0, 0.0], [1.0, 0.0]], [[2.0, 0.0]])
    """
    if not 0 <= smallest_std < np.inf:
        raise ValueError(f"smallest_std must be a finite number of at least 0; got {smallest_std!r}.")
    varies = (train != train[:1]).any(axis=0)  # exact, where a std of rounding errors would not be
    mean, std = train.mean(axis=0), np.maximum(train.std(axis=0), smallest_std)
    scale = np.where(varies, 1 / np.where(varies, std, 1), 0)
    return ((train - mean) * scale).astype(np.float32), ((test - mean) * scale).astype(np.float32)


def encode_targets(labels: Integer[np.ndarray, " P"], kind: TargetKind, classes: int) -> np.ndarray:
    """Returns labels as int32 [P], one-hot rows as float32 [P, K], or the signs -1 and +1 as float32 [P, 1].

    Args:
        labels: values ``0..classes-1``.
        kind: ``"labels"``, ``"one_hot"``, or ``"signs"`` (class 0 becomes -1, class 1 becomes +1).
        classes: the number K of classes.

    Raises:
        ValueError: if the kind is unknown, or signs are asked for and K is not 2.

    Example:
        >>> encode_targets(np.array([0, 1]), "signs", 2).tolist()
        [[-1.0], [1.0]]
    """
    check_choice("targets", kind, get_args(TargetKind))
    if kind == "signs" and classes != 2:
        raise ValueError(f"targets='signs' needs exactly two classes; got {classes}: pass classes=(a, b).")
    labels = labels.astype(np.int32)  # unsigned labels would wrap around at -1
    if kind == "labels":
        return labels
    if kind == "signs":
        return (2 * labels[:, None] - 1).astype(np.float32)
    return (labels[:, None] == np.arange(classes)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which samples are kept and how their targets are written: the options the readers share.

    ``classes`` None keeps all; otherwise the classes named are renumbered 0, 1, ... in that order.
    ``samples`` and ``test_samples`` keep the first so many of each part, so that a smaller set is the
    beginning of a larger one.
    """

    classes: Sequence[int] | None = None
    samples: int | None = None
    test_samples: int | None = None
    targets: TargetKind = "labels"

    def __post_init__(self) -> None:
        for name, count in (("samples", self.samples), ("test_samples", self.test_samples)):
            if count is not None:
                as_count(name, count, 1)

    def pick(
        self, labels: Integer[np.ndarray, " P"], classes: int
    ) -> tuple[Integer[np.ndarray, " kept"], Integer[np.ndarray, " kept"]]:
        """Returns the positions of the samples of the chosen classes, and their new labels."""
        if self.classes is None:
            return np.arange(len(labels)), labels
        chosen = tuple(as_count("each of classes", one, 0) for one in self.classes)
        if len(chosen) < 2 or len(set(chosen)) < len(chosen) or max(chosen) >= classes:
            raise ValueError(
                f"classes must name at least two different classes of 0..{classes - 1}; got {self.classes!r}."
            )
        hits = labels[:, None] == np.array(chosen)
        kept = np.flatnonzero(hits.any(axis=1))
        if not len(kept):
            raise ValueError(
                f"none of the {len(labels)} samples is of classes {chosen}: choose classes they have."
            )
        return kept, hits[kept].argmax(axis=1)

    def trim(self, name: str, train: Sequence[np.ndarray], test: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns the first ``samples`` of the training and ``test_samples`` of the test arrays."""
        parts: list[np.ndarray] = []
        for what, count, arrays in (
            ("samples", self.samples, train),
            ("test_samples", self.test_samples, test),
        ):
            if count is not None and count > len(arrays[0]):
                raise ValueError(
                    f"{name}: {what} must be at most the {len(arrays[0])} there are; got {count}."
                )
            parts += [array[:count] for array in arrays]
        return parts

    def build(
        self,
        name: str,
        train: tuple[Float32[np.ndarray, " P *features"], Integer[np.ndarray, " P"]],
        test: tuple[Float32[np.ndarray, " P_test *features"], Integer[np.ndarray, " P_test"]],
        classes: int,
    ) -> Dataset:
        """Returns the dataset of what was picked and trimmed, with its labels written as asked."""
        classes = classes if self.classes is None else len(self.classes)
        y, y_test = (encode_targets(labels, self.targets, classes) for _, labels in (train, test))
        return Dataset(name, train[0], y, test[0], y_test, 1 if self.targets == "signs" else classes)
