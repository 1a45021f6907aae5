"""The empirical neural tangent kernel of a function of parameters and inputs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from widelimit.kernels.empirical.contract import contract
from widelimit.kernels.empirical.costs import Form
from widelimit.kernels.empirical.features import features
from widelimit.kernels.empirical.plan import Apply, PyTree, plan

__all__ = ["Apply", "Form", "PyTree", "ntk"]


def ntk(
    apply: Apply,
    params: PyTree,
    x1: Any,
    x2: Any = None,
    *,
    form: Form = "full",
    rates: PyTree = None,
    per_layer: bool = False,
    dtype: Any = None,
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
        dtype: in which to accumulate.
    """
    scale = getattr(rates, "learning_rate", rates)
    made = plan(apply, params, x1, x2, form=form)
    cotangents = None
    if form == "sum":
        cotangents = jnp.full((1, made.outputs), made.outputs**-0.5, made.dtype)

    def kernel(params: PyTree, x1: Any, x2: Any, scale: PyTree) -> Any:
        first = features(made, params, x1, cotangents)
        second = first if x2 is None else features(made, params, x2, cotangents)
        return contract(made, first, second, form, scale, per_layer=per_layer, dtype=dtype)

    return jax.jit(kernel)(params, x1, x2, scale)
