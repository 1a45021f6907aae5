"""Ready optimizers: optax's, with one number per parameter wherever width enters (see also ``relative``)."""

from __future__ import annotations

import math

import jax
import optax

from widelimit.optim.decay import descend
from widelimit.optim.matching import PyTree, require_family
from widelimit.optim.moments import scale_by_adam, scale_by_adam_atan2
from widelimit.optim.transforms import scale_gradients
from widelimit.scaling import Rules


def sgd(
    learning_rate: optax.ScalarOrSchedule,
    rules: Rules,
    momentum: jax.typing.ArrayLike | None = None,
    nesterov: bool = False,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: PyTree | None = None,
    accumulator_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Stochastic gradient descent, with heavy-ball or Nesterov momentum.

    ``w_l <- w_l - lr_t r_l t_l``, ``t_l <- momentum t_l + g_l``; ``r_l = rules.learning_rate``. The decay is
    decoupled from the momentum.

    Args:
        learning_rate: global rate, any optax schedule or scalar array.
        rules: made for optimizer "sgd".
        momentum: decay of the trace; None keeps no trace.
        nesterov: use Nesterov's form.
        weight_decay: coefficient or schedule, in the convention of ``rules.decay``.
        mask: which parameters decay.
        accumulator_dtype: dtype of the trace; None takes the parameters'.

    Raises:
        ValueError: if the rules are for another optimizer or other parameters.

    Example:
        >>> from fractions import Fraction
        >>> import jax.numpy as jnp
        >>> from widelimit.scaling import leaf_from_axes, make_rules, mup
        >>> leaf = leaf_from_axes("b", (8,), (2,), contracted=(), width=Fraction(4), base_width=2)
        >>> optimizer = sgd(0.5, make_rules([leaf], mup(), "sgd"))
        >>> params = [jnp.ones(8)]
        >>> float(optimizer.update(params, optimizer.init(params), params)[0][0][0])
        -2.0

    Reference:
        Yang et al., arXiv 2203.03466, Tables 3, 8 and 9, rows "SGD LR".
    """
    require_family(rules, "sgd", "sgd")
    trace = optax.identity() if momentum is None else optax.trace(momentum, nesterov, accumulator_dtype)
    return optax.chain(trace, descend(learning_rate, rules, weight_decay, mask))


def adam(
    learning_rate: optax.ScalarOrSchedule,
    rules: Rules,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    eps_root: jax.typing.ArrayLike = 0.0,
    mu_dtype: jax.typing.DTypeLike | None = None,
    *,
    nesterov: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam with per-layer learning rate and epsilon.

    ``w_l <- w_l - lr_t r_l m_l / (sqrt(v_l + e_l^2 eps_root) + e_l eps)``; ``r_l = rules.learning_rate``,
    ``e_l = rules.epsilon``. ``eps = 0`` is allowed, see ``scale_by_adam``.

    Args:
        learning_rate: global rate, any optax schedule or scalar array.
        rules: made for optimizer "adam".
        b1: decay rate of the first moment.
        b2: decay rate of the second moment.
        eps: epsilon at the base width, outside the root.
        eps_root: epsilon at the base width, inside the root.
        mu_dtype: dtype of the first moment; None takes the parameters'.
        nesterov: use Nesterov's momentum.

    Raises:
        ValueError: if the rules are for another optimizer or other parameters, or an epsilon is negative.

    Example:
        >>> from fractions import Fraction
        >>> import jax.numpy as jnp
        >>> from widelimit.scaling import leaf_from_axes, make_rules, mup
        >>> leaf = leaf_from_axes("w", (8, 8), (2, 2), contracted=(0,), width=Fraction(4), base_width=2)
        >>> optimizer = adam(0.5, make_rules([leaf], mup(), "adam"), eps=0.0)
        >>> params = [jnp.ones((8, 8))]
        >>> round(float(optimizer.update(params, optimizer.init(params), params)[0][0][0, 0]), 5)
        -0.125

    Reference:
        Yang et al., arXiv 2203.03466, Tables 3, 8 and 9, rows "Adam LR"; epsilon: Yang & Littwin, arXiv
        2308.01814.
    """
    require_family(rules, "adam", "adam")
    direction = scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)
    return optax.chain(scale_gradients(rules), direction, descend(learning_rate, rules))


