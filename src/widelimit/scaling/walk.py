"""The walk through a traced program: calls, loops and branches down to single operations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jax.extend.core import Literal

from widelimit.scaling.ledger import Ledger
from widelimit.scaling.moves import join
from widelimit.scaling.primitives import RULES, unknown
from widelimit.scaling.provenance import NONE, Kind, Value, plain, shape_of

ONE_TO_ONE = frozenset("optimization_barrier sort psum psum_invariant pmax pmin all_gather pvary".split())


def walk(ledger: Ledger, jaxpr: Any, ins: Sequence[Value]) -> list[Value]:
    """Walks a traced program and records every meeting of parameters and data.

    Args:
        ledger: takes the record.
        jaxpr: the program, as ``jax.make_jaxpr`` returns it.
        ins: what is known of its inputs.
    """
    open_jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    read = Counter(
        variable
        for variables in (*(eqn.invars for eqn in open_jaxpr.eqns), open_jaxpr.outvars)
        for variable in variables
        if not isinstance(variable, Literal)
    )
    known: dict[Any, Value] = {}

    def look(variable: Any) -> Value:
        if isinstance(variable, Literal):
            return _constant(variable)
        return replace(known[variable], single=known[variable].single and read[variable] < 2)

    known.update((variable, _constant(variable)) for variable in open_jaxpr.constvars)
    known.update(zip(open_jaxpr.invars, ins, strict=True))
    for eqn in open_jaxpr.eqns:
        with ledger.inside(str(eqn.source_info.name_stack)):
            outs = _operation(ledger, eqn, [look(variable) for variable in eqn.invars])
        known.update(zip(eqn.outvars, outs, strict=True))
    return [look(variable) for variable in open_jaxpr.outvars]


def _constant(variable: Any) -> Value:
    """A number that depends on nothing."""
    return plain(Kind.CONSTANT, len(shape_of(variable)))


def _operation(ledger: Ledger, eqn: Any, ins: list[Value]) -> list[Value]:
    """One operation, or the program inside it."""
    name = eqn.primitive.name
    if name == "scan":
        return _scan(ledger, eqn, ins)
    if name == "while":
        return _while(ledger, eqn, ins)
    if name == "cond":
        return _cond(ledger, eqn, ins)
    inner = [value for value in eqn.params.values() if hasattr(value, "eqns") or hasattr(value, "jaxpr")]
    if len(inner) == 1:
        program = getattr(inner[0], "jaxpr", inner[0])
        if len(program.invars) == len(ins) and len(program.outvars) == len(eqn.outvars):
            return walk(ledger, inner[0], ins)
    outs: list[Value] = []
    if name in ONE_TO_ONE and len(ins) == len(eqn.outvars):
        outs = [_collected(eqn, value) for value in ins]
    elif name == "split":
        outs = [ins[0].like(ins[0].dims) for _ in eqn.outvars]
    elif name in RULES and len(eqn.outvars) == 1:
        outs = [RULES[name](ledger, eqn, ins)]
    ranks = [len(_constant(out).dims) for out in eqn.outvars]
    return outs if [len(out.dims) for out in outs] == ranks else unknown(ledger, eqn, ins)


def _collected(eqn: Any, value: Value) -> Value:
    """One array of a collective; one over a mapped axis has become a sum over an axis of the array."""
    gone = {axis for axis in eqn.params.get("axes", ()) if isinstance(axis, int)}
    if not gone:
        return value.like(value.dims)
    kept = [labels for axis, labels in enumerate(value.dims) if axis not in gone]
    lost = NONE.union(*(value.dims[axis] for axis in gone))
    return replace(value.like(kept), reduced=value.reduced | lost, products=frozenset())


def _closed(value: Value) -> Value:
    """Forgets open products: a sum inside a loop or branch is not the one that follows at once."""
    if value.kind is Kind.DATA:
        return plain(Kind.DATA, len(value.dims))
    return value


def _settle(ledger: Ledger, carry: Sequence[Value], step: Any) -> list[Value]:
    """What a loop carries, once going round again changes nothing; trial rounds are not recorded."""
    now = [_closed(value) for value in carry]
    for _ in range(4 + 2 * len(now)):
        mark = ledger.mark()
        after = [_closed(value) for value in step(now)]
        ledger.rewind(mark)
        joined = [_joined(ledger, before, new) for before, new in zip(now, after, strict=True)]
        if joined == now:
            break
        now = joined
    return now


def _joined(ledger: Ledger, before: Value, after: Value) -> Value:
    """What is known of a carried array that is one thing on entry and another after a round."""
    if Kind.DATA in (before.kind, after.kind):
        return plain(Kind.DATA, len(before.dims))
    return before if before == after else join(ledger, [before, after])


def _enter(ledger: Ledger, carry: Sequence[Value], settled: Sequence[Value]) -> None:
    """A parameter that starts a loop over data (a learned initial state) meets the data there."""
    for value, final in zip(carry, settled, strict=True):
        if value.kind is Kind.PARAM and final.kind is Kind.DATA:
            ledger.use(value, NONE)


def _scan(ledger: Ledger, eqn: Any, ins: list[Value]) -> list[Value]:
    """A loop over the leading axis of its inputs: for a stack of layers, that axis belongs to no fan."""
    body = eqn.params["jaxpr"]
    consts, carries = scan_sizes(eqn)
    fixed, carry = [_closed(value) for value in ins[:consts]], ins[consts : consts + carries]
    steps = []
    for value in ins[consts + carries :]:
        lead = value.dims[0]
        ledger.stacked.update(lead - ledger.grows(lead))
        own = _closed(value)
        steps.append(own.like(own.dims[1:]))
    leads = NONE.union(*(value.dims[0] for value in ins[consts + carries :]))
    settled = _settle(ledger, carry, lambda now: walk(ledger, body, [*fixed, *now, *steps])[:carries])
    _enter(ledger, carry, settled)
    outs = walk(ledger, body, [*fixed, *settled, *steps])
    finals = [_joined(ledger, before, after) for before, after in zip(settled, outs[:carries], strict=True)]
    stacks = []
    for value in map(_closed, outs[carries:]):
        lead = frozenset(label for label in leads if label[0] in value.leaves)
        stacks.append(value.like([lead, *value.dims]))
    return [*map(_closed, finals), *stacks]


def scan_sizes(eqn: Any) -> tuple[int, int]:
    """Returns how many arrays a scan holds fixed, and how many it carries; JAX versions name them apart."""
    program = getattr(eqn.params["jaxpr"], "jaxpr", eqn.params["jaxpr"])
    carries = _same_rank(eqn.outvars, program.outvars)
    return _same_rank(eqn.invars, program.invars) - carries, carries


def _same_rank(outer: Sequence[Any], inner: Sequence[Any]) -> int:
    """How many arrays a scan hands on whole; the others it slices along, or stacks to, a leading axis."""
    return sum(len(a.aval.shape) == len(b.aval.shape) for a, b in zip(outer, inner, strict=True))


def _while(ledger: Ledger, eqn: Any, ins: list[Value]) -> list[Value]:
    """A loop with a condition."""
    params = eqn.params
    split, end = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    test, fixed, carry = (
        [_closed(v) for v in ins[:split]],
        [_closed(v) for v in ins[split:end]],
        ins[end:],
    )
    settled = _settle(ledger, carry, lambda now: walk(ledger, params["body_jaxpr"], [*fixed, *now]))
    _enter(ledger, carry, settled)
    walk(ledger, params["cond_jaxpr"], [*test, *settled])
    outs = walk(ledger, params["body_jaxpr"], [*fixed, *settled])
    return [_closed(_joined(ledger, before, after)) for before, after in zip(settled, outs, strict=True)]


def _cond(ledger: Ledger, eqn: Any, ins: list[Value]) -> list[Value]:
    """Branches: every one may be taken."""
    given = [_closed(value) for value in ins[1:]]
    branches = [walk(ledger, branch, given) for branch in eqn.params["branches"]]
    return [join(ledger, [_closed(value) for value in values]) for values in zip(*branches, strict=True)]
