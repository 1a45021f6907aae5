"""The layers: raw weights, forward multipliers beside them, and taps on what goes in and what comes out."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from widelimit.models.shapes import LayerShape, Shape
from widelimit.scaling import Parametrization, Rules, make_rules

# Dtypes of products. Not float16: gradients of a mean over many tokens lie below its smallest number.
COMPUTE = ("bfloat16", "float32")


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


def wide(dtype: Any) -> jnp.dtype:
    """Returns the dtype for what must not lose digits: float32 in place of anything narrower."""
    return jnp.dtype(dtype) if jnp.dtype(dtype).itemsize >= 4 else jnp.dtype("float32")


def product(x: jax.Array, kernel: jax.Array, dtype: str | None = None) -> jax.Array:
    """Returns ``x kernel`` over the last axis, in a wider dtype than theirs if one is given.

    The axes in front are merged to one. With more, XLA's CPU backend transposes the cotangent, entry by entry
    and together with all that computes it, before it multiplies with it for the kernel's gradient.
    """
    rows = x if x.ndim <= 2 else x.reshape(-1, x.shape[-1])
    y = jnp.matmul(rows, kernel) if dtype is None else wide_einsum("...i,ij->...j", dtype, rows, kernel)
    return y if x.ndim <= 2 else y.reshape(*x.shape[:-1], kernel.shape[-1])


def normal(key: jax.Array, std: Any, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """Returns Gaussian raw weights; those known to start at zero cost no draw."""
    if isinstance(std, numbers.Real) and std == 0:
        return jnp.zeros(shape, dtype)
    return scaled(std, jax.random.normal(key, shape, dtype))


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def wide_einsum(spec: str, dtype: str, x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns ``einsum(spec, x, y)`` of narrow arrays, accumulated and given back in a wider dtype."""
    return jnp.einsum(spec, x, y, preferred_element_type=jnp.dtype(dtype))


@wide_einsum.defjvp
def _wide_einsum_jvp(
    spec: str, dtype: str, primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Products of tangents, and so the transposed ones of gradients, stay narrow: those are the fast ones."""
    (x, y), (dx, dy) = primals, tangents
    change = jnp.einsum(spec, dx, y) + jnp.einsum(spec, x, dy)
    return wide_einsum(spec, dtype, x, y), change.astype(dtype)


class Parametrized(nn.Module):
    """What every layer does: it declares its parameters, and finds the multiplier of each beside them."""

    @property
    def where(self) -> str:
        """Its place in the network, for messages."""
        return "/".join(self.path) or type(self).__name__

    def _variables(
        self, shape: Shape, parametrization: Parametrization, dtype: str
    ) -> tuple[dict[str, jax.Array], dict[str, Any]]:
        """Returns the raw parameters of a layer and their forward multipliers, by name."""
        declared = forward_rules(shape.leaves(), parametrization)
        # apply never draws, and takes whatever dtype the parameters have
        drawn = available(dtype) if self.is_initializing() else jnp.dtype("float32")
        params, multipliers = {}, {}
        for leaf in declared.leaves:
            name = leaf.path
            params[name] = self.param(name, normal, declared.init_std[name], leaf.shape, drawn)
            multipliers[name] = self._multiplier(name, declared.multiplier[name])
        return params, multipliers

    def _multiplier(self, name: str, value: float) -> Any:
        """Returns a forward multiplier from the variables; only init takes it from the parametrization."""
        if not self.is_initializing() and not self.has_variable("multipliers", name):
            raise ValueError(
                f"{self.where}/{name} has no forward multiplier; apply the model to "
                "{'params': params, 'multipliers': rules.multiplier}, with rules made from its leaves."
            )
        return self.variable("multipliers", name, lambda: value).value

    def _tap(self, name: str, y: jax.Array) -> jax.Array:
        """Returns y, perturbed and recorded if either is asked for."""
        if not self.is_initializing():  # so that init returns parameters and multipliers, and nothing else
            y = self.perturb(name, y)
        self.sow("intermediates", name, y)
        return y


class _Layer(Parametrized):
    """What both layers share: the order of things, checks and taps."""

    shape: LayerShape
    parametrization: Parametrization
    dtype: str = "float32"

    def _forward(
        self,
        x: jax.Array,
        linear: Callable[[jax.Array, jax.Array], jax.Array],
        compute_dtype: str | None = None,
    ) -> jax.Array:
        """Returns ``mult_kernel linear(x, kernel) + mult_bias bias``, tapped on both sides."""
        if x.shape[-1:] != (self.shape.inputs.size,):
            raise ValueError(
                f"{self.where} expects inputs whose last axis has size {self.shape.inputs.size}; "
                f"got shape {x.shape}."
            )
        params, multipliers = self._variables(self.shape, self.parametrization, self.dtype)
        kernel, multiplier = params["kernel"], multipliers["kernel"]
        if compute_dtype is not None:
            # The multiplier is applied to the kernel, before it is rounded: it keeps all of its digits.
            kernel, multiplier = scaled(multiplier, kernel).astype(compute_dtype), 1
        if x.dtype != kernel.dtype:
            computes = "parameters" if compute_dtype is None else "products"
            raise TypeError(
                f"{self.where} has {computes} of dtype {kernel.dtype} and inputs of dtype {x.dtype}; "
                "convert one of them, as nothing is promoted silently."
            )
        self.sow("intermediates", "input", x)
        y = scaled(multiplier, linear(x, kernel))
        if "bias" in params:
            bias = scaled(multipliers["bias"], params["bias"]).astype(y.dtype)
            y = y + bias.reshape((1,) * (y.ndim - 1) + (-1,))
        return self._tap("preactivation", y)


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
        compute_dtype: of the products, e.g. ``"bfloat16"``, which then enters too; None is the parameters'.
        output_dtype: of what comes out; None is that of the products. ``"float32"`` accumulates and returns
            products of bfloat16 in float32, as logits want it.

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

    compute_dtype: str | None = None
    output_dtype: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        """Applies the layer."""
        wider = None if self.compute_dtype is None else self.output_dtype
        return self._forward(x, partial(product, dtype=wider), self.compute_dtype)


class Conv(_Layer):
    r"""A convolution ``y = mult_kernel conv(x, kernel) + mult_bias bias`` over zero-padded images.

    Variables and taps are those of ``Dense``; the fan-in counts the window, so channels are the width.

    Args:
        shape: of the layer, with a window of two sizes; kernel axes ``(height, width, inputs, outputs)``.
        parametrization: the multipliers and initial stds that ``init`` takes.
        dtype: of the parameters that ``init`` draws; what enters must have the parameters' dtype.
        stride: in pixels, of both image axes.
        compute_dtype: as in ``Dense``.

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
    compute_dtype: str | None = None

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

        return self._forward(x, convolve, self.compute_dtype)
