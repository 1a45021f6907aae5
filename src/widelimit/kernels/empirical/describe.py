"""Which parameter takes which path, as a table."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from widelimit.kernels.empirical import costs
from widelimit.kernels.empirical.trace import ADDED, MULTIPLIED

if TYPE_CHECKING:
    from widelimit.kernels.empirical.plan import Plan


@dataclasses.dataclass(frozen=True)
class Path:
    """How one parameter's contribution is computed.

    Args:
        name: of the parameter.
        shape: of the parameter.
        kind: ``"dense"``, ``"conv"``, ``"embedding"``, ``"bias"``, ``"gain"``, ``"tied"``, ``"jacobian"``, or
            ``"unused"``.
        way: ``"gram"``, ``"gradient"`` (formed from activations and cotangents), or ``"jacobian"``.
        flops: of the contraction.
        bytes: of its largest intermediate array.
        why: what stands in the way of structure, or how often the parameter is used.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    way: str
    flops: float
    bytes: float
    why: str


def paths(plan: Plan) -> list[Path]:
    """Returns the path of each parameter, in tree order."""
    size, ways = plan.size, plan.ways
    found = []
    for leaf, (name, shape) in enumerate(zip(plan.paths, plan.shapes, strict=True)):
        groups = [number for number, group in enumerate(plan.groups) if group.leaf == leaf]
        if leaf in plan.direct:
            cost, why = costs.direct(math.prod(shape), size), plan.direct[leaf]
            found.append(Path(name, shape, _direct(why), "jacobian", cost.flops, cost.bytes, why))
        elif not groups:
            found.append(Path(name, shape, "unused", "none", 0.0, 0.0, "meets no data"))
        else:
            found.append(_structured(plan, name, shape, groups, [ways[number] for number in groups]))
    return found


def _direct(why: str) -> str:
    """The kind of a parameter whose gradient is taken as it is."""
    reasons = set(why.split("; "))
    if reasons == {ADDED}:
        return "bias"
    return "gain" if reasons <= {ADDED, MULTIPLIED} else "jacobian"


def _structured(plan: Plan, name: str, shape: tuple[int, ...], groups: list[int], ways: list[str]) -> Path:
    """The path of a parameter with structure."""
    flops, largest, uses = 0.0, 0.0, 0
    for number, way in zip(groups, ways, strict=True):
        terms = plan.groups[number].terms
        shares = terms[0].uses[0].kind == "bias" and way == "gram"
        cost = (costs.gram if way == "gram" else costs.gradient)(terms, plan.size)
        flops += 0.0 if shares else cost.flops
        largest = max(largest, 0.0 if shares else cost.bytes)
        uses += sum(len(term.uses) for term in terms)
    tied = any(len(plan.groups[number].terms) > 1 for number in groups)
    kind = "tied" if tied else plan.groups[groups[0]].terms[0].uses[0].kind
    why = f"{uses} uses" if uses > 1 else ""
    return Path(name, shape, kind, "/".join(dict.fromkeys(ways)), flops, largest, why)


def table(plan: Plan) -> str:
    """Returns the paths as lines of text."""
    rows = paths(plan)
    names = max(len("parameter"), *(len(row.name) for row in rows)) + 2
    shapes = max(len("shape"), *(len(_shape(row.shape)) for row in rows)) + 2
    lines = [
        f"{'parameter':<{names}}{'shape':<{shapes}}{'path':<11}{'contraction':<13}{'Mflop':>10}{'MiB':>9}"
    ]
    for row in rows:
        lines.append(
            f"{row.name:<{names}}{_shape(row.shape):<{shapes}}{row.kind:<11}{row.way:<13}"
            f"{row.flops / 1e6:>10.4g}{row.bytes / 2**20:>9.3g}  {row.why}".rstrip()
        )
    total = sum(row.flops for row in rows)
    jacobian = sum(costs.direct(math.prod(plan.shapes[leaf]), plan.size).flops for leaf in plan.direct)
    jacobian += sum(costs.gradient(group.terms, plan.size, apart=False).flops for group in plan.groups)
    lines.append(
        f"{plan.form} kernel of {plan.rows} x {plan.columns} samples with {plan.outputs} outputs: "
        f"{total / 1e6:.4g} Mflop, where Jacobians take {jacobian / 1e6:.4g}"
    )
    return "\n".join(lines)


def _shape(shape: tuple[int, ...]) -> str:
    """A shape, as in 3x3x64."""
    return "x".join(map(str, shape)) or "scalar"
