"""Adam's direction without an epsilon: the plain ratio with 0/0 = 0, and the arctangent."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from widelimit.optim.matching import cast, is_number, wider


def scale_by_adam(
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    eps_root: jax.typing.ArrayLike = 0.0,
    mu_dtype: jax.typing.DTypeLike | None = None,
    *,
    nesterov: bool = False,
) -> optax.GradientTransformation:
    r"""Adam's direction, also with an epsilon of exactly zero.

    ``m / (sqrt(v + eps_root) + eps)`` of the bias-corrected moments; with a positive epsilon the same numbers
    as ``optax.scale_by_adam``. Where the denominator is 0 the result is ``sign(m)``: 0 where no
    gradient ever came, and the limit of the ratio where ``g^2`` underflowed. A gradient that is not a number
    stays one. Unlike optax's it also runs under strict dtype promotion.

    Args:
        b1: decay rate of the first moment.
        b2: decay rate of the second moment.
        eps: added outside the root; in the gradient's unit.
        eps_root: added inside the root; in the gradient's unit squared.
        mu_dtype: dtype of the first moment; None takes the parameters'.
        nesterov: use Nesterov's momentum.

    Raises:
        ValueError: if an epsilon is negative.

    Example:
        >>> import jax.numpy as jnp
        >>> transform = scale_by_adam(eps=0.0)
        >>> gradient = jnp.array([0.0, 1e-3, -5.0])
        >>> [round(float(u), 5) for u in transform.update(gradient, transform.init(gradient))[0]]
        [0.0, 1.0, -1.0]

    Reference:
        Kingma & Ba, arXiv 1412.6980.
    """
    for name, value in (("eps", eps), ("eps_root", eps_root)):
        if is_number(value) and not value >= 0:  # type: ignore[operator]
            raise ValueError(f"{name} must be zero or positive; got {value}.")
    positive = is_number(eps) and is_number(eps_root) and eps + eps_root > 0  # type: ignore[operator]

    def ratio(m: jax.Array, v: jax.Array) -> jax.Array:
        denominator = jnp.sqrt(v + cast(eps_root, v)) + cast(eps, v)
        return m / denominator if positive else jnp.where(denominator == 0, jnp.sign(m), m / denominator)

    return _moments(b1, b2, mu_dtype, nesterov, ratio)


def scale_by_adam_atan2(
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    a: jax.typing.ArrayLike = 4.0 / math.pi,
    b: jax.typing.ArrayLike = 1.0,
    mu_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformation:
    r"""Adam's direction with the division replaced by an arctangent: no epsilon to scale.

    ``a atan2(m, b sqrt(v))`` of the bias-corrected moments: unchanged when all gradients are multiplied by a
    constant, 0 at 0/0, bounded by ``a pi/2``, and ``(a/b) m/sqrt(v)`` where ``|m| << sqrt(v)``. The default
    ``a = 4/pi, b = 1`` makes a steady gradient step by exactly 1, as Adam does, so that Adam's learning rates
    carry over; the plain ``a = b = 1`` agrees with Adam for small ratios instead.

    Args:
        b1: decay rate of the first moment.
        b2: decay rate of the second moment.
        a: factor on the angle, dimensionless.
        b: factor on ``sqrt(v)``, dimensionless.
        mu_dtype: dtype of the first moment; None takes the parameters'.

    Example:
        >>> import jax.numpy as jnp
        >>> transform = scale_by_adam_atan2()
        >>> gradient = jnp.array([0.0, 1e-3, -5.0])
        >>> [round(float(u), 5) for u in transform.update(gradient, transform.init(gradient))[0]]
        [0.0, 1.0, -1.0]

    Reference:
        Everett et al., arXiv 2407.05872, Section 4.3 (Adam-atan2).
    """

    def angle(m: jax.Array, v: jax.Array) -> jax.Array:
        return cast(a, m) * jnp.arctan2(m, cast(b, m) * jnp.sqrt(v))

    return _moments(b1, b2, mu_dtype, False, angle)


def _moments(
    b1: Any, b2: Any, mu_dtype: Any, nesterov: bool, combine: Callable[[jax.Array, jax.Array], jax.Array]
) -> optax.GradientTransformation:
    """Runs Adam's two moments, rounding as optax does; the direction is ``combine(m, v)``."""

    def init_fn(params: optax.Params) -> optax.ScaleByAdamState:
        return optax.ScaleByAdamState(
            count=jnp.zeros([], jnp.int32),
            mu=optax.tree.zeros_like(params, dtype=mu_dtype),
            nu=optax.tree.zeros_like(params),
        )

    def update_fn(updates: optax.Updates, state: optax.ScaleByAdamState, params: Any = None) -> Any:
        del params
        count = optax.safe_increment(state.count)
        # One scalar each for all parameters, as in optax: where it is computed decides the last bit.
        mass1, mass2 = _mass(b1, count), _mass(b2, count)
        ahead = _mass(b1, optax.safe_increment(count)) if nesterov else mass1

        def average(decay: Any, old: jax.Array, new: jax.Array) -> jax.Array:
            dtype = wider(old.dtype, new.dtype)
            decay = cast(decay, jnp.zeros((), dtype))
            return (1 - decay) * new.astype(dtype) + decay * old.astype(dtype)

        def direction(g: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
            m_hat = m / mass1.astype(m.dtype)
            if nesterov:
                m_hat = average(b1, m / ahead.astype(m.dtype), g / mass1.astype(g.dtype))
            v_hat = v / mass2.astype(v.dtype)
            return combine(m_hat, v_hat.astype(m_hat.dtype)).astype(g.dtype)

        mu = jax.tree.map(lambda g, m: average(b1, m, g), updates, state.mu)
        nu = jax.tree.map(lambda g, v: average(b2, v, jnp.real(g * jnp.conj(g))), updates, state.nu)
        directions = jax.tree.map(direction, updates, mu, nu)
        mu, nu = (optax.tree.cast_like(new, old) for new, old in ((mu, state.mu), (nu, state.nu)))
        return directions, optax.ScaleByAdamState(count=count, mu=mu, nu=nu)

    return optax.GradientTransformation(init_fn, update_fn)


def _mass(decay: Any, count: jax.Array) -> jax.Array:
    """Returns the weight of ``count`` steps in a moment started at zero; an integer power, as optax takes."""
    return 1 - jax.lax.pow(jnp.asarray(decay, float), count)
