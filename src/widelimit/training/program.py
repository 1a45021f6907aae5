"""The compiled programs of a sweep: start cells, advance them by a chunk of steps, measure them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

PyTree = Any
CELLS = PartitionSpec("cells")  # the leading axis of every array that belongs to cells
SHARED = PartitionSpec()  # data, rules: the same for all cells, whole on every device
# On CPU, XLA copies both moments of Adam and every kernel in each step before it updates them, unless it
# compares regions of the program instead of whole loops. Measured: 155 -> 121 us of one core for a step at
# width 128, 1910 -> 1670 at 512 (tanh MLP 64-n-n-10, batch 64, Adam). Other platforms do so anyway.
IN_PLACE = {"xla_cpu_copy_insertion_use_region_analysis": True}
# Random numbers take longer to compile than training does, and run once: 1.9 -> 0.8 s, and as fast.
BRIEF = {"xla_backend_optimization_level": 1}


@dataclasses.dataclass(frozen=True)
class Problem:
    """What a cell of a sweep trains, as pure functions.

    The compiled programs are kept by these functions' identity: build one ``Problem`` for a network and
    optimizer, and pass what differs between parametrizations as arrays in ``extras``. Then they all run the
    same program.

    Args:
        initialise: ``(key, extras) -> params``.
        loss: ``(params, batch, extras) -> scalar``; ``batch`` is the sweep's data with a batch of samples
            taken from every array.
        optimizer: ``(learning_rate, extras) -> optax.GradientTransformation``; the rate is a scalar array
            without a known value.
        measure: ``(params, evaluation, extras) -> {name: scalar}``, applied once, after the last step.

    Example:
        >>> Problem(
        ...     initialise=lambda key, extras: jax.random.normal(key, (3,)),
        ...     loss=lambda w, batch, extras: jnp.mean((batch["x"] @ w - batch["y"]) ** 2),
        ...     optimizer=lambda learning_rate, extras: optax.sgd(learning_rate),
        ... ).measure is None
        True
    """

    initialise: Callable[[Array, Any], PyTree]
    loss: Callable[[PyTree, PyTree, Any], Array]
    optimizer: Callable[[Array, Any], optax.GradientTransformation]
    measure: Callable[[PyTree, PyTree, Any], Mapping[str, Array]] | None = None


class Cell(NamedTuple):
    """What one cell carries from chunk to chunk.

    Attributes:
        params: the weights; those of the step where it diverged, if it did.
        state: of the optimizer, likewise.
        rate: its learning rate.  # shape=()
        seed: the index of its seed.  # shape=(), dtype=int32
        step: the number of the next step.  # shape=(), dtype=int32
        ceiling: the loss above which it counts as diverged.  # shape=()
        diverged_at: the step where it did, -1 before.  # shape=(), dtype=int32
    """

    params: PyTree
    state: PyTree
    rate: Float[Array, ""]
    seed: Int[Array, ""]
    step: Int[Array, ""]
    ceiling: Float[Array, ""]
    diverged_at: Int[Array, ""]


class Shared(NamedTuple):
    """What all cells read. It stays on the device, so that a call hands over nothing but references.

    Attributes:
        rates: the learning rates.  # shape=(R,)
        params: the initial ones of each seed.
        batches: the rows of every step.  # shape=(S, T, batch), dtype=int32
        divergence: the multiple of its first loss at which a cell counts as diverged.  # shape=()
        data: arrays with one row per sample.
        evaluation: for the problem's ``measure``.
        extras: for the problem's functions.
    """

    rates: Any
    params: tuple[PyTree, ...]
    batches: Any
    divergence: Any
    data: PyTree
    evaluation: PyTree
    extras: Any


class Programs(NamedTuple):
    """The four programs, compiled for a platform.

    Attributes:
        initialise: ``(problem.initialise, key, extras) -> params`` of one seed, so that every rate, mode and
            number of devices starts from the same bits, and each seed is drawn once.
        start: ``(problem, mesh, numbers, shared) -> cells`` before their first step.
        advance: ``(problem, mesh, length, cells, shared) -> (cells, losses[G, length])`` after a chunk; the
            cells that are handed in are consumed.
        measure: ``(problem, mesh, params, shared) -> {name: values[G]}``.
    """

    initialise: Callable[..., PyTree]
    start: Callable[..., Cell]
    advance: Callable[..., tuple[Cell, Array]]
    measure: Callable[..., dict[str, Array]]


@functools.cache
def programs(platform: str) -> Programs:
    """Returns the programs for a platform; they are compiled when they are first called."""

    def options(wanted: dict[str, Any]) -> dict[str, Any] | None:
        return wanted if platform == "cpu" and _known(wanted) else None

    of_problem = functools.partial(jax.jit, static_argnames=("problem", "mesh"))
    return Programs(
        initialise=jax.jit(_initialise, static_argnums=0, compiler_options=options(BRIEF)),
        start=of_problem(_start, compiler_options=options(BRIEF)),
        advance=jax.jit(
            _advance,
            static_argnames=("problem", "mesh", "length"),
            donate_argnames="cell",
            compiler_options=options(IN_PLACE),
        ),
        measure=of_problem(_measure),
    )


def _known(options: dict[str, Any]) -> bool:
    """Whether this version of XLA has the options: one that it does not know is an error."""
    try:
        jax.jit(lambda x: x, compiler_options=options).lower(0).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def _initialise(function: Callable[[Array, Any], PyTree], key: Array, extras: Any) -> PyTree:
    """Compiled apart from the optimizer, which does not matter to it."""
    return function(key, extras)


def _start(problem: Problem, mesh: Mesh | None, number: Int[Any, " G"], shared: Shared) -> Cell:
    """Cell ``r S + s`` has rate r and seed s."""

    def one(number: Array, shared: Shared) -> Cell:
        index, seed = jnp.divmod(number, shared.batches.shape[0])
        rate = shared.rates[index]
        params = jax.tree.map(lambda *of_seeds: jnp.stack(of_seeds)[seed], *shared.params)
        state = problem.optimizer(rate, shared.extras).init(params)
        return Cell(params, state, rate, seed, jnp.int32(0), jnp.zeros_like(rate), jnp.int32(-1))

    return _over_cells(one, mesh)(number, shared)


def _advance(
    problem: Problem, mesh: Mesh | None, length: int, cell: Cell, shared: Shared
) -> tuple[Cell, Float[Array, "G length"]]:
    """A step whose loss is not finite or exceeds the ceiling is not taken, nor any after it or past the end.

    The selection is by ``where``, which lets no NaN through; XLA fuses it into the loops of the optimizer,
    beside whose memory traffic it costs 0 to 3% of a step. Measured and left out: a ``cond`` around it
    (10% slower) and unrolling the scan (by 2: 10 to 20% slower, because the copies come back).
    """

    def one(cell: Cell, shared: Shared) -> tuple[Cell, Array]:
        optimizer = problem.optimizer(cell.rate, shared.extras)
        steps = shared.batches.shape[1]

        def step(cell: Cell, _: None) -> tuple[Cell, Array]:
            rows = shared.batches[cell.seed, jnp.minimum(cell.step, steps - 1)]
            batch = jax.tree.map(lambda array: array[rows], shared.data)
            loss, gradient = jax.value_and_grad(problem.loss)(cell.params, batch, shared.extras)
            ceiling = jnp.where(cell.step == 0, shared.divergence * jnp.abs(loss), cell.ceiling)
            fine = jnp.isfinite(loss) & (loss <= ceiling)
            going = (cell.diverged_at < 0) & (cell.step < steps)
            diverged_at = jnp.where(going & ~fine, cell.step, cell.diverged_at)
            updates, state = optimizer.update(gradient, cell.state, cell.params)
            moved = optax.apply_updates(cell.params, updates)
            params, state = jax.tree.map(
                lambda new, old: jnp.where(going & fine, new, old), (moved, state), (cell.params, cell.state)
            )
            after = Cell(params, state, cell.rate, cell.seed, cell.step + 1, ceiling, diverged_at)
            return after, jnp.where(diverged_at < 0, loss, jnp.inf)

        return jax.lax.scan(step, cell, length=length)

    return _over_cells(one, mesh)(cell, shared)


def _measure(problem: Problem, mesh: Mesh | None, params: PyTree, shared: Shared) -> dict[str, Array]:
    """Once per cell, after its last step."""

    def one(params: PyTree, shared: Shared) -> dict[str, Array]:
        return dict(problem.measure(params, shared.evaluation, shared.extras)) if problem.measure else {}

    return _over_cells(one, mesh)(params, shared)


def mesh_of(devices: tuple[jax.Device, ...]) -> Mesh | None:
    """Returns the mesh that cells are sharded over; None for one device, which needs none."""
    return Mesh(np.asarray(devices), ("cells",)) if len(devices) > 1 else None


def place(tree: PyTree, mesh: Mesh | None, spec: PartitionSpec, device: jax.Device) -> PyTree:
    """Puts arrays where the programs expect them."""
    return jax.device_put(tree, device if mesh is None else NamedSharding(mesh, spec))


def _over_cells(function: Callable[[Any, Shared], Any], mesh: Mesh | None) -> Callable[[Any, Shared], Any]:
    """Applies a function of one cell to all those of a group, each device to its own."""

    def local(own: Any, shared: Shared) -> Any:
        if jax.tree.leaves(own)[0].shape[0] == 1:  # plain products: no axis of one cell in them
            result = function(jax.tree.map(lambda a: a[0], own), shared)
            return jax.tree.map(lambda a: a[None], result)
        return jax.vmap(function, in_axes=(0, None))(own, shared)

    if mesh is None:
        return local
    # Cells do not talk to each other, so there is nothing for the check of replicated values to find, and
    # inside the user's functions (a scan whose carry starts from a constant) it would raise.
    return jax.shard_map(local, mesh=mesh, in_specs=(CELLS, SHARED), out_specs=CELLS, check_vma=False)
