"""What a layer declares: its axes, which of them grow, and so the role of each of its parameters."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any, Protocol

from widelimit.scaling import Leaf, leaf_from_axes


def positive(name: str, value: Any) -> int:
    """Returns a positive integer, or says what is wrong with it."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a positive integer; got {value!r}.")
    return value


@dataclasses.dataclass(frozen=True)
class Axis:
    """One axis of a layer: its size, its size at the base width, and whether it grows.

    Whether it grows is said, not read off the two sizes, so that it is not lost at the base width.

    Args:
        size: at the target width.
        base: at the base width.
        grows: with the width of the network.

    Raises:
        ValueError: if a size is not positive, or differs from the base size of an axis that does not grow.

    Example:
        >>> Axis(64, 16, True) == growing(64, 16), Axis(10, 10, False) == finite(10)
        (True, True)
    """

    size: int
    base: int
    grows: bool

    def __post_init__(self) -> None:
        """Checks what no layer could have."""
        positive("the size of an axis", self.size)
        positive("the base size of an axis", self.base)
        if not self.grows and self.size != self.base:
            raise ValueError(
                f"an axis that does not grow has one size; got {self.size}, and at the base width "
                f"{self.base}."
            )


def finite(size: int) -> Axis:
    """Returns an axis that keeps its size at every width: data in, labels out.

    Example:
        >>> finite(10)
        Axis(size=10, base=10, grows=False)
    """
    return Axis(size, size, False)


def growing(size: int, base: int) -> Axis:
    """Returns an axis that grows with the network's width.

    Example:
        >>> growing(256, 64)
        Axis(size=256, base=64, grows=True)
    """
    return Axis(size, base, True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerShape:
    r"""The shape of a layer ``x -> window-sum(x kernel) + bias`` at its width and at the base width.

    The kernel has the axes ``(*window, inputs, outputs)`` and contracts all but the last; the bias has
    ``(outputs,)`` and contracts none. The roles follow: a kernel is input-like, hidden or output-like as its
    axes grow, a bias input-like, and the bias of a readout scalar-like, which no width ever scales.

    Args:
        inputs: contracted channels.
        outputs: produced channels.
        width: the network's width.
        base_width: the network's base width.
        window: spatial extent of a convolution; () for a dense layer.
        bias: whether there is one.
        kernel_scale: initial std of the kernel in units of ``1/sqrt(fan_in)``; 0 starts it at zero.
        bias_scale: initial std of the bias; 0, as usual, starts it at zero.
        depth: of a layer inside a residual branch, the ratio of the number of blocks to the base number.
        ends_branch: the layer is the last of a branch, so its multipliers carry the branch's.
        stack: how many such layers lie in one array, along a leading axis (scanned blocks); None for one.

    Raises:
        ValueError: if a size is not positive, or a scale is negative.

    Example:
        >>> readout = LayerShape(inputs=growing(64, 16), outputs=finite(10), width=64, base_width=16)
        >>> {name: leaf.role.value for name, leaf in readout.leaves("Dense_1").items()}
        {'bias': 'scalar', 'kernel': 'output'}

    Reference:
        Yang et al., Tensor Programs V (arXiv 2203.03466), Table 3 and Appendix B.
    """

    inputs: Axis
    outputs: Axis
    width: int
    base_width: int
    window: tuple[int, ...] = ()
    bias: bool = True
    kernel_scale: float = 1.0
    bias_scale: float = 0.0
    depth: Fraction | None = None
    ends_branch: bool = False
    stack: int | None = None

    def __post_init__(self) -> None:
        """Checks what no layer could honour."""
        positive("width", self.width)
        positive("base_width", self.base_width)
        for size in self.window:
            positive("window", size)
        for name in ("kernel_scale", "bias_scale"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is a standard deviation, 0 or more; got {getattr(self, name)}.")

    def leaves(self, path: str = "") -> dict[str, Leaf]:
        """Returns the ``Leaf`` of each parameter of the layer, by name.

        Args:
            path: of the layer in the parameter tree, e.g. ``"Dense_0"``.
        """
        kernel = (*map(finite, self.window), self.inputs, self.outputs)
        declared: dict[str, Any] = {"kernel": (kernel, tuple(range(len(kernel) - 1)), self.kernel_scale)}
        if self.bias:
            declared["bias"] = ((self.outputs,), (), self.bias_scale)
        return {
            name: leaf_of(f"{path}/{name}" if path else name, self, *declared[name])
            for name in sorted(declared)
        }


class Shape(Protocol):
    """What the config of a network says of a layer; ``LayerShape`` is one."""

    def leaves(self, path: str = "") -> dict[str, Leaf]:
        """Returns the ``Leaf`` of each parameter of the layer, by name."""


class Placed(Protocol):
    """What every shape says of where its layer sits: in the width, in the depth, in a stack of layers."""

    @property
    def width(self) -> int:
        """The network's width."""

    @property
    def base_width(self) -> int:
        """The network's base width."""

    @property
    def depth(self) -> Fraction | None:
        """Inside a residual branch, the number of blocks over the base number."""

    @property
    def ends_branch(self) -> bool:
        """Whether the layer is the last of a branch."""

    @property
    def stack(self) -> int | None:
        """How many such layers lie in one array; None for one."""


def leaf_of(
    path: str, place: Placed, axes: tuple[Axis, ...], contracted: tuple[int, ...], init_scale: float
) -> Leaf:
    """Returns the ``Leaf`` of one parameter of a layer from its axes, behind the axis of a stack if any."""
    shared = () if place.stack is None else (finite(place.stack),)
    every = (*shared, *axes)
    return leaf_from_axes(
        path,
        tuple(axis.size for axis in every),
        tuple(axis.base for axis in every),
        contracted=tuple(len(shared) + axis for axis in contracted),
        shared=tuple(range(len(shared))),
        growing=tuple(axis.grows for axis in every),
        width=Fraction(place.width, place.base_width),
        base_width=place.base_width,
        init_scale=init_scale,
        depth=place.depth,
        ends_branch=place.ends_branch,
    )
