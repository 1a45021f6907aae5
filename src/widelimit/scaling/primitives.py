"""How each operation of a traced program passes on where its numbers come from; sums of all kinds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import Any

from jax.extend.source_info_util import summarize

from widelimit.scaling.entrywise import ENTRYWISE, entrywise
from widelimit.scaling.ledger import Ledger, meets
from widelimit.scaling.moves import dynamic_slice, gather, joining, static_slice, structural
from widelimit.scaling.provenance import NONE, Joint, Kind, Labels, Value, factor, plain, shape_of, union

Rule = Callable[[Ledger, Any, Sequence[Value]], Value]

REDUCTIONS = frozenset(
    "reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor argmax argmin".split()
)


def unknown(ledger: Ledger, eqn: Any, ins: Sequence[Value]) -> list[Value]:
    """An operation without a rule: its parameters cannot be followed, what comes out counts as data."""
    for value in ins if eqn.outvars else ():  # one without results, such as a print, changes nothing
        if value.kind is Kind.PARAM:
            ledger.doubt(value.leaves, f"it passes through the operation {eqn.primitive.name!r}")
    kind = Kind.CONSTANT if all(value.kind is Kind.CONSTANT for value in ins) else Kind.DATA
    return [plain(kind, len(shape_of(out))) for out in eqn.outvars]


def reduction(ledger: Ledger, eqn: Any, ins: Sequence[Value]) -> Value:
    """A sum closes the products that run along it; a sum over a parameter alone hides the axis."""
    (value,), axes = ins, set(eqn.params["axes"])
    gone = NONE.union(*(value.dims[axis] for axis in axes))
    kept = [labels for axis, labels in enumerate(value.dims) if axis not in axes]
    if value.kind is Kind.PARAM:
        return factor(replace(value.like(kept), reduced=value.reduced | gone))
    products = value.products
    if gone and products:
        if eqn.primitive.name == "reduce_sum" and value.single:
            for number in products:
                ledger.sum_product(number, gone, NONE.union(*kept))
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
        sides = [
            (value, gone, NONE.union(*others)) for value, gone, others in zip(ins, sums, free, strict=True)
        ]
        if left.kind is right.kind and not any(_is_matrix(ledger, *each) for each in sides):
            ledger.pair(summarize(eqn.source_info), prod(eqn.invars[0].aval.shape[axis] for axis in left_sum))
        for each in sides:
            _sum_data(ledger, *each)
        return plain(Kind.DATA, len(dims))
    joined = union(ins, dims)
    if joined.kind is Kind.CONSTANT:
        return joined
    if left.leaves & right.leaves and not (NONE.union(*free[0]) or NONE.union(*free[1])):
        return factor(replace(joined, reduced=joined.reduced | sums[0] | sums[1]))  # a norm
    return factor(replace(joined, joints=joined.joints | {Joint(*sums)}))


def _is_matrix(ledger: Ledger, value: Value, gone: Labels, free: Labels) -> bool:
    """Whether this side, although it depends on the data, is a weight (masked, say) and no activation."""
    products = [ledger.products[number] for number in value.products]
    summed = {
        leaf for product in products if product.kind == "product" for leaf, _ in product.value.labels() & gone
    }
    return any(len(ledger.growing[leaf]) > 1 for leaf in summed) or bool(summed & {leaf for leaf, _ in free})


def _sum_data(ledger: Ledger, value: Value, gone: Labels, free: Labels) -> None:
    """Data against data: a masked or noisy matrix is summed here; a gain is not what is summed."""
    for number in value.products:
        product = ledger.products[number]
        labels = gone & product.value.labels()
        leaves = {leaf for leaf, _ in ledger.grows(labels)}
        if product.kind == "lookup":
            ledger.doubt(leaves, "rows looked up in it are multiplied with other data and summed")
        elif any(len(ledger.growing[leaf]) > 1 for leaf in leaves):
            ledger.sum_product(number, labels, free)
        else:
            free_too = {leaf for leaf, _ in free} & leaves
            ledger.doubt(free_too, "it is combined with data entry by entry before it is summed against data")


def convolution(ledger: Ledger, eqn: Any, ins: Sequence[Value]) -> Value:
    """A convolution sums a kernel over its input channels (of one group) and its window."""
    numbers = eqn.params["dimension_numbers"]
    image, kernel = ins
    rank = len(shape_of(eqn.outvars[0]))
    out_axis, *summed = numbers.rhs_spec
    window = NONE.union(*(kernel.dims[axis] for axis in summed))
    if kernel.kind is Kind.PARAM and image.kind is Kind.DATA:
        ledger.use(kernel, window, kernel.dims[out_axis])
        return plain(Kind.DATA, rank)
    if image.kind is Kind.PARAM and kernel.kind is Kind.DATA:
        ledger.doubt(image.leaves, "it is convolved with a kernel that depends on the data")
    if image.kind is kernel.kind is Kind.DATA:
        ledger.pair(summarize(eqn.source_info), prod(eqn.invars[1].aval.shape[axis] for axis in summed))
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
