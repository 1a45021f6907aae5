"""The walk through a traced forward pass: which operation uses which parameter, and how."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal

from widelimit.kernels.empirical.groups import Group, gather
from widelimit.kernels.empirical.live import narrow, outputs
from widelimit.kernels.empirical.merge import merge
from widelimit.kernels.empirical.pooled import pooled
from widelimit.kernels.empirical.program import Program, operation, row, stack
from widelimit.kernels.empirical.uses import USES, Use
from widelimit.kernels.empirical.views import View, moved, split, whole
from widelimit.scaling.walk import scan_sizes

# A loop over layers is written out; a longer one would take too long to compile.
LONGEST = 64
ADDED, MULTIPLIED = "is added entry by entry", "multiplies entry by entry"
CALLS = frozenset("jit pjit closed_call core_call remat remat2 checkpoint".split())


@dataclasses.dataclass(frozen=True)
class Traced:
    """A forward pass, the uses of its parameters by group, and why the others have none."""

    program: Program
    groups: tuple[Group, ...]
    direct: Mapping[int, str]


def trace(
    function: Callable[..., Any], params: Sequence[Any], inputs: Sequence[Any], *, summed: bool = False
) -> Traced:
    """Traces ``function(params, inputs) -> outputs [O]`` and finds every use of every parameter.

    Args:
        function: of two lists of arrays.
        params: arrays, or their shapes.
        inputs: of one sample, arrays or their shapes.
        summed: whether the kernel sums over outputs, see ``pooled``.
    """
    closed = jax.make_jaxpr(function)(params, inputs)
    direct: dict[int, str] = {}
    while True:  # a parameter found to have no structure is data for the next walk: loops may stay loops
        walk = _Walk(len(params), direct)
        walk.start(closed, len(params))
        uses = narrow(walk.program, walk.uses, outputs(walk.program))
        groups, overlapping = gather(pooled(walk.program, uses, summed))
        failed = dict(walk.failed)
        for leaf, why in overlapping.items():
            note(failed, leaf, why)
        if not failed:
            return Traced(walk.program, tuple(groups), direct)
        direct = {**direct, **failed}


def note(failed: dict[int, str], leaf: int, why: str) -> None:
    """Adds a reason why a parameter has no structure."""
    known = failed.get(leaf, "")
    if why not in known.split("; "):
        failed[leaf] = f"{known}; {why}" if known else why


class _Walk:
    """One walk: the program as it grows, and what is known of its slots."""

    def __init__(self, leaves: int, direct: Mapping[int, str]) -> None:
        self.program, self.direct = Program(), direct
        self.views: dict[int, View] = {}
        self.scalars: dict[int, int] = {}  # slot of an array that repeats one number -> slot of the number
        self.fixed: set[int] = set()  # slots of what constants make
        self.uses: list[Use] = []
        self.sums: list[tuple[View, int, int, int]] = []  # of a parameter's view and data, see merge
        self.failed: dict[int, str] = {}

    def start(self, closed: Any, leaves: int) -> None:
        """Walks the whole."""
        program = self.program
        slots = [program.slot(variable.aval) for variable in closed.jaxpr.invars]
        program.params, program.inputs = slots[:leaves], slots[leaves:]
        for leaf, slot in enumerate(program.params):
            shape = program.shapes[slot].shape
            if leaf not in self.direct and math.prod(shape):
                self.views[slot] = whole(leaf, shape)
        program.output = self.walk(closed, slots)[0]
        if program.output in self.views:
            self.fail(program.output, "is an output itself")
        self.uses, failed = merge(program, self.uses, self.sums, self.scalars)
        for leaf in failed:
            note(self.failed, leaf, ADDED)

    def fail(self, slot: int, why: str) -> None:
        """Notes that a parameter is used in a way without structure."""
        note(self.failed, self.views[slot].leaf, why)

    def walk(self, jaxpr: Any, ins: Sequence[int]) -> list[int]:
        """Walks a traced program whose inputs are in given slots, and returns the slots of its outputs."""
        program = getattr(jaxpr, "jaxpr", jaxpr)
        slots: dict[Any, int] = dict(zip(program.invars, ins, strict=True))
        for variable, value in zip(program.constvars, getattr(jaxpr, "consts", ()), strict=True):
            slots[variable] = self.program.constant(value, variable.aval)

        def look(variable: Any) -> int:
            if isinstance(variable, Literal):
                return self.program.constant(variable.val, variable.aval)
            return slots[variable]

        for eqn in program.eqns:
            outs = self.operation(eqn, [look(variable) for variable in eqn.invars])
            slots.update(zip(eqn.outvars, outs, strict=True))
        return [look(variable) for variable in program.outvars]

    def operation(self, eqn: Any, ins: list[int]) -> list[int]:
        """One operation, or the program inside it."""
        name, params = eqn.primitive.name, eqn.params
        touched = [number for number, slot in enumerate(ins) if slot in self.views]
        if touched and name in CALLS:
            inner = next(
                value for value in params.values() if hasattr(value, "eqns") or hasattr(value, "jaxpr")
            )
            return self.walk(inner, ins)
        if touched and name == "scan" and self.unrolls(eqn, ins):
            return self.scan(eqn, ins)
        shapes = [variable.aval for variable in eqn.outvars]
        outs = self.program.add(name, params, ins, shapes, operation(eqn))
        if all(map(self.known, ins)):
            self.fixed.update(outs)
        if touched:
            self.meet(name, params, ins, outs, touched)
        elif name in ("broadcast_in_dim", "reshape", "convert_element_type", "squeeze"):
            number = self.number(ins[0])
            if number is not None:
                self.scalars[outs[0]] = number
        return outs

    def known(self, slot: int) -> bool:
        """Whether an array depends neither on parameters nor on the sample."""
        return slot in self.fixed or slot in self.program.constants

    def number(self, slot: int) -> int | None:
        """The slot of the one number that an array holds, if that is known."""
        return slot if math.prod(self.program.shapes[slot].shape) == 1 else self.scalars.get(slot)

    def meet(self, name: str, params: Any, ins: list[int], outs: list[int], touched: list[int]) -> None:
        """A parameter is moved, scaled, used, or lost."""
        view: View | None
        views = [self.views[ins[at]] for at in touched]
        if name == "stop_gradient":
            return
        if name == "split":
            parts = split(params, views[0])
            if parts is not None:
                self.views.update(zip(outs, parts, strict=True))
                return
        elif name in USES and not any(view.repeats for view in views):
            self.use(name, params, ins, outs[0], touched)
            return
        elif name in ("add", "sub") and len(touched) == 1 and not self.known(ins[1 - touched[0]]):
            signs = (1, -1) if name == "sub" else (1, 1)
            view = views[0].times(signs[touched[0]])
            self.sums.append((view, ins[1 - touched[0]], signs[1 - touched[0]], outs[0]))
            return
        else:
            view = self.scaled(name, ins, touched)
            if view is None and touched == [0]:
                view = moved(name, params, views[0])
            shape = self.program.shapes[outs[0]].shape
            if view is not None and view.cells.shape != shape:  # a factor with more axes, or larger ones
                view = view.of(np.broadcast_to(view.cells, shape))
            if view is not None:
                self.views[outs[0]] = view
                return
        for at in touched:
            self.fail(ins[at], LOST.get(name, f"enters {name}"))

    def scaled(self, name: str, ins: list[int], touched: list[int]) -> View | None:
        """A view times a number, whatever that depends on; or an offset from something known, as in 1 + w."""
        if name == "neg":
            return self.views[ins[0]].times(-1)
        if name in ("add", "sub") and len(touched) == 1:
            return self.views[ins[touched[0]]].times(-1 if name == "sub" and touched == [1] else 1)
        if name not in ("mul", "div") or len(ins) != 2:
            return None
        at = max(touched, key=lambda at: self.views[ins[at]].cells.size)
        number = self.number(ins[1 - at])
        if number is None or (name == "div" and at == 1):
            return None
        for other in touched:
            if other != at:  # a learned scalar: its own gradient has no structure to use
                self.fail(ins[other], LOST["mul"])
        return self.views[ins[at]].times((number, 1 if name == "mul" else -1))

    def use(self, name: str, params: Any, ins: list[int], out: int, touched: list[int]) -> None:
        """A weight meets data."""
        shapes = [self.program.shapes[slot] for slot in (*ins, out)]
        for at in touched:
            found = USES[name](self.views[ins[at]], at, params, ins, shapes, out)
            if isinstance(found, str):
                self.fail(ins[at], found)
            else:
                self.uses.append(found)

    def unrolls(self, eqn: Any, ins: list[int]) -> bool:
        """Whether a loop can be written out."""
        consts, carries = scan_sizes(eqn)
        carried = [slot for slot in ins[consts : consts + carries] if slot in self.views]
        return not carried and eqn.params["length"] <= LONGEST

    def scan(self, eqn: Any, ins: list[int]) -> list[int]:
        """Writes a loop out."""
        params, program, body = eqn.params, self.program, eqn.params["jaxpr"]
        consts, carries = scan_sizes(eqn)
        fixed, carry, stacks = ins[:consts], ins[consts : consts + carries], ins[consts + carries :]
        rows: dict[int, list[int]] = {}
        inner = [variable.aval for variable in getattr(body, "jaxpr", body).invars[consts + carries :]]
        for index in range(params["length"])[:: -1 if params["reverse"] else 1]:
            slices = program.add("row", {"index": index}, stacks, inner, row(index))
            for slot, part in zip(stacks, slices, strict=True):
                if slot in self.views:
                    view = self.views[slot]
                    self.views[part] = dataclasses.replace(view, cells=view.cells[index])
            outs = self.walk(body, [*fixed, *carry, *slices])
            carry, rows[index] = outs[:carries], outs[carries:]
        for slot in (*carry, *(slot for made in rows.values() for slot in made)):
            if slot in self.views:
                self.fail(slot, "leaves a loop")
        shapes = [variable.aval for variable in eqn.outvars[carries:]]
        ordered = [[rows[index][number] for index in sorted(rows)] for number in range(len(shapes))]
        stacked = [
            program.add("stack", {}, made, [shape], stack)[0]
            for made, shape in zip(ordered, shapes, strict=True)
        ]
        return [*carry, *stacked]


LOST = {
    "mul": MULTIPLIED,
    "scan": f"enters a loop of more than {LONGEST} steps, or as its state (ours: models.unstack_blocks)",
    "while": "enters a loop of unknown length",
    "cond": "enters a branch",
    "custom_jvp_call": "enters a function with its own derivative",
    "custom_vjp_call": "enters a function with its own derivative",
}
