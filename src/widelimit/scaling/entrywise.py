"""Operations that act entry by entry: where parameters join each other, or meet the data without a sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from widelimit.scaling.ledger import Ledger, meets
from widelimit.scaling.provenance import NONE, Kind, Labels, Value, aligned, shape_of, union

LINEAR = frozenset(
    "neg convert_element_type copy copy_p reduce_precision optimization_barrier name sharding_constraint "
    "stop_gradient pvary pcast device_put real imag conj layout_constraint "
    "all_reduce mul div select_n".split()
)
ADDITIVE = frozenset("add sub add_any select_n".split())
ENTRYWISE = LINEAR | frozenset(
    "add sub add_any max min pow rem atan2 and or xor not eq ne lt le gt ge eq_to lt_to le_to clamp "
    "nextafter sign floor ceil round is_finite exp exp2 log log1p expm1 tanh sin cos tan asin acos atan "
    "sinh cosh asinh acosh atanh logistic sqrt rsqrt cbrt square abs integer_pow erf erfc erf_inv lgamma "
    "digamma complex cumsum cumprod cummax cummin cumlogsumexp sort rev population_count shift_left "
    "shift_right_logical shift_right_arithmetic bitcast_convert_type reduce_window_max "
    "reduce_window_sum reduce_window_min".split()
)


def _spread_by_data(
    ins: Sequence[Value], shapes: Sequence[Sequence[int]], shape: Sequence[int]
) -> frozenset[int]:
    """Axes along which the data was repeated to meet a parameter."""
    spread = [
        value.spread | {axis for axis, size in enumerate(own) if size == 1 < shape[axis]}
        for value, own in zip(ins, shapes, strict=True)
        if value.kind is Kind.DATA and len(own) == len(shape)
    ]
    return frozenset.intersection(*map(frozenset, spread)) if spread else frozenset()


def _outer(ledger: Ledger, value: Value, dims: Sequence[Labels], spread: frozenset[int]) -> frozenset[int]:
    """Parameters that run along repeated data and, on a growing axis, along the data itself."""
    outer = set()
    for leaf in value.leaves:
        own = [frozenset(label for label in labels if label[0] == leaf) for labels in dims]
        over = any(own[axis] for axis in spread)
        along = any(ledger.grows(labels) for axis, labels in enumerate(own) if axis not in spread)
        if over and along:
            outer.add(leaf)
    return frozenset(outer)


def entrywise(ledger: Ledger, eqn: Any, ins: Sequence[Value]) -> Value:
    """Entry by entry: parameters among themselves join, parameters with data meet."""
    name, shape = eqn.primitive.name, shape_of(eqn.outvars[0])
    shapes = [shape_of(variable) for variable in eqn.invars]
    dims = aligned(ins, shapes, shape)
    if not meets(ins):
        return _same_kind(ledger, name, ins, shapes, shape, dims)
    spread = _spread_by_data(ins, shapes, shape)
    products = _carried(name, ins, ledger)
    for value, own in zip(ins, shapes, strict=True):
        if value.kind is not Kind.PARAM:
            continue
        axes = value.dims if len(own) == len(shape) else (NONE,) * len(shape)
        outer = _outer(ledger, value, axes, spread)
        matrices = any(len(ledger.growing[leaf]) > 1 for leaf in value.leaves)
        if name == "mul" or (name in ADDITIVE and matrices):
            products |= {ledger.open(value, must_sum=outer if name == "mul" else frozenset())}
            continue
        if name == "sub":
            ledger.doubt(outer, "it is subtracted from repeated data (a distance), which has no one role")
        ledger.use(value, NONE)
    return Value(Kind.DATA, tuple(dims) if products else (NONE,) * len(shape), products=products)


def _same_kind(
    ledger: Ledger,
    name: str,
    ins: Sequence[Value],
    shapes: Sequence[Sequence[int]],
    shape: Sequence[int],
    dims: Sequence[Labels],
) -> Value:
    """Entry by entry among parameters, or among data."""
    joined = union(ins, dims)
    if joined.kind is Kind.DATA:
        products = _carried(name, ins, ledger)
        if name == "mul" and len(ins) == 2:
            products |= _looked_up_pair(ledger, ins)
        single = all(value.single for value in ins)
        kept = tuple(dims) if products else (NONE,) * len(dims)
        spread = _spread_by_data(ins, shapes, shape)
        return Value(Kind.DATA, kept, products=products, single=single, spread=spread)
    if joined.kind is Kind.PARAM and name not in ADDITIVE and len(ins) > 1:
        pairs = {
            frozenset({i, j})
            for first, left in zip(ins, shapes, strict=True)
            for second, right in zip(ins, shapes, strict=True)
            if first is not second and len(left) == len(right)
            for a, b in zip(first.dims, second.dims, strict=True)
            if a and b
            for i, _ in a
            for j, _ in b
            if i != j
        }
        return replace(joined, hadamard=joined.hadamard | pairs)
    return joined


def _carried(name: str, ins: Sequence[Value], ledger: Ledger) -> frozenset[int]:
    """Open products that stay linear in their parameter through this operation."""
    data = [value for value in ins if value.kind is Kind.DATA]
    if name not in LINEAR or (name == "div" and ins[1].products):
        return frozenset()
    products = frozenset[int]().union(*(value.products for value in data))
    if name != "select_n" and len(data) > 1:  # normalised or gated: no longer the looked-up row itself
        products = frozenset(number for number in products if ledger.products[number].kind != "lookup")
    return products


def _looked_up_pair(ledger: Ledger, ins: Sequence[Value]) -> frozenset[int]:
    """Two looked-up vectors multiplied: if a sum follows, either may be the readout of the other."""
    rows = [{n for n in value.products if ledger.products[n].kind == "lookup"} for value in ins]
    if not all(rows) or rows[0] & rows[1]:
        return frozenset()
    return frozenset(ledger.open(ledger.products[n].value, "pair") for n in rows[0] | rows[1])
