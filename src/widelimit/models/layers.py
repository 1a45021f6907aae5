"""The layers: raw weights, forward multipliers beside them, and taps on what goes in and what comes out."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from widelimit.models.shapes import LayerShape
from widelimit.scaling import Parametrization, Rules, make_rules


def forward_rules(leaves: Any, parametrization: Parametrization) -> Rules:
    """Returns rules for initialisation and forward pass, in which no optimizer has a say."""
    if not parametrization.rates:
        raise ValueError(f"{parametrization.name} has no learning rates; give it at least one Rate.")
    return make_rules(leaves, parametrization, parametrization.rates[0].family)


def scaled(multiplier: Any, array: jax.Array) -> jax.Array:
    """Returns ``multiplier * array`` in the array's dtype; a plain 1 costs no operation."""
    if isinstance(multiplier, numbers.Real):
        return array if multiplier == 1 else float(multiplier) * array
    return jnp.asarray(multiplier, array.dtype) * array


def available(dtype: Any) -> jnp.dtype:
    """Returns a floating dtype, or says why parameters cannot have it: JAX would quietly narrow float64."""
    asked = jnp.dtype(dtype)
    if not jnp.issubdtype(asked, jnp.floating):
        raise TypeError(f"parameters need a floating dtype such as 'float32'; got {asked.name!r}.")
    if jax.dtypes.canonicalize_dtype(asked) != asked:
        raise ValueError(
            f"{asked.name} is off in JAX by default; wrap the call in `with jax.enable_x64(True):`."
        )
    return asked


def normal(key: jax.Array, std: Any, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """Returns Gaussian raw weights; those known to start at zero cost no draw."""
    if isinstance(std, numbers.Real) and std == 0:
        return jnp.zeros(shape, dtype)
    return scaled(std, jax.random.normal(key, shape, dtype))


class _Layer(nn.Module):
    """What both layers share: parameters, multipliers, checks and taps."""

    shape: LayerShape
    parametrization: Parametrization
    dtype: str = "float32"

    def _forward(self, x: jax.Array, linear: Callable[[jax.Array, jax.Array], jax.Array]) -> jax.Array:
        """Returns ``mult_kernel linear(x, kernel) + mult_bias bias``, tapped on both sides."""
        where = "/".join(self.path) or type(self).__name__
        if x.shape[-1:] != (self.shape.inputs.size,):
            raise ValueError(
                f"{where} expects inputs whose last axis has size {self.shape.inputs.size}; "
                f"got shape {x.shape}."
            )
        declared = forward_rules(self.shape.leaves(), self.parametrization)
        # apply never draws, and takes whatever dtype the parameters have
        dtype = available(self.dtype) if self.is_initializing() else jnp.dtype("float32")
        params, multipliers = {}, {}
        for leaf in declared.leaves:
            name = leaf.path
            params[name] = self.param(name, normal, declared.init_std[name], leaf.shape, dtype)
            multipliers[name] = self._multiplier(where, name, declared.multiplier[name])
        if x.dtype != params["kernel"].dtype:
            raise TypeError(
                f"{where} has parameters of dtype {params['kernel'].dtype} and inputs of dtype {x.dtype}; "
                "convert one of them, as nothing is promoted silently."
            )
        self.sow("intermediates", "input", x)
        y = scaled(multipliers["kernel"], linear(x, params["kernel"]))
        if "bias" in params:
            y = y + scaled(multipliers["bias"], params["bias"]).reshape((1,) * (y.ndim - 1) + (-1,))
        if not self.is_initializing():  # so that init returns parameters and multipliers, and nothing else
            y = self.perturb("preactivation", y)
        self.sow("intermediates", "preactivation", y)
        return y

    def _multiplier(self, where: str, name: str, value: float) -> Any:
        """Returns a forward multiplier from the variables; only init takes it from the parametrization."""
        if not self.is_initializing() and not self.has_variable("multipliers", name):
            raise ValueError(
                f"{where}/{name} has no forward multiplier; apply the model to "
                "{'params': params, 'multipliers': rules.multiplier}, with rules made from its leaves."
            )
        return self.variable("multipliers", name, lambda: value).value


class Dense(_Layer):
    r"""A dense layer ``y = mult_kernel (x kernel) + mult_bias bias`` over the last axis.

    Its variables are the raw ``kernel`` and ``bias`` in ``"params"`` and a scalar for each in
    ``"multipliers"``. Taps, off unless their collections are asked for: ``"intermediates"`` receives
    ``input`` (x) and ``preactivation`` (y), and ``"perturbations"`` holds a ``preactivation`` that is
    added to y, so that the gradient with respect to it is the cotangent of y.

    Args:
        shape: of the layer, kernel axes ``(inputs, outputs)``.
        parametrization: the multipliers and initial stds that ``init`` takes.
        dtype: of the parameters that ``init`` draws; what enters must have the parameters' dtype.

    Example:
        >>> from widelimit.models import finite, growing
        >>> from widelimit.scaling import mup
        >>> shape = LayerShape(inputs=growing(64, 16), outputs=finite(3), width=64, base_width=16)
        >>> layer = Dense(shape, mup(table=8))
        >>> variables = layer.init(jax.random.key(0), jnp.ones((5, 64)))
        >>> layer.apply(variables, jnp.ones((5, 64))).shape, variables["multipliers"]
        ((5, 3), {'bias': 1.0, 'kernel': 0.25})

    Reference:
        Yang et al., Tensor Programs V (arXiv 2203.03466), Tables 3, 8 and 9.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        """Applies the layer."""
        return self._forward(x, jnp.matmul)


class Conv(_Layer):
    r"""A convolution ``y = mult_kernel conv(x, kernel) + mult_bias bias`` over zero-padded images.

    Variables and taps are those of ``Dense``; the fan-in counts the window, so channels are the width.

    Args:
        shape: of the layer, with a window of two sizes; kernel axes ``(height, width, inputs, outputs)``.
        parametrization: the multipliers and initial stds that ``init`` takes.
        dtype: of the parameters that ``init`` draws; what enters must have the parameters' dtype.
        stride: in pixels, of both image axes.

    Example:
        >>> from widelimit.models import finite, growing
        >>> from widelimit.scaling import mup
        >>> shape = LayerShape(inputs=finite(1), outputs=growing(4, 4), width=4, base_width=4, window=(3, 3))
        >>> Conv(shape, mup(), stride=2).init_with_output(jax.random.key(0), jnp.ones((5, 8, 8, 1)))[0].shape
        (5, 4, 4, 4)

    Reference:
        Yang et al., Tensor Programs V (arXiv 2203.03466), Appendix B (convolutions).
    """

    stride: int = 1

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch height width inputs"]
    ) -> Float[Array, "*batch up across outputs"]:
        """Applies the layer."""
        if x.ndim < 3 or len(self.shape.window) != 2:
            raise ValueError(
                "a convolution needs images (..., height, width, channels) and a window of 2 sizes; "
                f"got inputs of shape {x.shape} and window {self.shape.window}."
            )

        def convolve(images: jax.Array, kernel: jax.Array) -> jax.Array:
            *batch, height, width, channels = images.shape
            y = jax.lax.conv_general_dilated(
                images.reshape(-1, height, width, channels),
                kernel,
                (self.stride,) * 2,
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            return y.reshape(*batch, *y.shape[1:])

        return self._forward(x, convolve)
