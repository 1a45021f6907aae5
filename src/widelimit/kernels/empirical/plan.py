"""How the kernel of a network will be computed: which parameter takes which path, and at what cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from widelimit.kernels.empirical.costs import Form
from widelimit.kernels.empirical.groups import Group, Term
from widelimit.kernels.empirical.program import Program
from widelimit.kernels.empirical.trace import trace
from widelimit.kernels.empirical.uses import Use

PyTree = Any
Apply = Callable[[PyTree, Any], jax.Array]


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """The forward pass of one sample, and where its parameters are used; made by ``plan``.

    Args:
        program: the forward pass.
        groups: uses of parameters that add up.
        direct: parameters without structure, by number, and why.
        paths: name of each parameter.
        shapes: shape of each parameter.
        treedef: of the parameters.
        outputs: of one sample.
        dtype: of the outputs.
        rows: samples of the rows.
        columns: samples of the columns.
        same: whether these are the same samples.
        form: of the kernel.
        terms: of all groups.
        indices: of each group's terms, numbers in ``terms`` and ``stacks``.
        stacks: uses whose cotangents are stacked, terms that share them counted once.
        clusters: groups that share one cotangent, by number.
        sites: slots whose cotangents are needed.
        wanted: slots whose values are needed.
    """

    program: Program
    groups: tuple[Group, ...]
    direct: dict[int, str]
    paths: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    treedef: Any
    outputs: int
    dtype: Any
    rows: int
    columns: int
    same: bool
    form: Form
    terms: tuple[Term, ...]
    indices: tuple[tuple[tuple[int, int], ...], ...]
    stacks: tuple[tuple[Use, ...], ...]
    clusters: tuple[tuple[int, ...], ...]
    sites: tuple[int, ...]
    wanted: tuple[int, ...]


def plan(apply: Apply, params: PyTree, x1: Any, x2: Any = None, *, form: Form = "full") -> Plan:
    """Returns how ``ntk`` computes the kernel."""
    leaves, treedef = jax.tree.flatten(params)
    sample, inputs = jax.tree.flatten(x1)
    shapes = [jax.ShapeDtypeStruct((1, *jnp.shape(a)[1:]), jnp.result_type(a)) for a in sample]
    given = [jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a)) for a in leaves]

    def forward(params: Any, x: Any) -> Any:
        return apply(jax.tree.unflatten(treedef, params), jax.tree.unflatten(inputs, x)).reshape(-1)

    traced = trace(forward, given, shapes)
    out = traced.program.shapes[traced.program.output]
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree.leaves_with_path(params)
    ]
    rows = jnp.shape(sample[0])[0]
    columns = rows if x2 is None else jnp.shape(jax.tree.leaves(x2)[0])[0]
    return Plan(
        program=traced.program,
        groups=traced.groups,
        direct=dict(traced.direct),
        paths=tuple(paths),
        shapes=tuple(a.shape for a in given),
        treedef=treedef,
        outputs=out.shape[0],
        dtype=out.dtype,
        rows=rows,
        columns=columns,
        same=x2 is None,
        form=form,
        **_numbered(traced.groups),
    )


def _numbered(groups: tuple[Group, ...]) -> dict[str, Any]:
    """What features are made of, each once, and which group needs which."""
    terms: list[Term] = []
    stacks: dict[Any, tuple[int, tuple[Use, ...]]] = {}
    indices: list[tuple[tuple[int, int], ...]] = []
    clusters: dict[int, list[int]] = {}
    for number, group in enumerate(groups):
        pairs = []
        for term in group.terms:
            key = tuple((use.site, id(use.back)) for use in term.uses)
            at, _ = stacks.setdefault(key, (len(stacks), term.uses))
            pairs.append((len(terms), at))
            terms.append(term)
        indices.append(tuple(pairs))
        clusters.setdefault(pairs[0][1] if len(pairs) == 1 else -1 - number, []).append(number)
    uses = [use for term in terms for use in term.uses]
    scales = [scale[0] for use in uses for scale in use.scales if not isinstance(scale, int)]
    operands = [use.operand for use in uses if use.operand is not None]
    return {
        "terms": tuple(terms),
        "indices": tuple(indices),
        "stacks": tuple(uses for _, uses in stacks.values()),
        "clusters": tuple(map(tuple, clusters.values())),
        "sites": tuple(dict.fromkeys(use.site for use in uses)),
        "wanted": tuple(dict.fromkeys([*operands, *scales])),
    }
