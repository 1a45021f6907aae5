"""The convolutional residual network: pre-activation blocks in stages, whose channels are its width."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from widelimit.models.activations import Activation, activation
from widelimit.models.group_norm import GroupNorm
from widelimit.models.layers import COMPUTE, Conv, Dense, scaled, wide
from widelimit.models.norm import Norm, NormShape
from widelimit.models.shapes import Axis, LayerShape, finite, growing, positive
from widelimit.scaling import Parametrization

_NORMS = ("layer", "group", "none")


class Place(NamedTuple):
    """What enters and leaves a block."""

    inputs: Axis
    outputs: Axis
    stride: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    r"""A pre-activation convolutional network of ``L = depth`` blocks in stages on a stream of channels.

    ``h_0 = conv(x)``,  ``h_{k+1} = S_k h_k + b_L branch_k(h_k)``,  ``f(x) = W mean phi(norm(h_L))``,

    with ``b_L = branch_scale (L / base_depth)^-alpha``, alpha that of the parametrization; the power is in
    the forward multipliers of a branch's last convolution. A branch is ``conv(phi(norm(h)))`` once or twice
    over. The first block of a stage strides and changes the number of channels; where it does either, S_k is
    a convolution of one pixel on the stream, else the identity. There is one such shortcut a stage however
    deep the network is, and it carries the stream: it is outside of all branches, and no depth rule
    touches it. The mean is over pixels.

    Args:
        inputs: channels of the images.
        outputs: size of f(x).
        width: channels of the first stage.
        base_width: where hyperparameters are tuned; a relative parametrization changes nothing there.
        parametrization: e.g. ``completep()``.
        depth: number of blocks L, the same in every stage.
        base_depth: where hyperparameters are tuned: a rule of depth changes nothing there.
        strides: of the first block of each stage, in pixels; as many stages.
        growth: channels of a stage over those of the stage before.
        branch_depth: convolutions in a branch, 1 or 2.
        branch_scale: factor on every branch at the base depth.
        window: height and width of the kernels, in pixels.
        norm: ``"layer"``, over the channels of a pixel; ``"group"``, over the pixels and channels of each
            group of channels; or ``"none"``.
        groups: number of groups, the same at every width.
        gains: whether norms have trained gains.
        activation: a name (see ``ACTIVATIONS``) or an entrywise function.
        bias: whether convolutions in branches, the stem and the readout have biases, and norms with gains.
        zero_readout: start the readout's kernel at zero, so that the network starts at f = 0.
        dtype: of the parameters that ``init`` draws.
        compute_dtype: of products, e.g. ``"bfloat16"``; None is that of the parameters, which the stream,
            the statistics of norms and the outputs have in any case.
        remat: recompute each block in the backward pass instead of storing its activations.

    Raises:
        ValueError: if a size is not positive, the depth does not divide into the stages or the channels into
            the groups, or a choice is unknown.
        TypeError: if the activation is neither a name nor a function, or a dtype is not a floating one.

    Example:
        >>> from widelimit.models import rules
        >>> from widelimit.scaling import completep
        >>> config = ResNetConfig(
        ...     inputs=3, outputs=10, width=64, base_width=16, parametrization=completep(), depth=6,
        ...     base_depth=3, strides=(1, 2, 2), growth=2,
        ... )
        >>> list(config.layers()["block_2"]), rules(config).multiplier["block_2"]["conv_1"]["kernel"]
        (['conv_0', 'conv_1', 'shortcut'], 0.5)

    Reference:
        He et al., Identity Mappings in Deep Residual Networks (arXiv 1603.05027); Bordelon et al., arXiv
        2309.16620 (branches).
    """

    inputs: int
    outputs: int
    width: int
    base_width: int
    parametrization: Parametrization
    depth: int = 2
    base_depth: int = 2
    strides: tuple[int, ...] = (1,)
    growth: int = 1
    branch_depth: int = 2
    branch_scale: float = 1.0
    window: int = 3
    norm: Literal["layer", "group", "none"] = "layer"
    groups: int = 4
    gains: bool = False
    activation: str | Activation = "relu"
    bias: bool = False
    zero_readout: bool = False
    dtype: str = "float32"
    compute_dtype: str | None = None
    remat: bool = False

    def __post_init__(self) -> None:
        """Checks what no network could have."""
        for name in ("width", "base_width", "depth", "base_depth", "growth", "groups"):
            positive(name, getattr(self, name))
        if not isinstance(self.strides, tuple) or not self.strides:
            raise ValueError(f"strides must be a tuple, one stride a stage; got {self.strides!r}.")
        for stride in self.strides:
            positive("a stride", stride)
        for name in ("depth", "base_depth"):
            if getattr(self, name) % len(self.strides):
                raise ValueError(
                    f"{name} must be a multiple of the number of stages, {len(self.strides)} (one a stride); "
                    f"got {getattr(self, name)}."
                )
        if self.branch_depth not in (1, 2):
            raise ValueError(f"branch_depth must be 1 or 2; got {self.branch_depth!r}.")
        if not 0 <= self.branch_scale < float("inf"):
            raise ValueError(f"branch_scale is a number, 0 or more; got {self.branch_scale!r}.")
        if self.norm not in _NORMS:
            raise ValueError(f"norm must be one of {', '.join(_NORMS)}; got {self.norm!r}.")
        if self.gains and self.norm == "none":
            raise ValueError('gains=True needs a norm; got norm="none".')
        if self.norm != "group" and self.groups != 4:
            raise ValueError(f"groups is for norm='group'; got groups={self.groups} and norm={self.norm!r}.")
        if self.norm == "group" and (self.width % self.groups or self.base_width % self.groups):
            raise ValueError(
                f"width and base_width must be multiples of groups = {self.groups}; "
                f"got {self.width} and {self.base_width}."
            )
        if self.compute_dtype not in (None, *COMPUTE):
            raise ValueError(
                f"compute_dtype must be one of {', '.join(COMPUTE)}, or None for that of the parameters; "
                f"got {self.compute_dtype!r}."
            )
        activation(self.activation)
        self.layers()

    def layers(self) -> dict[str, Any]:
        """Returns the shape of each layer by name, those of a block below ``block_0`` and on."""
        places = self.places()
        pixels = (self.window,) * 2
        shapes: dict[str, Any] = {"stem": self._shape(finite(self.inputs), places[0].inputs, pixels)}
        shapes |= {f"block_{index}": self.block(place) for index, place in enumerate(places)}
        shapes |= self._norm("norm", self.norm_shape(places[-1].outputs, inside=False))
        readout = self._shape(places[-1].outputs, finite(self.outputs), ())
        return {
            **shapes,
            "readout": dataclasses.replace(readout, kernel_scale=0.0 if self.zero_readout else 1.0),
        }

    def places(self) -> list[Place]:
        """Returns what enters and leaves each block."""
        found = []
        last = self._channels(0)
        for stage, stride in enumerate(self.strides):
            own = self._channels(stage)
            for block in range(self.depth // len(self.strides)):
                found.append(Place(own if block else last, own, 1 if block else stride))
            last = own
        return found

    def norm_shape(self, axis: Axis, inside: bool) -> NormShape:
        """Returns the shape of a norm over an axis, inside a branch or before the readout."""
        return NormShape(
            axis=axis,
            width=self.width,
            base_width=self.base_width,
            gains=self.gains,
            bias=self.gains and self.bias,
            depth=self._deep() if inside else None,
        )

    def block(self, place: Place) -> dict[str, Any]:
        """Returns the shapes of the layers of one block, by name."""
        pixels = (self.window,) * 2
        shapes: dict[str, Any] = {}
        for layer in range(self.branch_depth):
            inputs = place.outputs if layer else place.inputs
            shapes |= self._norm(f"norm_{layer}", self.norm_shape(inputs, inside=True))
            shapes[f"conv_{layer}"] = dataclasses.replace(
                self._shape(inputs, place.outputs, pixels),
                depth=self._deep(),
                ends_branch=layer == self.branch_depth - 1,
            )
        if place.stride > 1 or place.inputs != place.outputs:
            shortcut = self._shape(place.inputs, place.outputs, (1, 1))
            shapes["shortcut"] = dataclasses.replace(shortcut, bias=False)
        return shapes

    def _norm(self, name: str, shape: NormShape) -> Mapping[str, NormShape]:
        """Returns the shape of a norm by its name, nothing for one without parameters."""
        return {name: shape} if self.gains else {}

    def _shape(self, inputs: Axis, outputs: Axis, window: tuple[int, ...]) -> LayerShape:
        """Returns the shape of a layer outside of branches."""
        return LayerShape(
            inputs=inputs,
            outputs=outputs,
            width=self.width,
            base_width=self.base_width,
            window=window,
            bias=self.bias,
        )

    def _channels(self, stage: int) -> Axis:
        """Returns the channels of a stage."""
        return growing(self.width * self.growth**stage, self.base_width * self.growth**stage)

    def _deep(self) -> Fraction:
        """Returns the ratio m_L of the number of blocks to the base number."""
        return Fraction(self.depth, self.base_depth)


class ResNet(nn.Module):
    """The network of a ``ResNetConfig``: its variables are ``params`` and ``multipliers``.

    Beside the taps of its layers, ``"intermediates"`` receives the ``stream`` h_0, ..., h_L.

    Example:
        >>> from widelimit.scaling import mup
        >>> model = ResNet(ResNetConfig(inputs=1, outputs=2, width=8, base_width=4, parametrization=mup()))
        >>> variables = model.init(jax.random.key(0), jnp.ones((1, 6, 6, 1)))
        >>> model.apply(variables, jnp.ones((5, 8, 8, 1))).shape
        (5, 2)
    """

    config: ResNetConfig

    @nn.compact
    def __call__(self, x: Num[Array, "*batch height width inputs"]) -> Float[Array, "*batch outputs"]:
        """Returns the outputs."""
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(f"images must have a floating dtype; got {x.dtype}: scale and convert them.")
        config, shapes, places = self.config, self.config.layers(), self.config.places()
        phi, block = activation(config.activation), nn.remat(_Block) if config.remat else _Block
        h = _conv(config, shapes["stem"], "stem")(_narrow(config, x)).astype(wide(x.dtype))
        self.sow("intermediates", "stream", h)
        for index, place in enumerate(places):
            h = block(config, place, name=f"block_{index}")(h)
            self.sow("intermediates", "stream", h)
        h = phi(_normed(config, places[-1].outputs, "norm", inside=False)(h)).mean((-3, -2))
        readout = Dense(
            shapes["readout"],
            config.parametrization,
            config.dtype,
            compute_dtype=config.compute_dtype,
            output_dtype=h.dtype.name,
            name="readout",
        )
        return readout(_narrow(config, h))


class _Block(nn.Module):
    """One block: the stream in, the stream out."""

    config: ResNetConfig
    place: Place

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        """Returns the stream behind the block."""
        config, place = self.config, self.place
        shapes, phi = config.block(place), activation(config.activation)
        y = h
        for layer in range(config.branch_depth):
            axis, stride = (place.outputs, 1) if layer else (place.inputs, place.stride)
            y = phi(_normed(config, axis, f"norm_{layer}", inside=True)(y))
            y = _conv(config, shapes[f"conv_{layer}"], f"conv_{layer}", stride)(_narrow(config, y))
        if "shortcut" in shapes:
            shortcut = _conv(config, shapes["shortcut"], "shortcut", place.stride)
            h = shortcut(_narrow(config, h)).astype(h.dtype)
        return h + scaled(config.branch_scale, y.astype(h.dtype))


def _conv(config: ResNetConfig, shape: LayerShape, name: str, stride: int = 1) -> Conv:
    """Returns a convolution of the network."""
    return Conv(
        shape,
        config.parametrization,
        config.dtype,
        compute_dtype=config.compute_dtype,
        stride=stride,
        name=name,
    )


def _normed(config: ResNetConfig, axis: Axis, name: str, inside: bool) -> Any:
    """Returns a norm of the network, which a network without norms goes without."""
    if config.norm == "none":
        return lambda h: h
    shape = config.norm_shape(axis, inside)
    if config.norm == "group":
        return GroupNorm(shape, config.parametrization, config.groups, dtype=config.dtype, name=name)
    return Norm(shape, config.parametrization, "layer", dtype=config.dtype, name=name)


def _narrow(config: ResNetConfig, x: jax.Array) -> jax.Array:
    """Returns what enters a product in its dtype."""
    return x if config.compute_dtype is None else x.astype(config.compute_dtype)
