"""From per-sample features to the kernel: per parameter, by Gram matrices or by gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from widelimit.kernels.empirical import costs
from widelimit.kernels.empirical.costs import Form, Size
from widelimit.kernels.empirical.features import Features
from widelimit.kernels.empirical.products import Side, by_gradient, by_gram, of_gradients

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
    size = measure(plan, features1, features2, asked)
    dtype = jnp.dtype(dtype or kernel_dtype(features1, features2))
    ways = choose(plan, size)
    parts: dict[int, list[Any]] = {number: [] for number in range(len(plan.paths))}
    total = jnp.zeros(_shape(size), dtype)

    def side(features: Features) -> list[list[Side]]:
        return [
            [
                Side(
                    _cast(features.factors[f], dtype),
                    features.cotangents[c].astype(dtype),
                    plan.terms[f].swapped,
                    plan.terms[f].sizes[2 if plan.terms[f].swapped else 1],
                )
                for f, c in group
            ]
            for group in plan.indices
        ]

    sides1 = side(features1)
    sides2 = sides1 if features2 is features1 else side(features2)
    for cluster in plan.clusters:
        grams = [number for number in cluster if ways[number] == "gram"]
        if grams and not per_layer:
            leaves = [plan.groups[number].leaf for number in grams]
            scales = [jnp.asarray(numbers[leaf], dtype) for leaf in leaves]
            total = total + by_gram(
                [sides1[number] for number in grams], [sides2[number] for number in grams], scales, size.form
            )
        for number in cluster:
            leaf = plan.groups[number].leaf
            rate = jnp.asarray(numbers[leaf], dtype)
            if ways[number] == "gram":
                if per_layer:
                    parts[leaf].append(by_gram([sides1[number]], [sides2[number]], [rate], size.form))
                continue
            part = rate * by_gradient(sides1[number], sides2[number], size.form)
            if per_layer:
                parts[leaf].append(part)
            else:
                total = total + part
    for at, leaf in enumerate(plan.direct):
        pair = features1.gradients[at].astype(dtype), features2.gradients[at].astype(dtype)
        part = jnp.asarray(numbers[leaf], dtype) * of_gradients(*pair, size.form)
        if per_layer:
            parts[leaf].append(part)
        else:
            total = total + part
    if not per_layer:
        return _ordered(total, size)
    found = [_ordered(sum(part, start=jnp.zeros(_shape(size), dtype)), size) for part in parts.values()]
    return jax.tree.unflatten(plan.treedef, found)


def _cast(factor: Any, dtype: Any) -> Any:
    """Floating-point parts of a factor in another dtype."""
    return jax.tree.map(lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, factor)


def kernel_dtype(*features: Features) -> Any:
    """Returns the dtype in which a kernel is accumulated unless another is asked for."""
    floats = [a.dtype for a in jax.tree.leaves(features) if jnp.issubdtype(a.dtype, jnp.floating)]
    return jnp.result_type(jnp.float32, *floats)


def measure(plan: Plan, features1: Features, features2: Features, form: Form) -> Size:
    """Returns the size of a kernel, read off its features."""
    first, second = (jax.tree.leaves((f.cotangents, f.gradients)) for f in (features1, features2))
    rows, columns = first[0].shape[0], second[0].shape[0]
    form = "trace" if form == "sum" else form
    return Size(rows, columns, first[0].shape[1], form, features1 is features2)


def choose(plan: Plan, size: Size) -> list[str]:
    """Returns the cheaper way of each group; a bias goes the way of its weight, whose Gram matrix it uses."""
    ways = []
    for group in plan.groups:
        gram, gradient = costs.gram(group.terms, size), costs.gradient(group.terms, size)
        ways.append("gram" if gram.flops <= gradient.flops else "gradient")
    for cluster in plan.clusters:
        weights = [n for n in cluster if plan.groups[n].terms[0].uses[0].kind != "bias"]
        for number in cluster:
            if number not in weights and weights:
                ways[number] = "gram" if any(ways[n] == "gram" for n in weights) else "gradient"
    return ways


def _shape(size: Size) -> tuple[int, ...]:
    """The shape while samples stand beside their outputs."""
    n, m, o = size.rows, size.columns, size.outputs
    return {"full": (n, o, m, o), "trace": (n, m), "diagonal": (n, o, m), "self": (n, o, o)}[size.form]


def _ordered(kernel: Any, size: Size) -> Any:
    """The axes as they are returned: samples first."""
    axes = {"full": (0, 2, 1, 3), "diagonal": (0, 2, 1)}.get(size.form)
    return kernel if axes is None else kernel.transpose(axes)
