"""What the kernel of two samples is made of, computed for each sample alone: activations and cotangents."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from widelimit.kernels.empirical.groups import Term
from widelimit.kernels.empirical.pooled import Pooled, spread
from widelimit.kernels.empirical.uses import Use

if TYPE_CHECKING:
    from widelimit.kernels.empirical.plan import Plan


class Ids(NamedTuple):
    """One-hot rows by the number of the entry that is not zero, and what it is."""

    ids: jax.Array  # shape=(N, S), dtype=int32
    weights: jax.Array  # shape=(N, S)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Features:
    """Per-sample parts of the gradients; every array has the samples as its leading axis N.

    Args:
        factors: of each term, what does not depend on the output: ``[N, S, K]``, or ids ``[N, S]``.
        cotangents: of each stack of sites, what does: ``[N, C, S, M]``, or ``Pooled``. Terms share stacks.
        gradients: of each parameter without structure: ``[N, C, entries]``.
    """

    factors: tuple[Any, ...]
    cotangents: tuple[Any, ...]
    gradients: tuple[jax.Array, ...]


def features(plan: Plan, params: Any, x: Any, cotangents: Any = None) -> Features:
    r"""Returns what the kernels of some samples are made of: activations, and cotangents of ``f(x)``.

    A pure function: it may be compiled, mapped, and cut into batches of samples (the leading axis of x and
    of every array of the result) or of cotangents (the second axis of all but ``factors``).

    Args:
        plan: of the network.
        params: its parameters.
        x: inputs, leading axis N.
        cotangents: rows to multiply the Jacobian with, ``[C, O]``: the identity (C = O) if None; for the
            sum of the outputs one row of ``O**-0.5``; for a sketch, rows of random signs.
    """
    leaves = jax.tree.leaves(params)
    if cotangents is None:
        cotangents = jnp.eye(plan.outputs, dtype=plan.dtype)
    slots, wanted = tuple(dict.fromkeys((*plan.sites, *plan.pools))), plan.wanted
    free = {number: at for at, number in enumerate(plan.direct)}
    shapes = plan.program.shapes

    def one(sample: Any) -> Features:
        inputs = [jnp.asarray(array)[None] for array in jax.tree.leaves(sample)]

        def forward(added: Any, own: Any) -> tuple[Any, Any]:
            given = [own[free[number]] if number in free else leaf for number, leaf in enumerate(leaves)]
            kept = [*wanted, *plan.pools]
            made, values = plan.program.run(given, inputs, dict(zip(slots, added, strict=True)), kept)
            return (made, values[len(wanted) :]), values[: len(wanted)]

        zeros = [jnp.zeros(shapes[slot].shape, shapes[slot].dtype) for slot in slots]
        own = [leaves[number] for number in plan.direct]
        _, pull, captured = jax.vjp(forward, zeros, own, has_aux=True)
        found = dict(zip(wanted, captured, strict=True))
        none = [jnp.zeros(shapes[slot].shape, shapes[slot].dtype) for slot in plan.pools]
        at_sites, gradients = jax.vmap(lambda row: pull((row, none)))(cotangents.astype(plan.dtype))
        sites = dict(zip(slots, at_sites, strict=True))

        def slopes(use: Use) -> Any:
            """The cotangent of a site, of the sum of all it goes into."""
            ones = [
                jnp.full_like(zero, slot == use.pool) for slot, zero in zip(plan.pools, none, strict=True)
            ]
            return pull((jnp.zeros(plan.outputs, plan.dtype), ones))[0][slots.index(use.site)]

        def cotangent(stack: Sequence[Use]) -> Any:
            """Of all sites of a stack."""
            use, pool = stack[0], stack[0].pool
            if len(stack) == 1 and pool is not None:
                rows = jax.vmap(lambda row: use.back(spread(plan.program, use.site, pool, row))[0])
                return Pooled(rows(sites[pool]), use.back(slopes(use)))
            backs = [jax.vmap(use.back)(sites[use.site]) for use in stack]
            return jnp.concatenate(backs, 1) if len(backs) > 1 else backs[0]

        return Features(
            factors=tuple(_left(term, found, shapes) for term in plan.terms),
            cotangents=tuple(map(cotangent, plan.stacks)),
            gradients=tuple(gradient.reshape(gradient.shape[0], -1) for gradient in gradients),
        )

    return jax.vmap(one)(x)


def _left(term: Term, found: dict[int, Any], shapes: Sequence[Any]) -> Any:
    """The factor of a term that does not depend on the output, at all its positions."""
    parts = []
    for use in term.uses:
        part = use.left(found.get(use.operand))  # type: ignore[arg-type]
        values = part[1] if term.lookup else part
        values = jnp.asarray(values)
        # Ones, of biases and lookups, have no precision of their own: they would round the factors below.
        double = jnp.float64 in (values.dtype, shapes[use.site].dtype)
        values = values.astype(jnp.float64 if double else jnp.float32)
        for scale in use.scales:
            number, power = (scale, 1) if isinstance(scale, int) else (found[scale[0]], scale[1])
            number = jnp.asarray(number).reshape(()).astype(values.dtype)
            values = values * number if power == 1 else values / number
        parts.append(Ids(part[0], values) if term.lookup else values)
    return jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *parts)
