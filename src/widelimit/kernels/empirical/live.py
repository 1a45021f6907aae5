"""Which part of each array the outputs depend on: of a decoder's last logits, little of the last layer."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from widelimit.kernels.empirical.program import Program, Step, derivative, floating, operation
from widelimit.kernels.empirical.uses import Use, cropped

# For each axis the first index that matters and the one past the last; None if nothing of the array does.
Box = tuple[tuple[int, int], ...] | None
Shape = tuple[int, ...]
# Name, parameters, inputs (None: a number), outputs, and what traces its derivative if that counts too.
Operation = tuple[str, Mapping[str, Any], Sequence[Any], Sequence[Any], Callable[[], Any] | None]
Rule = Callable[[Mapping[str, Any], Sequence[Shape], Sequence[Shape], Sequence[Box]], list[Box]]

ENTRYWISE = frozenset(
    "abs add add_any and atan2 ceil clamp convert_element_type copy cos cosh div eq erf erf_inv erfc exp "
    "exp2 expm1 floor ge gt integer_pow is_finite le log log1p logistic lt max min mul ne neg not or pow "
    "pvary rem round rsqrt select_n sign sin sinh sqrt square stop_gradient sub tan tanh xor".split()
)
CALLS = {"jit", "pjit", "closed_call", "remat2", "checkpoint"}
OWN = "custom_jvp_call"  # a function with a derivative of its own


def whole(shape: Sequence[int]) -> Box:
    """Returns the box of all entries."""
    return tuple((0, size) for size in shape)


def hull(one: Box, two: Box) -> Box:
    """Returns the smallest box that holds two."""
    if one is None or two is None:
        return one if two is None else two
    return tuple((min(a, c), max(b, d)) for (a, b), (c, d) in zip(one, two, strict=True))


def backward(
    steps: Sequence[Operation], shapes: Callable[[Any], Shape], boxes: dict[Any, Box]
) -> dict[Any, Box]:
    """Returns what matters of every array, from what matters of the outputs.

    What is not known of an operation counts as: everything matters.

    Args:
        steps: the operations, in order.
        shapes: of an array.
        boxes: of the outputs.
    """
    boxes = dict(boxes)
    for name, params, ins, outs, pushed in reversed(steps):
        wanted = [boxes.get(out) for out in outs]
        if all(box is None for box in wanted):
            continue
        given = [shapes(value) for value in ins]
        found = _needed(name, params, given, [shapes(out) for out in outs], wanted)
        if name == OWN and pushed is not None:
            found = _own(found, pushed(), wanted, given)
        for value, box in zip(ins, found, strict=True):
            if value is not None:
                boxes[value] = hull(boxes.get(value), box)
    return boxes


def _needed(
    name: str, params: Mapping[str, Any], ins: Sequence[Shape], outs: Sequence[Shape], boxes: Sequence[Box]
) -> list[Box]:
    """What one operation needs of its inputs."""
    if name in CALLS or name == OWN:
        inner = [value for value in params.values() if hasattr(value, "eqns") or hasattr(value, "jaxpr")]
        program = getattr(inner[0], "jaxpr", inner[0]) if len(inner) == 1 else None
        if program is not None and len(program.invars) == len(ins) and len(program.outvars) == len(outs):
            return _inside(program, boxes)
    elif name in ENTRYWISE:
        return [_entrywise(shape, outs[0], boxes[0]) for shape in ins]
    elif name == "row":
        return [None if box is None else ((params["index"], params["index"] + 1), *box) for box in boxes]
    elif name == "stack" and boxes[0] is not None:
        axis = params.get("axis", 0)  # of JAX's own operation of this name; ours stacks rows
        (low, high), rest = boxes[0][axis], (*boxes[0][:axis], *boxes[0][axis + 1 :])
        return [rest if low <= at < high else None for at in range(len(ins))]
    elif name in RULES and boxes[0] is not None:
        return RULES[name](params, ins, outs, boxes)
    return [whole(shape) for shape in ins]


def _own(found: Sequence[Box], pushed: Any, boxes: Sequence[Box], ins: Sequence[Shape]) -> list[Box]:
    """Also what the derivative needs, which may mix positions that the function keeps apart."""
    if len(pushed.outvars) != len(boxes):
        return [whole(shape) for shape in ins]
    more = _inside(pushed, boxes, derivatives=False)
    values, tangents = more[: len(ins)], more[len(ins) :]
    moved = dict(zip(floating([v.aval for v in pushed.invars[: len(ins)]]), tangents, strict=True))
    return [hull(hull(box, values[at]), moved.get(at)) for at, box in enumerate(found)]


def _entrywise(shape: Shape, out: Shape, box: Box) -> Box:
    """The same box; an axis of size 1 is repeated."""
    if box is None or len(shape) != len(out):
        return whole(shape)
    return tuple(
        span if size == full else (0, size) for size, full, span in zip(shape, out, box, strict=True)
    )


def _inside(program: Any, boxes: Sequence[Box], derivatives: bool = True) -> list[Box]:
    """What a program needs of its inputs, and its derivative unless it is one."""
    steps: list[Operation] = [
        (
            eqn.primitive.name,
            eqn.params,
            [None if isinstance(v, Literal) else v for v in eqn.invars],
            eqn.outvars,
            of_equation(eqn) if derivatives else None,
        )
        for eqn in program.eqns
    ]
    start: dict[Any, Box] = {}
    for variable, box in zip(program.outvars, boxes, strict=True):
        if not isinstance(variable, Literal):
            start[variable] = hull(start.get(variable), box)
    found = backward(steps, lambda v: () if v is None else v.aval.shape, start)
    return [found.get(variable) for variable in program.invars]


def _dot(params: Any, ins: Any, outs: Any, boxes: Any) -> list[Box]:
    """Free and batch axes as in the product, contracted ones whole."""
    contract, batch = params["dimension_numbers"]
    found: list[Box] = []
    offset = len(batch[0])
    for summed, shared, shape in zip(contract, batch, ins, strict=True):
        own = list(whole(shape) or ())
        for number, axis in enumerate(shared):
            own[axis] = boxes[0][number]
        for axis in range(len(shape)):
            if axis not in summed and axis not in shared:
                own[axis] = boxes[0][offset]
                offset += 1
        found.append(tuple(own))
    return found


def _broadcast(params: Any, ins: Any, outs: Any, boxes: Any) -> list[Box]:
    """Axes that are kept."""
    axes = params["broadcast_dimensions"]
    own = [
        boxes[0][axis] if outs[0][axis] == size else (0, size)
        for axis, size in zip(axes, ins[0], strict=True)
    ]
    return [tuple(own), *(whole(shape) for shape in ins[1:])]


def _reshape(params: Any, ins: Any, outs: Any, boxes: Any) -> list[Box]:
    """Axes that stay as they are; of those split or joined everything matters, if not all are whole."""
    own: list[tuple[int, int]] = [(0, size) for size in ins[0]]
    i, o = 0, 0
    while i < len(ins[0]) and o < len(outs[0]):
        if ins[0][i] == outs[0][o]:
            own[i] = boxes[0][o]
            i, o = i + 1, o + 1
            continue
        if ins[0][i] == 1:
            i += 1
            continue
        if outs[0][o] == 1:
            o += 1
            continue
        a, b = i + 1, o + 1
        while math.prod(ins[0][i:a]) != math.prod(outs[0][o:b]):
            if math.prod(ins[0][i:a]) < math.prod(outs[0][o:b]):
                a += 1
            else:
                b += 1
        i, o = a, b
    return [tuple(own)]


def _slice(params: Any, ins: Any, outs: Any, boxes: Any) -> list[Box]:
    """The part of the part."""
    steps = params["strides"] or (1,) * len(ins[0])
    spans = zip(params["start_indices"], steps, boxes[0], strict=True)
    return [tuple((first + a * step, first + (b - 1) * step + 1) for first, step, (a, b) in spans)]


def _squeeze(params: Any, ins: Any, outs: Any, boxes: Any) -> list[Box]:
    """The axes that are left, and the others of size 1."""
    rest = iter(boxes[0])
    gone = {axis % len(ins[0]) for axis in params["dimensions"]}
    return [tuple((0, 1) if axis in gone else next(rest) for axis in range(len(ins[0])))]


def _transpose(params: Any, ins: Any, outs: Any, boxes: Any) -> list[Box]:
    """The same in another order."""
    own = dict(zip(params["permutation"], boxes[0], strict=True))
    return [tuple(own[axis] for axis in range(len(ins[0])))]


def _reduce(params: Any, ins: Any, outs: Any, boxes: Any) -> list[Box]:
    """Axes that are kept, and the others whole."""
    rest = iter(boxes[0])
    gone = set(params["axes"])
    own = tuple((0, size) if axis in gone else next(rest) for axis, size in enumerate(ins[0]))
    return [own, *(whole(shape) for shape in ins[1:])]


def _concatenate(params: Any, ins: Any, outs: Any, boxes: Any) -> list[Box]:
    """The share of each part."""
    axis, begin, found = params["dimension"], 0, []
    for shape in ins:
        low, high = (min(max(end - begin, 0), shape[axis]) for end in boxes[0][axis])
        own = [*boxes[0][:axis], (low, high), *boxes[0][axis + 1 :]]
        found.append(tuple(own) if low < high else None)
        begin += shape[axis]
    return found


def _split(params: Any, ins: Any, outs: Any, boxes: Any) -> list[Box]:
    """The parts, joined; where some part does not matter, the axis counts as whole."""
    axis = params["axis"]
    joined: Box = None
    for box in boxes:
        joined = hull(joined, box)
    own = list(joined or ())
    own[axis] = (0, ins[0][axis])
    return [tuple(own)]


RULES: dict[str, Rule] = {
    "dot_general": _dot,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "slice": _slice,
    "squeeze": _squeeze,
    "transpose": _transpose,
    "concatenate": _concatenate,
    "split": _split,
    **dict.fromkeys(["reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "argmax"], _reduce),
}


def of_equation(eqn: Any) -> Callable[[], Any]:
    """Returns what traces the derivative of an operation."""
    return lambda: derivative(operation(eqn), [v.aval for v in eqn.invars])


def of_step(program: Program, step: Step) -> Callable[[], Any]:
    """Returns what traces the derivative of a step."""
    return lambda: derivative(step.run, [program.shapes[slot] for slot in step.ins])


def outputs(program: Program) -> dict[int, Box]:
    """Returns what the outputs depend on, by slot."""
    steps: list[Operation] = [
        (step.name, step.params, step.ins, step.outs, of_step(program, step)) for step in program.steps
    ]
    shapes = [tuple(shape.shape) for shape in program.shapes]
    return backward(steps, lambda slot: shapes[slot], {program.output: whole(shapes[program.output])})


def narrow(program: Program, uses: Sequence[Use], boxes: Mapping[int, Box]) -> list[Use]:
    """Returns uses over the positions that matter, and computes the products of weights there only.

    Elsewhere a product repeats its nearest value, so that nothing that is finite stops being so.
    """
    kept: list[Use] = []
    products: dict[int, Use | None] = {}
    for use in uses:
        shape, box = tuple(program.shapes[use.product].shape), boxes.get(use.product)
        if box is None or box == whole(shape):
            kept += [] if box is None else [use]
            continue
        kept.append(cropped(use, shape, box))
        if use.kind == "dense":
            products[use.product] = None if use.product in products else use
    for number, step in enumerate(program.steps):
        layer = products.get(step.outs[0]) if step.name == "dot_general" else None
        if layer is not None and layer.operand is not None and step.ins.count(layer.operand) == 1:
            at, axes = step.ins.index(layer.operand), layer.axes[0]
            program.steps[number] = dataclasses.replace(
                step, run=_narrowed(step, at, axes, boxes[step.outs[0]])
            )
    return kept


def _narrowed(step: Step, at: int, axes: Sequence[int], box: Any) -> Callable[..., Sequence[Any]]:
    """A product at the positions that matter, elsewhere the nearest of these.

    What is repeated does not matter, so its cotangents are zero: they are left out, not added up.
    """
    contract, _ = step.params["dimension_numbers"]

    def run(*values: Any) -> Sequence[Any]:
        given = list(values)
        free = [axis for axis in range(given[at].ndim) if axis not in contract[at]]
        cut, pads = [slice(None)] * given[at].ndim, [(0, 0)] * len(box)
        for own, axis in zip(free, axes, strict=True):
            low, high = box[axis]
            cut[own], pads[axis] = slice(low, high), (low, given[at].shape[own] - high)
        given[at] = given[at][tuple(cut)]
        (result,) = step.run(*given)
        for axis, (low, high) in enumerate(pads):
            first, last = (
                jax.lax.stop_gradient(jax.lax.slice_in_dim(result, at, at + 1, axis=axis))
                for at in (0, result.shape[axis] - 1)
            )
            parts = [jnp.repeat(first, low, axis), result, jnp.repeat(last, high, axis)]
            result = jnp.concatenate([part for part in parts if part.shape[axis]], axis)
        return [result]

    return run
