"""The empirical neural tangent kernel of a function of parameters and inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

PyTree = Any
Apply = Callable[[PyTree, Any], jax.Array]
Form = Literal["full", "trace", "diagonal", "self", "sum"]


def ntk(
    apply: Apply,
    params: PyTree,
    x1: Any,
    x2: Any = None,
    *,
    form: Form = "full",
    rates: PyTree = None,
    per_layer: bool = False,
) -> Any:
    r"""Returns the empirical NTK, ``Theta[i, j, o, p] = sum_l rates_l <df_o(x1_i)/dw_l, df_p(x2_j)/dw_l>``.

    Args:
        apply: ``apply(params, x) -> outputs [N, ...]``, sample by sample.
        params: the parameters to differentiate by.
        x1: inputs, a pytree of arrays with leading axis N1.
        x2: inputs with leading axis N2; None is x1.
        form: of the result.
        rates: learning rate of each parameter, a pytree like params or ``Rules``; None is 1.
        per_layer: return a pytree like params with the contribution of each parameter.
    """

    def jacobian(x: Any) -> PyTree:
        def one(sample: Any) -> PyTree:
            batch = jax.tree.map(lambda array: array[None], sample)
            return jax.jacrev(lambda p: apply(p, batch)[0].ravel())(params)

        return jax.tree.map(lambda j: j.reshape(*j.shape[:2], -1), jax.vmap(one)(x))

    j1 = jacobian(x1)
    j2 = j1 if x2 is None else jacobian(x2)
    if form == "sum":
        j1, j2 = (jax.tree.map(lambda j: j.sum(1, keepdims=True) / j.shape[1] ** 0.5, j) for j in (j1, j2))
    pattern = {
        "full": "iok,jpk->ijop",
        "trace": "iok,jok->ij",
        "diagonal": "iok,jok->ijo",
        "self": "iok,ipk->iop",
        "sum": "iok,jok->ij",
    }[form]
    scale = jax.tree.map(lambda _: 1.0, params) if rates is None else getattr(rates, "learning_rate", rates)
    layers = jax.tree.map(lambda s, a, b: s * jnp.einsum(pattern, a, b), scale, j1, j2)
    return layers if per_layer else sum(jax.tree.leaves(layers))
