"""Decoupled weight decay in stated conventions, and the stages that end every optimizer."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from widelimit.optim.matching import PyTree, check, is_number, map_with_rule, product, times
from widelimit.optim.transforms import scale_by_global_rate, scale_by_layer
from widelimit.scaling import Rules


class DecayState(NamedTuple):
    """State of a decay whose coefficient is a schedule."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=jnp.int32


def add_decayed_weights(
    weight_decay: optax.ScalarOrSchedule, rules: Rules, mask: PyTree | None = None
) -> optax.GradientTransformation:
    r"""Adds decoupled weight decay in the convention that ``rules.decay`` names.

    With ``lr_t`` the global rate, ``r_l = rules.learning_rate``, ``k_l = rules.weight_decay``, a step removes
    ``D_l w_l``:

    * ``"coupled"``: ``D = lr_t r_l wd`` (k = 1), as AdamW on the layer's own rate;
    * ``"undone"``: ``D = lr_t wd`` (k = 1/r), the layer's rate undone, as microsoft/mup does;
    * ``"sqrt_width"``: ``D = lr_t r_l wd sqrt(m)`` where the fan-in grows, 0 for vectors (k says so);
    * ``"independent"``: ``D = wd``, and only a schedule of its own changes it.

    The place in the chain follows: the first three *add* ``wd k_l w`` and stand before ``scale_by_layer`` and
    the learning rate; ``"independent"`` *subtracts* ``wd k_l w`` and stands after both. ``descend`` puts each
    where it belongs.

    Args:
        weight_decay: the coefficient wd, or a schedule of it (steps -> coefficient).
        rules: of the parameters that will be updated.
        mask: which parameters decay: a tree of booleans shaped like the parameters or a prefix of it, or a
            function that makes one from them. None decays all.

    Raises:
        ValueError: if the convention is unknown, the coefficient negative, or ``update`` is called without
            parameters.

    Example:
        >>> from fractions import Fraction
        >>> import jax.numpy as jnp
        >>> from widelimit.scaling import leaf_from_axes, make_rules, mup
        >>> leaf = leaf_from_axes("w", (8, 8), (2, 2), contracted=(0,), width=Fraction(4), base_width=2)
        >>> rules = make_rules([leaf], mup(), "adam", weight_decay="undone")
        >>> params = [jnp.ones((8, 8))]
        >>> transform = add_decayed_weights(0.5, rules)
        >>> float(transform.update([jnp.zeros((8, 8))], transform.init(params), params)[0][0][0, 0])
        2.0

    Reference:
        Loshchilov & Hutter, arXiv 1711.05101; Yang et al., arXiv 2203.03466, Appendix B.3; arXiv 2510.15262
        (sqrt width).
    """
    if rules.decay not in ("coupled", "undone", "independent", "sqrt_width"):
        raise ValueError(
            f"rules.decay must be coupled, undone, independent or sqrt_width; got {rules.decay!r}. "
            "Make rules with make_rules."
        )
    return decayed(weight_decay, rules, rules.weight_decay, mask, subtract=rules.decay == "independent")


def decayed(
    weight_decay: optax.ScalarOrSchedule, rules: Rules, factors: PyTree, mask: PyTree | None, subtract: bool
) -> optax.GradientTransformation:
    """Adds or subtracts ``weight_decay * factor * parameter``: the one stage behind every convention."""
    if is_number(weight_decay) and not weight_decay >= 0:
        raise ValueError(f"weight_decay must be zero or positive; got {weight_decay}.")

    def init_fn(params: optax.Params) -> DecayState | optax.EmptyState:
        check(rules, params)
        return DecayState(jnp.zeros([], jnp.int32)) if callable(weight_decay) else optax.EmptyState()

    def update_fn(updates: optax.Updates, state: Any, params: optax.Params | None = None) -> Any:
        if params is None:
            raise ValueError("weight decay needs the parameters: call update(updates, state, params).")
        coefficient = weight_decay(state.count) if callable(weight_decay) else weight_decay

        def decay(factor: Any, update: jax.Array, param: jax.Array) -> jax.Array:
            if is_number(factor) and factor == 0:
                return update
            removed = times(product(coefficient, factor), param).astype(update.dtype)
            return update - removed if subtract else update + removed

        updates = map_with_rule(decay, factors, updates, params)
        return updates, DecayState(optax.safe_increment(state.count)) if callable(weight_decay) else state

    transform = optax.GradientTransformation(init_fn, update_fn)
    return transform if mask is None else optax.masked(transform, mask)


def descend(
    learning_rate: optax.ScalarOrSchedule,
    rules: Rules,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: PyTree | None = None,
) -> optax.GradientTransformation:
    r"""Turns a direction into a step: weight decay, layer rates and the global rate, each in its place.

    ``u_l <- -lr_t r_l (u_l + wd k_l w_l)``, or ``-lr_t r_l u_l - wd k_l w_l`` when ``rules.decay`` is
    ``"independent"``. Put it behind any direction of your own: ``optax.chain(direction,
    descend(learning_rate, rules))``.

    Args:
        learning_rate: the global rate: a number, a scalar array, or any optax schedule.
        rules: of the parameters that will be updated.
        weight_decay: the coefficient, or a schedule of it; a plain 0 adds no stage.
        mask: which parameters decay, as in ``add_decayed_weights``.

    Raises:
        ValueError: as ``add_decayed_weights`` and ``scale_by_layer``.

    Example:
        >>> from fractions import Fraction
        >>> import jax.numpy as jnp
        >>> from widelimit.scaling import leaf_from_axes, make_rules, mup
        >>> leaf = leaf_from_axes("w", (8, 8), (2, 2), contracted=(0,), width=Fraction(4), base_width=2)
        >>> params = [jnp.ones((8, 8))]
        >>> transform = descend(0.5, make_rules([leaf], mup(), "adam"), weight_decay=1.0)
        >>> float(transform.update(params, transform.init(params), params)[0][0][0, 0])
        -0.25

    Reference:
        As ``add_decayed_weights``.
    """
    rates = [scale_by_layer(rules), scale_by_global_rate(learning_rate)]
    if is_number(weight_decay) and weight_decay == 0:
        return optax.chain(*rates)
    decay = add_decayed_weights(weight_decay, rules, mask)
    return optax.chain(*rates, decay) if rules.decay == "independent" else optax.chain(decay, *rates)
