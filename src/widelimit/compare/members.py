"""What is kept of the finite networks of one width: seeds' predictions, and kernels' means over blocks."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from widelimit.dmft import Labelled, Problem, ResidualProblem


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """Means of an order parameter, and of its square, over blocks of seeds.

    Args:
        means: over the networks of each of B blocks, [B, ...].
        squares: alike, of the squares.
        sizes: networks of each block, [B].
        axes: names of the axes behind the first.
        first_layer: the number of the first layer on the axis ``layer``.

    Example:
        >>> Moments(np.array([[1.0], [3.0]]), np.array([[1.0], [9.0]]), np.array([1, 1]), ("time",)).mean()
        Labelled(values=array([2.]), axes=('time',), stderr=array([1.]), first_layer=1)
    """

    means: np.ndarray
    squares: np.ndarray
    sizes: np.ndarray
    axes: tuple[str, ...]
    first_layer: int = 1

    def mean(self) -> Labelled:
        """The mean over all networks, and its standard error from the spread of single networks."""
        count = int(self.sizes.sum())
        mean = np.average(self.means, axis=0, weights=self.sizes)
        if count == 1:
            return Labelled(mean, self.axes, np.full_like(mean, np.nan), self.first_layer)
        around = self.squares - 2 * self.means * mean + mean**2  # of single networks about the mean
        variance = np.maximum(np.average(around, axis=0, weights=self.sizes), 0.0)
        return Labelled(mean, self.axes, np.sqrt(variance / (count - 1)), self.first_layer)


@dataclasses.dataclass(frozen=True, eq=False)
class Members:
    """The finite networks of one width.

    Args:
        width: N.
        predictions: f of every network, S of them, [S, T + 1, P + M] or [S, T + 1, P + M, C].
        loss: mean training loss of every network, [S, T + 1].
        moments: of everything measured, by the names of ``Solution``.
        fields: ``h`` and ``g`` of the first networks, where they were asked for.

    Example:
        >>> loss = np.ones((3, 2))
        >>> Members(8, loss[..., None], loss, moments={}, fields={}).seeds
        3
    """

    width: int
    predictions: np.ndarray
    loss: np.ndarray
    moments: Mapping[str, Moments]
    fields: Mapping[str, Labelled]

    @property
    def seeds(self) -> int:
        """S, the number of networks."""
        return len(self.loss)


def axes_of(problem: Problem, name: str, two_time: bool) -> tuple[tuple[str, ...], int]:
    """Returns the names of the axes of what is measured, and the number of its first layer.

    Args:
        problem: whose networks are measured.
        name: of what is measured.
        two_time: whether kernels are taken between all pairs of times.
    """
    output = ("output",) if np.ndim(problem.targets) == 2 else ()
    prime = tuple(f"{axis}'" for axis in output)
    later = ("time'",) if two_time else ()
    axes = {
        "predictions": ("time", "sample", *output),
        "loss": ("time",),
        "features": ("layer", "time", "sample", *later, "sample'"),
        "gradients": ("layer", "time", "sample", *output, *later, "sample'", *prime),
        "ntk": ("time", "sample", *output, "sample'", *prime),
        "h": ("layer", "time", "sample", "unit"),
        "g": ("layer", "time", "sample", *output, "unit"),
    }
    return axes[name], 0 if isinstance(problem, ResidualProblem) else 1


def gather(
    problem: Problem,
    width: int,
    blocks: list[dict[str, np.ndarray]],
    two_time: bool,
    fields: Mapping[str, Labelled],
) -> Members:
    """Returns the networks of one width from their blocks.

    Args:
        problem: what was trained.
        width: N.
        blocks: of each the predictions and losses by network, the means, and the means of squares.
        two_time: whether kernels were taken between all pairs of times.
        fields: of the first networks.
    """
    sizes = np.array([len(block["loss"]) for block in blocks])
    moments = {}
    for name in [name for name in blocks[0] if "/" not in name]:
        if name in ("predictions", "loss"):
            means = np.stack([block[name].mean(axis=0) for block in blocks])
            squares = np.stack([(block[name] ** 2).mean(axis=0) for block in blocks])
        else:
            means = np.stack([block[name] for block in blocks])
            squares = np.stack([block[f"{name}/square"] for block in blocks])
        axes, first_layer = axes_of(problem, name, two_time)
        moments[name] = Moments(means, squares, sizes, axes, first_layer)
    predictions, loss = (
        np.concatenate([block[name] for block in blocks]) for name in ("predictions", "loss")
    )
    return Members(width, predictions, loss, moments, fields)


def save_block(path: Path, identity: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a block's arrays, whole or not at all.

    Args:
        path: of the file.
        identity: of the ensemble.
        arrays: by name.
    """
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, identity=np.asarray(identity), **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_block(path: Path, identity: str) -> dict[str, np.ndarray] | None:
    """Returns a block's arrays, or None if there is no such file.

    Args:
        path: of the file.
        identity: of the ensemble.

    Raises:
        ValueError: if the file is of another ensemble, or damaged.
    """
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
            found = str(arrays.pop("identity"))
    except Exception as error:  # zipfile, numpy and the system each have their own
        raise ValueError(f"{path} is damaged ({type(error).__name__}); delete it and start again.") from error
    if found != identity:
        raise ValueError(
            f"{path} belongs to an ensemble with another problem or settings; choose another directory."
        )
    return arrays
