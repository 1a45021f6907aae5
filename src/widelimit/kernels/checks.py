"""What kernels ask of a network and its inputs, each with a sentence where it is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any
Apply = Callable[[PyTree, Any], jax.Array]
"""``apply(params, x) -> outputs [N, ...]``, sample by sample."""


def samples(x: Any, name: str) -> int:
    """Returns the number of samples in a tree of inputs.

    Raises:
        ValueError: if there is none, or arrays disagree.
        TypeError: if a leaf is no array of numbers.
    """
    leaves = jax.tree.leaves(x)
    if not leaves:
        raise ValueError(f"{name} must hold arrays with a leading axis of samples; got {x!r}.")
    for leaf in leaves:
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            raise TypeError(
                f"{name} must be arrays with a leading axis of samples; got {type(leaf).__name__}."
            )
    counts = sorted({leaf.shape[0] if leaf.shape else -1 for leaf in leaves})
    if counts[0] < 1 or len(counts) > 1:
        shapes = ", ".join(str(leaf.shape) for leaf in leaves)
        raise ValueError(
            f"{name} must have one leading axis of at least 1 sample, the same for all its arrays; "
            f"got shapes {shapes}. A single sample is x[None]."
        )
    return int(counts[0])


def parameters(params: Any) -> list[str]:
    """Returns the path of each parameter.

    Raises:
        ValueError: if there is none, or these are all of a Flax model's variables.
        TypeError: if one cannot be differentiated by.
    """
    if isinstance(params, Mapping) and "params" in params and len(params) > 1:
        others = ", ".join(repr(name) for name in params if name != "params")
        raise ValueError(
            f"params must hold what is trained alone; got a Flax model's variables, with {others} beside "
            "'params'. Close over them: lambda params, x: model.apply({**variables, 'params': params}, x)."
        )
    found = jax.tree.leaves_with_path(params)
    if not found:
        raise ValueError("params holds no array to differentiate by.")
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") or "params" for path, _ in found]
    for path, (_, leaf) in zip(paths, found, strict=True):
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            what = type(leaf).__name__ if dtype is None else f"dtype {jnp.dtype(dtype).name}"
            raise TypeError(
                f"params must hold floating-point arrays only; {path} is of {what}. "
                "Let apply close over what is not trained."
            )
    return paths


def scales(rates: Any, params: Any) -> Any:
    """Returns one learning rate for each parameter, or None for 1.

    Raises:
        ValueError: if the tree of rates is not that of the parameters.
    """
    found = getattr(rates, "learning_rate", rates)
    wanted: Any = jax.tree.structure(params)
    if found is not None and jax.tree.structure(found) != wanted:
        raise ValueError(
            "rates must be Rules, or a pytree of numbers with the structure of params; "
            f"got {jax.tree.structure(found)} for {wanted}."
        )
    for rate in jax.tree.leaves(found):
        if jnp.shape(rate) != ():
            raise ValueError(f"rates must hold one number for each parameter; got shape {jnp.shape(rate)}.")
    return found


def concrete(*trees: Any) -> bool:
    """Whether all arrays are there to be looked at: nothing is being traced."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


def uncoupled(apply: Apply, params: PyTree, x: Any) -> None:
    """Checks that the outputs of a sample do not depend on its neighbours; skipped while tracing.

    Raises:
        ValueError: if they do.
    """

    def beside(array: Any) -> Any:
        array = jnp.asarray(array)
        return jnp.concatenate([array[:1], array[-1:], jnp.zeros_like(array[:1])])

    def nearby(leaf: Any) -> Any:
        # Some networks start from f = 0, exactly or by cancellation, and would hide what couples them.
        leaf = jnp.asarray(leaf)
        if not leaf.size:
            return leaf
        size = jnp.sqrt(jnp.mean(jnp.square(leaf)))
        step = jnp.where(size > 0, size, jnp.ones_like(size)) / 100
        return leaf + jnp.where(
            jax.random.bernoulli(jax.random.key(leaf.size), shape=leaf.shape), step, -step
        )

    def both(params: PyTree, batch: Any) -> tuple[Any, Any]:
        params = jax.tree.map(nearby, params)
        alone = apply(params, jax.tree.map(lambda array: array[:1], batch))
        return apply(params, batch)[:1], alone

    if not concrete(params, x):
        return
    together, alone = jax.jit(both)(params, jax.tree.map(beside, x))
    if not concrete(together, alone):
        return
    size = jnp.abs(alone).max(initial=0)
    # Sums in another order differ by a few roundings; a mean over the batch differs by a sizeable part.
    apart = jnp.abs(together - alone).max(initial=0) > float(jnp.finfo(alone.dtype).eps) ** 0.5 * size
    if together.shape != alone.shape or bool(apart):
        raise ValueError(
            "apply must treat every sample alone, but the outputs of one change with its neighbours in the "
            "batch, as with batch norm in training mode or dropout: use running averages "
            "(use_running_average=True, batch_stats closed over) and switch dropout off."
        )


def finite(kernel: Any) -> None:
    """Checks that a kernel has no NaN; skipped while tracing.

    Raises:
        FloatingPointError: if it has.
    """
    if concrete(kernel) and not all(bool(jnp.isfinite(part).all()) for part in jax.tree.leaves(kernel)):
        raise FloatingPointError(
            "the kernel is not finite: the outputs or their gradients overflow, or are NaN, for some sample. "
            "dtype='float64' widens the range of half precision and of extreme scales."
        )
