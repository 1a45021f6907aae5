"""The networks of one width as blocks of seeds, each of a few compiled calls, kept in files where asked."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from widelimit.compare.finite_networks import compiled, measured_shapes, numbers, plan
from widelimit.compare.members import axes_of, load_block, save_block
from widelimit.dmft import Labelled, Problem
from widelimit.dmft.checks import Diverged
from widelimit.dmft.identity import functions

_LOSS = 1e6  # growth over the start that counts as divergence, as for the solvers of the limit


@dataclasses.dataclass(eq=False)
class Job:
    """The networks of one width.

    Args:
        problem: what is trained.
        width: N.
        seeds: S.
        seed: of the random numbers.
        settings: ``measures``, ``times``, ``two_time``, ``centred`` and ``dtype``.
        blocks: how many blocks at most.
        memory: bytes that the results of one call may take.
        kept: bytes that the means of all blocks may take.
        batch: networks of one call; None follows from memory.

    Raises:
        ValueError: if one network, or the means of a few blocks, do not fit.
    """

    problem: Problem
    width: int
    seeds: int
    seed: int
    settings: Mapping[str, Any]
    blocks: int
    memory: int
    kept: int
    batch: int | None = None

    def __post_init__(self) -> None:
        """Chooses blocks, and the networks of one call."""
        self.plan = plan(self.problem, self.width, **self.settings)
        with self._precision():
            shapes = measured_shapes(self.plan)
        one = sum(leaf.size for leaf in shapes.values())
        fewest = min(4, self.blocks, self.seeds)
        self.blocks = max(min(self.blocks, self.seeds, self.kept // (16 * one)), fewest)
        if 8 * one > self.memory or 16 * one * self.blocks > self.kept:
            raise ValueError(
                f"One network of width {self.width} measures {8e-6 * one:.0f} MB, the means of {self.blocks} "
                f"blocks take {16e-6 * one * self.blocks:.0f} MB, and memory allows "
                f"{1e-6 * self.memory:.0f} and {1e-6 * self.kept:.0f}; take fewer times, or more memory."
            )
        largest = -(-self.seeds // self.blocks)
        self.call = min(self.batch or max(self.memory // (12 * one), 1), largest)
        passes = -(-self.call // self.plan.lanes)
        self.plan = dataclasses.replace(self.plan, lanes=-(-self.call // passes))
        self.call = passes * self.plan.lanes  # no remainder, which would be compiled apart
        self.numbers = numbers(self.problem, self.width, self.plan.dtype)

    def compile(self, directory: Path | None) -> None:
        """Compiles, unless all blocks are there to be read."""
        if directory is None or not all(self._file(directory, n).exists() for n in range(self.blocks)):
            with self._precision():
                compiled(self.plan, self.call)

    def block(
        self, number: int, directory: Path | None, tick: Callable[[int], object]
    ) -> dict[str, np.ndarray]:
        """Returns a block's predictions and losses by network, and the means of all else and of its squares.

        Args:
            number: of the block.
            directory: where blocks are kept.
            tick: is told how many networks are done.

        Raises:
            Diverged: if a network diverges.
        """
        indices = np.array_split(np.arange(self.seeds), self.blocks)[number]
        found = None if directory is None else load_block(self._file(directory, number), self.identity)
        if found is None:
            found = self._measured(indices)
            if directory is not None:
                save_block(self._file(directory, number), self.identity, found)
        tick(len(indices))
        return found

    def fields(self) -> dict[str, Labelled]:
        """Returns what was measured of every network, axis ``network`` first: for a plan of fields."""
        calls = np.array_split(np.arange(self.seeds), -(-self.seeds // self.call))
        parts = [self._trained(indices) for indices in calls]
        found = {}
        for name in ("h", "g"):
            axes, first_layer = axes_of(self.problem, name, two_time=False)
            values = np.concatenate([part[name] for part in parts])
            found[name] = Labelled(values, ("network", *axes), None, first_layer)
        return found

    def _measured(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Trains the networks with these numbers, a call's worth at a time."""
        kept: dict[str, list[np.ndarray]] = {"predictions": [], "loss": []}
        sums: dict[str, Any] = {}
        for first in range(0, len(indices), self.call):
            for name, values in self._trained(indices[first : first + self.call]).items():
                if name in kept:
                    kept[name].append(values)
                    continue
                sums[name] = sums.get(name, 0.0) + values.sum(axis=0)
                sums[f"{name}/square"] = sums.get(f"{name}/square", 0.0) + (values**2).sum(axis=0)
        by_network = {name: np.concatenate(parts) for name, parts in kept.items()}
        return {**by_network, **{name: total / len(indices) for name, total in sums.items()}}

    def _trained(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """One compiled call, filled up to its size; float64 results."""
        with self._precision():
            at_width = jax.random.fold_in(jax.random.key(self.seed), self.width)
            filled = np.resize(indices, self.call).astype(np.uint32)
            keys = jax.vmap(lambda index: jax.random.fold_in(at_width, index))(filled)
            results = compiled(self.plan, self.call)(keys, self.numbers)
            found = {name: np.asarray(values)[: len(indices)] for name, values in results.items()}
        _check(found["loss"], self.width)
        return {name: values.astype(np.float64) for name, values in found.items()}

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        """JAX computes in 64 bits where that is asked for; of this thread only."""
        return jax.enable_x64(True) if self.settings["dtype"] == "float64" else contextlib.nullcontext()

    def _file(self, directory: Path, number: int) -> Path:
        """Where a block is kept."""
        return directory / f"width-{self.width}-block-{number:03d}.npz"

    @functools.cached_property
    def identity(self) -> str:
        """A hash of everything that a block's numbers follow from."""
        config = self.plan.config
        shape = [getattr(config, name, None) for name in ("depth", "width", "scale", "final_activation")]
        known = {**self.settings, "kind": type(config).__name__, "shape": shape}
        digest = hashlib.sha256(repr((sorted(known.items()), self.seeds, self.blocks, self.seed)).encode())
        digest.update(functions(self.problem).encode())
        for value in [np.asarray(self.problem.targets), *jax.tree.leaves(self.numbers)]:
            digest.update(np.ascontiguousarray(value).tobytes())
        return digest.hexdigest()


def _check(losses: np.ndarray, width: int) -> None:
    """Refuses networks [n, T + 1] of which one diverged."""
    bound = _LOSS * np.maximum(np.abs(losses[:, :1]), 1e-6)
    bad = ~(np.abs(losses) <= bound)  # NaN too
    if bad.any():
        step = int(np.flatnonzero(bad.any(axis=0))[0])
        raise Diverged(step, f"the loss of {bad.any(axis=1).sum()} networks of width {width}")
