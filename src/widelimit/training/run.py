"""A sweep under way: what is recorded so far, and the cells that are being trained."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from widelimit.training import program
from widelimit.training.checkpoint import Checkpoint
from widelimit.training.cost import Mode
from widelimit.training.grid import Grid
from widelimit.training.program import Cell, Problem, Shared

PyTree = Any


@dataclasses.dataclass(frozen=True, eq=False)
class Inputs:
    """The arrays of a sweep that all cells share; see ``sweep``."""

    data: PyTree
    extras: Any
    evaluation: PyTree
    divergence: float


class Run:
    """A sweep that can be advanced by a chunk, saved, and resumed.

    Cells form groups, one call of the program each. The groups in flight together form a wave, which runs
    through all chunks before the next wave starts, so that only its cells take memory.

    Args:
        problem: what to train.
        grid: on what.
        mode: cells per group and device, groups per wave.
        devices: over which each group is sharded.
        inputs: what all cells share.

    Raises:
        TypeError: if the loss or a measurement is not a scalar.
    """

    def __init__(
        self, problem: Problem, grid: Grid, mode: Mode, devices: tuple[jax.Device, ...], inputs: Inputs
    ):
        self.problem, self.grid = problem, grid
        self._mesh, self._device = program.mesh_of(devices), devices[0]
        self._programs = program.programs(self._device.platform)
        keys = self._put([jax.random.key(seed) for seed in grid.seeds])
        dtype, names = _trace(problem, grid, keys[0], inputs)
        shared = Shared(
            rates=grid.rates.astype(dtype),
            params=(),
            batches=grid.batches,
            divergence=np.asarray(inputs.divergence, dtype),
            data=inputs.data,
            evaluation=inputs.evaluation,
            extras=inputs.extras,
        )
        shared = self._put(shared)
        drawn = [self._programs.initialise(problem.initialise, key, shared.extras) for key in keys]
        self._shared = shared._replace(params=tuple(drawn))

        groups = _groups(grid.cells, mode.group, len(devices))
        self._waves = [groups[i : i + mode.in_flight] for i in range(0, len(groups), mode.in_flight)]
        self._wave, self._chunk = 0, 0
        self._running: list[Cell] = []
        self.losses = np.full((grid.cells, grid.steps), np.inf)
        self.diverged_at = np.full(grid.cells, -1)
        self.metrics = {name: np.full(grid.cells, np.nan) for name in names}

    @property
    def finished(self) -> bool:
        """Whether every cell has been trained and measured."""
        return self._wave == len(self._waves)

    @property
    def number(self) -> int:
        """Chunks done, counted over all waves."""
        return self._wave * self.grid.chunks + self._chunk

    @property
    def steps_done(self) -> int:
        """Steps done, counted over all cells."""
        cells = [len(np.unique(wave)) for wave in self._waves]
        chunk = min(self._chunk * self.grid.length, self.grid.steps)
        return sum(cells[: self._wave]) * self.grid.steps + sum(cells[self._wave :][:1]) * chunk

    def advance(self) -> None:
        """Runs one chunk of the present wave: starts it before its first, measures it after its last."""
        groups = self._waves[self._wave]
        if self._chunk == 0:
            self._running = self._start(self._wave)
        advance = functools.partial(self._programs.advance, self.problem, self._mesh)
        losses = []
        for index, cell in enumerate(self._running):  # calls return at once: those in flight run side by side
            self._running[index], loss = advance(self.grid.length, cell, self._shared)
            losses.append(loss)
        first = self._chunk * self.grid.length
        until = min(first + self.grid.length, self.grid.steps)
        for group, loss in zip(groups, losses, strict=True):
            self.losses[group, first:until] = np.asarray(loss)[:, : until - first]
        self._chunk += 1
        if self._chunk == self.grid.chunks:
            self._measure()

    def _measure(self) -> None:
        """Records what the finished wave ends with, and moves on to the next."""
        measured = [
            self._programs.measure(self.problem, self._mesh, cell.params, self._shared)
            for cell in self._running
        ]
        for group, cell, values in zip(self._waves[self._wave], self._running, measured, strict=True):
            diverged_at = np.asarray(cell.diverged_at)
            table = {name: np.asarray(value, dtype=np.float64) for name, value in values.items()}
            for value in table.values():
                diverged_at = np.where((diverged_at < 0) & ~np.isfinite(value), self.grid.steps, diverged_at)
            self.diverged_at[group] = diverged_at
            for name, value in table.items():
                self.metrics[name][group] = np.where(diverged_at < 0, value, np.nan)
        self._running, self._wave, self._chunk = [], self._wave + 1, 0

    def state(self) -> dict[str, np.ndarray]:
        """Returns everything that is needed to go on; ``resume`` reads it."""
        return self._as_state(self._running)

    def resume(self, checkpoint: Checkpoint, identity: str) -> None:
        """Goes on from the newest state of a checkpoint, if it holds one.

        Raises:
            ValueError: as ``Checkpoint.load``.
        """
        # What was under way then is started again, so that there are arrays to put the stored numbers into.
        found = checkpoint.load(identity, lambda number: self._as_state(self._begun(number)))
        if found is None:
            return
        number, state = found
        leaves, treedef = jax.tree.flatten(self._begun(number))
        cells = [_typed(state[f"cells/{i}"], leaf) for i, leaf in enumerate(leaves)]
        running = jax.tree.unflatten(treedef, cells)
        self._running = program.place(running, self._mesh, program.CELLS, self._device)
        for name, array in self._record().items():
            array[...] = state[name]
        self._wave, self._chunk = divmod(number, self.grid.chunks)

    def _put(self, tree: PyTree) -> PyTree:
        """Puts what all cells share on every device."""
        return program.place(tree, self._mesh, program.SHARED, self._device)

    def _begun(self, number: int) -> list[Cell]:
        """The cells that are under way after a number of chunks, as they were before their first step."""
        wave, chunk = divmod(number, self.grid.chunks)
        return self._start(wave) if chunk else []

    def _start(self, wave: int) -> list[Cell]:
        """The cells of a wave, group by group."""
        start = self._programs.start
        return [start(self.problem, self._mesh, group, self._shared) for group in self._waves[wave]]

    def _as_state(self, running: list[Cell]) -> dict[str, np.ndarray]:
        """The record, and cells under way, under names; NumPy arrays, in which random keys are numbers."""
        leaves = enumerate(jax.tree.leaves(running))
        return {**self._record(), **{f"cells/{i}": np.asarray(_raw(leaf)) for i, leaf in leaves}}

    def _record(self) -> dict[str, np.ndarray]:
        """What is known of the cells so far; the arrays themselves, not copies."""
        metrics = {f"metrics/{name}": values for name, values in self.metrics.items()}
        return {"losses": self.losses, "diverged_at": self.diverged_at, **metrics}


def _groups(cells: int, group: int, devices: int) -> list[np.ndarray]:
    """Splits cells into groups of one size, so that one program serves any number; the last cell fills up."""
    size = group * devices
    starts = range(0, cells, size)
    return [np.minimum(np.arange(i, i + size), cells - 1).astype(np.int32) for i in starts]


def _trace(problem: Problem, grid: Grid, key: jax.Array, inputs: Inputs) -> tuple[Any, list[str]]:
    """Returns the dtype of the loss, and the names of what is measured, without computing anything."""
    rows = grid.batches.shape[2]
    batch = jax.tree.map(lambda a: jax.ShapeDtypeStruct((rows, *a.shape[1:]), _dtype(a)), inputs.data)
    params = jax.eval_shape(problem.initialise, key, inputs.extras)
    loss = jax.eval_shape(problem.loss, params, batch, inputs.extras)
    measure = problem.measure or (lambda params, evaluation, extras: {})
    metrics = jax.eval_shape(measure, params, inputs.evaluation, inputs.extras)
    for name, value in {"the loss": loss, **metrics}.items():
        if jnp.shape(value) != () or not jnp.issubdtype(value.dtype, jnp.floating):
            raise TypeError(
                f"{name} must be one floating number per cell; the problem returns shape {jnp.shape(value)}, "
                f"dtype {value.dtype}."
            )
    return loss.dtype, list(metrics)


def _dtype(array: Any) -> Any:
    """The dtype an array will have on the device."""
    return jax.dtypes.canonicalize_dtype(np.asarray(array).dtype)


def _raw(leaf: jax.Array) -> jax.Array:
    """An array that NumPy knows: typed random keys become numbers."""
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def _typed(array: np.ndarray, like: jax.Array) -> Any:
    """Undoes ``_raw``."""
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=str(jax.random.key_impl(like)))
    return array
