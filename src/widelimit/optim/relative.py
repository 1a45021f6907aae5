"""Adafactor, whose steps are relative to the weights, and the three places where width enters it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from widelimit.optim.decay import decayed
from widelimit.optim.factored import scale_by_factored_rms
from widelimit.optim.matching import PyTree, check, is_number, map_with_rule, product, require_family, wider
from widelimit.optim.transforms import scale_by_global_rate, scale_by_layer, scale_gradients
from widelimit.scaling import Leaf, Role, Rules


def parameter_scale(rules: Rules) -> PyTree:
    r"""Returns the size of each raw weight relative to the base width's: ``m^-(a+b) / A_l``.

    The effective weight of a role shrinks like ``m^-(a+b)`` in every equivalent form; dividing by its forward
    multiplier gives the raw one (``m^-b`` in relative form). gamma0 and the power of the depth in a branch's
    last layer are left out: they weaken what the weight does without changing its raw size.

    Args:
        rules: of any parameters.

    Example:
        >>> from fractions import Fraction
        >>> from widelimit.scaling import leaf_from_axes, make_rules, mup
        >>> leaf = leaf_from_axes("w", (8, 8), (2, 2), contracted=(0,), width=Fraction(4), base_width=2)
        >>> parameter_scale(make_rules([leaf], mup(), "adafactor"))
        [0.5]

    Reference:
        Everett et al., arXiv 2407.05872, Section 2 (Adafactor's invariance: the rate is relative to the
        weight).
    """
    table = rules.parametrization

    def scale(leaf: Leaf, multiplier: Any) -> Any:
        natural = float(leaf.width) ** -float(table.multiplier[leaf.role] + table.init[leaf.role])
        if leaf.tied:
            return natural
        if leaf.ends_branch and leaf.depth is not None:
            natural *= float(leaf.depth) ** -float(table.branch)
        return natural / (multiplier * table.gamma0 if leaf.role is Role.OUTPUT else multiplier)

    multipliers, treedef = jax.tree.flatten(rules.multiplier)
    return jax.tree.unflatten(treedef, [scale(*pair) for pair in zip(rules.leaves, multipliers, strict=True)])


def scale_by_parameter_rms(
    rules: Rules, min_scale: jax.typing.ArrayLike = 1e-3
) -> optax.GradientTransformation:
    r"""Multiplies each update by its parameter's root mean square, bounded below in that parameter's units.

    ``u_l <- u_l max(rms(w_l), s_l min_scale)`` with ``s_l = parameter_scale(rules)``. Biases and weights that
    start at zero train from this bound. A fixed one would be a different fraction of a typical weight at
    every width and in every equivalent form; this one is ``min_scale`` at the base width and shrinks as the
    weights do.

    Args:
        rules: of the parameters that will be updated.
        min_scale: the bound at the base width, in units of the effective weight.

    Raises:
        ValueError: if the structures or shapes differ, or ``update`` is called without parameters.

    Example:
        >>> from fractions import Fraction
        >>> import jax.numpy as jnp
        >>> from widelimit.scaling import leaf_from_axes, make_rules, mup
        >>> leaf = leaf_from_axes("w", (8, 8), (2, 2), contracted=(0,), width=Fraction(4), base_width=2)
        >>> transform = scale_by_parameter_rms(make_rules([leaf], mup(), "adafactor"))
        >>> params = [jnp.zeros((8, 8))]
        >>> f"{transform.update([jnp.ones((8, 8))], transform.init(params), params)[0][0][0, 0]:.1e}"
        '5.0e-04'

    Reference:
        Shazeer & Stern, arXiv 1804.04235, Section 8 (parameter scaling, epsilon_2).
    """
    smallest = jax.tree.map(lambda scale: product(min_scale, scale), parameter_scale(rules))

    def init_fn(params: optax.Params) -> optax.EmptyState:
        check(rules, params)
        return optax.EmptyState()

    def update_fn(updates: optax.Updates, state: optax.EmptyState, params: optax.Params | None = None) -> Any:
        if params is None:
            raise ValueError("scaling by the parameters needs them: call update(updates, state, params).")

        def scale(bound: Any, update: jax.Array, param: jax.Array) -> jax.Array:
            return update * optax.safe_root_mean_squares(param, jnp.asarray(bound, param.dtype)).astype(
                update.dtype
            )

        return map_with_rule(scale, smallest, updates, params), state

    return optax.GradientTransformation(init_fn, update_fn)


def adafactor(
    learning_rate: optax.ScalarOrSchedule,
    rules: Rules,
    min_dim_size_to_factor: int = 128,
    decay_rate: jax.typing.ArrayLike = 0.8,
    decay_offset: jax.typing.ArrayLike = 0,
    clipping_threshold: jax.typing.ArrayLike | None = 1.0,
    momentum: jax.typing.ArrayLike | None = None,
    eps: jax.typing.ArrayLike = 1e-30,
    factored: bool = True,
    min_scale: jax.typing.ArrayLike = 1e-3,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: PyTree | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adafactor with parameter scaling: each update is relative to its parameter's size.

    ``w_l <- w_l - lr_t r_l max(rms(w_l), s_l min_scale) clip(g_l / sqrt(v_l)) - D_l w_l``. Beside the layer
    rates, width enters in three places, and all are neutral at the base width: ``eps`` (the gradient is
    divided by ``rules.epsilon``), the smallest scale (``scale_by_parameter_rms``) and the choice of factored
    arrays (``scale_by_factored_rms``). Statistics are kept in float32 at least, whatever the parameters'
    dtype.

    Args:
        learning_rate: global rate, any optax schedule or scalar array; relative to the parameters' size.
        rules: made for optimizer "adafactor".
        min_dim_size_to_factor: smallest second-largest axis, at the base width, of an array that is factored.
        decay_rate: exponent of the second moment's decay.
        decay_offset: number of the first step.
        clipping_threshold: largest root mean square of a direction; None does not clip.
        momentum: decay of a moving average of the steps; None keeps none.
        eps: added to the squared gradient, at the base width.
        factored: false keeps the full second moment of every array.
        min_scale: smallest parameter scale, at the base width.
        weight_decay: coefficient or schedule, in the convention of ``rules.decay`` (optax's own is
            "independent").
        mask: which parameters decay.

    Raises:
        ValueError: if the rules are for another optimizer or other parameters, or the coefficient is
            negative.

    Example:
        >>> from fractions import Fraction
        >>> import jax.numpy as jnp
        >>> from widelimit.scaling import leaf_from_axes, make_rules, mup
        >>> leaf = leaf_from_axes("w", (8, 8), (2, 2), contracted=(0,), width=Fraction(4), base_width=2)
        >>> optimizer = adafactor(0.5, make_rules([leaf], mup(), "adafactor"))
        >>> params = [jnp.ones((8, 8))]
        >>> float(optimizer.update(params, optimizer.init(params), params)[0][0][0, 0])
        -0.25

    Reference:
        Shazeer & Stern, arXiv 1804.04235; exponents: Everett et al., arXiv 2407.05872, Table 1.
    """
    require_family(rules, "adafactor", "adafactor")
    stages = [
        scale_gradients(rules),
        scale_by_factored_rms(rules, factored, decay_rate, decay_offset, min_dim_size_to_factor, eps),
    ]
    if clipping_threshold is not None:
        stages.append(optax.clip_by_block_rms(clipping_threshold))
    # The order of the products is optax's, so that neutral rules give its very bits.
    stages += [scale_by_global_rate(learning_rate, sign=1.0), scale_by_layer(rules)]
    stages.append(scale_by_parameter_rms(rules, min_scale))
    if momentum is not None:
        stages.append(optax.ema(momentum, debias=False))
    step = _in_float32(optax.chain(*stages, optax.scale(-1.0)))
    if is_number(weight_decay) and weight_decay == 0:
        return optax.chain(step)
    return optax.chain(step, _decay_after(learning_rate, rules, weight_decay, mask))


