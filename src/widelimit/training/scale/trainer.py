"""One training step on a mesh: accumulated gradients, one all-reduce of them, an optimizer of ours."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from widelimit.models import initialise
from widelimit.optim import global_norm
from widelimit.scaling import Rules
from widelimit.training.scale.mesh import DATA, batch_sharding, check_batch, like_parameters, shardings

PyTree = Any
REPLICATED = PartitionSpec()


class TrainState(NamedTuple):
    """What one step hands to the next.

    Attributes:
        params: the weights; those of the step where the run diverged, if it did.
        optimizer: its state, likewise.
        step: steps done, which is also the number of the next batch.  # shape=(), dtype=int32
        diverged_at: the step with a loss, gradient or update not finite, else -1.  # shape=(), dtype=int32
    """

    params: PyTree
    optimizer: PyTree
    step: Int[Array, ""]
    diverged_at: Int[Array, ""]


class Metrics(NamedTuple):
    """What one step measures.

    Attributes:
        loss: mean over the batch, before the step.  # shape=()
        gradient: norm of the gradient in width-independent units (``optim.global_norm``).  # shape=()
        update: norm of the update over the norm of the weights.  # shape=()
    """

    loss: Float[Array, ""]
    gradient: Float[Array, ""]
    update: Float[Array, ""]


@dataclasses.dataclass(frozen=True, eq=False)
class Trainer:
    r"""The programs of a training run: they start it, take a step, and evaluate, on one device or a mesh.

    With ``k = micro_batches`` and D the size of the mesh's axis ``"data"``, each device along it goes through
    its ``B/D`` rows in k parts with ``lax.scan``, and sums their gradients; the mean over parts and devices
    is one all-reduce at the end of the step,

        ``g = 1/(kD) sum_d sum_j grad loss(params, part j of device d)``,

    the gradient of the loss of the whole batch where the loss is a mean over equally many tokens per row.
    The optimizer's update is taken unless the loss, the gradient's norm or the update's norm is not finite:
    then, and in all steps after, the state stays as it is.

    Args:
        loss: ``(params, batch) -> mean loss`` of some rows, a float32 or float64 scalar.
        optimizer: e.g. ``optax.chain(clip_by_global_norm(1.0, rules), adamw(schedule, rules))``.
        rules: of the network: initial stds, roles and axes.
        mesh: from ``make_mesh``.
        micro_batches: k, parts that a batch is taken in.
        dtype: of the weights.

    Raises:
        ValueError: if a batch does not divide, or the mesh does not divide the network.
        TypeError: if the loss is not a float32 or float64 scalar.

    Example:
        >>> from widelimit.models import MLP, MLPConfig, rules
        >>> from widelimit.optim import sgd
        >>> from widelimit.scaling import mup
        >>> from widelimit.training import mse
        >>> from widelimit.training.scale import make_mesh
        >>> config = MLPConfig(inputs=3, outputs=1, width=8, base_width=4, parametrization=mup())
        >>> numbers, model = rules(config, "sgd"), MLP(config)
        >>> def loss(params, batch):
        ...     x, y = batch
        ...     return mse(model.apply({"params": params, "multipliers": numbers.multiplier}, x), y)
        >>> trainer = Trainer(loss, sgd(0.1, numbers), numbers, make_mesh(data=2), micro_batches=2)
        >>> batch = jnp.ones((4, 3)), jnp.ones((4, 1))
        >>> state, first = trainer.step(trainer.initialise(jax.random.key(0)), trainer.place(batch))
        >>> state, second = trainer.step(state, trainer.place(batch))
        >>> bool(second.loss < first.loss), int(state.step)
        (True, 2)
    """

    loss: Callable[[PyTree, PyTree], Array]
    optimizer: optax.GradientTransformation
    rules: Rules
    mesh: Mesh
    micro_batches: int = 1
    dtype: str = "float32"

    @functools.cached_property
    def shardings(self) -> TrainState:
        """Where each array of the state lies."""
        shapes = self.shapes
        placed = shardings(self.rules, self.mesh)
        moments = like_parameters(shapes.optimizer, shapes.params, placed, self.mesh)
        everywhere: Any = NamedSharding(self.mesh, REPLICATED)
        return TrainState(placed, moments, everywhere, everywhere)

    @functools.cached_property
    def shapes(self) -> TrainState:
        """The state's shapes and dtypes; computes nothing."""
        return jax.eval_shape(self._initialise, jax.random.key(0))

    @functools.cached_property
    def initialise(self) -> Callable[[jax.Array], TrainState]:
        """The compiled ``key -> state``; each device draws its part, of the same bits on every mesh."""
        return jax.jit(self._initialise, out_shardings=self.shardings)

    def place(self, batch: PyTree) -> PyTree:
        """Puts a batch from the host on the mesh, rows over ``"data"``.

        Args:
            batch: pytree of arrays with one row per sample or window.

        Raises:
            ValueError: if the rows do not divide.
        """
        for array in jax.tree.leaves(batch):
            check_batch(self.mesh, np.shape(array)[0], self.micro_batches)
        return jax.device_put(batch, batch_sharding(self.mesh))

    @functools.cached_property
    def step(self) -> Any:
        """The compiled ``(state, batch) -> (state, Metrics)``; the state that is handed in is consumed."""
        replicated = NamedSharding(self.mesh, REPLICATED)
        return jax.jit(
            self._step,
            in_shardings=(self.shardings, batch_sharding(self.mesh)),
            out_shardings=(self.shardings, replicated),
            donate_argnums=0,
        )

    @functools.cached_property
    def evaluate(self) -> Any:
        """The compiled ``(params, batch) -> loss``."""
        placed = (self.shardings.params, batch_sharding(self.mesh))
        return jax.jit(self.loss, in_shardings=placed, out_shardings=NamedSharding(self.mesh, REPLICATED))

    def _initialise(self, key: jax.Array) -> TrainState:
        """The state before the first step."""
        params = initialise(key, self.rules, self.dtype)
        return TrainState(params, self.optimizer.init(params), jnp.int32(0), jnp.int32(-1))

    def _step(self, state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        """One step, or none if the run has diverged."""
        loss, gradient = self._gradient(state.params, batch)
        size = global_norm(gradient, self.rules)
        updates, after = self.optimizer.update(gradient, state.optimizer, state.params)
        length = optax.tree.norm(updates)
        finite = jnp.isfinite(loss) & jnp.isfinite(size) & jnp.isfinite(length)
        fine = (state.diverged_at < 0) & finite
        moved = optax.apply_updates(state.params, updates)
        params, optimizer = jax.tree.map(
            lambda new, old: jnp.where(fine, new, old), (moved, after), (state.params, state.optimizer)
        )
        first = jnp.where((state.diverged_at < 0) & ~fine, state.step, state.diverged_at)
        step = jnp.where(fine, state.step + 1, state.step)
        update = length / optax.tree.norm(state.params)
        return TrainState(params, optimizer, step, first), Metrics(loss, size, update)

    def _gradient(self, params: PyTree, batch: PyTree) -> tuple[Array, PyTree]:
        """The mean loss and its gradient; what devices along "data" compute apart meets in one all-reduce."""
        if self.mesh.shape[DATA] == 1:
            return self._accumulated(params, batch)

        def apart(params: PyTree, batch: PyTree) -> tuple[Array, PyTree]:
            mean: tuple[Array, PyTree] = jax.lax.pmean(self._accumulated(params, batch), DATA)
            return mean

        # Only "data" is manual: the axis "model" is left to the compiler, which follows the weights. Else it
        # would reduce the gradient of every micro-batch inside the loop. Devices differ until the pmean, so
        # there is nothing for the check of replicated values to find.
        return jax.shard_map(
            apart,
            mesh=self.mesh,
            axis_names={DATA},
            in_specs=(REPLICATED, PartitionSpec(DATA)),
            out_specs=REPLICATED,
            check_vma=False,
        )(params, batch)

    def _accumulated(self, params: PyTree, batch: PyTree) -> tuple[Array, PyTree]:
        """The mean over micro-batches of the loss and its gradient."""
        one = jax.value_and_grad(self._checked_loss)
        parts = self.micro_batches
        if parts == 1:
            return one(params, batch)

        def add(total: PyTree, part: PyTree) -> tuple[PyTree, None]:
            return jax.tree.map(jnp.add, total, one(params, part)), None

        split = jax.tree.map(lambda a: a.reshape(parts, a.shape[0] // parts, *a.shape[1:]), batch)
        shapes = jax.eval_shape(one, params, jax.tree.map(lambda a: a[0], split))
        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
        total, _ = jax.lax.scan(add, zeros, split)
        mean: tuple[Array, PyTree] = jax.tree.map(lambda a: a / parts, total)
        return mean

    def _checked_loss(self, params: PyTree, batch: PyTree) -> Array:
        """The loss of some rows, or a sentence."""
        loss = self.loss(params, batch)
        if loss.shape != () or loss.dtype not in (jnp.float32, jnp.float64):
            raise TypeError(
                f"the loss must be one float32 or float64 number; got shape {loss.shape}, dtype "
                f"{loss.dtype}: convert the logits to float32 before the loss."
            )
        return loss
