"""The layers of an infinite network: what each does to the covariances of two sets of samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from widelimit.kernels.analytic.duals import Dual
from widelimit.scaling import Rules

Mean = Callable[[np.ndarray], np.ndarray]
"""The mean of covariances over the inputs of a layer: what a linear layer of unit weights does to them."""


class State(NamedTuple):
    """Covariances of one unit behind some layer, and the NTK up to there.

    Args:
        within1: of pixels within each sample of the first set, [N1, H, H, W, W]; [N1] without pixels.
        within2: of the second set.
        nngp: across, [N1, N2, H, H, W, W]; [N1, N2] without pixels.
        ntk: likewise.
    """

    within1: np.ndarray
    within2: np.ndarray
    nngp: np.ndarray
    ntk: np.ndarray


class Weights(NamedTuple):
    r"""What a layer's numbers amount to in the limit.

    Args:
        weight: variance ``mult^2 std^2 fan_in``, from the mean square of the inputs to that of the outputs.
        bias: variance ``mult_b^2 std_b^2``.
        weight_rate: ``rate mult^2 fan_in``, of the layer's own contribution to the NTK.
        bias_rate: ``rate_b mult_b^2``.
    """

    weight: float
    bias: float
    weight_rate: float
    bias_rate: float


def weights(rules: Rules, rates: Any, name: str) -> Weights:
    """Returns the weights of a layer from the numbers of the finite network that it stands for."""
    fan_in = next(leaf.fan_in for leaf in rules.leaves if leaf.path == f"{name}/kernel")
    multiplier, std, rate = ({"bias": 0.0} | tree[name] for tree in (rules.multiplier, rules.init_std, rates))
    square = {leaf: float(value) ** 2 for leaf, value in multiplier.items()}
    return Weights(
        weight=square["kernel"] * float(std["kernel"]) ** 2 * fan_in,
        bias=square["bias"] * float(std["bias"]) ** 2,
        weight_rate=float(rate["kernel"]) * square["kernel"] * fan_in,
        bias_rate=float(rate["bias"]) * square["bias"],
    )


def start(x1: np.ndarray, x2: np.ndarray) -> State:
    """Returns the covariances of the inputs, [N, channels] or [N, H, W, channels]: means over channels."""
    channels = x1.shape[-1]
    across = np.tensordot(x1, x2, (-1, -1)) / channels
    if x1.ndim == 2:
        within1, within2 = (np.mean(x**2, axis=-1) for x in (x1, x2))
    else:
        across = across.transpose(0, 3, 1, 4, 2, 5)
        within1, within2 = (np.einsum("nhwc,nijc->nhiwj", x, x) / channels for x in (x1, x2))
    return State(within1, within2, across, np.zeros_like(across))


def linear(state: State, mean: Mean, w: Weights) -> State:
    """Applies a dense layer or a convolution."""
    below = mean(state.nngp)
    return State(
        within1=w.weight * mean(state.within1) + w.bias,
        within2=w.weight * mean(state.within2) + w.bias,
        nngp=w.weight * below + w.bias,
        ntk=w.weight * mean(state.ntk) + w.weight_rate * below + w.bias_rate,
    )


def entrywise(state: State, dual: Dual) -> State:
    """Applies an activation."""
    q1, q2 = _variances(state.within1), _variances(state.within2)
    value, slope = dual(state.nngp, _beside(q1, 0), _beside(q2, 1))
    within1, within2 = _within(state.within1, q1, dual), _within(state.within2, q2, dual)
    return State(within1, within2, value, state.ntk * slope)


def plus(stream: State, branch: State, scale: float) -> State:
    """Adds a branch of independent weights to a stream: in ``h + scale branch`` no cross term is left."""
    return State(*(h + scale**2 * b for h, b in zip(stream, branch, strict=True)))


def channels(covariance: np.ndarray) -> np.ndarray:
    """The mean over the inputs of a dense layer: covariances are such means already."""
    return covariance


def pixels(covariance: np.ndarray) -> np.ndarray:
    """The mean over all pixels, of both samples."""
    return covariance.mean((-4, -3, -2, -1))


def window(size: int, stride: int) -> Mean:
    """Returns the mean over the window of a convolution, zero-padded as XLA does (SAME)."""

    def mean(covariance: np.ndarray) -> np.ndarray:
        return _slide(_slide(covariance, -4, size, stride), -2, size, stride)

    return mean


def _slide(covariance: np.ndarray, axis: int, size: int, stride: int) -> np.ndarray:
    """Averages over shifts of one image axis, which two axes of the covariances share."""
    first = covariance.ndim + axis
    length = covariance.shape[first]
    count = -(-length // stride)
    lacking = max((count - 1) * stride + size - length, 0)
    padding = [(0, 0)] * covariance.ndim
    padding[first] = padding[first + 1] = (lacking // 2, lacking - lacking // 2)
    padded = np.pad(covariance, padding)
    starts = [slice(shift, shift + (count - 1) * stride + 1, stride) for shift in range(size)]
    shifted = [padded[(slice(None),) * first + (taken, taken)] for taken in starts]
    return np.asarray(sum(shifted) / size)


def _variances(within: np.ndarray) -> np.ndarray:
    """Returns the variance [N, *pixels] of every pixel, from covariances [N] or [N, H, H, W, W]."""
    return within if within.ndim == 1 else np.einsum("nhhww->nhw", within)


def _beside(q: np.ndarray, side: int) -> np.ndarray:
    """Returns the variances of one side in the layout of covariances across, e.g. [N1, 1, H, 1, W, 1]."""
    shape = [1] * (2 * q.ndim)
    shape[side::2] = q.shape
    return q.reshape(shape)


def _within(within: np.ndarray, q: np.ndarray, dual: Dual) -> np.ndarray:
    """Returns covariances of pixels within each sample behind an activation."""
    if within.ndim == 1:
        return dual(q, q, q)[0]
    n, height, width = q.shape
    return dual(within, q.reshape(n, height, 1, width, 1), q.reshape(n, 1, height, 1, width))[0]
