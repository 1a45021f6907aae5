"""Layers before a sum over all positions, as global pooling is: one cotangent serves all of them.

Behind a layer come functions of single entries and a sum over the positions s. Its cotangents are then
products, ``B_o(s, m) = D(s, m) R_o(m)``: derivatives of the entries, and the cotangents of the sum. So are
its gradients, ``G_o(k, m) = A(k, m) R_o(m)`` with ``A = sum_s a(s) (x) D(s)``: one for each sample, not one
for each sample and output.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from widelimit.kernels.empirical.einsum import einsum
from widelimit.kernels.empirical.live import CALLS, ENTRYWISE, OWN
from widelimit.kernels.empirical.program import Program
from widelimit.kernels.empirical.uses import Use


class Pooled(NamedTuple):
    """Cotangents that are products."""

    rows: jax.Array  # shape=(N, C, M)
    shared: jax.Array  # shape=(N, S, M)

    def full(self) -> jax.Array:
        """Returns them multiplied out, ``[N, C, S, M]``."""
        return self.rows[:, :, None] * self.shared[:, None]


def pooled(program: Program, uses: Sequence[Use]) -> list[Use]:
    """Returns the uses, those before a sum over their positions with the slot of that sum."""
    found: dict[int, int | None] = {}
    for use in uses:
        if use.site not in found:
            found[use.site] = _sum(program, use.site) if use.sizes[0] > 1 else None
    return [dataclasses.replace(use, pool=_checked(program, use, found[use.site])) for use in uses]


def _sum(program: Program, site: int) -> int | None:
    """The sum into which all of a slot's influence goes, entry by entry."""
    shape, region, total = program.shapes[site].shape, {site}, None
    for step in program.steps:
        if not region.intersection(step.ins):
            continue
        if step.name == "reduce_sum" and total is None:
            total = step.outs[0]
        elif [program.shapes[out].shape for out in step.outs] == [shape] and _entrywise(
            step.name, step.params
        ):
            region.update(step.outs)
        else:
            return None
    return None if program.output in region else total


def _entrywise(name: str, params: Any) -> bool:
    """Whether each entry of a result depends on the same entry of the operands only."""
    if name not in CALLS and name != "custom_jvp_call":
        return name in ENTRYWISE
    inner = [value for value in params.values() if hasattr(value, "eqns") or hasattr(value, "jaxpr")]
    if len(inner) != 1:
        return False
    eqns = getattr(inner[0], "jaxpr", inner[0]).eqns
    if name == "custom_jvp_call" and [eqn.params.get("name") for eqn in eqns] not in [[own] for own in OWN]:
        return False  # a derivative of one's own may mix what the function keeps apart
    return all(_entrywise(eqn.primitive.name, eqn.params) for eqn in eqns)


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
