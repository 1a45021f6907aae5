"""A global-norm clip that acts alike at every width and in every equivalent form."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from widelimit.optim.matching import check, is_number, map_with_rule, product, times, wider
from widelimit.scaling import Rules


def global_norm(gradients: optax.Updates, rules: Rules) -> jax.Array:
    r"""Returns the norm of the gradients in width-independent units.

    ``sqrt(sum_l k_l^2 ||g_l||_F^2)`` with ``k_l = rules.gradient_norm``: the raw gradient's norm scales with
    width, and by the forward multiplier between equivalent forms; ``k_l`` undoes both. At the base width of a
    relative form it is the plain global norm. Sums are taken in float32 at least.

    Args:
        gradients: a tree with the structure of the rules.
        rules: of the parameters.

    Raises:
        ValueError: if the structures differ.

    Example:
        >>> from fractions import Fraction
        >>> import jax.numpy as jnp
        >>> from widelimit.scaling import leaf_from_axes, make_rules, mup
        >>> leaf = leaf_from_axes("w", (8, 8), (2, 2), contracted=(0,), width=Fraction(4), base_width=2)
        >>> rules = make_rules([leaf], mup(table=8), "sgd")
        >>> float(global_norm([jnp.ones((8, 8))], rules)), rules.gradient_norm
        (8.0, [1.0])

    Reference:
        Yang et al., arXiv 2203.03466, Section 8.2 (clipping); the factor follows from the gradient exponents
        of arXiv 2308.01814.
    """

    def square(factor: Any, gradient: jax.Array) -> jax.Array:
        wide = gradient.astype(wider(gradient.dtype, jnp.float32))
        total = jnp.sum(jnp.real(wide * jnp.conj(wide)))
        return times(product(factor, factor), total)

    squares = jax.tree.leaves(map_with_rule(square, rules.gradient_norm, gradients))
    wide = wider(jnp.float32, *squares)
    return jnp.sqrt(sum((value.astype(wide) for value in squares), jnp.zeros([], wide)))


def clip_by_global_norm(max_norm: jax.typing.ArrayLike, rules: Rules) -> optax.GradientTransformation:
    r"""Scales all gradients by ``min(1, max_norm / norm)``, the norm taken in width-independent units.

    The plain clip's threshold means something else at every width (under muP's Table 3 the readout's gradient
    grows like ``n^(1/2)`` and dominates), and in every equivalent form; with ``global_norm`` one threshold,
    tuned at the base width, serves all. First in the chain: ``optax.chain(clip_by_global_norm(1.0, rules),
    adamw(learning_rate, rules))``. As one factor multiplies all gradients, it changes nothing but their
    common size.

    Args:
        max_norm: the threshold, in units of the gradient norm at the base width.
        rules: of the parameters.

    Raises:
        ValueError: if the threshold is not positive, or the structures or shapes differ.

    Example:
        >>> from fractions import Fraction
        >>> import jax.numpy as jnp
        >>> from widelimit.scaling import leaf_from_axes, make_rules, mup
        >>> leaf = leaf_from_axes("w", (8, 8), (2, 2), contracted=(0,), width=Fraction(4), base_width=2)
        >>> transform = clip_by_global_norm(2.0, make_rules([leaf], mup(), "sgd"))
        >>> gradients = [jnp.ones((8, 8))]
        >>> float(transform.update(gradients, transform.init(gradients))[0][0][0, 0])
        0.25

    Reference:
        Pascanu et al., arXiv 1211.5063.
    """
    if is_number(max_norm) and not max_norm > 0:  # type: ignore[operator]
        raise ValueError(f"max_norm must be positive; got {max_norm}.")

    def init_fn(params: optax.Params) -> optax.EmptyState:
        check(rules, params)
        return optax.EmptyState()

    def update_fn(updates: optax.Updates, state: optax.EmptyState, params: optax.Params | None = None) -> Any:
        del params
        norm = global_norm(updates, rules)
        keep = norm < jnp.asarray(max_norm, norm.dtype)

        def clip(gradient: jax.Array) -> jax.Array:
            clipped = gradient / norm.astype(gradient.dtype) * jnp.asarray(max_norm, gradient.dtype)
            return jnp.where(keep, gradient, clipped)

        return jax.tree.map(clip, updates), state

    return optax.GradientTransformation(init_fn, update_fn)
