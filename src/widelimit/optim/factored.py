"""Adafactor's second moment, factored or not as the base width decides."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from widelimit.optim.matching import PyTree, check, map_with_rule
from widelimit.scaling import Leaf, Rules


@dataclasses.dataclass(frozen=True)
class _Result:
    """What one parameter's step leaves behind; not a pytree, so that trees of it can be taken apart."""

    update: Any
    v_row: Any
    v_col: Any
    v: Any


def scale_by_factored_rms(
    rules: Rules,
    factored: bool = True,
    decay_rate: jax.typing.ArrayLike = 0.8,
    step_offset: jax.typing.ArrayLike = 0,
    min_dim_size_to_factor: int = 128,
    epsilon: jax.typing.ArrayLike = 1e-30,
) -> optax.GradientTransformation:
    r"""Divides by Adafactor's second moment, factored or not as the *base* shape decides.

    optax factors an array when its two largest axes reach ``min_dim_size_to_factor``; compared with the shape
    at hand, the optimizer itself would change on the way from the tuned width to the target. The base shape
    gives every width the same optimizer, and the same two axes. The state is optax's.

    Args:
        rules: of the parameters that will be updated.
        factored: false keeps the full second moment of every array.
        decay_rate: exponent of the second moment's decay, ``1 - t^-decay_rate``.
        step_offset: number of the first step.
        min_dim_size_to_factor: smallest second-largest axis, at the base width, of an array that is factored.
        epsilon: added to the squared gradient.

    Raises:
        ValueError: if the structures differ.

    Example:
        >>> from fractions import Fraction
        >>> import jax.numpy as jnp
        >>> from widelimit.scaling import leaf_from_axes, make_rules, mup
        >>> leaf = leaf_from_axes("w", (8, 8), (2, 2), contracted=(0,), width=Fraction(4), base_width=2)
        >>> rules = make_rules([leaf], mup(), "adafactor")
        >>> state = scale_by_factored_rms(rules, min_dim_size_to_factor=4).init([jnp.ones((8, 8))])
        >>> state.v[0].shape
        (8, 8)

    Reference:
        Shazeer & Stern, arXiv 1804.04235, Algorithm 4.
    """

    def axes(leaf: Leaf) -> tuple[int, int] | None:
        order = np.argsort(leaf.base_shape)
        if not factored or len(order) < 2 or leaf.base_shape[order[-2]] < min_dim_size_to_factor:
            return None
        return int(order[-2]), int(order[-1])

    facts = jax.tree.unflatten(jax.tree.structure(rules.multiplier), rules.leaves)

    def init_fn(params: optax.Params) -> optax.FactoredState:
        check(rules, params)

        def start(leaf: Leaf, param: jax.Array) -> _Result:
            unused, pair = jnp.zeros((1,), param.dtype), axes(leaf)
            if pair is None:
                return _Result(None, unused, unused, jnp.zeros_like(param))
            small, large = pair  # like the sums, whose devices are those of the statistics
            row, col = (jnp.zeros_like(jnp.sum(param, axis=axis)) for axis in (large, small))
            return _Result(None, row, col, unused)

        return _state(jnp.zeros([], jnp.int32), map_with_rule(start, facts, params))

    def update_fn(updates: optax.Updates, state: optax.FactoredState, params: Any = None) -> Any:
        del params

        def step(leaf: Leaf, g: jax.Array, v_row: jax.Array, v_col: jax.Array, v: jax.Array) -> _Result:
            t = (state.count - step_offset + 1).astype(g.dtype)
            beta = 1.0 - t ** -jnp.asarray(decay_rate, g.dtype)
            square, pair = jnp.square(g) + jnp.asarray(epsilon, g.dtype), axes(leaf)
            if pair is None:
                v = beta * v + (1.0 - beta) * square
                return _Result(g * v**-0.5, v_row, v_col, v)
            small, large = pair
            v_row = beta * v_row + (1.0 - beta) * jnp.mean(square, axis=large)
            v_col = beta * v_col + (1.0 - beta) * jnp.mean(square, axis=small)
            mean = jnp.mean(v_row, axis=small - (small > large), keepdims=True)
            row, col = jnp.expand_dims((v_row / mean) ** -0.5, large), jnp.expand_dims(v_col**-0.5, small)
            return _Result(g * row * col, v_row, v_col, v)

        results = map_with_rule(step, facts, updates, state.v_row, state.v_col, state.v)
        return jax.tree.map(lambda r: r.update, results), _state(optax.safe_increment(state.count), results)

    return optax.GradientTransformation(init_fn, update_fn)


def _state(count: jax.Array, results: PyTree) -> optax.FactoredState:
    """Takes a tree of results apart into optax's state."""
    return optax.FactoredState(
        count, *(jax.tree.map(lambda r, f=field: getattr(r, f), results) for field in ("v_row", "v_col", "v"))
    )
