"""The training loop: steps, rows, validation, checkpoints; killed and resumed, it ends with the same bits."""

from __future__ import annotations

import dataclasses
import math
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from widelimit.training.checkpoint import Checkpoint
from widelimit.training.data.streams import as_count
from widelimit.training.progress import Progress
from widelimit.training.results import Results
from widelimit.training.scale.store import describe, load, save
from widelimit.training.scale.trainer import Metrics, Trainer, TrainState

PyTree = Any


@dataclasses.dataclass(frozen=True, eq=False)
class FitResult:
    """What a training run ended with.

    Args:
        state: after the last step; of the step where the run diverged, if it did.
        rows: a dict per logged stretch of steps, those of earlier processes included if there are results.
        diverged: whether a loss, gradient or update was not finite, or the validation loss after a step.
        resumed_at: the step that this process went on from; 0 for a new run.
        compile_seconds: this process spent on tracing and compiling the step.
    """

    state: TrainState
    rows: list[dict[str, Any]]
    diverged: bool
    resumed_at: int
    compile_seconds: float


def fit(
    trainer: Trainer,
    batches: Callable[[int], PyTree],
    *,
    steps: int,
    key: jax.Array,
    tokens: int,
    log_every: int = 10,
    validation: Sequence[PyTree] = (),
    validate_every: int | None = None,
    settings: Mapping[str, Any] | None = None,
    checkpoint: Checkpoint | None = None,
    results: Results | None = None,
    label: str = "fit",
) -> FitResult:
    r"""Trains for a number of steps, or goes on with a run that was killed.

    After every ``log_every`` steps a row is written: the mean of loss, gradient norm and relative update over
    these steps, the ``checksum`` of their batches, the validation loss where it is due, and times. Then a
    checkpoint, where that is due: the weights, the optimizer's state, and the number of the next batch, which
    is all there is to know of the data. A resumed run recomputes what came after its checkpoint and ends with
    the same bits as if it had not been interrupted, because ``batches`` is a pure function of the step and
    the program is the same; rows that are there already are not written twice. (On a GPU add
    ``--xla_gpu_deterministic_ops=true`` to ``XLA_FLAGS``: sums whose order is left open differ in their last
    bits.) A loss, gradient or update that is not finite ends the run, and so does such a validation loss
    after a step; that is a result, no error.

    Args:
        trainer: the programs.
        batches: ``step -> batch`` of host arrays, a pure function.
        steps: of the whole run.
        key: of the initial weights.
        tokens: per step (for other models: samples), in the rows and in throughput.
        log_every: steps between two rows, and between two looks at the device.
        validation: host batches; their mean loss is the validation loss.
        validate_every: steps between two validations, a multiple of ``log_every``; there is one before the
            first step and after the last in any case. None is no other.
        settings: what else the numbers follow from (seed, data, vocabulary, ...): a checkpoint with other
            settings is refused.
        checkpoint: where states are kept, and where to look for one to go on from.
        results: where rows go; None keeps this process's rows in memory only.
        label: of the progress bar.

    Raises:
        ValueError: if a number makes no sense, a batch does not divide, or the checkpoint is damaged or of
            another run.

    Example:
        >>> import jax.numpy as jnp
        >>> from widelimit.models import MLP, MLPConfig, rules
        >>> from widelimit.optim import adam
        >>> from widelimit.scaling import mup
        >>> from widelimit.training import mse
        >>> from widelimit.training.scale import make_mesh
        >>> config = MLPConfig(inputs=3, outputs=1, width=8, base_width=4, parametrization=mup())
        >>> numbers, model = rules(config, "adam"), MLP(config)
        >>> def loss(params, x):
        ...     y = model.apply({"params": params, "multipliers": numbers.multiplier}, x)
        ...     return mse(y, jnp.ones_like(y))
        >>> trainer = Trainer(loss, adam(0.01, numbers), numbers, make_mesh())
        >>> batches = lambda step: np.random.default_rng([0, step]).normal(size=(4, 3)).astype(np.float32)
        >>> result = fit(trainer, batches, steps=20, key=jax.random.key(0), tokens=4)
        >>> [row["step"] for row in result.rows], result.rows[1]["loss"] < result.rows[0]["loss"]
        ([10, 20], True)
    """
    for name, value in {"steps": steps, "tokens": tokens, "log_every": log_every}.items():
        as_count(name, value, 1)
    if validate_every is not None and (validate_every < 1 or validate_every % log_every):
        raise ValueError(
            f"validate_every must be a multiple of log_every; got {validate_every} and {log_every}."
        )
    if validate_every is not None and not validation:
        raise ValueError("validate_every needs validation batches; got none.")
    run = _Fit(trainer, batches, tokens, list(validation), results)
    description = describe(trainer, settings or {})
    found = None if checkpoint is None else load(checkpoint, trainer, description)
    step, state = found if found is not None else (0, trainer.initialise(key))
    if step > steps:
        raise ValueError(f"the checkpoint is of step {step}, past the {steps} steps of this run.")
    resumed_at = step
    if step == 0:
        run.write({"step": 0, "tokens": 0, **run.validate(state)})
    with Progress(steps, label, done=step) as progress:
        while step < steps and int(state.diverged_at) < 0:
            started = time.perf_counter()
            until = min(step - step % log_every + log_every, steps)
            state, row = run.advance(state, step, until, warmup=step == resumed_at)
            due = validate_every is not None and until % validate_every == 0
            if (due or until == steps) and not row["diverged"]:
                row |= run.validate(state)
                if not math.isfinite(row.get("validation_loss", 0.0)):
                    row |= {"diverged": True, "diverged_at": until}
                    at = jax.device_put(np.int32(until), trainer.shardings.diverged_at)
                    state = state._replace(diverged_at=at)
            row["seconds"] = time.perf_counter() - started
            run.write(row)
            ended = until == steps or row["diverged"]
            if checkpoint is not None and (ended or checkpoint.due()):
                save(checkpoint, until, description, state)
            if "validation_loss" in row or ended:
                progress.finished(_line(row), work=until - step)
            else:
                progress.advance(until - step)
            step = until
    rows = run.rows if results is None else [row for row in results.rows if "step" in row]
    return FitResult(state, rows, int(state.diverged_at) >= 0, resumed_at, run.compile_seconds)