def _decay_after(
    learning_rate: optax.ScalarOrSchedule,
    rules: Rules,
    weight_decay: optax.ScalarOrSchedule,
    mask: PyTree | None,
) -> optax.GradientTransformation:
    """Subtracts the decay behind a finished step: it must not feel the parameter's size as the step does."""
    if rules.decay == "independent":
        return decayed(weight_decay, rules, rules.weight_decay, mask, subtract=True)
    factors = jax.tree.map(product, rules.weight_decay, rules.learning_rate)
    if not callable(learning_rate) and not callable(weight_decay):
        return decayed(product(learning_rate, weight_decay), rules, factors, mask, subtract=True)

    def coefficient(count: jax.Array) -> Any:
        values = (value(count) if callable(value) else value for value in (learning_rate, weight_decay))
        return product(*values)

    return decayed(coefficient, rules, factors, mask, subtract=True)


def _in_float32(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Runs a transform in float32 at least: in bfloat16 a slowly decaying second moment would stop moving."""

    def widen(tree: Any) -> Any:
        return jax.tree.map(lambda x: x.astype(wider(x.dtype, jnp.float32)), tree)

    def init_fn(params: optax.Params) -> Any:
        return inner.init(widen(params))

    def update_fn(updates: optax.Updates, state: Any, params: optax.Params | None = None) -> Any:
        wide, state = inner.update(widen(updates), state, widen(params))
        return jax.tree.map(lambda u, like: u.astype(like.dtype), wide, updates), state

    return optax.GradientTransformation(init_fn, update_fn)
