"""Attention as one operation of the accelerator's library, which never stores the attention weights."""

from __future__ import annotations

from typing import Literal

import jax
from jaxtyping import Array, Float


def attend_fused(
    query: Float[Array, "*batch T heads d"],
    key: Float[Array, "*batch S keys d"],
    value: Float[Array, "*batch S keys d"],
    scale: float,
    bias: Float[Array, "each T S"] | None,
    *,
    causal: bool,
    implementation: Literal["xla", "cudnn"] = "cudnn",
) -> Float[Array, "*batch T heads d"]:
    """Returns what ``attend`` does, the causal mask apart from the bias.

    Raises:
        RuntimeError: if there is no cuDNN.
    """
    queries, keys, values = (array.reshape(-1, *array.shape[-3:]) for array in (query, key, value))
    try:
        mixed = jax.nn.dot_product_attention(
            queries,
            keys,
            values,
            bias=None if bias is None else bias[None].astype(query.dtype),
            scale=scale,
            is_causal=causal,
            implementation=implementation,
        )
    except RuntimeError as error:
        if "cuDNN" not in str(error):
            raise
        raise RuntimeError(
            f"attention_kernel='cudnn' needs an NVIDIA GPU with cuDNN ({error}); set attention_kernel='xla'."
        ) from error
    return mixed.reshape(query.shape)
