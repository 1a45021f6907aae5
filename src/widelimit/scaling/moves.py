"""Operations that move, pick or lay side by side the entries of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from widelimit.scaling.ledger import Ledger, meets
from widelimit.scaling.provenance import NONE, Kind, Labels, Value, plain, reshaped, shape_of, union


def lookup(ledger: Ledger, value: Value, dims: Sequence[Labels], indexed: Labels, by: Kind) -> Value:
    """Entries taken along ``indexed``: by data it is an embedding (or a stack), else a part."""
    if value.kind is not Kind.PARAM:
        kind = Kind.DATA if Kind.DATA in (value.kind, by) else value.kind
        return Value(kind, (NONE,) * len(dims))
    picked = replace(value.like(dims), picked=value.picked | indexed)
    if by is not Kind.DATA:
        return picked
    ledger.doubt(
        {leaf for leaf, _ in ledger.grows(indexed)}, "the data looks up entries along a growing axis"
    )
    if any(len(ledger.growing[leaf]) > 1 for leaf in value.leaves):
        return picked
    ledger.use(value, indexed)
    number = ledger.open(picked, "lookup")
    return Value(Kind.DATA, tuple(dims), products=frozenset({number}))


def gather(ledger: Ledger, eqn: Any, ins: Sequence[Value]) -> Value:
    """Indexing with arrays."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    operand, indices = ins[0], ins[1]
    shape = shape_of(eqn.invars[0])
    moved = (*numbers.start_index_map, *getattr(numbers, "operand_batching_dims", ()))
    indexed = NONE.union(*(operand.dims[axis] for axis in moved if sizes[axis] < shape[axis]))
    hidden = {*numbers.collapsed_slice_dims, *getattr(numbers, "operand_batching_dims", ())}
    kept = iter(
        [operand.dims[axis] if sizes[axis] > 1 else NONE for axis in range(len(shape)) if axis not in hidden]
    )
    batch = NONE if indices.kind is Kind.DATA else indexed
    rank = len(shape_of(eqn.outvars[0]))
    dims = [next(kept) if axis in numbers.offset_dims else batch for axis in range(rank)]
    return lookup(ledger, operand, dims, indexed, indices.kind)


def dynamic_slice(ledger: Ledger, eqn: Any, ins: Sequence[Value]) -> Value:
    """A window at a computed place; a window of one entry is a lookup."""
    operand, shape, sizes = ins[0], shape_of(eqn.invars[0]), eqn.params["slice_sizes"]
    one = [axis for axis in range(len(shape)) if sizes[axis] == 1 < shape[axis]]
    dims = [NONE if axis in one else labels for axis, labels in enumerate(operand.dims)]
    indexed = NONE.union(*(operand.dims[axis] for axis in one))
    by = Kind.DATA if any(value.kind is Kind.DATA for value in ins[1:]) and one else Kind.CONSTANT
    return lookup(ledger, operand, dims, indexed, by)


def static_slice(ledger: Ledger, eqn: Any, ins: Sequence[Value]) -> Value:
    """A window at a fixed place; one entry of an axis is the layer of a stack."""
    shape, new = shape_of(eqn.invars[0]), shape_of(eqn.outvars[0])
    one = [axis for axis in range(len(shape)) if new[axis] == 1 < shape[axis]]
    dims = [NONE if axis in one else labels for axis, labels in enumerate(ins[0].dims)]
    return _keep(ins[0], dims, picked=NONE.union(*(ins[0].dims[axis] for axis in one)))


def _keep(value: Value, dims: Sequence[Labels], picked: Labels = NONE) -> Value:
    """The same array seen through other axes."""
    return replace(value.like(dims), picked=value.picked | picked)


def structural(ledger: Ledger, eqn: Any, ins: Sequence[Value]) -> Value:
    """Operations that move axes."""
    value, params, name = ins[0], eqn.params, eqn.primitive.name
    shape = shape_of(eqn.outvars[0])
    if name == "transpose":
        moved = _keep(value, [value.dims[axis] for axis in params["permutation"]])
        spread = {new for new, old in enumerate(params["permutation"]) if old in value.spread}
        return replace(moved, spread=frozenset(spread))
    if name == "squeeze":
        gone = {axis % len(value.dims) for axis in params["dimensions"]}
        return _keep(value, [labels for axis, labels in enumerate(value.dims) if axis not in gone])
    if name == "broadcast_in_dim":
        old, dims = shape_of(eqn.invars[0]), [NONE] * len(shape)
        kept = set()
        for axis, target in enumerate(params["broadcast_dimensions"]):
            if old[axis] == shape[target]:
                dims[target] = value.dims[axis]
                kept.add(target)
        spread = {axis for axis, size in enumerate(shape) if axis not in kept and size > 1}
        return replace(_keep(value, dims), spread=frozenset(spread))
    if name in ("reshape", "expand_dims"):
        return reshaped(value, shape_of(eqn.invars[0]), shape)
    return _keep(value, value.dims)  # padding, tiling


def joining(ledger: Ledger, eqn: Any, ins: Sequence[Value]) -> Value:
    """Arrays laid side by side, or one written into another."""
    arrays = [value for value in ins if len(value.dims) == len(shape_of(eqn.outvars[0]))]
    return join(ledger, arrays)


def join(ledger: Ledger, values: Sequence[Value]) -> Value:
    """What is known of an array that may be, or holds parts of, any of these."""
    rank = len(values[0].dims)
    if meets(values):
        for value in values:
            if value.kind is Kind.PARAM:
                ledger.use(value, NONE)
        return plain(Kind.DATA, rank)
    joined = union(values, [NONE.union(*(value.dims[axis] for value in values)) for axis in range(rank)])
    return plain(Kind.DATA, rank) if joined.kind is Kind.DATA else joined
