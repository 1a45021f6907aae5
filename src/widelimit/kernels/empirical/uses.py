"""Where a weight meets data: its gradient there is a sum over positions of an outer product."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from widelimit.kernels.empirical.views import Layout, View, arrange


@dataclasses.dataclass(frozen=True)
class Use:
    r"""One use of a parameter, ``dW = scale sum_s left(s) (x) back(s)``, rows from ``left``.

    Args:
        leaf: number of the parameter.
        kind: ``"dense"``, ``"conv"``, ``"embedding"`` or ``"bias"``.
        operand: slot of the data it meets; a bias meets none.
        left: data to ``[S, K]``; for an embedding to ids ``[S]`` and their weights ``[S]``.
        product: slot of what the parameter and the data make.
        site: slot whose cotangent is the other factor.
        back: that cotangent to ``[S, M]``.
        axes: of the product: those of the positions and those of the columns.
        scales: what the entries are multiplied by on the way, as in ``View``.
        cells: entries of the parameter that are used.
        rows: layout of the rows in the parameter.
        cols: layout of the columns.
        sizes: S, K, M.
        pool: slot of the sum over positions that all of it goes into, see ``pooled``; None if there is none.
        alike: whether the cotangents of that slot are known to be the same for all samples.
    """

    leaf: int
    kind: str
    operand: int | None
    left: Callable[[Any], Any]
    product: int
    site: int
    back: Callable[[Any], Any]
    axes: tuple[tuple[int, ...], tuple[int, ...]]
    scales: tuple[Any, ...]
    cells: np.ndarray
    rows: Layout
    cols: Layout
    sizes: tuple[int, int, int]
    pool: int | None = None
    alike: bool = False


def matrix(array: Any, first: Sequence[int], second: Sequence[int]) -> Any:
    """Returns an array as a matrix over two groups of its axes."""
    shape = array.shape
    sizes = [math.prod(shape[axis] for axis in axes) for axes in (first, second)]
    return array.transpose((*first, *second)).reshape(sizes)


def dense(
    view: View, at: int, params: Any, ins: Sequence[int], shapes: Sequence[Any], site: int
) -> Use | str:
    """Returns the use of a weight in ``dot_general``, or why it cannot be taken."""
    (contract, batch) = params["dimension_numbers"]
    if batch[0]:
        return "a batched product"
    summed, other = contract[at], contract[1 - at]
    cells, data = view.cells, shapes[1 - at].shape
    free = [axis for axis in range(cells.ndim) if axis not in summed]
    positions = [axis for axis in range(len(data)) if axis not in other]
    ordered, rows = arrange(cells, summed)
    columns, cols = arrange(cells, free)
    facing = [other[summed.index(axis)] for axis in ordered]
    # The product's axes: those of its left operand first.
    offset_free, offset_positions = (0, len(free)) if at == 0 else (len(positions), 0)
    across = tuple(offset_free + free.index(axis) for axis in columns)
    along = tuple(offset_positions + number for number in range(len(positions)))
    return Use(
        leaf=view.leaf,
        kind="dense",
        operand=ins[1 - at],
        left=lambda x: matrix(x, positions, facing),
        product=site,
        site=site,
        back=lambda b: matrix(b, along, across),
        axes=(along, across),
        scales=view.scales,
        cells=cells,
        rows=rows,
        cols=cols,
        sizes=_sizes(data, positions, cells, summed, free),
    )


def _sizes(data: Any, positions: Any, cells: np.ndarray, rows: Any, cols: Any) -> tuple[int, int, int]:
    """Positions, rows and columns."""
    return (
        math.prod(data[axis] for axis in positions),
        math.prod(cells.shape[axis] for axis in rows),
        math.prod(cells.shape[axis] for axis in cols),
    )


def conv(view: View, at: int, params: Any, ins: Sequence[int], shapes: Sequence[Any], site: int) -> Use | str:
    """Returns the use of a kernel in a convolution, whose rows are the entries of a patch."""
    if at != 1:
        return "an image that is convolved"
    if params["feature_group_count"] != 1 or params["batch_group_count"] != 1:
        return "a grouped convolution"
    numbers = params["dimension_numbers"]
    outputs, inputs, *window = numbers.rhs_spec
    cells, image, out = view.cells, shapes[0].shape, shapes[-1].shape
    ordered, rows = arrange(cells, (inputs, *window))
    _, cols = arrange(cells, (outputs,))
    sizes = [cells.shape[axis] for axis in window]
    # Patches come as [batch, channel, *window, *positions].
    place = {inputs: 1, **{axis: 2 + number for number, axis in enumerate(window)}}
    facing = [place[axis] for axis in ordered]
    batch, channel, *spatial = numbers.out_spec
    span = [out[axis] for axis in spatial]
    positions = (0, *range(2 + len(window), 2 + 2 * len(window)))

    def left(x: Any) -> Any:
        x = x.transpose(numbers.lhs_spec)
        return matrix(_patches(x, sizes, span, params), positions, facing)

    return Use(
        leaf=view.leaf,
        kind="conv",
        operand=ins[0],
        left=left,
        product=site,
        site=site,
        back=lambda b: matrix(b, (batch, *spatial), (channel,)),
        axes=((batch, *spatial), (channel,)),
        scales=view.scales,
        cells=cells,
        rows=rows,
        cols=cols,
        sizes=(
            image[numbers.lhs_spec[0]] * math.prod(span),
            cells.size // cells.shape[outputs],
            cells.shape[outputs],
        ),
    )


def _patches(x: Any, window: Sequence[int], span: Sequence[int], params: Any) -> Any:
    """What each entry of the window sees, ``[batch, channel, *window, *positions]``.

    By slices: a convolution with one-hot kernels, which is what JAX offers, multiplies by zeros.
    """
    dilation = params["lhs_dilation"]
    pads = [(low, high, step - 1) for (low, high), step in zip(params["padding"], dilation, strict=True)]
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (0, 0, 0), *pads])
    seen = []
    for offset in itertools.product(*map(range, window)):
        begins = [o * step for o, step in zip(offset, params["rhs_dilation"], strict=True)]
        strides = params["window_strides"]
        ends = [b + (n - 1) * s + 1 for b, n, s in zip(begins, span, strides, strict=True)]
        seen.append(jax.lax.slice(x, (0, 0, *begins), (*x.shape[:2], *ends), (1, 1, *strides)))
    return jnp.stack(seen, axis=2).reshape(*x.shape[:2], *window, *span)


def embedding(
    view: View, at: int, params: Any, ins: Sequence[int], shapes: Sequence[Any], site: int
) -> Use | str:
    """Returns the use of a table whose rows are looked up, or why it cannot be taken."""
    numbers, cells = params["dimension_numbers"], view.cells
    if at != 0:
        return "indices"
    axes, batching = tuple(numbers.start_index_map), tuple(numbers.operand_batching_dims)
    others = [size for axis, size in enumerate(cells.shape) if axis not in axes]
    sliced = [size for axis, size in enumerate(params["slice_sizes"]) if axis not in axes]
    if len(axes) != 1 or axes != tuple(numbers.collapsed_slice_dims) or batching or others != sliced:
        return "a gather that does not take whole rows"
    size = cells.shape[axes[0]]
    free = [axis for axis in range(cells.ndim) if axis != axes[0]]
    _, rows = arrange(cells, axes)
    columns, cols = arrange(cells, free)
    across = tuple(numbers.offset_dims[free.index(axis)] for axis in columns)
    along = tuple(axis for axis in range(len(shapes[-1].shape)) if axis not in numbers.offset_dims)
    clip = params["mode"] == jax.lax.GatherScatterMode.CLIP

    def left(indices: Any) -> tuple[Any, Any]:
        ids = indices.reshape(-1)
        inside = (ids >= 0) & (ids < size)
        bounded = jnp.clip(ids, 0, size - 1).astype(jnp.int32)
        # What a lookup beyond the table returns does not depend on the table, unless it is moved inside.
        return bounded, jnp.ones_like(inside) if clip else inside

    return Use(
        leaf=view.leaf,
        kind="embedding",
        operand=ins[1],
        left=left,
        product=site,
        site=site,
        back=lambda b: matrix(b, along, across),
        axes=(along, across),
        scales=view.scales,
        cells=cells,
        rows=rows,
        cols=cols,
        sizes=(math.prod(shapes[1].shape[:-1]), size, math.prod(others)),
    )


USES: dict[str, Callable[..., Use | str]] = {
    "dot_general": dense,
    "conv_general_dilated": conv,
    "gather": embedding,
}


def bias(view: View, cells: np.ndarray, layer: Use) -> Use | None:
    """Returns the use of a bias that is added to a layer's output, if it adds one number per column.

    Args:
        view: of the bias, times its scales.
        cells: its cells, shaped like the layer's output.
        layer: the use of the weight, whose site is the sum.
    """
    along, across = layer.axes
    if any(cells.shape[axis] > 1 and cells.strides[axis] for axis in along):
        return None
    order, cols = arrange(cells, across)
    wide = [axis for axis in order if cells.shape[axis] > 1]
    if wide != [axis for axis in across if cells.shape[axis] > 1] or any(not stride for _, stride in cols):
        return None
    positions, _, columns = layer.sizes
    return Use(
        leaf=view.leaf,
        kind="bias",
        operand=None,
        left=lambda _: np.ones((positions, 1), np.float32),
        product=layer.product,
        site=layer.site,
        back=layer.back,
        axes=layer.axes,
        scales=view.scales,
        cells=cells[tuple(slice(None) if axis in across else 0 for axis in range(cells.ndim))],
        rows=(),
        cols=cols,
        sizes=(positions, 1, columns),
    )


def cropped(use: Use, shape: Sequence[int], box: Sequence[tuple[int, int]]) -> Use:
    """Returns a use over some of its positions.

    Args:
        use: the use.
        shape: of its product.
        box: first and last index of each axis of the product, the last one past the end.
    """
    along, _ = use.axes
    sizes, cut = [shape[axis] for axis in along], tuple(slice(*box[axis]) for axis in along)

    def crop(array: Any) -> Any:
        rest = array.shape[1:]
        return array.reshape(*sizes, *rest)[cut].reshape(-1, *rest)

    _, rows, columns = use.sizes
    return dataclasses.replace(
        use,
        left=lambda x: jax.tree.map(crop, use.left(x)),
        back=lambda b: crop(use.back(b)),
        sizes=(math.prod(high - low for low, high in (box[axis] for axis in along)), rows, columns),
    )
