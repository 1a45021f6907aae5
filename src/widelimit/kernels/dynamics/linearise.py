"""Taylor models of a network in its parameters: around the start, and around every step of training."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from widelimit.kernels.checks import Apply, PyTree, parameters


def linearise(apply: Apply, params: PyTree) -> Apply:
    r"""Returns the network's linearisation around its parameters, as a function to use in its place.

    ``g(w, x) = f(w_0, x) + J(w_0, x) (w - w_0)``, one forward-mode derivative, never the Jacobian itself.
    Its tangent kernel is that of f at w_0, for all w. Train it as f is trained: jit, grad and vmap apply.

    Args:
        apply: f, ``apply(params, x) -> outputs``, any Flax model or pure function.
        params: w_0, a pytree of floating arrays.

    Example:
        >>> import jax.numpy as jnp
        >>> g = linearise(lambda w, x: w**2 * x, jnp.array(1.0))
        >>> float(g(jnp.array(3.0), jnp.array(1.0)))  # 1 + 2 * (3 - 1), where f is 9
        5.0

    Reference:
        Lee et al., arXiv 1902.06720, Eq. 3.
    """
    parameters(params)

    def linear(new: PyTree, x: Any) -> jax.Array:
        value, change = jax.jvp(lambda p: apply(p, x), (params,), (_minus(new, params),))
        return value + change

    return linear


def quadratic(apply: Apply, params: PyTree) -> Apply:
    r"""Returns the network's second-order Taylor model around its parameters.

    ``g(w, x) = f + J d + 1/2 d^T H d``, ``d = w - w_0``, with f, J and H at (w_0, x), by two nested
    forward-mode derivatives. It is the simplest model whose kernel moves, and shows the catapult.

    Args:
        apply: f, ``apply(params, x) -> outputs``.
        params: w_0, a pytree of floating arrays.

    Example:
        >>> import jax.numpy as jnp
        >>> g = quadratic(lambda w, x: w**2 * x, jnp.array(1.0))
        >>> float(g(jnp.array(3.0), jnp.array(1.0)))
        9.0

    Reference:
        Zhu et al., arXiv 2205.11787, Eq. 2.
    """
    parameters(params)

    def second_order(new: PyTree, x: Any) -> jax.Array:
        direction = _minus(new, params)

        def along(p: PyTree) -> tuple[jax.Array, jax.Array]:
            return jax.jvp(lambda p: apply(p, x), (p,), (direction,))

        (value, slope), (_, curvature) = jax.jvp(along, (params,), (direction,))
        return value + slope + 0.5 * curvature

    return second_order


def telescoping_step(apply: Apply, before: PyTree, after: PyTree, x: Any) -> jax.Array:
    r"""Returns the linearised change of the outputs in one step of training, ``J(w, x) (w' - w)``.

    Added to f_0(x) step by step inside a training loop, with whichever optimizer, it gives the telescoping
    model without keeping a trajectory.

    Args:
        apply: f, ``apply(params, x) -> outputs``.
        before: w, the parameters before the step.
        after: w', those after it.
        x: inputs.

    Example:
        >>> import jax.numpy as jnp
        >>> float(telescoping_step(lambda w, x: w**2 * x, jnp.array(1.0), jnp.array(1.5), jnp.array(1.0)))
        1.0

    Reference:
        Jeffares et al., arXiv 2411.00247, Eq. 4.
    """
    return jax.jvp(lambda p: apply(p, x), (before,), (_minus(after, before),))[1]


def telescoping(apply: Apply, trajectory: PyTree, x: Any) -> jax.Array:
    r"""Returns the predictions of the telescoping model along a trajectory of parameters, [T + 1, N, ...].

    ``f~_t = f_0 + sum_{s=1..t} J(w_{s-1}, x) (w_s - w_{s-1})``: training linearised anew at every step. At
    fixed time its error against f_t vanishes with the learning rate, at any width (in the NTK
    parametrization, for a smooth activation, it is of order rate/width); that of the single linearisation is
    of order 1/width whatever the rate. Momentum and Adam enter through the steps.

    Args:
        apply: f, ``apply(params, x) -> outputs``.
        trajectory: the parameters w_0 ... w_T, stacked: a pytree like params with a leading axis T + 1, as
            ``jax.lax.scan`` returns it. Linearised one step at a time.
        x: inputs.

    Raises:
        ValueError: if the leading axes differ, as those of parameters that were not stacked do.

    Example:
        >>> import jax.numpy as jnp
        >>> telescoping(lambda w, x: w**2 * x, jnp.array([1.0, 1.5, 2.0]), jnp.array(1.0)).tolist()
        [1.0, 2.0, 3.5]

    Reference:
        Jeffares et al., arXiv 2411.00247, Eq. 4.
    """
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(trajectory)}
    if len(lengths) != 1 or () in lengths:
        raise ValueError(
            "trajectory must be one pytree of parameters stacked along a leading axis T + 1; got leaves "
            f"whose first axes are {sorted(lengths)}. Stack: jax.tree.map(lambda *w: jnp.stack(w), *list)."
        )
    start = jax.tree.map(lambda leaf: leaf[0], trajectory)
    first = apply(start, x)

    def step(carry: tuple[PyTree, jax.Array], after: PyTree) -> tuple[tuple[PyTree, jax.Array], jax.Array]:
        before, outputs = carry
        outputs = outputs + telescoping_step(apply, before, after, x)
        return (after, outputs), outputs

    rest = jax.tree.map(lambda leaf: leaf[1:], trajectory)
    _, path = jax.lax.scan(step, (start, first), rest)
    return jnp.concatenate([first[None], path])


def _minus(a: PyTree, b: PyTree) -> PyTree:
    """Difference of two trees of parameters."""
    return jax.tree.map(jnp.subtract, a, b)
