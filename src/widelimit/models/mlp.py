"""The fully connected network, any depth; with the identity as activation, the deep linear network."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
from jaxtyping import Array, Float

from widelimit.models.activations import Activation, activation
from widelimit.models.layers import Dense
from widelimit.models.shapes import LayerShape, finite, growing, positive
from widelimit.scaling import Parametrization


@dataclasses.dataclass(frozen=True, kw_only=True)
class MLPConfig:
    r"""A fully connected network ``f(x) = W_L phi(... phi(W_0 x + b_0) ...) + b_L`` with ``L = depth``.

    ``MLPConfig(activation="identity", bias=False, ...)`` is the deep linear network.

    Args:
        inputs: size of x.
        outputs: size of f(x).
        width: size of every hidden layer.
        base_width: where hyperparameters are tuned; a relative parametrization changes nothing there.
        parametrization: e.g. ``mup()``.
        depth: number of hidden layers, 1 or more.
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
        >>> config = MLPConfig(inputs=64, outputs=10, width=256, base_width=64, parametrization=mup())
        >>> [(name, shape.inputs.size, shape.outputs.size) for name, shape in config.layers().items()]
        [('Dense_0', 64, 256), ('Dense_1', 256, 256), ('Dense_2', 256, 10)]

    Reference:
        Yang & Hu, arXiv 2011.14522, Eq. 1.
    """

    inputs: int
    outputs: int
    width: int
    base_width: int
    parametrization: Parametrization
    depth: int = 2
    activation: str | Activation = "tanh"
    bias: bool = True
    bias_std: float = 0.0
    zero_readout: bool = False
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Checks what no network could have."""
        positive("depth", self.depth)
        activation(self.activation)
        self.layers()

    def layers(self) -> dict[str, LayerShape]:
        """Returns the shape of each layer by name, from input to readout."""
        hidden = growing(self.width, self.base_width)
        axes = [finite(self.inputs), *[hidden] * self.depth, finite(self.outputs)]
        return {
            f"Dense_{index}": LayerShape(
                inputs=axes[index],
                outputs=axes[index + 1],
                width=self.width,
                base_width=self.base_width,
                bias=self.bias,
                kernel_scale=0.0 if self.zero_readout and index == self.depth else 1.0,
                bias_scale=self.bias_std,
            )
            for index in range(self.depth + 1)
        }


class MLP(nn.Module):
    """The network of an ``MLPConfig``: its variables are ``params`` and ``multipliers``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from widelimit.scaling import mup
        >>> config = MLPConfig(inputs=3, outputs=2, width=16, base_width=8, parametrization=mup(table=8))
        >>> model = MLP(config)
        >>> variables = model.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> model.apply(variables, jnp.ones((5, 3))).shape, variables["multipliers"]["Dense_2"]["kernel"]
        ((5, 2), 0.5)
    """

    config: MLPConfig

    @nn.compact
    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        """Returns the outputs."""
        phi, parametrization = activation(self.config.activation), self.config.parametrization
        *hidden, readout = (
            Dense(shape, parametrization, self.config.dtype, name=name)
            for name, shape in self.config.layers().items()
        )
        for layer in hidden:
            x = phi(layer(x))
        return readout(x)
