"""Layers whose cotangents are products of what depends on the position and what depends on the output.

Behind a layer come functions of single entries and a sum over the positions s, as global pooling is. Its
cotangents are then products, ``B_o(s, m) = D(s, m) R_o(m)``: derivatives of the entries, and the cotangents
of the sum. So are its gradients, ``G_o(k, m) = A(k, m) R_o(m)`` with ``A = sum_s a(s) (x) D(s)``: one for
each sample, not one for each sample and output.

With one position no sum is needed. If all behind it is linear, as a readout is, then ``R_o`` is the same for
all samples, and a sum over outputs needs no more than its squares: ``sum_o R_o(m)^2 D_i(s, m) D_j(t, m)``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from widelimit.kernels.empirical.einsum import einsum
from widelimit.kernels.empirical.live import CALLS, ENTRYWISE, OWN, of_equation, of_step
from widelimit.kernels.empirical.program import Program, Step
from widelimit.kernels.empirical.uses import Use


class Pooled(NamedTuple):
    """Cotangents that are products."""

    rows: jax.Array  # shape=(N, C, M)
    shared: jax.Array  # shape=(N, S, M)

    def full(self) -> jax.Array:
        """Returns them multiplied out, ``[N, C, S, M]``."""
        return self.rows[:, :, None] * self.shared[:, None]

    def folded(self) -> jax.Array:
        """Returns the one cotangent ``[N, 1, S, M]`` that all outputs share, up to ``weights``."""
        return self.shared[:, None]

    def weights(self, other: Pooled) -> jax.Array:
        """Returns ``sum_o R_o(m) R_o(m)`` of rows that are the same for all samples, ``[M]``."""
        return (self.rows[0] * other.rows[0]).sum(0)


def pooled(program: Program, uses: Sequence[Use], summed: bool = False) -> list[Use]:
    """Returns the uses, those whose cotangents are products with the slot of the sum.

    Args:
        program: the forward pass.
        uses: of its parameters.
        summed: whether the kernel sums over outputs. Then that slot is also found for uses at one position.
    """
    found: dict[tuple[int, bool], int | None] = {}
    for use in uses:
        key = use.site, use.sizes[0] > 1
        if key not in found:
            found[key] = _sum(program, use.site) if key[1] else _end(program, use.site) if summed else None
    slots = list(dict.fromkeys(slot for slot in found.values() if slot is not None))
    alike = _alike(program, slots) if summed and slots else set()
    done = []
    for use in uses:
        slot = found[use.site, use.sizes[0] > 1]
        slot = _checked(program, use, slot) if use.sizes[0] > 1 else slot if slot in alike else None
        done.append(dataclasses.replace(use, pool=slot, alike=slot in alike))
    return done


def _sum(program: Program, site: int) -> int | None:
    """The sum into which all of a slot's influence goes, entry by entry."""
    shape, region, total = program.shapes[site].shape, {site}, None
    for step in program.steps:
        if not region.intersection(step.ins):
            continue
        if step.name == "reduce_sum" and total is None:
            total = step.outs[0]
        elif _same(program, step, shape):
            region.update(step.outs)
        else:
            return None
    return None if program.output in region else total


def _same(program: Program, step: Step, shape: tuple[int, ...]) -> bool:
    """Whether a step makes one array of this shape, entry by entry."""
    made = [program.shapes[out].shape for out in step.outs]
    return made == [shape] and _entrywise(step.name, step.params, of_step(program, step))


def _end(program: Program, site: int) -> int | None:
    """The last slot through which all of a slot's influence goes, entry by entry."""
    shape, region, ends = program.shapes[site].shape, {site}, set()
    for step in program.steps:
        inside = region.intersection(step.ins)
        if not inside:
            continue
        if _same(program, step, shape):
            region.update(step.outs)
        else:
            ends.update(inside)
    ends.update(region & {program.output})
    return ends.pop() if len(ends) == 1 else None