def checksum(batch: PyTree, before: int = 0) -> int:
    """Returns the CRC-32 of a batch's arrays, so that a row can say which batches it saw.

    Args:
        batch: pytree of host arrays.
        before: the checksum of the batches before this one.

    Example:
        >>> one, two = np.zeros(3, np.int32), np.ones(3, np.int32)
        >>> checksum(two, checksum(one)) == checksum([one, two]) != checksum([two, one])
        True
    """
    for leaf in jax.tree.leaves(batch):
        before = zlib.crc32(np.asarray(leaf).tobytes(), before)
    return before


class _Fit:
    """One process's part of a run.

    Args:
        trainer: the programs.
        batches: by step.
        tokens: per step.
        validation: host batches.
        results: where rows go.
    """

    def __init__(
        self,
        trainer: Trainer,
        batches: Callable[[int], PyTree],
        tokens: int,
        validation: list[PyTree],
        results: Results | None,
    ) -> None:
        self.trainer, self.batches, self.tokens, self.results = trainer, batches, tokens, results
        self.validation = validation
        self.rows: list[dict[str, Any]] = []
        self.compile_seconds = 0.0

    def advance(
        self, state: TrainState, first: int, until: int, warmup: bool
    ) -> tuple[TrainState, dict[str, Any]]:
        """Takes some steps and returns their row. One step is under way while the next batch is prepared."""
        started = time.perf_counter()
        metrics: list[Metrics] = []
        seen = 0
        for step in range(first, until):
            batch = self.batches(step)
            seen = checksum(batch, seen)
            placed, called = self._placed(batch), time.perf_counter()
            state, measured = self.trainer.step(state, placed)
            if warmup and not metrics:  # a call returns once it is compiled, before it is computed
                self.compile_seconds = time.perf_counter() - called
            metrics.append(measured)
            if len(metrics) > 1:
                jax.block_until_ready(metrics[-2])
        values = jax.device_get(metrics)
        seconds = time.perf_counter() - started
        diverged_at = int(state.diverged_at)
        row: dict[str, Any] = {"step": until, "tokens": until * self.tokens, "diverged": diverged_at >= 0}
        for name in Metrics._fields:
            mean = float(np.mean([float(getattr(one, name)) for one in values]))
            row[name] = mean if diverged_at < 0 else math.nan
        if diverged_at >= 0:
            row["diverged_at"] = diverged_at
        row |= {"steps": until - first, "checksum": seen, "train_seconds": seconds, "warmup": warmup}
        return state, row

    def validate(self, state: TrainState) -> dict[str, float]:
        """The validation loss, if there is something to validate on."""
        if not self.validation:
            return {}
        placed = map(self._placed, self.validation)
        losses = [float(self.trainer.evaluate(state.params, batch)) for batch in placed]
        return {"validation_loss": float(np.mean(losses))}

    def write(self, row: dict[str, Any]) -> None:
        """Adds a row, unless an earlier process did, or it says nothing."""
        if len(row) == 2:
            return
        self.rows.append(row)
        if self.results is not None and not self.results.find(step=row["step"]):
            self.results.append(row)

    def _placed(self, batch: PyTree) -> PyTree:
        """Puts a batch on the mesh."""
        return self.trainer.place(batch)


def _line(row: Mapping[str, Any]) -> str:
    """A row in words."""
    if row["diverged"]:
        return f"step {row['step']}: diverged at step {row['diverged_at']}"
    validated = f", validation {row['validation_loss']:.4f}" if "validation_loss" in row else ""
    return f"step {row['step']}: loss {row['loss']:.4f}{validated}"
