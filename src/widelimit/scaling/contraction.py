"""Which axes of each parameter a forward pass sums over, read off its trace."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import numpy as np

from widelimit.scaling.ledger import Ledger, Use
from widelimit.scaling.provenance import Kind, parameter, plain
from widelimit.scaling.roles import Role, role_of
from widelimit.scaling.walk import walk


@dataclasses.dataclass(frozen=True)
class Contraction:
    """How one parameter is used.

    Args:
        contracted: axes that the forward pass sums over, or looks entries up along.
        shared: axes along which independent layers are stacked.
        tied: an embedding that is used again, transposed, as the readout.
        doubt: why tracing cannot decide; None if it can.

    Example:
        >>> Contraction(contracted=(0,)).doubt is None
        True
    """

    contracted: tuple[int, ...] = ()
    shared: tuple[int, ...] = ()
    tied: bool = False
    doubt: str | None = None


def contractions(
    function: Callable[[Any, Any], Any],
    params: Any,
    example: Any,
    growing: Sequence[Sequence[bool]],
    sources: Collection[int] = (),
) -> list[Contraction]:
    """Traces ``function(params, example)`` and says for every parameter which of its axes are contracted.

    A parameter that data multiplies is contracted along the axes that the product sums over:
    ``y[j] = sum_i x[i] w[i, j]`` contracts axis 0 of ``w``. Nothing is computed and no memory is taken.

    Args:
        function: the forward pass.
        params: parameters, arrays or ``jax.ShapeDtypeStruct``.
        example: input of the forward pass, arrays or ``jax.ShapeDtypeStruct``; what depends on it is data.
        growing: for every parameter (in the order of ``jax.tree.leaves``), which of its axes grow with width.
        sources: numbers of parameters to be read as data (learned tables that later layers act on).

    Example:
        >>> import jax.numpy as jnp
        >>> w, x = jnp.ones((5, 4)), jnp.ones((3, 4))
        >>> contractions(lambda w, x: x @ w.T, w, x, [(True, False)])[0].contracted
        (1,)
    """
    ledger = record(function, params, example, growing, sources)
    return [_decide(ledger, number, flags) for number, flags in enumerate(growing)]


def record(
    function: Callable[[Any, Any], Any],
    params: Any,
    example: Any,
    growing: Sequence[Sequence[bool]],
    sources: Collection[int] = (),
) -> Ledger:
    """Traces ``function(params, example)`` and returns the record of every meeting; see ``contractions``."""
    jaxpr = jax.make_jaxpr(function)(params, example)
    shapes = [tuple(leaf.shape) for leaf in jax.tree.leaves(params)]
    ledger = Ledger(growing)
    ins = [
        plain(Kind.DATA, len(shape)) if number in sources else parameter(number, shape)
        for number, shape in enumerate(shapes)
    ]
    data = [plain(Kind.DATA, len(np.shape(leaf))) for leaf in jax.tree.leaves(example)]
    walk(ledger, jaxpr, [*ins, *data])
    ledger.close()
    return ledger


def _decide(ledger: Ledger, number: int, growing: Sequence[bool]) -> Contraction:
    """Draws the conclusion from everything recorded of one parameter."""
    stacked = {axis for leaf, axis in ledger.stacked if leaf == number}
    uses = [use for leaf, use in ledger.uses if leaf == number]
    if not any(growing):
        use = next((use for use in uses if use.contracted), Use(frozenset()))
        return _conclude(use, stacked)
    doubt = next((reason for leaf, reason in ledger.doubts if leaf == number), None)
    if doubt is not None:
        return Contraction(doubt=doubt)
    if not uses:
        return Contraction(doubt="the forward pass never brings it together with the example")
    whole = [use for use in uses if use.contracted or sum(growing) == 1]
    if not whole:
        return Contraction(doubt="it has several growing axes and none of them is seen to be summed")
    roles = {role_of(growing, tuple(use.contracted)) for use in whole}
    if len(roles) == 1:
        return _conclude(whole[0], stacked)
    inputs = [use for use in whole if role_of(growing, tuple(use.contracted)) is Role.INPUT]
    if roles == {Role.INPUT, Role.OUTPUT} and all(use.contracted for use in inputs):
        return dataclasses.replace(_conclude(inputs[0], stacked), tied=True)
    names = " and ".join(sorted(role.value for role in roles))
    return Contraction(doubt=f"it is used in several ways, as {names} weight")


def _conclude(use: Use, stacked: Collection[int]) -> Contraction:
    """One use, as the answer."""
    contracted = use.contracted - set(stacked)
    return Contraction(tuple(sorted(contracted)), tuple(sorted((use.shared | set(stacked)) - contracted)))
