"""One container for a training and a test set, checked when it is built."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from widelimit.training.data.streams import as_count


def check_array(name: str, array: np.ndarray, dtypes: tuple[type, ...], expected: str) -> None:
    """Wrong types and numbers that are not numbers are found here, not as a NaN loss an hour later."""
    if not isinstance(array, np.ndarray) or array.dtype not in map(np.dtype, dtypes):
        got = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(
            f"{name} must be a NumPy array of {expected}; got {got}: convert it with "
            "numpy.asarray(..., dtype)."
        )
    if array.size == 0:
        raise ValueError(f"{name} must hold at least one sample and one feature; got shape {array.shape}.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = ~np.isfinite(array)
        raise ValueError(
            f"{name} must be finite; got {int(bad.sum())} NaN or infinite values, the first at index "
            f"{tuple(int(i) for i in np.argwhere(bad)[0])}: remove those samples or fill the values in."
        )


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A supervised task: P training pairs (x, y) and some test pairs.

    Targets are either labels (int32 of shape [P], values ``0..outputs-1``, for cross-entropy) or vectors
    (float32 of shape [P, outputs], for squared error). The arrays are kept as read-only views.

    Args:
        name: what the data are, for tables and figures.
        train_inputs: x, float32 of shape [P, ...].
        train_targets: y, int32 labels [P] or float32 vectors [P, outputs].
        test_inputs: float32 of shape [P_test, ...], the same features.
        test_targets: as the training targets.
        outputs: the number of classes, or of target components: the size of the network's readout.

    Raises:
        TypeError: if an array has another type or dtype.
        ValueError: if shapes disagree, a value is NaN or infinite, a label is out of range, or all training
            inputs (or all training targets) are the same, so that nothing can be learned.

    Example:
        >>> x = np.float32([[0, 1], [1, 0], [1, 1]])
        >>> Dataset("and", x, np.int32([0, 0, 1]), x, np.int32([0, 0, 1]), outputs=2)
        Dataset('and': 3 training and 3 test samples of shape (2,), labels of 2 classes)
    """

    name: str
    train_inputs: np.ndarray
    train_targets: np.ndarray
    test_inputs: np.ndarray
    test_targets: np.ndarray
    outputs: int

    def __post_init__(self) -> None:
        as_count(f"{self.name}: outputs", self.outputs, 1)
        for part in ("train", "test"):
            self._check_part(part)
            for name in (f"{part}_inputs", f"{part}_targets"):
                view = getattr(self, name).view()
                view.flags.writeable = False
                object.__setattr__(self, name, view)
        if self.test_inputs.shape[1:] != self.train_inputs.shape[1:]:
            raise ValueError(
                f"{self.name}: test inputs must have the features of the training inputs, "
                f"{self.train_inputs.shape[1:]}; got {self.test_inputs.shape[1:]}."
            )
        if self.test_targets.dtype != self.train_targets.dtype:
            raise ValueError(
                f"{self.name}: training and test targets must be of one kind; got "
                f"{self.train_targets.dtype} and {self.test_targets.dtype}: use int32 labels or float32 "
                "vectors for both."
            )
        for what, array in (("inputs", self.train_inputs), ("targets", self.train_targets)):
            if len(array) > 1 and (array == array[:1]).all():
                raise ValueError(
                    f"{self.name}: all {len(array)} training {what} are the same, so there is "
                    "nothing to learn: check how they were read, or take more samples."
                )

    def _check_part(self, part: str) -> None:
        """Training and test pairs obey the same rules; ``part`` names the one at fault."""
        inputs, targets = getattr(self, f"{part}_inputs"), getattr(self, f"{part}_targets")
        check_array(f"{self.name}: {part} inputs", inputs, (np.float32,), "float32")
        check_array(
            f"{self.name}: {part} targets", targets, (np.int32, np.float32), "int32 labels or float32 vectors"
        )
        if inputs.ndim < 2:
            raise ValueError(
                f"{self.name}: {part} inputs must have shape [P, ...] with at least one feature axis; got "
                f"{inputs.shape}: reshape a single feature to [P, 1]."
            )
        labels = targets.dtype == np.int32
        expected = (len(inputs),) if labels else (len(inputs), self.outputs)
        if targets.shape != expected:
            raise ValueError(
                f"{self.name}: {part} targets must have shape {expected}, one "
                f"{'label' if labels else 'vector'} "
                f"an input; got {targets.shape}."
            )
        if labels and not 0 <= targets.min() <= targets.max() < self.outputs:
            raise ValueError(
                f"{self.name}: {part} labels must lie in 0..{self.outputs - 1}; got {targets.min()} to "
                f"{targets.max()}: renumber them from 0, or pass float32 vectors as regression targets."
            )

    def __repr__(self) -> str:
        kind = f"labels of {self.outputs} classes" if self.labelled else f"{self.outputs} target(s)"
        return (
            f"Dataset({self.name!r}: {self.samples} training and {len(self.test_inputs)} test samples "
            f"of shape {self.train_inputs.shape[1:]}, {kind})"
        )

    @property
    def samples(self) -> int:
        """The number P of training samples."""
        return len(self.train_inputs)

    @property
    def labelled(self) -> bool:
        """Whether targets are labels (cross-entropy) and not vectors (squared error)."""
        return self.train_targets.dtype == np.int32

    def fingerprint(self) -> str:
        """Returns 16 hex digits of SHA-256 over all arrays, so that a resumed run can tell its data changed.

        Example:
            >>> x, y = np.eye(2, dtype=np.float32), np.int32([0, 1])
            >>> Dataset("a", x, y, x, y, 2).fingerprint() == Dataset("b", x, y, x[::-1], y, 2).fingerprint()
            False
        """
        digest = hashlib.sha256()
        for array in (self.train_inputs, self.train_targets, self.test_inputs, self.test_targets):
            little_endian = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            digest.update(f"{array.dtype.name}{array.shape}".encode() + little_endian.tobytes())
        return digest.hexdigest()[:16]
