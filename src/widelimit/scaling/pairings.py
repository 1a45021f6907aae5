"""Where a forward pass multiplies activations with activations over an axis that grows with width."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from widelimit.scaling.contraction import record
from widelimit.scaling.roles import Leaf, Role


@dataclasses.dataclass(frozen=True)
class GrowingProduct:
    """A sum over products of two activations whose number of terms grows with width.

    Args:
        where: the named part of the model, as far as its library names it, and the line of code.
        size: number of terms at the target width.
        base_size: number of terms at the base width.

    Example:
        >>> GrowingProduct("attention.py:132 (dot_product_attention_weights)", size=32, base_size=8).size
        32
    """

    where: str
    size: int
    base_size: int


def growing_products(
    init: Callable[[int], Any],
    apply: Callable[[int, Any, Any], Any],
    example: Any,
    leaves: Any,
) -> tuple[GrowingProduct, ...]:
    """Finds the sums over products of two activations that grow with width: attention's logits, usually.

    A weight brings its own scale to the sum ``sum_i w_i x_i`` over a growing axis; ``sum_i q_i k_i`` has
    none. At initialisation it is of order ``d^(1/2)``, and once training has correlated queries and keys, of
    order ``d``: where features learn, the model's code must divide by ``d``. Heads of a fixed size that grow
    in number give no such sum.

    Both widths are traced, nothing is computed. Sums are seen in matrix products, ``einsum`` and
    convolutions, not within a custom kernel, nor where entries are multiplied first and summed later (as
    norms do, which divide by the number of terms).

    Args:
        init: as in ``probe``.
        apply: as in ``probe``.
        example: as in ``probe``.
        leaves: what ``probe`` returned, or ``rules.leaves``; its widths are compared, so that at target width
            = base width there is nothing to find.

    Raises:
        ValueError: if ``leaves`` holds no ``Leaf``, or belongs to another model.

    Example:
        >>> import jax.numpy as jnp
        >>> from widelimit.scaling import probe
        >>> init = lambda n: {"q": jnp.ones((5, n)), "k": jnp.ones((5, n)), "v": jnp.ones((5, 3))}
        >>> apply = lambda n, p, x: jax.nn.softmax((x @ p["q"]) @ (x @ p["k"]).T / n**0.5) @ (x @ p["v"])
        >>> x = jnp.ones((4, 5))
        >>> leaves = probe(init, apply, x, width=32, base_width=8)
        >>> [(found.size, found.base_size) for found in growing_products(init, apply, x, leaves)]
        [(32, 8)]

    Reference:
        Yang et al., arXiv 2203.03466, Definition 4.1 (1/d attention).
    """
    known = [leaf for leaf in jax.tree.leaves(leaves) if isinstance(leaf, Leaf)]
    if not known:
        raise ValueError("leaves must be what probe returned, or rules.leaves; it holds no Leaf.")
    base_width = known[0].base_width
    width = int(known[0].width * base_width)
    if width == base_width:
        return ()
    wide, base = (_sizes(init, apply, example, known, size) for size in (width, base_width))
    return tuple(
        GrowingProduct(where, max(sizes), max(base[where]))
        for where, sizes in wide.items()
        if where in base and max(sizes) != max(base[where])
    )


def _sizes(
    init: Callable[[int], Any],
    apply: Callable[[int, Any, Any], Any],
    example: Any,
    leaves: list[Leaf],
    width: int,
) -> dict[str, list[int]]:
    """Numbers of terms of the products of activations at one width, by place."""

    def forward(params: Any, inputs: Any) -> Any:
        return apply(width, params, inputs)

    params = jax.eval_shape(lambda: init(width))
    at_base = width == leaves[0].base_width
    expected = [leaf.base_shape if at_base else leaf.shape for leaf in leaves]
    if [array.shape for array in jax.tree.leaves(params)] != expected:
        raise ValueError(f"leaves belong to another model than the one init gives at width {width}.")
    growing = [tuple(a != b for a, b in zip(leaf.shape, leaf.base_shape, strict=True)) for leaf in leaves]
    ledger = record(forward, params, example, growing)
    # A learned table that layers act on is an activation too; it is what the trace alone cannot decide.
    doubted = {number for number, _ in ledger.doubts if leaves[number].role is Role.INPUT}
    if doubted:
        ledger = record(forward, params, example, growing, doubted)
    sizes: dict[str, list[int]] = {}
    for where, size in ledger.pairings:
        sizes.setdefault(where, []).append(size)
    return sizes
