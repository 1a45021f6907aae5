"""What no rescaling of a weight can bring about: found by tracing and by trying, and refused by name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from widelimit.scaling import Leaf, Rules, growing_products

PyTree = Any
ATTENTION = "attention"
"""How a user says that the model's code scales its attention rightly."""

BRANCHES = "branches"
"""How a user says that the declared branches are right although the forward pass seems to differ."""

_CONVENTION = 0.5
"""Attention logits are divided by d^(1/2) unless a model says otherwise."""


def refuse_growing_products(
    init: Callable[[int], PyTree], apply: Callable[[int, PyTree, Any], Any], example: Any, rules: Rules
) -> None:
    """Raises if attention runs over heads of growing size and the parametrization wants another temperature.

    The logits are to queries and keys what a network's output is to its last features: aligned after a step,
    so they need the readout's ``a + b`` (muP: 1, hence 1/d; standard and NTK: 1/2).

    Args:
        init: as in ``probe``.
        apply: as in ``probe``.
        example: as in ``probe``.
        rules: the rules of the model.

    Raises:
        ValueError: with the place, the sizes and the way out.
    """
    parametrization = rules.parametrization
    exponent = float(parametrization.multiplier.output + parametrization.init.output)
    if exponent == _CONVENTION:
        return
    found = growing_products(init, apply, example, rules.leaves)
    if not found:
        return
    first, more = found[0], f" (and {len(found) - 1} more such products)" if len(found) > 1 else ""
    scale = first.base_size ** (exponent - _CONVENTION) / first.size**exponent
    formula = "d0**0.5 / d" if exponent == 1 else f"d0**{exponent - _CONVENTION:g} / d**{exponent:g}"
    raise ValueError(
        f"activations are multiplied with activations and summed over d = {first.size} entries, d0 = "
        f"{first.base_size} at the base width, in {first.where}{more}: with 1/sqrt(d) these logits grow in "
        f"training under {parametrization.name}, and no weight can take up their temperature. Let heads grow "
        f"in number, not in size; or set the attention scale to {formula} (here {scale:.4g}) in the model's "
        f"code and then pass accept=[{ATTENTION!r}]."
    )


def refuse_normalised(
    output: Callable[[PyTree], Any],
    params: PyTree,
    leaves: Sequence[Leaf],
    factors: Sequence[float],
    accept: Collection[str],
) -> None:
    """Raises if the output does not feel the size of a weight that is to be rescaled.

    Args:
        output: the forward pass on fixed data.
        params: the parameters.
        leaves: what is known of each.
        factors: what each is to be multiplied by; 1 is not looked at.
        accept: paths to leave alone.

    Raises:
        ValueError: naming the weight, the factor and the way out.
    """
    tried = [
        i for i, (leaf, factor) in enumerate(zip(leaves, factors, strict=True))
        if factor != 1 and leaf.path not in accept
    ]  # fmt: skip
    if not tried:
        return
    evaluate, filled = _evaluator(output, params)
    reference = evaluate(filled)
    for index in tried:
        doubled = evaluate([2 * array if i == index else array for i, array in enumerate(filled)])
        if _same(doubled, reference):
            path = leaves[index].path
            raise ValueError(
                f"{path} is followed by a norm: the output does not feel its size, so a factor of "
                f"{factors[index]:.4g} cannot be folded into it. Put the scale behind the norm in the code, "
                f"or pass accept=[{path!r}] to rescale it all the same (rates are relative to its size)."
            )


def refuse_wrong_branches(output: Callable[[PyTree], Any], params: PyTree, leaves: Sequence[Leaf]) -> None:
    """Raises if the declared residual branches are not those of the forward pass.

    With every last layer at zero all branches are zero, so that the output feels nothing inside of them, and
    everything outside.

    Args:
        output: the forward pass on fixed data.
        params: the parameters.
        leaves: what is known of each.

    Raises:
        ValueError: naming a parameter whose branch has no end, or one that is in a branch and was not said
            to be.
    """
    evaluate, filled = _evaluator(output, params)
    cut = [array * 0 if leaf.ends_branch else array for leaf, array in zip(leaves, filled, strict=True)]
    whole, without = evaluate(filled), evaluate(cut)
    generator = np.random.default_rng(1)
    for index, (leaf, array) in enumerate(zip(leaves, filled, strict=True)):
        if leaf.ends_branch or not jnp.issubdtype(array.dtype, jnp.inexact):
            continue
        moved = array + (1 + np.abs(array)) * generator.normal(size=array.shape).astype(array.dtype)

        def felt(arrays: list[Any], before: np.ndarray, index: int = index, moved: Any = moved) -> bool:
            after = evaluate([moved if i == index else old for i, old in enumerate(arrays)])
            return not _same(after, before)

        if leaf.depth is not None and felt(cut, without):
            raise ValueError(
                f"{leaf.path} was said to lie in a residual branch, but the output feels it when every last "
                "layer of a branch is zero: a branch has an end that was not named (a bias, perhaps), or "
                f"{leaf.path} is in none. Correct in_branches(...), or pass accept=[{BRANCHES!r}]."
            )
        if leaf.depth is None and not felt(cut, without) and felt(filled, whole):
            raise ValueError(
                f"{leaf.path} acts through residual branches only, but was not said to lie in one: no rule "
                f"of depth would reach it. Correct in_branches(...), or pass accept=[{BRANCHES!r}]."
            )


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two outputs do not differ by more than rounding."""
    return bool(np.linalg.norm(one - other) <= 1e-3 * np.linalg.norm(other))


def _evaluator(
    output: Callable[[PyTree], Any], params: PyTree
) -> tuple[Callable[[list[Any]], np.ndarray], list[Any]]:
    """Returns the compiled forward pass as a vector of a list of arrays, and the parameters as such a list.

    A zero readout would hide every other weight: all-zero arrays are given some value.
    """
    generator = np.random.default_rng(0)
    flat, treedef = jax.tree.flatten(params)
    filled = [
        array + generator.normal(size=array.shape).astype(array.dtype)
        if jnp.issubdtype(array.dtype, jnp.floating) and not np.any(np.asarray(array))
        else array
        for array in flat
    ]

    @jax.jit
    def outputs(arrays: list[Any]) -> list[Any]:
        found = jax.tree.leaves(output(jax.tree.unflatten(treedef, arrays)))
        return [array for array in found if jnp.issubdtype(jnp.asarray(array).dtype, jnp.inexact)]

    def evaluate(arrays: list[Any]) -> np.ndarray:
        return np.concatenate([np.asarray(array, np.float64).ravel() for array in outputs(arrays)])

    return evaluate, filled
