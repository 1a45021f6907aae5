"""What is known of one parameter array: which of its axes grow with width, and which are contracted."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence
from fractions import Fraction
from math import prod


class Role(enum.Enum):
    """How a parameter meets the width: the layer classes of Tensor Programs V, Table 3.

    ``INPUT`` maps finite -> width (input matrix, embedding, biases, norm gains, position tables), ``HIDDEN``
    width -> width, ``OUTPUT`` width -> finite (readout), ``SCALAR`` touches no growing axis. Whether a
    parameter also meets the *depth* is a fact of its own: ``Leaf.depth``.

    Example:
        >>> Role.INPUT.value
        'input'

    Reference:
        Yang et al., Tensor Programs V (arXiv 2203.03466), Table 3.
    """

    INPUT = "input"
    HIDDEN = "hidden"
    OUTPUT = "output"
    SCALAR = "scalar"


@dataclasses.dataclass(frozen=True)
class Leaf:
    """The shape facts of one parameter array that a scaling rule needs.

    Args:
        path: where the array sits in the parameter tree, e.g. ``"params/Dense_0/kernel"``.
        role: how it meets the width.
        shape: its shape at the target width.
        base_shape: its shape at the base width, where every relative rule is neutral.
        fan_in: product of the contracted axes (1 if none is), at the target width.
        fan_out: product of the free axes, at the target width.
        base_fan_in: ``fan_in`` at the base width.
        base_fan_out: ``fan_out`` at the base width.
        width: the width of the model, as a ratio m to its base width.
        base_width: the base width n0 of the model, so that its width is ``n = m n0``.
        tied: the array is an embedding that is used again, transposed, as the readout.
        init_scale: initial std in units of ``1/sqrt(fan_in)``; 0 for an array that starts from a constant
            (biases, gains, a zero-initialised readout).
        depth: of an array inside a residual branch, the ratio m_L of the number of blocks to the base
            number; None for arrays outside of all branches, which no depth rule touches.
        ends_branch: the array is added in the last layer of a residual branch, whose output is the
            branch's: its forward multiplier carries the branch's.
        contracted: the axes that the forward pass sums over.
        shared: the axes along which independent layers are stacked.

    Example:
        >>> shapes = {"shape": (128, 128), "base_shape": (32, 32)}
        >>> leaf_from_axes("w", **shapes, contracted=(0,), width=Fraction(4), base_width=32).role
        <Role.HIDDEN: 'hidden'>
    """

    path: str
    role: Role
    shape: tuple[int, ...]
    base_shape: tuple[int, ...]
    fan_in: int
    fan_out: int
    base_fan_in: int
    base_fan_out: int
    width: Fraction
    base_width: int
    tied: bool = False
    init_scale: float = 1.0
    depth: Fraction | None = None
    ends_branch: bool = False
    contracted: tuple[int, ...] = ()
    shared: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Checks what no residual network could have."""
        if self.depth is None and self.ends_branch:
            raise ValueError(f"{self.path} ends a residual branch, so it needs a depth; got none.")
        if self.depth is not None and not self.depth > 0:
            raise ValueError(f"{self.path}: depth is a positive ratio of blocks; got {self.depth}.")


def role_of(growing: Sequence[bool], contracted: Sequence[int]) -> Role:
    """Returns the role of an array from which of its axes grow and which are contracted.

    Args:
        growing: one flag per axis, true where the axis grows with width.
        contracted: the axes that the forward pass sums over.

    Raises:
        ValueError: if a contracted axis is out of range.

    Example:
        >>> role_of((False, True), contracted=(0,)), role_of((False, True), contracted=(1,))
        (<Role.INPUT: 'input'>, <Role.OUTPUT: 'output'>)
    """
    if any(not 0 <= axis < len(growing) for axis in contracted):
        raise ValueError(f"contracted axes must lie in 0..{len(growing) - 1}; got {tuple(contracted)}.")
    grows_in = any(growing[axis] for axis in contracted)
    grows_out = any(grows for axis, grows in enumerate(growing) if axis not in contracted)
    if grows_in:
        return Role.HIDDEN if grows_out else Role.OUTPUT
    return Role.INPUT if grows_out else Role.SCALAR


def leaf_from_axes(
    path: str,
    shape: Sequence[int],
    base_shape: Sequence[int],
    *,
    contracted: Sequence[int],
    width: Fraction,
    base_width: int,
    growing: Sequence[bool] | None = None,
    shared: Sequence[int] = (),
    tied: bool = False,
    init_scale: float | None = None,
    depth: Fraction | None = None,
    ends_branch: bool = False,
) -> Leaf:
    """Builds a ``Leaf`` from shapes at two widths and the axes that the forward pass contracts.

    Args:
        path: where the array sits in the parameter tree.
        shape: shape at the target width.
        base_shape: shape at the base width.
        contracted: the axes that the forward pass sums over (or looks up, for an embedding).
        width: ratio m of the model's width to its base width.
        base_width: the model's base width n0.
        growing: which axes grow with width. None reads it off the two shapes, which is possible only when
            they differ; at target width = base width it must be given.
        shared: axes along which independent layers are stacked (scanned layers, experts): no part of a fan.
        tied: the array serves as embedding and readout.
        init_scale: initial std in units of ``1/sqrt(fan_in)``. None means 1 for an array that is contracted
            and 0 for one that is not (biases and gains start from a constant).
        depth: as in ``Leaf``.
        ends_branch: as in ``Leaf``.

    Raises:
        ValueError: if the ranks differ, or ``growing`` is needed and missing.

    Example:
        >>> leaf_from_axes("w", (64, 10), (16, 10), contracted=(0,), width=Fraction(4), base_width=16).role
        <Role.OUTPUT: 'output'>
    """
    if len(shape) != len(base_shape):
        raise ValueError(f"{path}: shapes at two widths must have equal rank; got {shape} and {base_shape}.")
    if growing is None:
        if width == 1:
            raise ValueError(f"{path}: at target width = base width the shapes cannot tell; pass growing=...")
        growing = tuple(a != b for a, b in zip(shape, base_shape, strict=True))
    free = [axis for axis in range(len(shape)) if axis not in contracted and axis not in shared]
    growing = tuple(grows and axis not in shared for axis, grows in enumerate(growing))
    return Leaf(
        path=path,
        role=role_of(growing, contracted),
        shape=tuple(shape),
        base_shape=tuple(base_shape),
        fan_in=prod(shape[axis] for axis in contracted),
        fan_out=prod(shape[axis] for axis in free),
        base_fan_in=prod(base_shape[axis] for axis in contracted),
        base_fan_out=prod(base_shape[axis] for axis in free),
        width=width,
        base_width=base_width,
        tied=tied,
        init_scale=(1.0 if contracted else 0.0) if init_scale is None else init_scale,
        depth=depth,
        ends_branch=ends_branch,
        contracted=tuple(contracted),
        shared=tuple(shared),
    )
