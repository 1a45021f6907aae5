"""Normalisation over the last axis, in at least float32, with gains stored as their offsets from one."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from widelimit.models.layers import Parametrized, scaled, wide
from widelimit.models.shapes import Axis, leaf_of, positive
from widelimit.scaling import Leaf, Parametrization

NormKind = Literal["rms", "layer"]
NORMS: tuple[NormKind, ...] = ("rms", "layer")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NormShape:
    r"""The trained parameters of a norm: ``gain`` and ``bias``, input-like vectors over the axis, or none.

    Both start at zero; the gain in use is ``1 + multiplier * gain``, so that every form of a parametrization
    starts at one.

    Args:
        axis: normalised over.
        width: the network's width.
        base_width: the network's base width.
        gains: whether gains are trained. Trained gains break transfer over width in large transformers.
        bias: whether a bias is trained.
        depth: of a norm inside a residual branch, the ratio of the number of blocks to the base number.
        stack: how many such norms lie in one array, along a leading axis; None for one.

    Example:
        >>> from widelimit.models import growing
        >>> shape = NormShape(axis=growing(64, 16), width=64, base_width=16, gains=True)
        >>> {name: (leaf.role.value, leaf.init_scale) for name, leaf in shape.leaves().items()}
        {'gain': ('input', 0.0)}

    Reference:
        Yang et al., Tensor Programs IVb (arXiv 2308.01814), Section 2.9.2; Lingle, arXiv 2404.05728 (gains).
    """

    axis: Axis
    width: int
    base_width: int
    gains: bool = False
    bias: bool = False
    depth: Fraction | None = None
    stack: int | None = None

    @property
    def ends_branch(self) -> bool:
        """A norm begins a branch of a pre-norm network, and never ends one."""
        return False

    def __post_init__(self) -> None:
        """Checks the widths."""
        positive("width", self.width)
        positive("base_width", self.base_width)

    def leaves(self, path: str = "") -> dict[str, Leaf]:
        """Returns the ``Leaf`` of each parameter of the norm, by name; none without gains and bias.

        Args:
            path: of the norm in the parameter tree.
        """
        names = [name for name, trained in (("bias", self.bias), ("gain", self.gains)) if trained]
        return {
            name: leaf_of(f"{path}/{name}" if path else name, self, (self.axis,), (), 0.0) for name in names
        }


class Norm(Parametrized):
    r"""``x / rms(x)`` or ``(x - mean) / std`` over the last axis, times the gain, plus the bias.

    ``rms(x) = sqrt(mean(x^2) + epsilon)``, ``std = sqrt(mean((x - mean)^2) + epsilon)``. The statistics are
    computed in float32 at least, whatever dtype enters.

    Args:
        shape: of its parameters.
        parametrization: the multipliers that ``init`` takes.
        kind: ``"rms"`` or ``"layer"``.
        dtype: of the parameters that ``init`` makes.
        output_dtype: of what comes out; None is the dtype that enters.
        epsilon: added to the mean square.

    Raises:
        ValueError: for another kind, or inputs of another size.

    Example:
        >>> from widelimit.models import growing
        >>> from widelimit.scaling import mup
        >>> norm = Norm(NormShape(axis=growing(2, 2), width=2, base_width=2), mup(), epsilon=0.0)
        >>> norm.apply({}, jnp.array([[1.0, 7.0]])).tolist()
        [[0.2, 1.4]]

    Reference:
        Zhang & Sennrich, arXiv 1910.07467 (rms); Ba et al., arXiv 1607.06450 (layer).
    """

    shape: NormShape
    parametrization: Parametrization
    kind: NormKind = "rms"
    dtype: str = "float32"
    output_dtype: str | None = None
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        """Normalises."""
        if self.kind not in NORMS:
            raise ValueError(f"a norm is one of {', '.join(NORMS)}; got {self.kind!r}.")
        if x.shape[-1:] != (self.shape.axis.size,):
            raise ValueError(
                f"{self.where} expects inputs whose last axis has size {self.shape.axis.size}; "
                f"got shape {x.shape}."
            )
        h = x.astype(wide(x.dtype))
        if self.kind == "layer":
            h = h - h.mean(-1, keepdims=True)
        h = h * jax.lax.rsqrt(jnp.square(h).mean(-1, keepdims=True) + self.epsilon)
        if self.shape.gains or self.shape.bias:
            params, multipliers = self._variables(self.shape, self.parametrization, self.dtype)
            h = trained(h, params, multipliers)
        return h.astype(self.output_dtype or x.dtype)


def trained(
    h: Float[Array, "*batch width"], params: dict[str, jax.Array], multipliers: dict[str, Any]
) -> Float[Array, "*batch width"]:
    """Returns ``h (1 + multiplier gain) + multiplier bias``, as far as they are among the parameters."""
    along = {
        name: scaled(multipliers[name], array).astype(h.dtype).reshape((1,) * (h.ndim - 1) + (-1,))
        for name, array in params.items()
    }
    if "gain" in along:
        h = h * (1 + along["gain"])
    return h + along["bias"] if "bias" in along else h
