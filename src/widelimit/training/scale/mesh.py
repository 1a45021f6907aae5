"""A mesh of devices with two axes, and where each array of a training run lies on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from widelimit.scaling import Leaf, Role, Rules
from widelimit.training.data.streams import as_count

PyTree = Any
DATA, MODEL = "data", "model"
LARGE = 2**23  # entries: a table or readout of fewer may stay whole on every device


def make_mesh(data: int = 1, model: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh of ``data x model`` devices.

    Batches are split over the axis ``"data"``, the large matrices over ``"model"``. Devices that are next to
    each other, and so most closely connected, share a model.

    Args:
        data: how many parts a batch is split into.
        model: how many parts a large matrix is split into.
        devices: the first ``data * model`` of these are used; all of JAX's by default.

    Raises:
        ValueError: if there are fewer devices, or a size is not positive.
        TypeError: if a size is not a whole number.

    Example:
        >>> dict(make_mesh(data=2, model=4).shape)
        {'data': 2, 'model': 4}

    Reference:
        Shoeybi et al., Megatron-LM (arXiv 1909.08053), Section 5 (both kinds of parallelism together).
    """
    as_count("data", data, 1)
    as_count("model", model, 1)
    found = list(jax.devices() if devices is None else devices)
    if data * model > len(found):
        raise ValueError(
            f"a mesh of data {data} x model {model} needs {data * model} devices, and there are "
            f"{len(found)}; lower data or model."
        )
    grid = np.asarray(found[: data * model]).reshape(data, model)
    return Mesh(grid, (DATA, MODEL), axis_types=(AxisType.Auto, AxisType.Auto))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: rows over ``"data"``.

    Example:
        >>> batch_sharding(make_mesh(data=8)).spec
        P('data',)
    """
    return NamedSharding(mesh, PartitionSpec(DATA))


def check_batch(mesh: Mesh, rows: int, micro_batches: int = 1) -> None:
    """Raises unless a batch splits evenly over the mesh and into micro-batches.

    Args:
        mesh: from ``make_mesh``.
        rows: of a batch.
        micro_batches: that one step's gradient is accumulated over.

    Raises:
        ValueError: in one sentence.
    """
    as_count("micro_batches", micro_batches, 1)
    data = mesh.shape[DATA]
    if rows % micro_batches:
        raise ValueError(
            f"micro_batches must divide the batch; got a batch of {rows} rows in {micro_batches} parts."
        )
    if rows % (data * micro_batches):
        raise ValueError(
            f"the mesh must divide each micro-batch; got a batch of {rows} rows in {micro_batches} part(s) "
            f"for {data} devices along 'data': make the batch a multiple of {data * micro_batches}."
        )


def check_heads(mesh: Mesh, heads: int) -> None:
    """Raises unless whole attention heads lie on each device.

    Args:
        mesh: from ``make_mesh``.
        heads: query heads of a layer.

    Raises:
        ValueError: in one sentence.
    """
    if heads % mesh.shape[MODEL]:
        raise ValueError(
            f"the mesh must divide the attention heads; got {heads} heads for {mesh.shape[MODEL]} devices "
            "along 'model': lower model, or change heads or head_size."
        )


def shardings(leaves: Rules | PyTree, mesh: Mesh) -> PyTree:
    r"""Returns where each parameter lies, as a tree of ``NamedSharding`` shaped like the parameters.

    From roles and axes alone. A matrix in a residual branch is split along the axis that it *produces*,
    unless its layer ends the branch: then along the axis that it *contracts*. What lies between is computed
    in parts, and one all-reduce per branch brings the parts together. The readout is split by what it
    produces, a table by its rows. A hidden matrix outside of branches is split by what it produces.
    Vectors are whole on every device, and so are tables of fewer than 2^23 entries; so are small readouts
    whose outputs do not divide.

    A sharding changes what is communicated, and never a result beyond its rounding.

    Args:
        leaves: a tree of ``Leaf``, e.g. ``models.leaves(config)``, or rules made from one.
        mesh: from ``make_mesh``.

    Raises:
        ValueError: if a matrix that must be split does not divide, naming it.

    Example:
        >>> from widelimit.models import ResidualMLPConfig, leaves
        >>> from widelimit.scaling import mup
        >>> config = ResidualMLPConfig(
        ...     inputs=3, outputs=2, width=16, base_width=8, parametrization=mup(), branch_depth=2, depth=1
        ... )
        >>> placed = shardings(leaves(config), make_mesh(data=2, model=4))
        >>> placed["Dense_1"]["kernel"].spec, placed["Dense_2"]["kernel"].spec
        (P(None, 'model'), P('model', None))

    Reference:
        Shoeybi et al., Megatron-LM (arXiv 1909.08053), Section 3.
    """
    if isinstance(leaves, Rules):
        leaves = jax.tree.unflatten(jax.tree.structure(leaves.init_std), leaves.leaves)
    return jax.tree.map(
        lambda leaf: NamedSharding(mesh, _spec(leaf, mesh.shape[MODEL])),
        leaves,
        is_leaf=lambda node: isinstance(node, Leaf),
    )


def _spec(leaf: Leaf, parts: int) -> PartitionSpec:
    """Returns which axis of a parameter is split, if any."""
    free = [axis for axis in range(len(leaf.shape)) if axis not in (*leaf.contracted, *leaf.shared)]
    if parts == 1 or not leaf.contracted or not free:
        return PartitionSpec()
    table = leaf.depth is None and leaf.role is Role.INPUT
    axis = max(leaf.contracted if leaf.ends_branch or table else free, key=lambda axis: leaf.shape[axis])
    must = leaf.depth is not None or leaf.role is Role.HIDDEN or math.prod(leaf.shape) >= LARGE
    divides = leaf.shape[axis] % parts == 0
    if must and not divides:
        raise ValueError(
            f"the mesh must divide what it splits; got {leaf.path} of shape {leaf.shape}, whose axis of "
            f"{leaf.shape[axis]} cannot be split over {parts} devices along 'model': change the width, pad "
            "the vocabulary, or lower model."
        )
    if not divides or (table and not must and not leaf.tied):
        return PartitionSpec()
    return PartitionSpec(*(MODEL if i == axis else None for i in range(len(leaf.shape))))


def like_parameters(tree: PyTree, params: PyTree, placed: PyTree, mesh: Mesh) -> PyTree:
    """Returns where an optimizer's state lies: each moment as its parameter, all else on every device.

    A moment is an array of a parameter's shape whose path ends in that parameter's path.

    Args:
        tree: the state, or its shapes.
        params: the parameters, or their shapes.
        placed: where those lie.
        mesh: of all of them.
    """
    known = {
        tuple(map(str, path)): (np.shape(leaf), where)
        for (path, leaf), where in zip(
            jax.tree.leaves_with_path(params), jax.tree.leaves(placed), strict=True
        )
    }

    def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        """The longest end of the path that names a parameter decides."""
        keys = tuple(map(str, path))
        for start in range(len(keys)):
            shape, where = known.get(keys[start:], (None, None))
            if where is not None and shape == np.shape(leaf):
                return where
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree.map_with_path(place, tree)
