"""What is recorded beside the results at each time: the pairing identity, blow-up, samples of fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import lax

from widelimit.dmft.causal.products import dot, merge, put
from widelimit.dmft.causal.state import Rows

if TYPE_CHECKING:
    from widelimit.dmft.causal.step import Step


def watch(step: Step, rows: Rows) -> Rows:
    """Returns the rows with what is watched at the time of a step that is done.

    Args:
        step: with all its fields.
        rows: to be filled in.
    """
    depth, samples, fields = step.settings.depth, step.settings.samples, step.settings.fields
    largest = jnp.stack([jnp.abs(h).max() for h in step.h])
    concentrated = jnp.stack([_top(x, max(1, samples // 100)) for x in step.x])
    rows = rows._replace(
        largest=put(rows.largest, largest, step.t),
        concentrated=put(rows.concentrated, concentrated, step.t),
    )
    if depth > 1:
        pairing = jnp.stack([_pairing(step, layer) for layer in range(depth - 1)])
        rows = rows._replace(pairing=put(rows.pairing, pairing, step.t))
    if fields:
        h = jnp.stack(step.h)[..., :fields]
        z = jnp.stack([step.z[layer] for layer in range(depth)])[..., :fields]
        rows = rows._replace(h=put(rows.h, h, step.t), z=put(rows.z, z, step.t))
    return rows


def _pairing(step: Step, layer: int) -> jax.Array:
    """Largest difference of <z^l phi^l> and <g^(l+1) h^(l+1)>, and the largest size."""
    here = dot(merge(step.z[layer]), step.x[layer].T)
    above = dot(merge(step.slope[layer + 1][None] * step.z[layer + 1]), step.h[layer + 1].T)
    return jnp.stack([jnp.abs(here - above).max(), jnp.abs(here).max()]) / step.settings.samples


def _top(x: jax.Array, count: int) -> jax.Array:
    """The part of all squares that the largest samples carry."""
    size = jnp.sum(x * x, axis=0)
    return jnp.sum(lax.top_k(size, count)[0]) / jnp.maximum(jnp.sum(size), jnp.finfo(x.dtype).tiny)
