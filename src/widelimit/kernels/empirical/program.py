"""The forward pass of one sample as a flat list of steps, with calls and loops over layers written out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, DebugInfo, DropVar, Jaxpr, Literal, jaxpr_as_fun


@dataclasses.dataclass(frozen=True)
class Step:
    """One operation: values of the slots ``ins`` to values of the slots ``outs``."""

    name: str
    params: Mapping[str, Any]
    ins: tuple[int, ...]
    outs: tuple[int, ...]
    run: Callable[..., Sequence[Any]]


@dataclasses.dataclass
class Program:
    """A function of parameters and one sample, as steps over numbered slots.

    Args:
        shapes: what each slot holds, by its number.
        constants: values of literals and of arrays that the function closes over.
        params: slots of the parameters, in tree order.
        inputs: slots of the sample, in tree order.
        output: slot of the outputs, a vector.
        steps: in order.
    """

    shapes: list[Any] = dataclasses.field(default_factory=list)
    constants: dict[int, Any] = dataclasses.field(default_factory=dict)
    params: list[int] = dataclasses.field(default_factory=list)
    inputs: list[int] = dataclasses.field(default_factory=list)
    output: int = -1
    steps: list[Step] = dataclasses.field(default_factory=list)

    def slot(self, shape: Any) -> int:
        """Returns a new slot."""
        self.shapes.append(shape)
        return len(self.shapes) - 1

    def constant(self, value: Any, shape: Any) -> int:
        """Returns a slot that holds a value from the start."""
        slot = self.slot(shape)
        self.constants[slot] = value
        return slot

    def add(
        self,
        name: str,
        params: Mapping[str, Any],
        ins: Sequence[int],
        shapes: Iterable[Any],
        run: Callable[..., Sequence[Any]],
    ) -> list[int]:
        """Adds a step and returns its new slots."""
        outs = [self.slot(shape) for shape in shapes]
        self.steps.append(Step(name, params, tuple(ins), tuple(outs), run))
        return outs

    def readers(self) -> dict[int, int]:
        """Returns how often each slot is read; the output counts as one reading."""
        count = {self.output: 1}
        for step in self.steps:
            for slot in step.ins:
                count[slot] = count.get(slot, 0) + 1
        return count

    def makers(self) -> dict[int, Step]:
        """Returns the step that fills each slot."""
        return {slot: step for step in self.steps for slot in step.outs}

    def run(
        self, params: Sequence[Any], inputs: Sequence[Any], added: Mapping[int, Any], wanted: Sequence[int]
    ) -> tuple[Any, list[Any]]:
        """Runs the steps.

        Args:
            params: values of the parameters.
            inputs: values of the sample.
            added: what to add to the value of some slots.
            wanted: slots whose values to return beside the output.
        """
        values = dict(self.constants)

        def put(slots: Sequence[int], results: Sequence[Any]) -> None:
            for slot, result in zip(slots, results, strict=True):
                values[slot] = result + added[slot] if slot in added else result

        put(self.params, params)
        put(self.inputs, inputs)
        last = _last_readings(self.steps, {*wanted, self.output})
        for number, step in enumerate(self.steps):
            put(step.outs, step.run(*(values[slot] for slot in step.ins)))
            for slot in last.get(number, ()):
                del values[slot]
        return values[self.output], [values[slot] for slot in wanted]


def _last_readings(steps: Sequence[Step], kept: set[int]) -> dict[int, list[int]]:
    """After which step a value is no longer needed: outside a compiled program, that frees its memory."""
    last: dict[int, int] = {}
    for number, step in enumerate(steps):
        last.update(dict.fromkeys((*step.ins, *step.outs), number))
    done: dict[int, list[int]] = {}
    for slot, number in last.items():
        if slot not in kept:
            done.setdefault(number, []).append(slot)
    return done


def operation(eqn: Any) -> Callable[..., Sequence[Any]]:
    """Returns the function of one traced operation, as a program of its own."""
    given = list(dict.fromkeys(v for v in eqn.invars if not isinstance(v, Literal)))
    places = [n for n, v in enumerate(eqn.invars) if not isinstance(v, Literal)]
    places = [next(n for n in places if eqn.invars[n] is v) for v in given]
    kept = [n for n, v in enumerate(eqn.outvars) if not isinstance(v, DropVar)]
    outs = [eqn.outvars[n] for n in kept]
    program = Jaxpr((), given, outs, [eqn], eqn.effects, _names(len(given), len(outs)))
    function = jaxpr_as_fun(ClosedJaxpr(program, ()))

    def run(*values: Any) -> Sequence[Any]:
        results: list[Any] = [None] * len(eqn.outvars)
        for n, result in zip(kept, function(*(values[place] for place in places)), strict=True):
            results[n] = result
        return results

    return run


def derivative(run: Callable[..., Sequence[Any]], shapes: Sequence[Any]) -> Jaxpr:
    """Returns the traced derivative of an operation: of its inputs, and tangents of the floating-point ones.

    Args:
        run: the operation.
        shapes: of its inputs.
    """
    given = [jax.ShapeDtypeStruct(shape.shape, shape.dtype) for shape in shapes]
    moved = floating(given)

    def push(values: Sequence[Any], tangents: Sequence[Any]) -> Any:
        def function(*some: Any) -> Any:
            own = dict(zip(moved, some, strict=True))
            return run(*(own.get(number, value) for number, value in enumerate(values)))

        return jax.jvp(function, [values[number] for number in moved], list(tangents))[1]

    return jax.make_jaxpr(push)(given, [given[number] for number in moved]).jaxpr


def floating(shapes: Sequence[Any]) -> list[int]:
    """Returns which of some arrays hold floating-point numbers."""
    return [number for number, shape in enumerate(shapes) if jnp.issubdtype(shape.dtype, jnp.floating)]


def _names(inputs: int, outputs: int) -> DebugInfo:
    """What JAX asks to know of a program's arguments, for its error messages."""
    return DebugInfo("operation", "", ("",) * inputs, ("",) * outputs)


def row(index: int) -> Callable[..., Sequence[Any]]:
    """Returns the function that takes one row of each array."""
    return lambda *arrays: [jax.lax.index_in_dim(array, index, 0, keepdims=False) for array in arrays]


def stack(*rows: Any) -> Sequence[Any]:
    """Puts rows into one array."""
    return (jnp.stack(rows),)
