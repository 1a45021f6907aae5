"""Biases that are added to a layer's output: they share the cotangent of the weight, and its Gram matrix."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from widelimit.kernels.empirical.program import Program
from widelimit.kernels.empirical.uses import Use, bias
from widelimit.kernels.empirical.views import View

Sum = tuple[View, int, int, int]


def merge(
    program: Program, uses: Sequence[Use], sums: Sequence[Sum], scalars: Mapping[int, int]
) -> tuple[list[Use], set[int]]:
    """Moves the site of a layer behind the bias that is added to it.

    Args:
        program: the forward pass.
        uses: of weights, each with its site at the product.
        sums: of a parameter and data: the parameter's view, the data's slot and sign, the sum's slot.
        scalars: slots of arrays that repeat one number, and the slots of those numbers.

    Returns:
        All uses, those of the biases included, and the parameters whose sums are no layer's bias.
    """
    readers, makers = program.readers(), program.makers()
    found, failed = list(uses), set()
    for view, other, sign, out in sums:
        alike = program.shapes[other].shape == program.shapes[out].shape
        chain = _layer(program, found, scalars, readers, makers, other) if alike else None
        use = None
        if chain is not None:
            number, moves, scales = chain
            layer = _behind(found[number], moves, (*scales, sign), out)
            cells = _undone(np.broadcast_to(view.cells, program.shapes[out].shape), moves)
            kept = view.of(cells)
            use = None if kept is None else bias(kept, cells, found[number])
        if use is None:
            failed.add(view.leaf)
        else:
            found[number] = layer
            found.append(dataclasses.replace(use, site=out, back=layer.back))
    return found, failed


def _layer(
    program: Program,
    uses: Sequence[Use],
    scalars: Mapping[int, int],
    readers: Mapping[int, int],
    makers: Mapping[int, Any],
    slot: int,
) -> tuple[int, list[tuple[str, Any]], list[Any]] | None:
    """The layer whose output, read by nothing else, is the value of a slot up to shape and a factor."""
    moves: list[tuple[str, Any]] = []
    scales: list[Any] = []
    while readers.get(slot, 0) == 1:
        here = [number for number, use in enumerate(uses) if use.site == slot]
        if here:
            single = len(here) == 1 and uses[here[0]].kind in ("dense", "conv")
            return (here[0], moves, scales) if single else None
        step = makers.get(slot)
        if step is None:
            return None
        if step.name in ("reshape", "squeeze"):
            moves.append(("reshape", program.shapes[step.ins[0]].shape))
        elif step.name == "transpose":
            permutation = step.params["permutation"]
            moves.append(("transpose", tuple(permutation.index(axis) for axis in range(len(permutation)))))
        elif step.name == "mul" and program.shapes[slot].shape in (
            program.shapes[step.ins[0]].shape,
            program.shapes[step.ins[1]].shape,
        ):
            numbers = [_number(program, scalars, number) for number in step.ins]
            if (numbers[0] is None) == (numbers[1] is None):
                return None
            at = 0 if numbers[0] is None else 1
            scales.append((numbers[1 - at], 1))
            slot = step.ins[at]
            continue
        elif step.name != "convert_element_type":
            return None
        slot = step.ins[0]
    return None


def _number(program: Program, scalars: Mapping[int, int], slot: int) -> int | None:
    """The slot of the one number that an array holds."""
    return slot if program.shapes[slot].shape == () else scalars.get(slot)


def _undone(array: Any, moves: Sequence[tuple[str, Any]]) -> Any:
    """An array shaped like the sum, shaped like the layer's output."""
    for name, argument in moves:
        array = getattr(array, name)(argument)
    return array


def _behind(use: Use, moves: list[tuple[str, Any]], scales: tuple[Any, ...], site: int) -> Use:
    """The same use with its cotangent taken behind moves and factors."""
    return dataclasses.replace(
        use,
        site=site,
        back=lambda cotangent: use.back(_undone(cotangent, moves)),
        scales=(*use.scales, *scales),
    )
