"""Adam's direction without an epsilon: the plain ratio with 0/0 = 0, and the arctangent."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from widelimit.optim.matching import is_number


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

    ``m / (sqrt(v + eps_root) + eps)`` of the bias-corrected moments. For a positive epsilon this is
    ``optax.scale_by_adam``. Where the denominator is 0 the result is ``sign(m)``: 0 where no gradient ever
    came, and the limit of the ratio where ``g^2`` underflowed. A gradient that is not a number stays one.

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
    if is_number(eps) and is_number(eps_root) and eps + eps_root > 0:  # type: ignore[operator]
        return optax.scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)

    def ratio(m: jax.Array, v: jax.Array) -> jax.Array:
        denominator = (jnp.sqrt(v + _cast(eps_root, v)) + _cast(eps, v)).astype(m.dtype)
        return jnp.where(denominator == 0, jnp.sign(m), m / denominator)

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
        return _cast(a, m) * jnp.arctan2(m, _cast(b, m) * jnp.sqrt(v).astype(m.dtype))

    return _moments(b1, b2, mu_dtype, False, angle)


def _cast(number: Any, like: jax.Array) -> Any:
    """Gives an array the dtype of another; plain numbers adapt by themselves."""
    return number if is_number(number) else jnp.asarray(number, like.dtype)


def _moments(
    b1: Any, b2: Any, mu_dtype: Any, nesterov: bool, combine: Callable[[jax.Array, jax.Array], jax.Array]
) -> optax.GradientTransformation:
    """Runs Adam's two moments, operation by operation as optax does; the direction is ``combine(m, v)``."""

    def init_fn(params: optax.Params) -> optax.ScaleByAdamState:
        return optax.ScaleByAdamState(
            count=jnp.zeros([], jnp.int32),
            mu=optax.tree.zeros_like(params, dtype=mu_dtype),
            nu=optax.tree.zeros_like(params),
        )

    def update_fn(
        updates: optax.Updates, state: optax.ScaleByAdamState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.ScaleByAdamState]:
        del params
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment_per_elem_norm(updates, state.nu, b2, 2)
        count = optax.safe_increment(state.count)
        if nesterov:
            mu_hat = jax.tree.map(
                lambda m, g: b1 * m + (1 - b1) * g,
                optax.tree.bias_correction(mu, b1, optax.safe_increment(count)),
                optax.tree.bias_correction(updates, b1, count),
            )
        else:
            mu_hat = optax.tree.bias_correction(mu, b1, count)
        directions = jax.tree.map(combine, mu_hat, optax.tree.bias_correction(nu, b2, count))
        return directions, optax.ScaleByAdamState(
            count=count, mu=optax.tree.cast(mu, mu_dtype), nu=optax.tree.cast_like(nu, state.nu)
        )

    return optax.GradientTransformation(init_fn, update_fn)
