"""The layers of a transformer as its config wants them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from widelimit.models.layers import Dense
from widelimit.models.norm import Norm
from widelimit.models.transformer.config import TransformerConfig


def dense(config: TransformerConfig, shapes: Mapping[str, Any], name: str) -> Dense:
    """Returns the dense layer of a name, of the shape under that name."""
    return Dense(shapes[name], config.parametrization, config.dtype, config.compute_dtype, name=name)


def norm(config: TransformerConfig, *, inside: bool) -> Norm:
    """Returns the norm of a branch, or the one before the readout; what comes out is ready for products."""
    return Norm(
        config.norm_shape(None, inside),
        config.parametrization,
        config.norm,
        config.dtype,
        config.compute_dtype,
        config.norm_epsilon,
        name="norm",
    )
