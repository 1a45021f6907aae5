"""How attention knows where tokens are: rotary angles, linear biases, and the causal mask as a bias."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Positions = Literal["rope", "learned", "alibi", "none"]
POSITIONS: tuple[Positions, ...] = ("rope", "learned", "alibi", "none")


class Signal(NamedTuple):
    """What every attention layer of a network is told about positions, computed once.

    Args:
        cosine: of the rotary angles, shape [T, d/2]; None without rotation.
        sine: of the same angles.
        bias: added to the attention logits, shape [H, T, T] or [1, T, T]; None adds nothing.
    """

    cosine: jax.Array | None
    sine: jax.Array | None
    bias: jax.Array | None


def rotary_angles(length: int, head_size: int, base: float = 10_000.0) -> np.ndarray:
    r"""Returns the angles ``t base^(-2 i / d)``, shape [length, d/2].

    Args:
        length: number of positions T.
        head_size: d, even.
        base: the longest wavelength is about ``2 pi base``.

    Raises:
        ValueError: if the head size is odd.

    Example:
        >>> rotary_angles(3, 2).tolist()
        [[0.0], [1.0], [2.0]]

    Reference:
        Su et al., RoFormer (arXiv 2104.09864), Eq. 15.
    """
    if head_size % 2:
        raise ValueError(f"rotary positions turn pairs of entries; got the odd head size {head_size}.")
    return np.outer(np.arange(length), base ** (-np.arange(0, head_size, 2) / head_size))


def rotate(
    x: Float[Array, "*batch T heads d"], cosine: Float[Array, "T half"], sine: Float[Array, "T half"]
) -> Float[Array, "*batch T heads d"]:
    """Turns the pair of entries (i, i + d/2) of position t by its angle i."""
    first, second = jnp.split(x, 2, axis=-1)
    shape = (1,) * (x.ndim - 3) + (cosine.shape[0], 1, cosine.shape[1])
    cos, sin = cosine.astype(x.dtype).reshape(shape), sine.astype(x.dtype).reshape(shape)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def alibi_slopes(heads: int) -> np.ndarray:
    r"""Returns the slope of each head's linear bias: ``2^(-8 k / H)`` for k = 1..H.

    For H that is no power of two: those of the next smaller power, then every other one of twice as many.

    Args:
        heads: H.

    Example:
        >>> alibi_slopes(4).tolist(), len(alibi_slopes(6))
        ([0.25, 0.0625, 0.015625, 0.00390625], 6)

    Reference:
        Press et al., arXiv 2108.12409, Section 3 and the authors' code.
    """
    power = 2 ** int(math.log2(heads))
    slopes = 2.0 ** (-8 * np.arange(1, power + 1) / power)
    between = 2.0 ** (-8 * np.arange(1, 2 * power + 1, 2) / (2 * power))
    return np.concatenate([slopes, between[: heads - power]])


def signal(kind: Positions, *, length: int, heads: int, head_size: int, causal: bool, dtype: str) -> Signal:
    """Returns what attention is told about ``length`` positions.

    The causal mask is the bias minus infinity: the weights there are exactly zero, and so are their
    gradients.
    """
    cosine = sine = bias = None
    if kind == "rope":
        angles = rotary_angles(length, head_size)
        cosine, sine = jnp.asarray(np.cos(angles), dtype), jnp.asarray(np.sin(angles), dtype)
    ahead = np.arange(length)[None, None, :] - np.arange(length)[None, :, None]  # s - t, [1, T, T]
    if kind == "alibi":
        bias = -alibi_slopes(heads)[:, None, None] * np.abs(ahead)
    if causal:
        bias = np.where(ahead > 0, -np.inf, 0.0 if bias is None else bias)
    return Signal(cosine, sine, None if bias is None else jnp.asarray(bias, dtype))
