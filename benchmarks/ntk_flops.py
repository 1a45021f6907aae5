"""Flops of a traced program, and what the methods must spend: 2 per multiplication of a matrix product.

XLA's own count takes the body of a loop once; ours takes it as often as it runs.
"""

from __future__ import annotations

import math
from typing import Any

import jax
from jax.extend.core import Literal

from benchmarks.ntk_cases import BLOCKS, DEPTH, TOKENS, Case


def count(function: Any, *arguments: Any) -> float:
    """Returns the flops of the matrix products and convolutions of a function, loops included."""
    return _program(jax.make_jaxpr(function)(*arguments))


def _program(jaxpr: Any) -> float:
    """Of a traced program, without what no result depends on: that is not compiled."""
    program = getattr(jaxpr, "jaxpr", jaxpr)
    total, needed = 0.0, {v for v in program.outvars if not isinstance(v, Literal)}
    for eqn in reversed(program.eqns):
        if not needed.isdisjoint(eqn.outvars):
            needed.update(v for v in eqn.invars if not isinstance(v, Literal))
            total += _operation(eqn)
    return total


def _operation(eqn: Any) -> float:
    """Of one operation, or of the program inside it."""
    shapes = [getattr(v.aval, "shape", ()) for v in eqn.invars]
    if eqn.primitive.name == "dot_general":
        (summed, _), _ = eqn.params["dimension_numbers"]
        return 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(shapes[0][axis] for axis in summed)
    if eqn.primitive.name == "conv_general_dilated":
        outputs = eqn.params["dimension_numbers"].rhs_spec[0]
        window = math.prod(shapes[1]) // shapes[1][outputs]  # the kernel's inputs are those of one group
        return 2.0 * math.prod(eqn.outvars[0].aval.shape) * window
    found = [inner for value in eqn.params.values() for inner in _inside(value)]
    if eqn.primitive.name == "cond":
        return max(map(_program, found))
    times = eqn.params["length"] if eqn.primitive.name == "scan" else 1
    return times * sum(map(_program, found))


def _inside(value: Any) -> list[Any]:
    """Programs among the parameters of an operation."""
    if hasattr(value, "eqns") or hasattr(getattr(value, "jaxpr", None), "eqns"):
        return [value]
    return [inner for item in value for inner in _inside(item)] if isinstance(value, (tuple, list)) else []


def needed(case: Case) -> float:
    r"""Returns the flops that the structured method cannot do without, by hand.

    Forward and cotangents once; then per matrix the cheaper of its two ways, one triangle of the kernel. All
    with ``N`` samples, ``O`` outputs, ``W`` width, in products of two numbers (2 flops):

    * MLP: cotangents ``N O W^2`` through each of 2 hidden matrices; their squares ``N^2/2 O^2 W`` (full) or
      ``N^2/2 O W`` (trace) for each of 3 hidden layers, the last of which needs no O in the trace.
    * CNN, ``S`` pixels and ``F = 9 W`` inputs a patch: cotangents ``N O S F W`` through 2 convolutions; for
      the one of them that is not pooled, gradients as much again, and their products ``N^2/2 O^2 F W``.
    * Decoder, ``S`` tokens: a block has ``12 W^2`` entries, all of which meet all tokens in every block but
      the last, where only keys and values do (``2 W^2``): ``N O S`` times these for the cotangents, again for
      the gradients, and ``N^2/2 O`` for the products. What meets the last token alone is negligible.
    """
    n, w, o = case.samples, case.width, case.outputs
    pairs = n * (n + 1) / 2
    if case.network == "mlp":
        hidden = w * w * (DEPTH - 1)
        forward = n * (64 * w + hidden + w * o)
        squares = pairs * w * (DEPTH * o * o if case.form == "full" else (DEPTH - 1) * o + 1)
        return 2.0 * (forward + n * o * hidden + squares)
    if case.network == "cnn":
        hidden = (DEPTH - 1) * 9 * w * w
        first, pixels = 27 * w, 16 * 16
        pooled = hidden / (DEPTH - 1)
        squares = pairs * ((o * o if case.form == "full" else o) * (first + hidden - pooled) + pooled)
        forward = n * pixels * (first + hidden)
        gradients = n * pixels * (o * (first + hidden - pooled) + pooled)
        return 2.0 * (forward + n * o * pixels * hidden + gradients + squares)
    entries = 12 * w * w * (BLOCKS - 1) + 2 * w * w
    attention = TOKENS * TOKENS * w * 2 * (BLOCKS - 1)
    forward = n * (TOKENS * entries + attention)
    cotangents = n * o * (TOKENS * entries + 2 * attention)
    return 2.0 * (forward + cotangents + n * o * TOKENS * entries + pairs * o * entries)
