"""Full-batch gradient descent on any function of parameters: the network, or a Taylor model of it."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from widelimit.kernels.checks import Apply, PyTree, concrete, parameters, scales
from widelimit.kernels.dynamics.cross_entropy import check_labels
from widelimit.kernels.dynamics.factors import check_rate


class Descent(NamedTuple):
    """What training left behind: parameters, and outputs before every step and after the last.

    Args:
        params: after the last step.
        train: outputs at the training points, [T + 1, N, ...].
        test: outputs at the test points, [T + 1, M, ...], or None.

    Example:
        >>> Descent(params={}, train=jnp.zeros((3, 2)), test=None).train.shape
        (3, 2)
    """

    params: PyTree
    train: jax.Array
    test: jax.Array | None


def descend(
    apply: Apply,
    params: PyTree,
    x: Any,
    targets: jax.Array,
    rate: float | jax.Array,
    steps: int,
    *,
    rates: PyTree = None,
    momentum: float = 0.0,
    loss: Literal["mse", "cross_entropy"] = "mse",
    test: Any = None,
) -> Descent:
    r"""Trains a function by full-batch gradient descent and returns its outputs at every step.

    ``v <- momentum v + dL/dw_l``, ``w_l <- w_l - rate rates_l v``, on ``L = 1/(2N) sum_i |f_i - y_i|^2`` or
    the mean cross-entropy: what ``gradient_descent`` predicts from the kernel, same loss, same rate. One
    code trains the network and its ``linearise`` or ``quadratic`` model. Pure: it may be compiled, and
    mapped over parameters (seeds) and rates. It computes in the precision of the parameters.

    Args:
        apply: f, ``apply(params, x) -> outputs [N, ...]``.
        params: w_0, a pytree of floating arrays.
        x: inputs, leading axis N.
        targets: y, shaped like the outputs; for cross-entropy probabilities [N, O] or labels [N].
        rate: learning rate of the loss above.
        steps: T.
        rates: factor on the rate for each parameter, a pytree like params or ``Rules``; None is 1.
        momentum: from 0 to below 1, heavy ball.
        loss: ``"mse"`` or ``"cross_entropy"``.
        test: inputs to predict as well, leading axis M.

    Raises:
        ValueError: if the targets do not go with the outputs, a label names no class, or rate, momentum or
            loss is none. Labels, rate and momentum that are traced are not looked at.

    Example:
        >>> path = descend(lambda w, x: w * x, jnp.array(0.0), jnp.ones(1), jnp.ones(1), 0.5, 2)
        >>> path.train[:, 0].tolist(), float(path.params)
        ([0.0, 0.5, 0.75], 0.75)

    Reference:
        Lee et al., arXiv 1902.06720, Section 2.
    """
    if loss not in ("mse", "cross_entropy"):
        raise ValueError(f'loss must be "mse" or "cross_entropy"; got {loss!r}.')
    check_rate(rate if concrete(rate) else 1.0, momentum if concrete(momentum) else 0.0)
    parameters(params)
    scale = scales(rates, params)
    if scale is None:
        scale = jax.tree.map(lambda _: 1.0, params)

    def outputs(at: PyTree) -> Any:
        return apply(at, x), None if test is None else apply(at, test)

    def step(state: tuple[PyTree, PyTree], _: None) -> tuple[tuple[PyTree, PyTree], Any]:
        at, velocity = state
        f, pullback = jax.vjp(lambda p: apply(p, x), at)
        (gradient,) = pullback(_residual(f, targets, loss) / f.shape[0])
        velocity = jax.tree.map(lambda v, g: momentum * v + g, velocity, gradient)
        after = jax.tree.map(lambda w, r, v: w - rate * r * v, at, scale, velocity)
        return (after, velocity), (f, None if test is None else apply(at, test))

    start = (params, jax.tree.map(jnp.zeros_like, params))
    (end, _), path = jax.lax.scan(step, start, length=steps)
    train, tested = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), path, outputs(end))
    return Descent(end, train, tested)


def _residual(f: jax.Array, y: jax.Array, loss: str) -> jax.Array:
    """N times the derivative of the loss by the outputs."""
    labels = loss == "cross_entropy" and jnp.issubdtype(y.dtype, jnp.integer) and y.shape == f.shape[:-1]
    if not labels and f.shape != y.shape:
        raise ValueError(f"targets must be shaped like the outputs, {f.shape}; got {y.shape}.")
    if labels:
        if concrete(y):
            check_labels(np.asarray(y), f.shape[-1])
        y = jax.nn.one_hot(y, f.shape[-1], dtype=f.dtype)
    return (jax.nn.softmax(f) if loss == "cross_entropy" else f) - y
