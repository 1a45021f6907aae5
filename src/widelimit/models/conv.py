"""A small convolutional network: its channels are its width, and global pooling makes any image size do."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from widelimit.models.activations import Activation, activation
from widelimit.models.layers import Conv, Dense
from widelimit.models.shapes import LayerShape, finite, growing, positive
from widelimit.scaling import Parametrization


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvConfig:
    r"""Convolutions ``x <- phi(conv(x) + b)``, the mean over all pixels, and a dense readout.

    Args:
        inputs: channels of the images.
        outputs: size of f(x).
        width: channels of every convolution.
        base_width: where hyperparameters are tuned; a relative parametrization changes nothing there.
        parametrization: e.g. ``mup()``.
        depth: number of convolutions, 1 or more.
        window: height and width of the kernels, in pixels.
        stride: of every convolution after the first, in pixels.
        activation: a name (see ``ACTIVATIONS``) or an entrywise function.
        bias: whether layers have biases.
        bias_std: initial std of the biases; 0 is usual, kernel theory wants more.
        zero_readout: start the readout's kernel at zero, so that the network starts at f = 0.
        dtype: of the parameters that ``init`` draws.

    Raises:
        ValueError: if a size is not positive, or the activation has an unknown name.
        TypeError: if the activation is neither a name nor a function.

    Example:
        >>> from widelimit.scaling import mup
        >>> config = ConvConfig(inputs=3, outputs=10, width=32, base_width=16, parametrization=mup())
        >>> [(name, shape.leaves()["kernel"].fan_in) for name, shape in config.layers().items()]
        [('Conv_0', 27), ('Conv_1', 288), ('Dense_0', 32)]

    Reference:
        Yang et al., Tensor Programs V (arXiv 2203.03466), Appendix B (convolutions).
    """

    inputs: int
    outputs: int
    width: int
    base_width: int
    parametrization: Parametrization
    depth: int = 2
    window: int = 3
    stride: int = 1
    activation: str | Activation = "relu"
    bias: bool = True
    bias_std: float = 0.0
    zero_readout: bool = False
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Checks what no network could have."""
        positive("depth", self.depth)
        positive("stride", self.stride)
        activation(self.activation)
        self.layers()

    def layers(self) -> dict[str, LayerShape]:
        """Returns the shape of each layer by name, from input to readout."""
        channels = growing(self.width, self.base_width)
        common: dict[str, Any] = {
            "width": self.width,
            "base_width": self.base_width,
            "bias": self.bias,
            "bias_scale": self.bias_std,
        }
        shapes = {
            f"Conv_{index}": LayerShape(
                inputs=channels if index else finite(self.inputs),
                outputs=channels,
                window=(self.window,) * 2,
                **common,
            )
            for index in range(self.depth)
        }
        scale = 0.0 if self.zero_readout else 1.0
        readout = LayerShape(inputs=channels, outputs=finite(self.outputs), kernel_scale=scale, **common)
        return {**shapes, "Dense_0": readout}


class ConvNet(nn.Module):
    """The network of a ``ConvConfig``: its variables are ``params`` and ``multipliers``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from widelimit.scaling import mup
        >>> model = ConvNet(ConvConfig(inputs=1, outputs=2, width=8, base_width=4, parametrization=mup()))
        >>> variables = model.init(jax.random.key(0), jnp.ones((1, 6, 6, 1)))
        >>> model.apply(variables, jnp.ones((5, 8, 8, 1))).shape
        (5, 2)
    """

    config: ConvConfig

    @nn.compact
    def __call__(self, x: Float[Array, "*batch height width inputs"]) -> Float[Array, "*batch outputs"]:
        """Returns the outputs."""
        phi, parametrization = activation(self.config.activation), self.config.parametrization
        (first, shape), *rest, (last, readout) = self.config.layers().items()
        x = phi(Conv(shape, parametrization, self.config.dtype, name=first)(x))
        for name, shape in rest:
            x = phi(Conv(shape, parametrization, self.config.dtype, self.config.stride, name=name)(x))
        return Dense(readout, parametrization, self.config.dtype, name=last)(x.mean((-3, -2)))