def adamw(
    learning_rate: optax.ScalarOrSchedule,
    rules: Rules,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    eps_root: jax.typing.ArrayLike = 0.0,
    mu_dtype: jax.typing.DTypeLike | None = None,
    weight_decay: optax.ScalarOrSchedule = 1e-4,
    mask: PyTree | None = None,
    *,
    nesterov: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam with per-layer learning rate and epsilon, and decoupled weight decay in a stated convention.

    ``w_l <- w_l - lr_t r_l m_l / (sqrt(v_l) + e_l eps) - D_l w_l``, ``D_l`` as ``rules.decay`` says: see
    ``add_decayed_weights``.

    Args:
        learning_rate: global rate, any optax schedule or scalar array.
        rules: made for optimizer "adam".
        b1: decay rate of the first moment.
        b2: decay rate of the second moment.
        eps: epsilon at the base width, outside the root.
        eps_root: epsilon at the base width, inside the root.
        mu_dtype: dtype of the first moment; None takes the parameters'.
        weight_decay: coefficient or schedule.
        mask: which parameters decay.
        nesterov: use Nesterov's momentum.

    Raises:
        ValueError: as ``adam``, and if the coefficient is negative.

    Example:
        >>> from fractions import Fraction
        >>> import jax.numpy as jnp
        >>> from widelimit.scaling import leaf_from_axes, make_rules, mup
        >>> leaf = leaf_from_axes("w", (8, 8), (2, 2), contracted=(0,), width=Fraction(4), base_width=2)
        >>> rules = make_rules([leaf], mup(), "adam", weight_decay="independent")
        >>> optimizer = adamw(0.5, rules, eps=0.0, weight_decay=0.25)
        >>> params = [jnp.ones((8, 8))]
        >>> round(float(optimizer.update(params, optimizer.init(params), params)[0][0][0, 0]), 5)
        -0.375

    Reference:
        Loshchilov & Hutter, arXiv 1711.05101; as ``adam``.
    """
    require_family(rules, "adamw", "adam")
    direction = scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)
    return optax.chain(scale_gradients(rules), direction, descend(learning_rate, rules, weight_decay, mask))


def adam_atan2(
    learning_rate: optax.ScalarOrSchedule,
    rules: Rules,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    a: jax.typing.ArrayLike = 4.0 / math.pi,
    b: jax.typing.ArrayLike = 1.0,
    mu_dtype: jax.typing.DTypeLike | None = None,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: PyTree | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam without an epsilon: ``w_l <- w_l - lr_t r_l a atan2(m_l, b sqrt(v_l)) - D_l w_l``.

    Nothing depends on the gradient's size, so the two members of an equivalence class stay together in finite
    precision. The gradients are still brought to their size at the base width, so that their squares
    underflow no earlier at large widths.

    Args:
        learning_rate: global rate, any optax schedule or scalar array.
        rules: made for optimizer "adam".
        b1: decay rate of the first moment.
        b2: decay rate of the second moment.
        a: factor on the angle.
        b: factor on ``sqrt(v)``.
        mu_dtype: dtype of the first moment; None takes the parameters'.
        weight_decay: coefficient or schedule, in the convention of ``rules.decay``.
        mask: which parameters decay.

    Raises:
        ValueError: as ``adamw``.

    Example:
        >>> from fractions import Fraction
        >>> import jax.numpy as jnp
        >>> from widelimit.scaling import leaf_from_axes, make_rules, mup
        >>> leaf = leaf_from_axes("w", (8, 8), (2, 2), contracted=(0,), width=Fraction(4), base_width=2)
        >>> optimizer = adam_atan2(0.5, make_rules([leaf], mup(), "adam"))
        >>> params = [jnp.ones((8, 8))]
        >>> round(float(optimizer.update(params, optimizer.init(params), params)[0][0][0, 0]), 5)
        -0.125

    Reference:
        Everett et al., arXiv 2407.05872, Section 4.3.
    """
    require_family(rules, "adam_atan2", "adam")
    direction = scale_by_adam_atan2(b1, b2, a, b, mu_dtype)
    return optax.chain(scale_gradients(rules), direction, descend(learning_rate, rules, weight_decay, mask))


def lion(
    learning_rate: optax.ScalarOrSchedule,
    rules: Rules,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.99,
    mu_dtype: jax.typing.DTypeLike | None = None,
    weight_decay: optax.ScalarOrSchedule = 1e-3,
    mask: PyTree | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Lion: ``w_l <- w_l - lr_t r_l sign(b1 m_l + (1 - b1) g_l) - D_l w_l``.

    A sign has no epsilon and takes Adam's exponents. (arXiv 2404.05728 found that Lion transferred less well
    than Adam under the same rule.)

    Args:
        learning_rate: global rate, any optax schedule or scalar array.
        rules: made for optimizer "adam".
        b1: weight of the momentum in the sign.
        b2: decay rate of the momentum.
        mu_dtype: dtype of the momentum; None takes the parameters'.
        weight_decay: coefficient or schedule, in the convention of ``rules.decay``.
        mask: which parameters decay.

    Raises:
        ValueError: as ``adamw``.

    Example:
        >>> from fractions import Fraction
        >>> import jax.numpy as jnp
        >>> from widelimit.scaling import leaf_from_axes, make_rules, mup
        >>> leaf = leaf_from_axes("w", (8, 8), (2, 2), contracted=(0,), width=Fraction(4), base_width=2)
        >>> optimizer = lion(0.5, make_rules([leaf], mup(), "adam"), weight_decay=0.0)
        >>> params = [jnp.ones((8, 8))]
        >>> float(optimizer.update(params, optimizer.init(params), params)[0][0][0, 0])
        -0.125

    Reference:
        Chen et al., arXiv 2302.06675; its exponents: Yang & Littwin, arXiv 2308.01814 (any entrywise
        optimizer).
    """
    require_family(rules, "lion", "adam")
    return optax.chain(
        optax.scale_by_lion(b1, b2, mu_dtype), descend(learning_rate, rules, weight_decay, mask)
    )
