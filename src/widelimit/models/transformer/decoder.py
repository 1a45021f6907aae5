"""The decoder transformer: a language model from tokens to the logits of the next."""

from __future__ import annotations

import dataclasses
from math import sqrt
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from widelimit.models.embedding import Embedding, EmbeddingShape
from widelimit.models.layers import Dense, scaled
from widelimit.models.shapes import growing, positive
from widelimit.models.transformer.block import run_blocks
from widelimit.models.transformer.config import Shapes, TransformerConfig
from widelimit.models.transformer.layers import norm


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig(TransformerConfig):
    r"""A decoder: embedded tokens, causal blocks, a norm, and the readout.

    ``x = embedding_multiplier (table[t] + positions)``, blocks as in ``TransformerConfig``, whose flags it
    has, and ``logits = output_multiplier readout(norm(x))``.

    Args:
        vocabulary: number of tokens.
        context: length of the sequences that it is made for; learned positions know no longer ones.
        tied: read out with the table of the embedding. It starts with ``init_std``, or
            ``1/sqrt(base_width)``, so that logits start at order one.
        embedding_multiplier: factor on the embedded tokens and positions.
        output_multiplier: factor on the logits.

    Raises:
        ValueError: as ``TransformerConfig``; if the vocabulary or context is not positive, or a tied readout
            is to start at zero.

    Example:
        >>> from widelimit.models import leaves
        >>> from widelimit.scaling import completep
        >>> sizes = {"vocabulary": 256, "context": 64, "width": 128, "base_width": 32, "head_size": 16}
        >>> config = DecoderConfig(**sizes, parametrization=completep(), depth=8)
        >>> block = leaves(config)["block_7"]
        >>> block["mlp"]["down"]["kernel"].role.value, block["mlp"]["down"]["kernel"].ends_branch
        ('hidden', True)

    Reference:
        Radford et al., Language Models are Unsupervised Multitask Learners (2019); Dey et al., arXiv
        2505.01618.
    """

    causal: ClassVar[bool] = True

    vocabulary: int
    context: int
    tied: bool = False
    embedding_multiplier: float = 1.0
    output_multiplier: float = 1.0

    def __post_init__(self) -> None:
        """Checks what no decoder could have."""
        super().__post_init__()
        positive("vocabulary", self.vocabulary)
        positive("context", self.context)
        if self.tied and self.zero_readout:
            raise ValueError(
                "a tied readout is the embedding, which cannot start at zero; leave out tied or zero_readout."
            )

    def layers(self) -> Shapes:
        """Returns the shape of each layer, nested as the parameters are."""
        stream = growing(self.width, self.base_width)
        common: Shapes = {"outputs": stream, "width": self.width, "base_width": self.base_width}
        std = 1 / sqrt(self.base_width) if self.tied and self.init_std is None else self.table_std()
        table = EmbeddingShape(entries=self.vocabulary, std=std, tied=self.tied, **common)
        shapes: Shapes = {"embedding": table}
        if self.positions == "learned":
            shapes["positions"] = EmbeddingShape(entries=self.context, std=self.table_std(), **common)
        shapes |= {**self.blocks(), **self.final_norm()}
        return shapes if self.tied else {**shapes, "readout": self.readout(self.vocabulary)}


class Decoder(nn.Module):
    """The network of a ``DecoderConfig``: its variables are ``params`` and ``multipliers``.

    Example:
        >>> import jax
        >>> from widelimit.models import initialise, rules
        >>> from widelimit.scaling import mup
        >>> sizes = {"vocabulary": 11, "context": 8, "width": 16, "base_width": 8, "head_size": 4}
        >>> config = DecoderConfig(**sizes, parametrization=mup(table=8))
        >>> def logits(key, tokens):
        ...     law = rules(config)
        ...     variables = {"params": initialise(key, law), "multipliers": law.multiplier}
        ...     return Decoder(config).apply(variables, tokens)
        >>> jax.eval_shape(logits, jax.random.key(0), jnp.ones((5, 8), int)).shape
        (5, 8, 11)
    """

    config: DecoderConfig

    @nn.compact
    def __call__(self, tokens: Num[Array, "*batch T"]) -> Float[Array, "*batch T vocabulary"]:
        """Returns the logits of the token after each."""
        config, shapes = self.config, self.config.layers()
        if tokens.ndim < 1:
            raise ValueError("a decoder reads sequences, tokens of shape (..., length); got a single token.")
        tables = {
            name: Embedding(
                shapes[name], config.parametrization, config.dtype, config.compute_dtype, name=name
            )
            for name in ("embedding", "positions")
            if name in shapes
        }
        x = tables["embedding"](tokens)
        if "positions" in tables:
            positions = tables["positions"].first(tokens.shape[-1])
            x = x + positions.reshape((1,) * (x.ndim - 2) + positions.shape)
        x = scaled(config.embedding_multiplier, x)
        stream = x.dtype
        x = run_blocks(config, x, config.signal(tokens.shape[-1], stream))
        x = norm(config, inside=False)(x)
        if config.tied:
            logits = tables["embedding"].readout(x)
        else:
            output_dtype = None if config.compute_dtype is None else jnp.dtype(stream).name
            logits = Dense(
                shapes["readout"],
                config.parametrization,
                config.dtype,
                config.compute_dtype,
                output_dtype,
                name="readout",
            )(x)
        return scaled(config.output_multiplier, logits)