def _alike(program: Program, slots: Sequence[int]) -> set[int]:
    """Slots whose cotangents are the same for all samples: nothing that makes them depends on the inputs."""
    params, inputs, zeros, (row,) = (
        [jax.ShapeDtypeStruct(program.shapes[slot].shape, program.shapes[slot].dtype) for slot in some]
        for some in (program.params, program.inputs, slots, [program.output])
    )

    def cotangents(inputs: Any, params: Any, zeros: Any, row: Any) -> Any:
        def forward(added: Any) -> Any:
            return program.run(params, inputs, dict(zip(slots, added, strict=True)), [])[0]

        return jax.vjp(forward, zeros)[1](row)[0]

    made = jax.make_jaxpr(cotangents)(inputs, params, zeros, row).jaxpr
    varying = set(made.invars[: len(inputs)])
    for eqn in made.eqns:
        if any(not isinstance(v, Literal) and v in varying for v in eqn.invars):
            varying.update(eqn.outvars)
    return {
        slot
        for slot, v in zip(slots, made.outvars, strict=True)
        if isinstance(v, Literal) or v not in varying
    }


def _entrywise(name: str, params: Any, pushed: Callable[[], Any] | None) -> bool:
    """Whether each entry of a result depends on the same entry of the operands only.

    A derivative of one's own, which ``pushed`` traces, may mix what the function keeps apart.
    """
    if name not in CALLS and name != OWN:
        return name in ENTRYWISE
    found = [value for value in params.values() if hasattr(value, "eqns") or hasattr(value, "jaxpr")]
    if len(found) != 1 or not _all_entrywise(getattr(found[0], "jaxpr", found[0]), pushed is not None):
        return False
    return name != OWN or pushed is None or _all_entrywise(pushed(), False)


def _all_entrywise(program: Any, derivatives: bool) -> bool:
    """Whether that holds for all operations of a program; numbers may be repeated."""
    return all(
        _entrywise(eqn.primitive.name, eqn.params, of_equation(eqn) if derivatives else None)
        or (eqn.primitive.name == "broadcast_in_dim" and eqn.invars[0].aval.shape == ())
        for eqn in program.eqns
    )


def _checked(program: Program, use: Use, total: int | None) -> int | None:
    """The same slot if the sum is over the positions of the use, and keeps its columns apart."""
    if total is None or use.kind == "embedding":
        return None
    shape = program.shapes[total].shape
    labels = np.arange(math.prod(shape)).reshape(shape)
    columns = use.back(spread(program, use.site, total, labels))
    alike = (columns == columns[:1]).all() and len(set(columns[0].tolist())) == columns.shape[1]
    return total if alike else None


def spread(program: Program, site: int, total: int, array: Any) -> Any:
    """Returns an array shaped like the sum, shaped like what is summed."""
    if program.shapes[site].shape == program.shapes[total].shape:  # of one entry each
        return array
    (step,) = (step for step in program.steps if total in step.outs)
    axes = tuple(step.params["axes"])
    library = np if isinstance(array, np.ndarray) else jnp
    return library.broadcast_to(library.expand_dims(array, axes), program.shapes[site].shape)


def by_pooled(first: Any, rows: Any, second: Any, columns: Any, form: str) -> Any:
    """Returns the products of gradients ``first_i(k, m) rows_ic(m)`` and ``second_j(k, m) columns_jd(m)``."""
    if form == "self":
        return einsum("im,icm,idm->icd", einsum("ikm,ikm->im", first, second), rows, columns)
    products = einsum("ikm,jkm->mij", first, second)
    if form == "full":
        return einsum("icjm,jdm->icjd", einsum("mij,icm->icjm", products, rows), columns)
    out = {"trace": "ij", "diagonal": "icj"}[form]
    return einsum(f"icjm,jcm->{out}", einsum("mij,icm->icjm", products, rows), columns)
