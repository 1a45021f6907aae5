"""The fully connected residual network: blocks that add to a stream, scaled by the number of blocks."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import flax.linen as nn
from jaxtyping import Array, Float

from widelimit.models.activations import Activation, activation
from widelimit.models.layers import Dense, scaled
from widelimit.models.mlp import MLPConfig
from widelimit.models.shapes import LayerShape, positive
from widelimit.scaling import Parametrization


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResidualMLPConfig:
    r"""A fully connected residual network of ``L = depth`` blocks.

    ``h_0 = W_in x + b``,  ``h_{k+1} = h_k + b_L branch_k(h_k)``,  ``f(x) = W_out phi(h_L) + b``,

    with ``b_L = branch_scale (L / base_depth)^-alpha``, alpha that of the parametrization (0 if it has no
    rule of depth); the power is in the forward multipliers of a branch's last layer. A branch is
    ``W phi(h) + b`` (``branch_depth=1``) or ``W_2 phi(W_1 phi(h) + b_1) + b_2`` (2). The
    layers are named ``Dense_0``, ``Dense_1``, ... in the order in which they are applied.

    Args:
        inputs: size of x.
        outputs: size of f(x).
        width: size of the stream and of every hidden layer.
        base_width: where hyperparameters are tuned; a relative parametrization changes nothing there.
        parametrization: e.g. ``mup()``.
        depth: number of blocks L, 1 or more.
        base_depth: where hyperparameters are tuned: a rule of depth changes nothing there. 1 makes it
            absolute: branches are multiplied by ``branch_scale L^-alpha``.
        branch_depth: layers in a branch, 1 or 2.
        branch_scale: factor on every branch at the base depth.
        final_activation: whether the readout sees phi(h_L), or h_L.
        activation: a name (see ``ACTIVATIONS``) or an entrywise function.
        bias: whether layers have biases.
        bias_std: initial std of the biases; 0 is usual, kernel theory wants more.
        zero_readout: start the readout's kernel at zero, so that the network starts at f = 0.
        dtype: of the parameters that ``init`` draws.

    Raises:
        ValueError: if a size is not positive, a branch has neither 1 nor 2 layers, the scale is not finite,
            or the activation has an unknown name.
        TypeError: if the activation is neither a name nor a function.

    Example:
        >>> from widelimit.models import rules
        >>> from widelimit.scaling import depth_mup
        >>> config = ResidualMLPConfig(
        ...     inputs=64, outputs=10, width=256, base_width=64, parametrization=depth_mup(), depth=4
        ... )
        >>> list(config.layers()), rules(config).multiplier["Dense_1"]["kernel"]
        (['Dense_0', 'Dense_1', 'Dense_2', 'Dense_3', 'Dense_4', 'Dense_5'], 0.5)

    Reference:
        Bordelon et al., Depthwise Hyperparameter Transfer in Residual Networks (arXiv 2309.16620); Dey et
        al., arXiv 2505.01618 (alpha = 1).
    """

    inputs: int
    outputs: int
    width: int
    base_width: int
    parametrization: Parametrization
    depth: int = 2
    base_depth: int = 1
    branch_depth: int = 1
    branch_scale: float = 1.0
    final_activation: bool = True
    activation: str | Activation = "tanh"
    bias: bool = True
    bias_std: float = 0.0
    zero_readout: bool = False
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Checks what no network could have."""
        positive("depth", self.depth)
        positive("base_depth", self.base_depth)
        if self.branch_depth not in (1, 2):
            raise ValueError(f"branch_depth must be 1 or 2; got {self.branch_depth!r}.")
        if not 0 <= self.branch_scale < float("inf"):
            raise ValueError(f"branch_scale is a number, 0 or more; got {self.branch_scale!r}.")
        activation(self.activation)
        self.layers()

    def branches(self) -> list[list[str]]:
        """Returns the names of the layers of each branch."""
        return [
            [f"Dense_{1 + block * self.branch_depth + layer}" for layer in range(self.branch_depth)]
            for block in range(self.depth)
        ]

    def layers(self) -> dict[str, LayerShape]:
        """Returns the shape of each layer by name, from input to readout."""
        # Additions have no parameters, so these are the layers of an MLP.
        shared = {field.name: getattr(self, field.name) for field in dataclasses.fields(MLPConfig)}
        shapes = MLPConfig(**{**shared, "depth": self.depth * self.branch_depth + 1}).layers()
        deep = Fraction(self.depth, self.base_depth)
        for branch in self.branches():
            for name in branch:
                shapes[name] = dataclasses.replace(shapes[name], depth=deep, ends_branch=name == branch[-1])
        return shapes


class ResidualMLP(nn.Module):
    """The network of a ``ResidualMLPConfig``: its variables are ``params`` and ``multipliers``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from widelimit.scaling import mup
        >>> config = ResidualMLPConfig(inputs=3, outputs=2, width=16, base_width=8, parametrization=mup())
        >>> model = ResidualMLP(config)
        >>> variables = model.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> model.apply(variables, jnp.ones((5, 3))).shape
        (5, 2)
    """

    config: ResidualMLPConfig

    @nn.compact
    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        """Returns the outputs."""
        config = self.config
        phi = activation(config.activation)
        layers = {
            name: Dense(shape, config.parametrization, config.dtype, name=name)
            for name, shape in config.layers().items()
        }
        first, *_, last = layers
        h = layers[first](x)
        for branch in config.branches():
            y = h
            for name in branch:
                y = layers[name](phi(y))
            h = h + scaled(config.branch_scale, y)
        return layers[last](phi(h) if config.final_activation else h)
