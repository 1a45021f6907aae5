"""The empirical NTK over a mesh of devices: each computes its own tile, and none talks to another."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from widelimit.kernels import checks
from widelimit.kernels.checks import Apply, PyTree
from widelimit.kernels.empirical.checks import pair
from widelimit.kernels.empirical.costs import Form
from widelimit.kernels.empirical.ntk import ntk
from widelimit.kernels.empirical.samples import block


def ntk_sharded(
    apply: Apply,
    params: PyTree,
    x1: PyTree,
    x2: PyTree = None,
    *,
    mesh: Mesh,
    form: Form = "full",
    rates: PyTree = None,
) -> jax.Array:
    r"""Computes the empirical NTK on a mesh of devices: x1 split along its first axis, x2 along its second.

    The device at (r, c) holds the parameters, its part of x1 and its part of x2, and computes
    ``Theta[i, j]`` for these: no communication. The result stays where it was computed, sharded
    ``P(rows, columns)``. Inside, parameters are never differentiated as what all devices share: by default
    ``shard_map`` adds such gradients up over the devices, which sums the Jacobians of different tiles
    without a word.

    Where the mesh does not divide a number of samples, the last one is repeated and what belongs to the
    copies is cut off. JAX has no uneven sharding, so such a result ends up whole on every device: use
    numbers of samples that the mesh divides where it must not.

    Args:
        apply: ``apply(params, x) -> outputs [N, ...]``, sample by sample.
        params: the parameters to differentiate by.
        x1: inputs, a pytree of arrays with leading axis N1.
        x2: inputs with leading axis N2; None is x1.
        mesh: one axis (x1 is split, x2 is not) or two; their types may be Auto or Explicit.
        form: of the result, as for ``ntk``. "self" is split over all devices.
        rates: learning rate of each parameter, as for ``ntk``.

    Returns:
        What ``ntk`` returns.

    Raises:
        TypeError: if ``mesh`` is no mesh.
        ValueError: if it has more than two axes, or the inputs do not fit together.

    Example:
        >>> import jax.numpy as jnp
        >>> mesh = jax.make_mesh((1, 1), ("rows", "columns"), devices=jax.devices()[:1])
        >>> ntk_sharded(lambda w, x: x @ w, jnp.ones((2, 3)), jnp.eye(2), mesh=mesh, form="trace").tolist()
        [[3.0, 0.0], [0.0, 3.0]]
    """
    n1, n2 = pair(x1, x2, form)
    checks.parameters(params)
    (rows, columns), output = layout(mesh, form)
    checks.uncoupled(apply, params, x1)

    def padded(x: PyTree, n: int, axis: PartitionSpec) -> PyTree:
        parts = math.prod(mesh.shape[name] for name in jax.tree.leaves(tuple(axis)))
        return block(x, 0, -(-n // parts) * parts)

    def tile(params: PyTree, x1: PyTree, x2: PyTree) -> jax.Array:
        return ntk(apply, params, x1, x2, form=form, rates=rates)

    kernel = jax.jit(spread(tile, mesh, (PartitionSpec(), rows, columns), output))
    result = kernel(
        place(params, mesh, PartitionSpec()),
        place(padded(x1, n1, rows), mesh, rows),
        place(padded(x1 if x2 is None else x2, n2, columns), mesh, columns),
    )
    shape = (n1, *result.shape[1:]) if form == "self" else (n1, n2, *result.shape[2:])
    checks.finite(result)
    if result.shape == shape:
        return result
    return place(result, mesh, PartitionSpec())[tuple(slice(size) for size in shape)]


def layout(mesh: Mesh, form: Form) -> tuple[tuple[PartitionSpec, PartitionSpec], PartitionSpec]:
    """Returns how a mesh splits (x1, x2) and the result.

    Args:
        mesh: one axis or two.
        form: of the kernel.

    Raises:
        TypeError: if ``mesh`` is no mesh.
        ValueError: if it has more than two axes.
    """
    if not isinstance(mesh, Mesh):
        raise TypeError(f"Expected mesh to come from jax.make_mesh, got {type(mesh).__name__}.")
    if len(mesh.axis_names) > 2:
        raise ValueError(
            "Expected a mesh with one axis (rows of the kernel) or two (rows, columns), got the axes "
            f"{mesh.axis_names}; make one with jax.make_mesh((rows, columns), ('rows', 'columns'))."
        )
    if form == "self":
        everywhere = PartitionSpec(mesh.axis_names)
        return (everywhere, everywhere), everywhere
    rows, columns = (*mesh.axis_names, None)[:2]
    return (PartitionSpec(rows), PartitionSpec(columns)), PartitionSpec(rows, columns)


def spread(
    function: Callable[..., Any], mesh: Mesh, inputs: tuple[PartitionSpec, ...], output: PartitionSpec
) -> Callable[..., Any]:
    """Returns a function that each device of a mesh runs on its part of the arguments.

    Args:
        function: what to run, with no communication.
        mesh: the devices.
        inputs: how each argument is split.
        output: how the result is.
    """
    # check_vma=False is no optimisation. With the check, parameters are marked as the same on all devices,
    # and the transpose of that mark is a sum over the mesh: right for the gradient of one loss, wrong for
    # the Jacobian of each device's own samples.
    return jax.shard_map(function, mesh=mesh, in_specs=inputs, out_specs=output, check_vma=False)


def place(value: PyTree, mesh: Mesh, spec: PartitionSpec) -> PyTree:
    """Returns arrays where they are needed: Explicit axes want arguments to be there already.

    Args:
        value: a pytree of arrays.
        mesh: the devices.
        spec: how each array is split.
    """
    return jax.device_put(value, NamedSharding(mesh, spec))
