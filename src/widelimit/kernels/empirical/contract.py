"""From per-sample features to the kernel: per parameter, by Gram matrices or by gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from widelimit.kernels.empirical.costs import Form, Size, choose, folds
from widelimit.kernels.empirical.features import Features
from widelimit.kernels.empirical.pooled import Pooled
from widelimit.kernels.empirical.products import Side, by_gradient, by_gram, of_gradients
from widelimit.kernels.empirical.triangle import Block, blocks, whole

if TYPE_CHECKING:
    from widelimit.kernels.empirical.plan import Plan


def contract(
    plan: Plan,
    features1: Features,
    features2: Features,
    form: Form | None = None,
    rates: Any = None,
    *,
    per_layer: bool = False,
    dtype: Any = None,
) -> Any:
    r"""Returns the kernel of two sets of samples, ``sum_l rates_l <gradients1_l, gradients2_l>``.

    A pure function. Each parameter takes the cheaper of its two ways, by the sizes of the features.

    Args:
        plan: of the network.
        features1: of the samples of the rows.
        features2: of the samples of the columns; the same object where they are the same samples.
        form: of the result; None is the plan's. ``"sum"`` is ``"trace"``: the sum is in the cotangents.
        rates: one number for each parameter, a pytree like the parameters; None is 1.
        per_layer: return a pytree like the parameters with the contribution of each.
        dtype: in which to accumulate; None is float32, or float64 where features are float64.
    """
    asked: Form = plan.form if form is None else form
    numbers = [1.0] * len(plan.paths) if rates is None else jax.tree.leaves(rates)
    dtype = jnp.dtype(dtype or kernel_dtype(features1, features2))
    size = _measured(features1, features2, asked, dtype.itemsize)
    ways = choose(plan.groups, plan.clusters, size)
    parts: dict[int, list[Any]] = {number: [] for number in range(len(plan.paths))}
    where = blocks(size)
    folded = [folds(group.terms, size.form) for group in plan.groups for _ in group.terms]
    total: list[Any] = []

    def side(features: Features) -> list[list[Side]]:
        return [
            [factored(features, f, c, way == "gradient" and len(group) == 1) for f, c in group]
            for group, way in zip(plan.indices, ways, strict=True)
        ]

    def factored(features: Features, f: int, c: int, apart: bool) -> Side:
        term, weights, cotangent = plan.terms[f], None, _cast(features.cotangents[c], dtype)
        if folded[f]:
            both = [_cast(source.cotangents[c], dtype) for source in (features1, features2)]
            cotangent, weights = cotangent.folded(), both[0].weights(both[1])
        elif isinstance(cotangent, Pooled) and not (apart and term.pooled):
            cotangent = cotangent.full()
        rows = term.sizes[2 if term.swapped else 1]
        return Side(_cast(features.factors[f], dtype), cotangent, term.swapped, rows, weights)

    sides1 = side(features1)
    sides2 = sides1 if features2 is features1 else side(features2)
    for cluster in plan.clusters:
        grams = [number for number in cluster if ways[number] == "gram"]
        if grams and not per_layer:
            leaves = [plan.groups[number].leaf for number in grams]
            scales = [jnp.asarray(numbers[leaf], dtype) for leaf in leaves]
            one, two = ([sides[number] for number in grams] for sides in (sides1, sides2))
            total = _sum(total, by_gram(one, two, scales, size.form, where))
        for number in cluster:
            leaf = plan.groups[number].leaf
            rate = jnp.asarray(numbers[leaf], dtype)
            if ways[number] == "gram":
                if per_layer:
                    parts[leaf] = _sum(
                        parts[leaf], by_gram([sides1[number]], [sides2[number]], [rate], size.form, where)
                    )
                continue
            part = [rate * block for block in by_gradient(sides1[number], sides2[number], size.form, where)]
            if per_layer:
                parts[leaf] = _sum(parts[leaf], part)
            else:
                total = _sum(total, part)
    for at, leaf in enumerate(plan.direct):
        pair = features1.gradients[at].astype(dtype), features2.gradients[at].astype(dtype)
        rate = jnp.asarray(numbers[leaf], dtype)
        part = [rate * block for block in of_gradients(*pair, size.form, where)]
        if per_layer:
            parts[leaf] = _sum(parts[leaf], part)
        else:
            total = _sum(total, part)
    if not per_layer:
        return _whole(total, where, size, dtype)
    return jax.tree.unflatten(plan.treedef, [_whole(part, where, size, dtype) for part in parts.values()])


def _cast(factor: Any, dtype: Any) -> Any:
    """Floating-point parts of a factor in another dtype."""
    return jax.tree.map(lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, factor)


def kernel_dtype(*features: Features) -> Any:
    """Returns the dtype in which a kernel is accumulated unless another is asked for."""
    wide = any(a.dtype == jnp.float64 for a in jax.tree.leaves(features))
    return jnp.dtype(jnp.float64 if wide else jnp.float32)


def _measured(features1: Features, features2: Features, form: Form, itemsize: int) -> Size:
    """The size of a kernel, read off its features."""
    first, second = (jax.tree.leaves((f.cotangents, f.gradients)) for f in (features1, features2))
    rows, columns = first[0].shape[0], second[0].shape[0]
    form = "trace" if form == "sum" else form
    return Size(rows, columns, first[0].shape[1], form, features1 is features2, itemsize)


def _sum(parts: list[Any], others: list[Any]) -> list[Any]:
    """Adds blocks of a kernel."""
    return [a + b for a, b in zip(parts, others, strict=True)] if parts else others


def _whole(parts: list[Any], where: list[Block], size: Size, dtype: Any) -> Any:
    """A kernel from its blocks; zeros where nothing contributes."""
    if parts:
        return whole(parts, where, size)
    outputs = {"full": 2, "trace": 0, "diagonal": 1, "self": 2}[size.form]
    samples = (size.rows,) if size.form == "self" else (size.rows, size.columns)
    return jnp.zeros((*samples, *(size.outputs,) * outputs), dtype)
