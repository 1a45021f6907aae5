"""One compiled program per width: a finite network under a problem, trained and measured, over many seeds."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from widelimit.compare.finite_measure import Plan, arranged, measure
from widelimit.dmft import Problem
from widelimit.dmft.losses import loss_function
from widelimit.models import MLP, ResidualMLP, initialise, rules
from widelimit.scaling import dmft

PyTree = Any
# Halves the time to compile; the time to run is that of matrix products, which come from a library.
_COMPILER = {"xla_backend_optimization_level": 1}


def plan(problem: Problem, width: int, **settings: Any) -> Plan:
    """Returns the plan of a problem's network at one width.

    Args:
        problem: what is trained.
        width: N.
        **settings: ``times``, ``measures``, ``two_time``, ``centred``, ``dtype``.
    """
    return Plan(
        config=dataclasses.replace(problem.network(width), parametrization=dmft(), dtype=settings["dtype"]),
        loss=problem.loss,
        scalar=np.ndim(problem.targets) == 1,
        points=problem.points,
        samples=problem.samples,
        steps=problem.steps,
        minibatch=0 if problem.batches is None else np.shape(problem.batches)[1],
        momentum=problem.momentum > 0,
        lanes=max(1, min(16, 2048 // width)),
        **settings,
    )


def numbers(problem: Problem, width: int, dtype: str) -> dict[str, Any]:
    """Returns what the program takes beside keys: data, multipliers, learning rates of every step and leaf.

    Args:
        problem: what is trained.
        width: N.
        dtype: of the numbers.
    """
    own = rules(problem.network(width), "sgd")
    rate = np.append(np.broadcast_to(np.asarray(problem.learning_rate), (problem.steps,)), 0.0)
    found = {
        "x": problem.all_inputs,
        "y": np.asarray(problem.targets).reshape(problem.samples, -1),
        "rate": rate,  # 0 behind the last step
        "momentum": problem.momentum,
        "decay": problem.weight_decay,
        "multiplier": own.multiplier,
        "leaf_rate": own.learning_rate,
        "unit": problem.gamma0 * width,  # g^l = gamma0 N df/dh^l
    }
    typed: dict[str, Any] = jax.tree.map(lambda value: np.asarray(value, dtype), found)
    if problem.batches is not None:
        batches = np.asarray(problem.batches, np.int32)
        typed["batches"] = np.concatenate([batches, batches[-1:]])
    return typed


def program(plan: Plan) -> Any:
    """Returns the jitted ``(keys [n], numbers) -> measured``, every array with the n networks first.

    Measured are ``predictions`` [T + 1, P + M, C], ``loss`` [T + 1] and, at the times that the plan names,
    ``features`` [layer, time, sample, sample'], ``gradients`` [layer, time, sample, output, sample', output']
    (with ``two_time``, time' before sample'), ``ntk`` [time, sample, output, sample', output'], ``h`` [layer,
    time, sample, unit] and ``g`` [layer, time, sample, output, unit]; without the axes ``output`` where the
    problem's targets have none.

    Args:
        plan: everything but the numbers.
    """

    def run(keys: jax.Array, numbers: PyTree) -> PyTree:
        return jax.lax.map(lambda key: _train(plan, key, numbers), keys, batch_size=plan.lanes)

    return jax.jit(run, compiler_options=_COMPILER)


@functools.lru_cache(maxsize=64)
def compiled(plan: Plan, batch: int) -> Any:
    """Returns that program, compiled for calls of ``batch`` networks; call it where precision is set.

    Args:
        plan: everything but the numbers.
        batch: networks of one call.
    """
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), batch))
    return program(plan).lower(keys, _shapes(plan)).compile()


def measured_shapes(plan: Plan) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns what one network's measurements look like, without training it.

    Args:
        plan: everything but the numbers.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    shapes: dict[str, jax.ShapeDtypeStruct] = jax.eval_shape(
        functools.partial(_train, plan), key, _shapes(plan)
    )
    return shapes


def _shapes(plan: Plan) -> dict[str, Any]:
    """Shapes and dtypes of what ``numbers`` returns."""
    config, number = plan.config, jax.ShapeDtypeStruct((), plan.dtype)
    layers = {name: {"kernel": number} for name in config.layers()}
    found: dict[str, Any] = dict.fromkeys(("momentum", "decay", "unit"), number)
    found |= {"multiplier": layers, "leaf_rate": layers}
    found["x"] = jax.ShapeDtypeStruct((plan.points, config.inputs), plan.dtype)
    found["y"] = jax.ShapeDtypeStruct((plan.samples, config.outputs), plan.dtype)
    found["rate"] = jax.ShapeDtypeStruct((plan.steps + 1,), plan.dtype)
    if plan.minibatch:
        found["batches"] = jax.ShapeDtypeStruct((plan.steps + 1, plan.minibatch), "int32")
    return found


def _train(plan: Plan, key: jax.Array, numbers: PyTree) -> PyTree:
    """One network from its key to what is measured of it."""
    template = rules(plan.config, "sgd")
    start = initialise(key, template, plan.dtype)
    look = _network(plan, numbers)
    origin = look(start)[0]
    shape = (plan.steps + 1, plan.points, origin.shape[1])

    def advance(t: Any, state: PyTree, measuring: bool) -> tuple[PyTree, PyTree]:
        params, buffer, predictions = state
        f, taps, pull = look(params)
        f = f - origin if plan.centred else f
        loss = _batch_loss(plan, numbers, t)
        forward = jnp.zeros_like(f).at[: plan.samples].set(jax.grad(loss)(f[: plan.samples]))
        measured = measure(plan, numbers, taps, pull, f) if measuring else None
        gradient = pull(forward)[0]
        if plan.momentum:
            buffer = jax.tree.map(lambda m, g: numbers["momentum"] * m + g, buffer, gradient)
            gradient = buffer
        rate = numbers["rate"][t]
        params = jax.tree.map(
            lambda w, scale, g: (1 - rate * numbers["decay"]) * w - rate * scale * g,
            params,
            numbers["leaf_rate"],
            gradient,
        )
        return (params, buffer, predictions.at[t].set(f)), measured

    def to_next(state: PyTree, times: Any) -> tuple[PyTree, PyTree]:
        state, measured = advance(times[0], state, True)
        return between(times[0] + 1, times[1], state), measured

    def between(first: Any, last: Any, state: PyTree) -> PyTree:
        return jax.lax.fori_loop(first, last, lambda t, s: advance(t, s, False)[0], state)

    buffer = jax.tree.map(jnp.zeros_like, start) if plan.momentum else ()
    state = (start, buffer, jnp.zeros(shape, origin.dtype))
    times = np.asarray(plan.times, np.int32)
    measured: PyTree = {}
    if len(times) == 0:
        state = between(0, plan.steps + 1, state)
    elif len(times) == plan.steps + 1:
        state, measured = jax.lax.scan(lambda s, t: advance(t, s, True), state, times)
    else:
        state = between(0, int(times[0]), state)
        ends = np.append(times[1:], plan.steps + 1).astype(np.int32)
        state, measured = jax.lax.scan(to_next, state, (times, ends))
    predictions = state[2]
    losses = jax.vmap(_losses(plan, numbers))(predictions[:, : plan.samples])
    return arranged(plan, {"predictions": predictions, "loss": jnp.mean(losses, axis=1), **measured})


def _network(plan: Plan, numbers: PyTree) -> Callable[[PyTree], tuple[jax.Array, PyTree, Any]]:
    """The model as ``params -> (f, taps, pull)``; pull turns df into d params and d pre-activations."""
    model = (ResidualMLP if plan.residual else MLP)(plan.config)  # type: ignore[arg-type]
    outputs = [shape.outputs.size for shape in plan.config.layers().values()]
    shifts = {
        f"Dense_{layer}": {"preactivation": jnp.zeros((plan.points, size), plan.dtype)}
        for layer, size in enumerate(outputs)
    }

    def apply(params: PyTree, shifts: PyTree) -> tuple[jax.Array, PyTree]:
        variables = {"params": params, "multipliers": numbers["multiplier"], "perturbations": shifts}
        f, state = model.apply(variables, numbers["x"], mutable=["intermediates"])
        return f, state["intermediates"]

    def look(params: PyTree) -> tuple[jax.Array, PyTree, Any]:
        f, pull, taps = jax.vjp(apply, params, shifts, has_aux=True)
        return f, taps, pull

    return look


def _losses(plan: Plan, numbers: PyTree) -> Callable[[jax.Array], jax.Array]:
    """Losses [P] of predictions [P, C]."""
    one, y = loss_function(plan.loss), numbers["y"]
    if plan.scalar:
        return lambda f: jax.vmap(one)(f[:, 0], y[:, 0])
    return lambda f: jax.vmap(one)(f, y)


def _batch_loss(plan: Plan, numbers: PyTree, t: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """Mean loss over the batch of step t."""
    losses = _losses(plan, numbers)
    if plan.minibatch:
        return lambda f: jnp.mean(losses(f)[numbers["batches"][t]])
    return lambda f: jnp.mean(losses(f))
