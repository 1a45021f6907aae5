"""Which axes of a model's parameters grow with its width, from abstract shapes at several widths."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from typing import Any

import jax

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Growth:
    """Shapes of every parameter at two widths, and which axes grow.

    Args:
        tree: the parameters as ``jax.ShapeDtypeStruct``, at width ``traceable``.
        paths: where each of them sits.
        shapes: their shapes at the target width.
        base_shapes: their shapes at the base width.
        growing: which of their axes grow.
        traceable: the largest width at which the model is known to exist; sizes coincide least there.
    """

    tree: Any
    paths: list[str]
    shapes: list[Shape]
    base_shapes: list[Shape]
    growing: list[tuple[bool, ...]]
    traceable: int


def checked_width(value: Any, name: str) -> int:
    """Returns a width as a plain integer, or says what is wrong with it."""
    if value is None:
        raise ValueError(f"{name} is missing: pass {name}=, the width at which the learning rate is tuned.")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer; got {value!r}. Pass {name}=int(...).") from None
    if isinstance(value, bool) or number < 1:
        raise ValueError(f"{name} must be a positive integer, such as 64; got {value!r}.")
    return number


def measure(init: Callable[[int], Any], width: int, base: int, tolerance: float) -> Growth:
    """Looks at the parameters at the target width, the base width and a further one.

    The further width (twice the larger, or three or four times where a model does not exist there) tells a
    fixed axis from one whose size is rounded, and stands in for the target width where that equals the base.

    Args:
        init: returns the parameters of the model of a given width.
        width: target width.
        base: base width.
        tolerance: largest relative deviation of a growing axis from proportionality.

    Raises:
        ValueError: if the trees differ between widths, an axis is not proportional to the width, or there are
            no parameters.
    """
    tree = _abstract(init, width)
    paths, shapes = _flat(tree)
    if not paths:
        raise ValueError("init returned no parameters; it must return a tree of arrays.")
    base_shapes = shapes if base == width else _matching(init, base, paths, shapes, width)
    further = _further(init, width, base, paths, shapes)
    versions = [base_shapes, shapes, *([further[1]] if further else [])]
    growing = [
        tuple(len(set(sizes)) > 1 for sizes in zip(*own, strict=True)) for own in zip(*versions, strict=True)
    ]
    if further and width == base:
        _check_proportional(paths, base_shapes, further[1], growing, base, further[0], tolerance)
        return Growth(_abstract(init, further[0]), paths, shapes, base_shapes, growing, further[0])
    _check_proportional(paths, base_shapes, shapes, growing, base, width, tolerance)
    larger = tree if width > base else _abstract(init, base)
    return Growth(larger, paths, shapes, base_shapes, growing, max(width, base))


def _abstract(init: Callable[[int], Any], width: int) -> Any:
    """The parameters of one width, as shapes and dtypes only."""
    try:
        return jax.eval_shape(lambda: init(width))
    except TypeError as error:
        if "valid JAX type" in str(error):
            error.add_note(
                "probe needs init to return arrays and nothing else: filter other leaves out, as in "
                "equinox.filter(model, equinox.is_array) or flax.nnx.state(model, flax.nnx.Param)."
            )
        raise


def _flat(tree: Any) -> tuple[list[str], list[Shape]]:
    """Paths and shapes of a tree of abstract arrays."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    return paths, [tuple(leaf.shape) for _, leaf in leaves]


def _matching(
    init: Callable[[int], Any], width: int, paths: list[str], shapes: list[Shape], reference: int
) -> list[Shape]:
    """Shapes at another width, which must belong to the same tree."""
    others, own = _flat(_abstract(init, width))
    if others != paths:
        odd = sorted(set(others) ^ set(paths)) or others
        raise ValueError(
            f"init must give the same parameters at every width; {odd[0]!r} is not at both {width} and "
            f"{reference}. Keep everything but the width fixed, depth included."
        )
    for path, shape, other in zip(paths, shapes, own, strict=True):
        if len(shape) != len(other):
            raise ValueError(
                f"{path}: an array must have the same number of axes at every width; got shape {other} at "
                f"width {width} and {shape} at {reference}. Keep everything but the width fixed."
            )
    return own


def _further(
    init: Callable[[int], Any], width: int, base: int, paths: list[str], shapes: list[Shape]
) -> tuple[int, list[Shape]] | None:
    """A further width at which the model exists, and the shapes there."""
    failure: Exception | None = None
    for factor in (2, 3, 4):
        try:
            further = factor * max(width, base)
            return further, _matching(init, further, paths, shapes, width)
        except Exception as error:  # whatever a model raises where its width does not suit it
            failure = error
    if width != base:
        return None
    raise ValueError(
        f"at target width = base width = {width}, probe needs the model at a second width, and init failed "
        f"at {2 * width}, {3 * width} and {4 * width}; make init work at one of them."
    ) from failure


def _check_proportional(
    paths: list[str],
    base_shapes: list[Shape],
    shapes: list[Shape],
    growing: list[tuple[bool, ...]],
    base: int,
    width: int,
    tolerance: float,
) -> None:
    """Refuses axes that grow, but not in proportion to the width."""
    for path, small, large, grows in zip(paths, base_shapes, shapes, growing, strict=True):
        for axis, (old, new) in enumerate(zip(small, large, strict=True)):
            if grows[axis] and abs(new * base - old * width) > tolerance * old * width:
                off = abs(new * base / (old * width) - 1) if old else 1.0
                raise ValueError(
                    f"{path}: axis {axis} has size {old} at width {base} and {new} at width {width}, which "
                    f"is {off:.1%} off proportional; make it a multiple of the width, or pass "
                    f"tolerance={min(off * 1.01 + 0.005, 0.99):.2f} if it is a rounded one."
                )
