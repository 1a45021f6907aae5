"""Random projections: few numbers per sample whose inner products are the empirical NTK on average."""

from __future__ import annotations

import operator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from widelimit.kernels import checks
from widelimit.kernels.checks import Apply, PyTree
from widelimit.kernels.empirical.checks import pair
from widelimit.kernels.empirical.ntk import ntk


def sketch(
    apply: Apply,
    params: PyTree,
    x: PyTree,
    *,
    size: int,
    key: jax.Array,
    rates: PyTree = None,
    per: Literal["output", "sum"] = "output",
    chunk: int = 8,
) -> jax.Array:
    r"""Computes features of ``size`` numbers whose inner products are the empirical NTK in expectation.

    ``S[i, o, c] = (1 / sqrt(size)) sum_l sqrt(rates_l) <df_o(x_i)/dw_l, r_cl>`` with independent random signs
    r, so ``E[S S^T] = Theta``. An entry ``<a, b>`` of the kernel (a, b: gradients times sqrt(rates)) comes
    with the variance ``(|a|^2 |b|^2 + <a, b>^2 - 2 sum_w a_w^2 b_w^2) / size``: the error falls as
    size^(-1/2), and the estimate is positive semi-definite whatever the size.

    Each column is one product of the Jacobian with one vector, in forward mode: neither the Jacobian
    ``[N, O, P]`` nor the projection ``[P, size]`` is ever held, only ``chunk`` sign vectors of length P. That
    costs about 2 forward passes per column for all outputs together.

    The signs depend on ``key`` and ``params`` alone: sketches of other inputs with the same key fit this one,
    ``E[S(x1) S(x2)^T] = Theta(x1, x2)``, so many inputs can be sketched in blocks.

    Args:
        apply: ``apply(params, x) -> outputs [N, ...]``, sample by sample.
        params: the parameters to differentiate by.
        x: inputs, a pytree of arrays with leading axis N.
        size: number of features k per sample (and output).
        key: of the random signs.
        rates: learning rate of each parameter, as for ``ntk``; none may be negative.
        per: "output" for all outputs O; "sum" for one set of features per sample, of the sum of the outputs
            over sqrt(O), the form "sum" of ``ntk``.
        chunk: columns computed together. More is faster, and takes P + (what the network's layers return for
            N samples) more memory each.

    Returns:
        The features, [N, O, size] or [N, size].

    Raises:
        ValueError: if ``size`` or ``chunk`` is no positive whole number, a rate is negative, or ``per`` is
            unknown.

    Example:
        >>> w, x = jnp.ones(300), jnp.eye(2, 300)
        >>> S = sketch(lambda w, x: (x @ w)[:, None], w, x, size=64, key=jax.random.key(0), per="sum")
        >>> S.shape, np.round(np.diag(S @ S.T), 5).tolist()
        ((2, 64), [1.0, 1.0])

    Reference:
        Achlioptas, Database-friendly random projections, JCSS 66 (2003), Theorem 1.1.
    """
    size, chunk = _positive("size", size), _positive("chunk", chunk)
    if per not in ("output", "sum"):
        raise ValueError(f"Expected per to be 'output' or 'sum', got {per!r}.")
    checks.samples(x, "x")
    checks.parameters(params)
    roots = _roots(params, rates)
    checks.uncoupled(apply, params, x)

    leaves, tree = jax.tree.flatten(params)
    ends = np.cumsum([jnp.size(w) for w in leaves]).tolist()

    def outputs(p: PyTree, x: PyTree) -> jax.Array:
        f = apply(p, x)
        f = f.reshape(f.shape[0], -1)
        return f if per == "output" else f.sum(1) / f.shape[1] ** 0.5

    def signs(column: jax.Array, key: jax.Array) -> PyTree:
        """One draw for all parameters: a generator per parameter would take long to compile."""
        draw = jax.random.rademacher(jax.random.fold_in(key, column), (ends[-1],), jnp.float32)
        parts = zip(jnp.split(draw, ends[:-1]), leaves, roots, strict=True)
        return jax.tree.unflatten(
            tree,
            [root * part.reshape(jnp.shape(w)).astype(jnp.result_type(w)) for part, w, root in parts],
        )

    rounds = -(-size // chunk)
    together = -(-size // rounds)

    @jax.jit
    def features(params: PyTree, x: PyTree, key: jax.Array) -> jax.Array:
        _, push = jax.linearize(lambda p: outputs(p, x), params)
        numbers = jnp.arange(rounds * together).reshape(rounds, together)
        columns = jax.lax.map(jax.vmap(lambda column: push(signs(column, key))), numbers)
        columns = columns.reshape(-1, *columns.shape[2:])[:size]
        return jnp.moveaxis(columns, 0, -1) / size**0.5

    found = features(params, x, key)
    checks.finite(found)
    return found


def ntk_hutchinson(
    apply: Apply,
    params: PyTree,
    x1: PyTree,
    x2: PyTree = None,
    *,
    probes: int,
    key: jax.Array,
    rates: PyTree = None,
) -> tuple[Float[Array, "N1 N2"], Float[Array, "N1 N2"]]:
    r"""Estimates the form "trace" of the empirical NTK from random signs over outputs, with its error bar.

    For signs v, the gradients ``G_i = sum_o v_o df_o(x_i)/dw`` cost one backward pass per sample however many
    outputs there are, and ``E[<G_i, G_j>] = sum_o Theta[i, j, o, o]``. One probe has the variance
    ``sum_{o != p} Theta_op^2 + Theta_op Theta_po``, so the error falls as probes^(-1/2). Worth it where O is
    far above the number of probes: ``ntk(..., form="trace")`` is exact and costs as much as O probes.

    Args:
        apply: ``apply(params, x) -> outputs [N, ...]``, sample by sample.
        params: the parameters to differentiate by.
        x1: inputs, a pytree of arrays with leading axis N1.
        x2: inputs with leading axis N2; None is x1.
        probes: number of sign vectors, 2 or more.
        key: of the signs.
        rates: learning rate of each parameter, as for ``ntk``.

    Returns:
        (mean over probes, its standard error), each [N1, N2]; summed over outputs, not averaged.

    Raises:
        ValueError: if there are fewer than 2 probes, from which no error bar follows.

    Example:
        >>> two = lambda w, x: jnp.stack([x @ w, 2 * x @ w], 1)
        >>> w, x = jnp.ones(3), jnp.eye(3)[:1]
        >>> mean, error = ntk_hutchinson(two, w, x, probes=200, key=jax.random.key(0))
        >>> exact = 1.0 + 4.0
        >>> bool(abs(mean[0, 0] - exact) < 3 * error[0, 0])
        True

    Reference:
        Hutchinson, Comm. Statist. Simulation 19 (1990); Mohamadi et al., arXiv 2206.12543.
    """
    n1, n2 = pair(x1, x2, "trace")
    if _positive("probes", probes) < 2:
        raise ValueError("Expected 2 or more probes, got 1; an error bar needs their spread.")
    checks.parameters(params)
    checks.uncoupled(apply, params, x1)
    out = jax.eval_shape(apply, params, x1)
    outputs = int(np.prod(out.shape[1:]))

    def one(key: jax.Array) -> jax.Array:
        signs = jax.random.rademacher(key, (1, *out.shape[1:]), out.dtype)
        # The form "sum" divides by the number of outputs.
        return outputs * ntk(lambda p, x: apply(p, x) * signs, params, x1, x2, form="sum", rates=rates)

    def add(sums: tuple[jax.Array, jax.Array, jax.Array], key: jax.Array) -> tuple[Any, None]:
        """Welford's running mean and sum of squares, which cancel nothing."""
        number, mean, squares = sums
        value = one(key)
        updated = mean + (value - mean) / (number + 1)
        return (number + 1, updated, squares + (value - mean) * (value - updated)), None

    start = jnp.zeros((n1, n2), jax.eval_shape(one, key).dtype)
    (_, mean, squares), _ = jax.lax.scan(add, (start[0, 0], start, start), jax.random.split(key, probes))
    checks.finite(mean)
    return mean, jnp.sqrt(squares / (probes * (probes - 1)))


def _positive(name: str, value: int) -> int:
    """A whole number of 1 or more, else a sentence."""
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(f"Expected {name} to be a positive whole number, got {value!r}.")
    return number


def _roots(params: PyTree, rates: PyTree) -> list[Any]:
    """Square roots of the rates, in the order of the leaves of params."""
    scales = checks.scales(rates, params)
    leaves = jax.tree.leaves(params)
    if scales is None:
        return [1.0] * len(leaves)
    values = jax.tree.leaves(scales)
    if checks.concrete(values) and any(np.asarray(value) < 0 for value in values):
        raise ValueError("Expected rates of 0 or more, got a negative one: a sketch takes square roots.")
    return [jnp.sqrt(jnp.asarray(v, jnp.result_type(w))) for v, w in zip(values, leaves, strict=True)]
