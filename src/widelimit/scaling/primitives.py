"""How each operation of a traced program passes on where its numbers come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from widelimit.scaling.ledger import Ledger, meets
from widelimit.scaling.provenance import NONE, Joint, Kind, Labels, Value, aligned, plain, reshaped, union

Rule = Callable[[Ledger, Any, Sequence[Value]], Value]

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
REDUCTIONS = frozenset(
    "reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor argmax argmin".split()
)


def _shape(variable: Any) -> tuple[int, ...]:
    """The shape of a traced variable; () for tokens and the like."""
    return tuple(getattr(variable.aval, "shape", ()))


def unknown(ledger: Ledger, eqn: Any, ins: Sequence[Value]) -> list[Value]:
    """An operation without a rule: its parameters cannot be followed, what comes out counts as data."""
    for value in ins:
        if value.kind is Kind.PARAM:
            ledger.doubt(value.leaves, f"it passes through the operation {eqn.primitive.name!r}")
    kind = Kind.CONSTANT if all(value.kind is Kind.CONSTANT for value in ins) else Kind.DATA
    return [plain(kind, len(_shape(out))) for out in eqn.outvars]


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
    name, shape = eqn.primitive.name, _shape(eqn.outvars[0])
    shapes = [_shape(variable) for variable in eqn.invars]
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
        spread = _spread_by_data(ins, shapes, shape) if name in LINEAR else frozenset[int]()
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
    rows = [
        [
            ledger.products[number].value
            for number in value.products
            if ledger.products[number].kind == "lookup"
        ]
        for value in ins
    ]
    tables = [frozenset[int]().union(*(value.leaves for value in side)) for side in rows]
    if not all(rows) or tables[0] & tables[1]:
        return frozenset()
    return frozenset(ledger.open(value, "pair") for side in rows for value in side)


def reduction(ledger: Ledger, eqn: Any, ins: Sequence[Value]) -> Value:
    """A sum closes the products that run along it; a sum over a parameter alone hides the axis."""
    (value,), axes = ins, set(eqn.params["axes"])
    gone = NONE.union(*(value.dims[axis] for axis in axes))
    kept = [labels for axis, labels in enumerate(value.dims) if axis not in axes]
    if value.kind is Kind.PARAM:
        return replace(value.like(kept), reduced=value.reduced | gone)
    products = value.products
    if gone and products:
        if eqn.primitive.name == "reduce_sum" and value.single:
            for number in products:
                ledger.sum_product(number, gone)
        products = frozenset()
    if eqn.primitive.name != "reduce_sum":
        products = frozenset()
    return Value(value.kind, tuple(kept), products=products, single=value.single)


def dot(ledger: Ledger, eqn: Any, ins: Sequence[Value]) -> Value:
    """A matrix product: the axes of a parameter summed against data are its input axes."""
    (left_sum, right_sum), (left_batch, right_batch) = eqn.params["dimension_numbers"]
    left, right = ins
    sums = [NONE.union(*(v.dims[a] for a in axes)) for v, axes in ((left, left_sum), (right, right_sum))]
    batch = [left.dims[a] | right.dims[b] for a, b in zip(left_batch, right_batch, strict=True)]
    free = [
        [labels for axis, labels in enumerate(value.dims) if axis not in (*summed, *batched)]
        for value, summed, batched in ((left, left_sum, left_batch), (right, right_sum, right_batch))
    ]
    dims = [*batch, *free[0], *free[1]]
    if meets(ins):
        side = 0 if left.kind is Kind.PARAM else 1
        value, rest = ins[side], NONE.union(*batch, *free[side]) & ins[side].labels()
        if not left_sum:  # an outer product: a sum may follow
            along = {leaf for labels in batch for leaf, _ in ledger.grows(labels)}
            over = {leaf for labels in free[side] for leaf, _ in labels}
            number = ledger.open(value, must_sum=frozenset(along & over) & value.leaves)
            return Value(Kind.DATA, tuple(dims), products=frozenset({number}))
        ledger.use(value, sums[side], rest)
        return plain(Kind.DATA, len(dims))
    if Kind.DATA in (left.kind, right.kind):
        for value, gone, others in zip(ins, sums, free, strict=True):
            _sum_data(ledger, value, gone, NONE.union(*others))
        return plain(Kind.DATA, len(dims))
    joined = union(ins, dims)
    if joined.kind is Kind.CONSTANT:
        return joined
    twice = left.leaves & right.leaves
    if twice and not (NONE.union(*free[0]) or NONE.union(*free[1])):
        return replace(joined, reduced=joined.reduced | sums[0] | sums[1])  # a norm
    ledger.doubt({leaf for leaf in twice if len(ledger.growing[leaf]) == 1}, "it is multiplied with itself")
    return replace(joined, joints=joined.joints | {Joint(*sums)})


def _sum_data(ledger: Ledger, value: Value, gone: Labels, free: Labels) -> None:
    """Data against data: a masked or noisy matrix is summed here; a gain is not what is summed."""
    for number in value.products:
        product = ledger.products[number]
        labels = gone & product.value.labels()
        leaves = {leaf for leaf, _ in ledger.grows(labels)}
        if product.kind == "lookup":
            ledger.doubt(leaves, "rows looked up in it are multiplied with other data and summed")
        elif any(len(ledger.growing[leaf]) > 1 for leaf in leaves):
            ledger.sum_product(number, labels)
        else:
            free_too = {leaf for leaf, _ in free} & leaves
            ledger.doubt(free_too, "it is combined with data entry by entry before it is summed against data")


def convolution(ledger: Ledger, eqn: Any, ins: Sequence[Value]) -> Value:
    """A convolution sums a kernel over its input channels (of one group) and its window."""
    numbers = eqn.params["dimension_numbers"]
    image, kernel = ins
    rank = len(_shape(eqn.outvars[0]))
    out_axis, *summed = numbers.rhs_spec
    window = NONE.union(*(kernel.dims[axis] for axis in summed))
    if kernel.kind is Kind.PARAM and image.kind is Kind.DATA:
        ledger.use(kernel, window, kernel.dims[out_axis])
        return plain(Kind.DATA, rank)
    if image.kind is Kind.PARAM and kernel.kind is Kind.DATA:
        ledger.doubt(image.leaves, "it is convolved with a kernel that depends on the data")
    if Kind.DATA in (image.kind, kernel.kind):
        return plain(Kind.DATA, rank)
    dims = [NONE] * rank
    for source, target in zip(numbers.lhs_spec, numbers.out_spec, strict=True):
        dims[target] = image.dims[source]
    channels = image.dims[numbers.lhs_spec[1]]
    if kernel.kind is Kind.PARAM:
        dims[numbers.out_spec[1]] = kernel.dims[out_axis]
    joined = union(ins, dims)
    if kernel.kind is Kind.PARAM:
        joined = replace(joined, joints=joined.joints | {Joint(channels, window)})
    return joined


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
    shape = _shape(eqn.invars[0])
    moved = (*numbers.start_index_map, *getattr(numbers, "operand_batching_dims", ()))
    indexed = NONE.union(*(operand.dims[axis] for axis in moved if sizes[axis] < shape[axis]))
    hidden = {*numbers.collapsed_slice_dims, *getattr(numbers, "operand_batching_dims", ())}
    kept = iter(
        [operand.dims[axis] if sizes[axis] > 1 else NONE for axis in range(len(shape)) if axis not in hidden]
    )
    batch = NONE if indices.kind is Kind.DATA else indexed
    rank = len(_shape(eqn.outvars[0]))
    dims = [next(kept) if axis in numbers.offset_dims else batch for axis in range(rank)]
    return lookup(ledger, operand, dims, indexed, indices.kind)


def dynamic_slice(ledger: Ledger, eqn: Any, ins: Sequence[Value]) -> Value:
    """A window at a computed place; a window of one entry is a lookup."""
    operand, shape, sizes = ins[0], _shape(eqn.invars[0]), eqn.params["slice_sizes"]
    one = [axis for axis in range(len(shape)) if sizes[axis] == 1 < shape[axis]]
    dims = [NONE if axis in one else labels for axis, labels in enumerate(operand.dims)]
    indexed = NONE.union(*(operand.dims[axis] for axis in one))
    by = Kind.DATA if any(value.kind is Kind.DATA for value in ins[1:]) and one else Kind.CONSTANT
    return lookup(ledger, operand, dims, indexed, by)


def static_slice(ledger: Ledger, eqn: Any, ins: Sequence[Value]) -> Value:
    """A window at a fixed place; one entry of an axis is the layer of a stack."""
    shape, new = _shape(eqn.invars[0]), _shape(eqn.outvars[0])
    one = [axis for axis in range(len(shape)) if new[axis] == 1 < shape[axis]]
    dims = [NONE if axis in one else labels for axis, labels in enumerate(ins[0].dims)]
    return _keep(ins[0], dims, picked=NONE.union(*(ins[0].dims[axis] for axis in one)))


def _keep(value: Value, dims: Sequence[Labels], picked: Labels = NONE) -> Value:
    """The same array seen through other axes."""
    return replace(value.like(dims), picked=value.picked | picked)


def structural(ledger: Ledger, eqn: Any, ins: Sequence[Value]) -> Value:
    """Operations that move axes."""
    value, params, name = ins[0], eqn.params, eqn.primitive.name
    shape = _shape(eqn.outvars[0])
    if name == "transpose":
        moved = _keep(value, [value.dims[axis] for axis in params["permutation"]])
        spread = {new for new, old in enumerate(params["permutation"]) if old in value.spread}
        return replace(moved, spread=frozenset(spread))
    if name == "squeeze":
        gone = {axis % len(value.dims) for axis in params["dimensions"]}
        return _keep(value, [labels for axis, labels in enumerate(value.dims) if axis not in gone])
    if name == "broadcast_in_dim":
        old, dims = _shape(eqn.invars[0]), [NONE] * len(shape)
        kept = set()
        for axis, target in enumerate(params["broadcast_dimensions"]):
            if old[axis] == shape[target]:
                dims[target] = value.dims[axis]
                kept.add(target)
        spread = {axis for axis, size in enumerate(shape) if axis not in kept and size > 1}
        return replace(_keep(value, dims), spread=frozenset(spread))
    if name in ("reshape", "expand_dims"):
        return reshaped(value, _shape(eqn.invars[0]), shape)
    return _keep(value, value.dims)  # padding, tiling


def joining(ledger: Ledger, eqn: Any, ins: Sequence[Value]) -> Value:
    """Arrays laid side by side, or one written into another."""
    arrays = [value for value in ins if len(value.dims) == len(_shape(eqn.outvars[0]))]
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


RULES: dict[str, Rule] = {
    **dict.fromkeys(ENTRYWISE, entrywise),
    **dict.fromkeys(REDUCTIONS, reduction),
    **dict.fromkeys("transpose squeeze broadcast_in_dim reshape expand_dims pad tile".split(), structural),
    **dict.fromkeys(("concatenate", "dynamic_update_slice"), joining),
    "dot_general": dot,
    "conv_general_dilated": convolution,
    "gather": gather,
    "dynamic_slice": dynamic_slice,
    "slice": static_slice,
}
