"""The programs behind the tiles of a kernel: features of a block of samples, and their contraction."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from widelimit.kernels.checks import Apply, PyTree
from widelimit.kernels.empirical.budget import program_bytes, tree_bytes
from widelimit.kernels.empirical.contract import contract
from widelimit.kernels.empirical.costs import Form
from widelimit.kernels.empirical.features import features
from widelimit.kernels.empirical.ntk import kernel
from widelimit.kernels.empirical.plan import plan
from widelimit.kernels.empirical.samples import block
from widelimit.kernels.empirical.sharded import layout, place, spread


@dataclasses.dataclass(frozen=True)
class Programs:
    """How the tiles of one size are computed.

    Args:
        rows: features of a block of samples, as rows of the kernel.
        columns: features of a block of samples, as columns.
        tile: from both to a tile.
        result: shape and dtype of a tile.
        kept: bytes of the features of a block of columns.
        working: bytes that one tile takes while it is computed and stored.
    """

    rows: Callable[[PyTree], PyTree]
    columns: Callable[[PyTree], PyTree]
    tile: Callable[[PyTree, PyTree], jax.Array]
    result: jax.ShapeDtypeStruct
    kept: int
    working: int


class Network:
    """A function, its parameters and a form of its kernel, ready to be compiled for blocks of any size.

    Args:
        apply: the function.
        params: its parameters.
        example: one or more samples, as the function sees them.
        form: of the kernel.
        rates: learning rate of each parameter, or None.
        dtype: to which floating-point inputs are converted; None keeps theirs.
        mesh: devices that share the work on each tile; None is one device.
    """

    def __init__(
        self,
        apply: Apply,
        params: PyTree,
        example: PyTree,
        *,
        form: Form,
        rates: PyTree,
        dtype: Any,
        mesh: Mesh | None,
    ) -> None:
        self._apply, self._form, self._mesh, self._rates, self._dtype = apply, form, mesh, rates, dtype
        self._in_one = False
        self._example = block(example, 0, 1)
        self._plan = plan(apply, params, self._example, form=form)
        split: tuple[Any, Any] = layout(mesh, form) if mesh else ((None, None), None)
        self._split, self._output = split
        self._params = place(params, mesh, PartitionSpec()) if mesh else jax.device_put(params)
        self._shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), self._params)

    def in_one(self) -> Network:
        """Returns the same with outputs taken in pieces, and nothing kept between tiles."""
        other = copy.copy(self)
        other._in_one = True
        return other

    def sample(self) -> tuple[int, tuple[int, ...], Any]:
        """Returns, of a single sample: bytes of its features; shape and dtype of its kernel with itself."""
        made = jax.eval_shape(self._features, self._shapes, self._example)
        tile = jax.eval_shape(self._contract, self._shapes, made, made)
        return tree_bytes(made), tile.shape, tile.dtype

    def compile(self, height: int, width: int) -> Programs:
        """Returns the programs for tiles of this many rows and columns.

        Args:
            height: rows of a tile.
            width: columns of a tile.
        """
        wanted = list(zip((height, width), self._split, strict=True))
        rows, shape1, spent1 = side = self._side(*wanted[0])
        columns, shape2, spent2 = side if wanted[0] == wanted[1] else self._side(*wanted[1])
        contraction = self._contract
        if self._mesh:
            contraction = spread(contraction, self._mesh, (PartitionSpec(), *self._split), self._output)
        lowered = jax.jit(contraction).lower(self._params, shape1, shape2)
        program, result = lowered.compile(), lowered.out_info
        kept = tree_bytes(shape1), tree_bytes(shape2)
        # Three tiles: one that is computed, one that waits to be stored, and what storing it takes.
        working = max(spent1, spent2, program_bytes(program)) + sum(kept) + 3 * tree_bytes(result)
        tile = functools.partial(program, self._params)
        return Programs(rows, columns, tile, result, kept[1], working)

    def _side(self, size: int, spec: PartitionSpec | None) -> tuple[Callable[[PyTree], PyTree], PyTree, int]:
        """The program for the features of a block, their shapes, and the bytes it takes beside them."""
        function = self._features
        canonical = jax.dtypes.canonicalize_dtype
        x = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct((size, *a.shape[1:]), canonical(a.dtype)), self._example
        )
        shape = jax.eval_shape(function, self._shapes, x)
        if self._mesh and spec is not None:
            where = NamedSharding(self._mesh, spec)
            function = spread(function, self._mesh, (PartitionSpec(), spec), spec)
            x, shape = (
                jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=where), tree)
                for tree in (x, shape)
            )
        program = jax.jit(function).lower(self._params, x).compile()

        def make(x: PyTree) -> PyTree:
            x = converted(x, self._dtype)
            return program(self._params, place(x, self._mesh, spec) if self._mesh and spec is not None else x)

        return make, shape, program_bytes(program) + tree_bytes(x)

    def _features(self, params: PyTree, x: PyTree) -> PyTree:
        """What is computed once for each sample."""
        if self._in_one:
            return x
        made, summed = self._plan, None
        if self._form == "sum":
            summed = jnp.full((1, made.outputs), made.outputs**-0.5, made.dtype)
        return features(made, params, x, summed)

    def _contract(self, params: PyTree, one: PyTree, two: PyTree) -> jax.Array:
        """A tile from the features of its rows and columns."""
        if self._in_one:
            return kernel(plan(self._apply, params, one, two, form=self._form))(params, one, two, self._rates)
        return contract(self._plan, one, two, self._form, self._rates)


def converted(tree: PyTree, dtype: Any) -> PyTree:
    """Returns NumPy or JAX arrays with those of floating point in another dtype.

    Args:
        tree: of arrays.
        dtype: of the result; None keeps theirs.
    """
    if dtype is None:
        return tree
    return jax.tree.map(lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree)
