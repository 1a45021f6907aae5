"""The fully connected residual network: blocks that add to a stream, scaled by the number of blocks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from widelimit.models.activations import Activation, activation
from widelimit.models.layers import Dense, scaled
from widelimit.models.mlp import MLPConfig
from widelimit.models.shapes import positive
from widelimit.scaling import Parametrization

_EPSILON = 1e-6  # under the root of the norm, far below the mean square of any stream that carries a signal


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResidualMLPConfig:
    r"""A fully connected residual network of ``L = depth`` blocks.

    ``h_0 = W_in x + b``,  ``h_{k+1} = h_k + b_L branch_k(h_k)``,  ``f(x) = W_out phi(h_L) + b``,

    with ``b_L = branch_scale (L / base_depth)^-alpha``, alpha that of the parametrization (0 if it has no
    rule of depth); the power is in the forward multipliers of a branch's last layer. A branch is
    ``W phi(h) + b`` (``branch_depth=1``) or ``W_2 phi(W_1 phi(h) + b_1) + b_2`` (2). With ``norm="rms"``
    branches and readout see ``h / rms(h)`` in place of h. The layers are named ``Dense_0``, ``Dense_1``, ...
    in the order in which they are applied. With ``scan`` those of all branches are stacked under
    ``"blocks"``, by their place in a branch, and the readout is ``"readout"``.

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
        norm: ``"rms"`` puts a norm without gains before every branch and before the readout.
        scan: one loop over the blocks, whose parameters lie along a leading axis: the time to compile does
            not grow with the depth. The network is the same.
        activation: a name (see ``ACTIVATIONS``) or an entrywise function.
        bias: whether layers have biases.
        bias_std: initial std of the biases; 0 is usual, kernel theory wants more.
        zero_readout: start the readout's kernel at zero, so that the network starts at f = 0.
        dtype: of the parameters that ``init`` draws.

    Raises:
        ValueError: if a size is not positive, a branch has neither 1 nor 2 layers, the scale is not finite,
            or the norm or activation has an unknown name.
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
    norm: Literal["none", "rms"] = "none"
    scan: bool = False
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
        if self.norm not in ("none", "rms"):
            raise ValueError(f"norm must be 'none' or 'rms'; got {self.norm!r}.")
        activation(self.activation)
        self.layers()

    def branches(self) -> list[list[str]]:
        """Returns the names of the layers of each branch, as they are without ``scan``."""
        return [
            [f"Dense_{1 + block * self.branch_depth + layer}" for layer in range(self.branch_depth)]
            for block in range(self.depth)
        ]

    def layers(self) -> dict[str, Any]:
        """Returns the shape of each layer by name, from input to readout; the stacked ones below "blocks"."""
        # Additions have no parameters, so these are the layers of an MLP.
        shared = {field.name: getattr(self, field.name) for field in dataclasses.fields(MLPConfig)}
        shapes = MLPConfig(**{**shared, "depth": self.depth * self.branch_depth + 1}).layers()
        deep = Fraction(self.depth, self.base_depth)
        for branch in self.branches():
            for name in branch:
                shapes[name] = dataclasses.replace(shapes[name], depth=deep, ends_branch=name == branch[-1])
        if not self.scan:
            return dict(shapes)
        first, *_, last = shapes
        blocks = {
            f"Dense_{layer}": dataclasses.replace(shapes[name], stack=self.depth)
            for layer, name in enumerate(self.branches()[0])
        }
        return {first: shapes[first], "blocks": blocks, "readout": shapes[last]}


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
        config, shapes = self.config, self.config.layers()
        phi = activation(config.activation)
        first, *_, last = shapes

        def dense(name: str) -> Dense:
            return Dense(shapes[name], config.parametrization, config.dtype, name=name)

        h = dense(first)(x)
        if config.scan:
            blocks = nn.scan(
                _Block,
                variable_axes={"params": 0, "intermediates": 0, "perturbations": 0},
                variable_broadcast="multipliers",
                split_rngs={"params": True},
                length=config.depth,
            )
            h, _ = blocks(config, name="blocks")(h, None)
        else:
            for branch in config.branches():
                h = _added(config, h, [dense(name) for name in branch])
        h = _normed(config, h)
        return dense(last)(phi(h) if config.final_activation else h)


class _Block(nn.Module):
    """One block of the scanned network: the stream in, the stream out."""

    config: ResidualMLPConfig

    @nn.compact
    def __call__(self, h: jax.Array, _: None) -> tuple[jax.Array, None]:
        """Returns the stream behind the block."""
        config = self.config
        shapes = {
            name: dataclasses.replace(shape, stack=None) for name, shape in config.layers()["blocks"].items()
        }
        layers = [
            Dense(shape, config.parametrization, config.dtype, name=name) for name, shape in shapes.items()
        ]
        return _added(config, h, layers), None


def _added(
    config: ResidualMLPConfig, h: jax.Array, branch: Sequence[Callable[[jax.Array], jax.Array]]
) -> jax.Array:
    """Returns ``h + branch_scale branch(h)``."""
    phi, y = activation(config.activation), _normed(config, h)
    for layer in branch:
        y = layer(phi(y))
    return h + scaled(config.branch_scale, y)


def _normed(config: ResidualMLPConfig, h: jax.Array) -> jax.Array:
    """Returns the stream as branches and readout see it."""
    if config.norm == "none":
        return h
    return h * jax.lax.rsqrt(jnp.mean(h * h, axis=-1, keepdims=True) + _EPSILON)
