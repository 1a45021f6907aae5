"""Normalisation of images over groups of channels."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from widelimit.models.layers import Parametrized, wide
from widelimit.models.norm import NormShape, trained
from widelimit.models.shapes import positive
from widelimit.scaling import Parametrization


class GroupNorm(Parametrized):
    r"""``(x - mean) / std`` over the pixels and the channels of each group, times gains, plus a bias.

    With a number of groups that stays as channels grow, groups grow, and their statistics settle. The
    statistics are computed in float32 at least, whatever dtype enters.

    Args:
        shape: of its parameters, one gain and one bias a channel.
        parametrization: the multipliers that ``init`` takes.
        groups: number of groups of neighbouring channels.
        dtype: of the parameters that ``init`` makes.
        epsilon: added to the mean square.

    Raises:
        ValueError: if the channels do not divide into the groups, or inputs are no such images.

    Example:
        >>> from widelimit.models import growing
        >>> from widelimit.scaling import mup
        >>> norm = GroupNorm(NormShape(axis=growing(2, 2), width=2, base_width=2), mup(), 1, epsilon=0.0)
        >>> norm.apply({}, jnp.array([[[1.0, 3.0], [3.0, 1.0]]])).tolist()
        [[[-1.0, 1.0], [1.0, -1.0]]]

    Reference:
        Wu & He, Group Normalization (arXiv 1803.08494).
    """

    shape: NormShape
    parametrization: Parametrization
    groups: int
    dtype: str = "float32"
    epsilon: float = 1e-5

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch height across width"]
    ) -> Float[Array, "*batch height across width"]:
        """Normalises."""
        channels, groups = self.shape.axis.size, positive("groups", self.groups)
        if channels % groups:
            raise ValueError(f"{self.where}: {channels} channels do not divide into {groups} groups.")
        if x.ndim < 3 or x.shape[-1] != channels:
            raise ValueError(
                f"{self.where} expects images (..., height, width, {channels}); got shape {x.shape}."
            )
        h = x.astype(wide(x.dtype)).reshape(*x.shape[:-1], groups, -1)
        over = (-4, -3, -1)
        h = h - h.mean(over, keepdims=True)
        h = h * jax.lax.rsqrt(jnp.square(h).mean(over, keepdims=True) + self.epsilon)
        h = h.reshape(x.shape)
        if self.shape.gains or self.shape.bias:
            h = trained(h, *self._variables(self.shape, self.parametrization, self.dtype))
        return h.astype(x.dtype)
