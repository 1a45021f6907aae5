"""How a kernel is cut into tiles, and the loop that computes and stores them."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from widelimit.kernels.checks import PyTree
from widelimit.kernels.empirical.budget import show_bytes
from widelimit.kernels.empirical.costs import Form
from widelimit.kernels.empirical.programs import Network, Programs
from widelimit.kernels.empirical.results import Rectangle
from widelimit.kernels.empirical.samples import block

LARGEST = 64 * 2**20  # bytes of a tile: larger ones are no faster
BLOCKS = 16  # on a side, or the squares on the diagonal, of which half is waste, are too large a part
FEW = 128  # features of fewer samples than this fit: better to take the outputs in pieces
SMALLEST = 256  # samples of a block: below, such waste matters less than many small products


class Result(Protocol):
    """Where tiles go."""

    def write(self, top: int, left: int, tile: np.ndarray) -> None:
        """Takes numbers [rows, columns, ...] from row ``top`` and column ``left`` on."""

    def holds(self, part: Rectangle) -> bool:
        """Returns whether an earlier run finished this part."""

    def finished(self, part: Rectangle) -> None:
        """Notes that a part is written."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A kernel to be computed.

    Args:
        network: whose kernel it is.
        x1: inputs of the rows, NumPy arrays.
        x2: inputs of the columns; the same object as x1 where the kernel is symmetric.
        n1: number of rows.
        n2: number of columns.
        form: of the kernel.
        mesh: devices that share each tile.
    """

    network: Network
    x1: PyTree
    x2: PyTree
    n1: int
    n2: int
    form: Form
    mesh: Mesh | None

    @property
    def _symmetric(self) -> bool:
        """Whether half of the tiles mirror the others."""
        return self.x2 is self.x1 and self.form != "self"

    def run(self, result: Result, memory: int, progress: Any) -> None:
        """Computes what the result does not hold yet.

        Args:
            result: where it goes.
            memory: bytes to work in.
            progress: see ``ntk_in_blocks``.
        """
        programs, height, width = self.fit(memory)
        tiles = list(self._tiles(height, width))
        left = [tile for tile in tiles if not result.holds(tile)]
        total = sum(map(_pairs, tiles))
        with reporting(progress, total, total - sum(map(_pairs, left))) as report:
            waiting: tuple[Rectangle, jax.Array] | None = None
            for part, tile in self._computed(programs, height, width, left, memory):
                if waiting:
                    self._store(result, *waiting)
                    report(_pairs(waiting[0]))
                # Two tiles at once would take twice the memory, so the next one has to wait for this one.
                waiting = part, jax.block_until_ready(tile)
            if waiting:
                self._store(result, *waiting)
                report(_pairs(waiting[0]))

    def fit(self, memory: int) -> tuple[Programs, int, int]:
        """Returns programs whose tiles fit into memory, and how many rows and columns these have.

        Args:
            memory: in bytes.

        Raises:
            ValueError: if not even a tile of the fewest samples fits.
        """
        network = self.network
        features, entry, dtype = network.sample()
        if self.form in ("trace", "diagonal") and features > memory / FEW:
            network = network.in_one()
            features, entry, dtype = network.sample()
        pair = math.prod(entry) * np.dtype(dtype).itemsize
        kept = features * (self.n1 if self.x2 is self.x1 else self.n2)
        room = memory - kept if kept <= memory / 2 else memory / 2
        size = math.isqrt(LARGEST // pair) if self.form != "self" else LARGEST // pair
        if kept <= memory / 2:  # else features are made again for each tile, and larger ones save that
            size = min(size, max(SMALLEST, -(-max(self.n1, self.n2) // BLOCKS)))
        while True:
            height, width = self._balanced(size)
            known = features * (height + width) + 3 * pair * height * (1 if self.form == "self" else width)
            needed = float(known)
            if known <= room:
                programs = network.compile(height, width)
                needed = programs.working
                if needed <= room:
                    return programs, height, width
            if size <= 1:
                raise ValueError(
                    f"The smallest tile, {height} x {width} samples, takes {show_bytes(needed)}, and there "
                    f"are {show_bytes(room)} for it; give more memory."
                )
            size = max(1, min(size - 1, int(0.95 * size * math.sqrt(room / needed))))

    def _balanced(self, size: int) -> tuple[int, int]:
        """Blocks of at most about this many samples, all as large as the last, which the mesh divides."""
        rows = columns = 1
        if self.mesh:
            rows, columns = (*self.mesh.devices.shape, 1)[:2]
        if self.mesh and (self.x2 is self.x1 or self.form == "self"):
            rows = columns = self.mesh.devices.size if self.form == "self" else math.lcm(rows, columns)

        def even(n: int, multiple: int) -> int:
            samples = -(-n // -(-n // min(size, n)))
            return -(-samples // multiple) * multiple

        return even(self.n1, rows), even(self.n2, columns)

    def _tiles(self, height: int, width: int) -> Iterator[Rectangle]:
        """All tiles, of a symmetric kernel those on and above the diagonal."""
        for top in range(0, self.n1, height):
            bottom = min(top + height, self.n1)
            if self.form == "self":
                yield Rectangle(top, bottom, 0, 1)
                continue
            for left in range(top if self._symmetric else 0, self.n2, width):
                yield Rectangle(top, bottom, left, min(left + width, self.n2))

    def _computed(
        self, programs: Programs, height: int, width: int, tiles: list[Rectangle], memory: int
    ) -> Iterator[tuple[Rectangle, jax.Array]]:
        """Each tile as it is computed; features of the last columns, which most rows need, are kept."""
        # On a mesh of rows and columns, each side's features are split in its own way.
        shared = self.x2 is self.x1 and programs.rows is programs.columns
        room = max(0, memory - programs.working) // max(1, programs.kept)
        first = self.n2 - room * width  # columns from here on are kept
        cache: dict[int, PyTree] = {}

        def columns(start: int) -> PyTree:
            if start in cache:
                return cache[start]
            made = programs.columns(block(self.x2, start, width))
            if start >= first:
                cache[start] = made
            return made

        top, rows = -1, None
        for part in tiles:
            if part.top != top:
                top, rows = part.top, None  # lets go of the old before there are new
                rows = columns(top) if shared else programs.rows(block(self.x1, top, height))
            left = top if self.form == "self" else part.left
            yield part, programs.tile(rows, rows if shared and left == top else columns(left))

    def _store(self, result: Result, part: Rectangle, tile: jax.Array) -> None:
        """Writes a tile, and its mirror image."""
        numbers = np.asarray(tile)
        if self.form == "self":
            numbers = numbers[:, None]
        numbers = numbers[: part.bottom - part.top, : part.right - part.left]
        with np.errstate(invalid="ignore"):
            total = numbers.sum(dtype=np.float64)
        if not math.isfinite(total):
            raise FloatingPointError(
                f"the kernel is not finite for some of the samples {part.top}..{part.bottom - 1}: "
                "the outputs or their gradients overflow, or are NaN. dtype='float64' widens the range."
            )
        if self._symmetric:
            mirrored = numbers.swapaxes(0, 1)
            mirrored = mirrored.swapaxes(2, 3) if mirrored.ndim == 4 else mirrored
            if part.top != part.left:
                result.write(part.left, part.top, mirrored)
        if self._symmetric and part.top == part.left:
            # Row by row: two more tiles would be in memory, while the next one is computed there.
            for row in range(len(numbers)):
                same = slice(row, row + 1)
                result.write(part.top + row, part.left, (numbers[same] + mirrored[same]) / 2)
        else:
            result.write(part.top, part.left, numbers)
        result.finished(part)


def _pairs(part: Rectangle) -> int:
    """Pairs of samples in a part of the kernel."""
    return (part.bottom - part.top) * (part.right - part.left)


@contextlib.contextmanager
def reporting(progress: Any, total: int, done: int) -> Iterator[Callable[[int], Any]]:
    """Yields what to call with the pairs of samples that were just finished.

    Args:
        progress: True, a class like tqdm, a function of (done, total), or nothing.
        total: pairs of samples.
        done: those that an earlier run finished.
    """
    if progress is True:
        from tqdm import tqdm

        progress = tqdm
    if not progress:
        yield lambda pairs: None
    elif hasattr(progress, "update"):
        look = {"desc": "NTK", "unit": "pair", "unit_scale": True, "smoothing": 0}
        with progress(total=total, initial=done, **look) as bar:
            yield bar.update
    else:
        finished = done

        def report(pairs: int) -> None:
            nonlocal finished
            finished += pairs
            progress(finished, total)

        yield report
