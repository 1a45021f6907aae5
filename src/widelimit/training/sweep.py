"""Training a grid of (learning rate x seed) with one compiled program."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from widelimit.training.checkpoint import Checkpoint, fingerprint
from widelimit.training.cost import Mode
from widelimit.training.grid import check_grid
from widelimit.training.program import Problem
from widelimit.training.run import Inputs, Run

PyTree = Any


@dataclasses.dataclass(frozen=True, eq=False)
class SweepResult:
    """What a sweep measured. Axes: R learning rates, S seeds, T steps.

    Args:
        learning_rates: as they were given.
        seeds: as they were given.
        losses: the training loss on the batch of each step, before the step; infinite from the step at which
            the cell diverged.
        diverged_at: that step, -1 for a cell that did not; T if only its final measurements are not finite.
        metrics: the problem's final measurements, NaN where the cell diverged.
    """

    learning_rates: Float[np.ndarray, " R"]
    seeds: tuple[int, ...]
    losses: Float[np.ndarray, "R S T"]
    diverged_at: Int[np.ndarray, "R S"]
    metrics: Mapping[str, Float[np.ndarray, "R S"]]

    def rows(self) -> list[dict[str, Any]]:
        """Returns a dict per cell: learning_rate, seed, diverged, diverged_at (or None), and the metrics."""
        return [
            {
                "learning_rate": float(rate),
                "seed": seed,
                "diverged": bool(self.diverged_at[r, s] >= 0),
                "diverged_at": int(self.diverged_at[r, s]) if self.diverged_at[r, s] >= 0 else None,
                **{name: float(values[r, s]) for name, values in self.metrics.items()},
            }
            for r, rate in enumerate(self.learning_rates)
            for s, seed in enumerate(self.seeds)
        ]


def sweep(
    problem: Problem,
    *,
    learning_rates: Sequence[float] | np.ndarray,
    seeds: Sequence[int],
    data: PyTree,
    batches: np.ndarray,
    mode: Mode,
    extras: Any = None,
    evaluation: PyTree = None,
    chunk: int = 25,
    divergence: float = 1000.0,
    devices: Sequence[jax.Device] | None = None,
    checkpoint: Checkpoint | None = None,
    on_chunk: Callable[[int, int], None] | None = None,
) -> SweepResult:
    r"""Trains one network for every (learning rate, seed), all with the same compiled program.

    Cells of the same seed start from the same key and see the same batches, at every learning rate and
    whatever the ``extras`` (common random numbers), so that differences between them are not noise. A cell
    whose loss is not finite, or more than ``divergence`` times its first loss, is frozen at that step and
    recorded; the others do not notice. The default, 1000, lets a network through whose squared error first
    grows by the order of its width and then comes down (the catapult), and stops one that grows exponentially
    within a few steps.

    Steps run in chunks, with one compiled program for all of them: ``ceil(T / chunk)`` chunks of equal
    length, the last one filled up with steps that change nothing. Results do not depend on when the process
    was killed and resumed: same program, same chunks, same bits. They do depend, in rounding, on ``mode`` and
    on the number of devices; store both before the first cell.

    Args:
        problem: what to train.
        learning_rates: R positive rates, all different.
        seeds: S whole numbers, all different; ``jax.random.key(seed)`` starts a cell.
        data: pytree of arrays with one row per sample.
        batches: the rows that each step takes, whole numbers of shape [S, T, batch].
        mode: how many cells run together; see ``choose_mode``.
        extras: pytree of numbers and arrays for the problem's functions, the same for all cells: the numbers
            of the rules. Changing their values compiles nothing.
        evaluation: pytree of arrays for ``problem.measure``.
        chunk: steps per compiled call, at most.
        divergence: multiple of the first loss, at least 1; ``inf`` leaves only losses that are not finite.
        devices: over which cells are sharded; all of them by default.
        checkpoint: where to keep what is done; the sweep resumes from what it finds there, and clears it at
            the end.
        on_chunk: called with (steps done, steps in all), both counted over all cells.

    Raises:
        ValueError: if the grid is empty or has a rate, seed, batch or chunk that makes no sense, data are not
            finite, or the checkpoint is damaged or of another grid, data or mode.
        TypeError: if the loss is not a scalar, or seeds or batches are not whole numbers.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> problem = Problem(
        ...     initialise=lambda key, extras: jnp.zeros(2),
        ...     loss=lambda w, batch, extras: jnp.mean((batch["x"] @ w - batch["y"]) ** 2),
        ...     optimizer=lambda learning_rate, extras: optax.sgd(learning_rate),
        ... )
        >>> result = sweep(
        ...     problem,
        ...     learning_rates=[0.1, 0.2],
        ...     seeds=[0],
        ...     data={"x": np.eye(2, dtype=np.float32), "y": np.ones(2, dtype=np.float32)},
        ...     batches=np.zeros((1, 3, 1), dtype=np.int32),
        ...     mode=Mode(group=2),
        ... )
        >>> result.losses[:, 0].round(3).tolist()
        [[1.0, 0.64, 0.41], [1.0, 0.36, 0.13]]

    Reference:
        Lewkowycz et al., arXiv 2003.02218 (the catapult).
    """
    grid = check_grid(learning_rates, seeds, batches, data, evaluation, chunk, divergence)
    used = tuple(jax.devices() if devices is None else devices)
    run = Run(problem, grid, mode, used, Inputs(data, extras, evaluation, divergence))
    identity = ""
    if checkpoint is not None:
        arrays = (grid.rates, grid.seeds, grid.batches, data, extras, evaluation)
        identity = fingerprint(arrays, (grid.length, divergence, mode, len(used)))
        run.resume(checkpoint, identity)
    while not run.finished:
        run.advance()
        if checkpoint is not None and checkpoint.due():
            checkpoint.save(run.number, identity, run.state())
        if on_chunk is not None:
            on_chunk(run.steps_done, grid.cells * grid.steps)
    shape = (len(grid.rates), len(grid.seeds))
    return SweepResult(
        learning_rates=grid.rates,
        seeds=grid.seeds,
        losses=run.losses.reshape(*shape, grid.steps),
        diverged_at=run.diverged_at.reshape(shape),
        metrics={name: values.reshape(shape) for name, values in run.metrics.items()},
    )
