"""The empirical neural tangent kernel of a function of parameters and inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from widelimit.kernels import checks
from widelimit.kernels.checks import Apply, PyTree
from widelimit.kernels.empirical.contract import contract
from widelimit.kernels.empirical.costs import Form
from widelimit.kernels.empirical.features import features
from widelimit.kernels.empirical.plan import Plan, plan

# Bytes that cotangents may take before the outputs are taken in pieces.
PIECE = 2**24


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

    Exact, without Jacobians: see ``plan``, which also says what each parameter costs. With O outputs,

    ============  =================  =========================================================
    form          shape              entries
    ============  =================  =========================================================
    ``full``      ``(N1, N2, O, O)``  ``Theta[i, j, o, p]``
    ``trace``     ``(N1, N2)``        ``sum_o Theta[i, j, o, o]``, not divided by O
    ``diagonal``  ``(N1, N2, O)``     ``Theta[i, j, o, o]``
    ``self``      ``(N1, O, O)``      ``Theta[i, i, o, p]``
    ``sum``       ``(N1, N2)``        ``sum_op Theta[i, j, o, p] / O``, that of ``sum_o f_o / sqrt(O)``
    ============  =================  =========================================================

    A pure function of ``params``, ``x1``, ``x2`` and ``rates``, for ``jit``, ``vmap`` and ``shard_map`` (with
    ``check_vma=False``). Called plainly, it compiles each time, and also checks that no sample's outputs
    depend on its neighbours and that the kernel is finite; to call it often, compile it once:
    ``jax.jit(partial(ntk, apply))``.

    Args:
        apply: ``apply(params, x) -> outputs [N, ...]``, sample by sample: a Linen or NNX module (``split``
            and ``merge``), one of Equinox or Haiku, or any function.
        params: the parameters to differentiate by, a pytree of floating-point arrays.
        x1: inputs, a pytree of arrays with leading axis N1.
        x2: inputs with leading axis N2; None is x1.
        form: of the result.
        rates: learning rate of each parameter, a pytree like params or ``Rules``; None is 1.
        per_layer: return a pytree like params with the contribution of each parameter.
        dtype: ``"float32"`` or ``"float64"``, to which parameters and inputs are converted first; None keeps
            theirs, and accumulates in float32 at least. Under a trace, float64 must be on already.

    Raises:
        ValueError: if inputs do not fit together, samples are coupled, or float64 is asked for and is off.
        TypeError: if a parameter or the output is not floating-point.
        FloatingPointError: if the kernel is not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> apply = lambda p, x: x @ p["w"] + p["b"]
        >>> x = jnp.array([[1.0, 2.0], [3.0, 4.0]])
        >>> ntk(apply, {"w": jnp.ones((2, 1)), "b": jnp.ones((1, 1))}, x, form="trace")
        Array([[ 6., 12.],
               [12., 26.]], dtype=float32)

    Reference:
        Jacot et al., arXiv 1806.07572; Novak et al., arXiv 2206.08720; sum: arXiv 2206.12543.
    """
    scales = checks.scales(rates, params)
    if dtype is not None:
        dtype = jnp.dtype(dtype)
        if dtype.name not in ("float32", "float64"):
            raise ValueError(f"dtype must be 'float32' or 'float64'; got {dtype.name!r}.")
        if jax.dtypes.canonicalize_dtype(dtype) != dtype:
            if not checks.concrete(params, x1, x2, scales):
                raise ValueError(
                    "float64 is off in JAX by default, and cannot be switched on inside a trace; "
                    "wrap the whole call in `with jax.enable_x64(True):`."
                )
            with jax.enable_x64(True):
                return ntk(apply, params, x1, x2, form=form, rates=scales, per_layer=per_layer, dtype=dtype)
        params, x1, x2 = (_converted(tree, dtype) for tree in (params, x1, x2))
    made = plan(apply, params, x1, x2, form=form)
    checks.uncoupled(apply, params, x1)
    result = jax.jit(kernel(made, per_layer=per_layer))(params, x1, x2, scales)
    checks.finite(result)
    return result


def _converted(tree: Any, dtype: Any) -> Any:
    """Floating-point arrays in another dtype."""

    def convert(array: Any) -> Any:
        array = jnp.asarray(array)
        return array.astype(dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array

    return jax.tree.map(convert, tree)


def kernel(plan: Plan, *, per_layer: bool = False) -> Callable[[PyTree, Any, Any, PyTree], Any]:
    """Returns the pure function ``kernel(params, x1, x2, rates)`` behind ``ntk``, with nothing checked.

    Forms that need no pairs of outputs take the outputs in pieces where the cotangents of all of them
    would be large.

    Args:
        plan: of the network, and of the form.
        per_layer: return a pytree like params with the contribution of each parameter.
    """

    def part(cotangents: Any, params: PyTree, x1: Any, x2: Any, rates: PyTree) -> Any:
        first = features(plan, params, x1, cotangents)
        second = first if x2 is None else features(plan, params, x2, cotangents)
        return contract(plan, first, second, rates=rates, per_layer=per_layer)

    def whole(params: PyTree, x1: Any, x2: Any, rates: PyTree) -> Any:
        outputs, pieces = plan.outputs, _pieces(plan)
        given = (params, x1, x2, rates)
        if plan.form == "sum":
            return part(jnp.full((1, outputs), outputs**-0.5, plan.dtype), *given)
        if pieces == 1:
            return part(None, *given)
        height = math.ceil(outputs / pieces)

        def piece(number: Any) -> Any:
            rows = jnp.arange(height, dtype=jnp.int32) + height * number
            hot = rows[:, None] == jnp.arange(outputs, dtype=jnp.int32)[None]
            return part(hot.astype(plan.dtype), *given)

        numbers = jnp.arange(pieces, dtype=jnp.int32)
        if plan.form == "diagonal":
            parts = jax.lax.map(piece, numbers)
            return jax.tree.map(lambda p: jnp.concatenate([*p], axis=-1)[..., :outputs], parts)

        def add(total: Any, number: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, piece(number)), None

        return jax.lax.scan(add, piece(0), numbers[1:])[0]

    return whole


def _pieces(plan: Plan) -> int:
    """In how many pieces the outputs are taken."""
    if plan.form not in ("trace", "diagonal"):
        return 1
    entries = sum(math.prod(plan.shapes[leaf]) for leaf in plan.direct)
    for stack in plan.stacks:
        entries += sum(use.sizes[0] * use.sizes[2] for use in stack)
    samples = plan.rows if plan.same else plan.rows + plan.columns
    return min(plan.outputs, math.ceil(plan.dtype.itemsize * samples * entries * plan.outputs / PIECE))
