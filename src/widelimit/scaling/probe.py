"""Roles for a model none of our code built: shapes at two widths, and a trace of its forward pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import jax

from widelimit.scaling.contraction import Contraction, contractions
from widelimit.scaling.growth import Growth, checked_width, measure
from widelimit.scaling.overrides import Entry, is_source, match, settle
from widelimit.scaling.roles import Role, leaf_from_axes


def probe(
    init: Callable[[int], Any],
    apply: Callable[[int, Any, Any], Any],
    example: Any,
    *,
    width: int,
    base_width: int | None = None,
    overrides: Mapping[str, Entry] | None = None,
    tolerance: float = 0.0,
) -> Any:
    """Finds how every parameter of a model meets the width: one ``Leaf`` per parameter.

    An axis *grows* if ``size(width) / size(base_width) = width / base_width``, up to ``tolerance``. An axis
    is *contracted* if the forward pass sums over it (``y[j] = sum_i x[i] w[i, j]`` contracts axis 0 of
    ``w``), which is read off a trace of ``apply``: shapes cannot tell it. Growing axes that are all free make
    an INPUT weight, free and contracted ones a HIDDEN, contracted ones alone an OUTPUT; without any it is
    SCALAR.
    Both functions see abstract arrays: nothing is computed and no memory is taken. A further width is tried
    (twice the larger of the two), to tell an axis that is fixed from one that is rounded.

    Args:
        init: ``init(width)`` returns the parameters of the model of that width, any tree of arrays.
        apply: ``apply(width, params, example)`` is its forward pass.
        example: an input: arrays or ``jax.ShapeDtypeStruct``; flags and the like belong into ``apply``.
        width: target width n.
        base_width: width n0 at which the rules are neutral and the learning rate is tuned.
        overrides: what to take for some parameters, by path: a ``Role``, or a tuple of the contracted axes. A
            key is a path, or a pattern with ``*``, ``?`` and ``[...]`` (``*`` also crosses ``/``); an exact
            path wins over a pattern. An entry always wins over the trace, and a table declared an input (a
            learned query, say) counts as data for the layers that act on it.
        tolerance: largest relative deviation of a growing axis from proportionality, for sizes that are
            rounded to a multiple of 64, say (0.1 allows 10%).

    Returns:
        A tree with the structure of the parameters whose leaves are ``Leaf``.

    Raises:
        ValueError: if a width is missing or not positive, the trees differ between widths, an axis is not
            proportional to the width, the trace cannot decide a role, or an entry of ``overrides`` does not
            fit.
        TypeError: if a width is no integer.

    Example:
        >>> import jax.numpy as jnp
        >>> init = lambda n: {"into": jnp.ones((10, n)), "out": jnp.ones((10, n))}  # two layouts of one shape
        >>> apply = lambda n, p, x: jnp.tanh(x @ p["into"]) @ p["out"].T
        >>> leaves = probe(init, apply, jnp.ones((1, 10)), width=64, base_width=64)
        >>> leaves["into"].role.value, leaves["out"].role.value
        ('input', 'output')

    Reference:
        Yang et al., Tensor Programs V (arXiv 2203.03466), Table 3.
    """
    width, base = checked_width(width, "width"), checked_width(base_width, "base_width")
    if not 0.0 <= tolerance < 1.0:
        raise ValueError(f"tolerance must be a relative deviation in [0, 1), such as 0.1; got {tolerance!r}.")
    grown = measure(init, width, base, tolerance)
    entries = match(overrides or {}, grown.paths)
    uses = _uses(apply, example, grown, entries)
    leaves = []
    for number, use in enumerate(uses):
        leaf = leaf_from_axes(
            grown.paths[number],
            grown.shapes[number],
            grown.base_shapes[number],
            contracted=use.contracted,
            width=Fraction(width, base),
            base_width=base,
            growing=grown.growing[number],
            shared=use.shared,
            tied=use.tied,
        )
        entry = entries.get(number)
        leaves.append(dataclasses.replace(leaf, role=entry) if isinstance(entry, Role) else leaf)
    return jax.tree.unflatten(jax.tree.structure(grown.tree), leaves)


def _uses(
    apply: Callable[[int, Any, Any], Any], example: Any, grown: Growth, entries: Mapping[int, Entry]
) -> list[Contraction]:
    """How the forward pass uses each parameter: traced, and then as the entries say."""

    def trace(sources: Sequence[int]) -> list[Contraction]:
        def forward(params: Any, inputs: Any) -> Any:
            return apply(grown.traceable, params, inputs)

        try:
            return contractions(forward, grown.tree, example, grown.growing, sources)
        except TypeError as error:
            if isinstance(error, jax.errors.ConcretizationTypeError) or "valid JAX type" in str(error):
                error.add_note("probe traces every leaf of example; keep flags and the like inside apply.")
            raise

    found = trace(())
    sources = [number for number, entry in entries.items() if is_source(entry, grown.growing[number])]
    if sources and any(use.doubt and number not in entries for number, use in enumerate(found)):
        again = trace(sources)
        found = [use if number in entries else again[number] for number, use in enumerate(found)]
    for number, entry in entries.items():
        found[number] = settle(grown.paths[number], entry, grown.growing[number], found[number])
    undecided = [(number, use.doubt) for number, use in enumerate(found) if use.doubt]
    if undecided:
        number, _ = undecided[0]
        listed = "; ".join(
            f"{grown.paths[n]} of shape {grown.shapes[n]} ({doubt})" for n, doubt in undecided[:5]
        ) + (f"; and {len(undecided) - 5} more" if len(undecided) > 5 else "")
        raise ValueError(
            f"tracing cannot decide the role of {listed}. Give an explicit entry, which always wins: "
            f"overrides={{{grown.paths[number]!r}: Role.INPUT}}, or the contracted axes, as in (0,)."
        )
    return found
