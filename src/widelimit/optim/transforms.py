"""Transforms that multiply each parameter's update by one number of the rules."""

from __future__ import annotations

from typing import Any

import jax
import optax

from widelimit.optim.matching import check, is_number, map_with_rule, times
from widelimit.scaling import Rules


def scale_by_layer(rules: Rules) -> optax.GradientTransformation:
    r"""Multiplies each parameter's update by its learning-rate factor.

    ``u_l <- r_l u_l`` with ``r_l = rules.learning_rate``. A schedule multiplies all layers by one further
    number, so it belongs in its own stage and cannot overwrite these. A factor that is the plain number 1
    adds no operation.

    Args:
        rules: of the parameters that will be updated; their trees may hold floats or scalar arrays.

    Raises:
        ValueError: in ``init``, if the parameters' paths or shapes are not those of the rules; in ``update``,
            if the paths are not.

    Example:
        >>> from fractions import Fraction
        >>> import jax.numpy as jnp
        >>> from widelimit.scaling import leaf_from_axes, make_rules, mup
        >>> leaf = leaf_from_axes("w", (8, 8), (2, 2), contracted=(0,), width=Fraction(4), base_width=2)
        >>> transform = scale_by_layer(make_rules({"w": leaf}, mup(), "adam"))
        >>> updates = {"w": jnp.ones((8, 8))}
        >>> float(transform.update(updates, transform.init(updates))[0]["w"][0, 0])
        0.25

    Reference:
        Yang et al., arXiv 2203.03466, Tables 3, 8 and 9.
    """

    def init_fn(params: optax.Params) -> optax.EmptyState:
        check(rules, params)
        return optax.EmptyState()

    def update_fn(updates: optax.Updates, state: optax.EmptyState, params: optax.Params | None = None) -> Any:
        del params
        return map_with_rule(times, rules.learning_rate, updates), state

    return optax.GradientTransformation(init_fn, update_fn)


def scale_gradients(rules: Rules) -> optax.GradientTransformation:
    r"""Divides each gradient by its epsilon factor, so that one epsilon is right at every width and form.

    ``g_l <- g_l / e_l`` with ``e_l = rules.epsilon = m^-d_l``: gradients then have the size they have at the
    base width. For Adam, ``(m/e) / (sqrt(v/e^2 + eps_root) + eps) = m / (sqrt(v + e^2 eps_root) + e eps)``,
    so both epsilons, the one outside the root and the one inside, come out scaled as they should.

    Args:
        rules: of the parameters that will be updated.

    Raises:
        ValueError: as ``scale_by_layer``.

    Example:
        >>> from fractions import Fraction
        >>> import jax.numpy as jnp
        >>> from widelimit.scaling import leaf_from_axes, make_rules, mup
        >>> leaf = leaf_from_axes("b", (8,), (2,), contracted=(), width=Fraction(4), base_width=2)
        >>> transform = scale_gradients(make_rules([leaf], mup(), "adam"))
        >>> [float(g[0]) for g in transform.update([jnp.ones(8)], transform.init([jnp.ones(8)]))[0]]
        [4.0]

    Reference:
        Yang & Littwin, arXiv 2308.01814, Definition 2.2.1 (the d of abcd); Everett et al., arXiv 2407.05872,
        Section 4.
    """

    def init_fn(params: optax.Params) -> optax.EmptyState:
        check(rules, params)
        return optax.EmptyState()

    def update_fn(updates: optax.Updates, state: optax.EmptyState, params: optax.Params | None = None) -> Any:
        del params
        return map_with_rule(lambda epsilon, g: times(1.0 / epsilon, g), rules.epsilon, updates), state

    return optax.GradientTransformation(init_fn, update_fn)


def scale_by_global_rate(
    learning_rate: optax.ScalarOrSchedule, sign: float = -1.0
) -> optax.GradientTransformation:
    """Multiplies by the rate; a float32 array keeps bfloat16 updates in bfloat16 (not so in optax)."""
    if is_number(learning_rate):
        return optax.scale(sign * float(learning_rate))
    if callable(learning_rate):
        return optax.scale_by_schedule(lambda count: sign * learning_rate(count))
    return optax.stateless(lambda updates, _: jax.tree.map(lambda u: times(sign * learning_rate, u), updates))
