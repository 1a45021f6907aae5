"""The vision transformer: from images, cut into patches, to the logits of classes."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from widelimit.models.embedding import Embedding, EmbeddingShape
from widelimit.models.layers import Dense, scaled, wide
from widelimit.models.shapes import finite, growing, positive
from widelimit.models.transformer.block import run_blocks
from widelimit.models.transformer.config import Shapes, TransformerConfig
from widelimit.models.transformer.layers import dense, norm
from widelimit.models.transformer.positions import Signal

_POOLS = ("mean", "token")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTConfig(TransformerConfig):
    r"""A vision transformer: embedded patches, blocks that see all of them, a norm, pooling, the readout.

    ``x = embedding_multiplier (patches kernel + positions)``, blocks as in ``TransformerConfig``, whose flags
    it has, without a mask, and ``logits = output_multiplier readout(pool(norm(x)))``.

    Args:
        image: height and width of the images, in pixels.
        inputs: channels of the images.
        patch: height and width of a patch, in pixels. Embedding a patch is a dense layer on its pixels, with
            a finite number of inputs: input-like.
        outputs: number of classes.
        pool: ``"mean"`` over patches, or ``"token"``: a trained class token is put before them and read out.
        positions: ``"learned"`` is a trained table; ``"sincos"`` a fixed one, sines and cosines of rows and
            columns, nothing for the class token; ``"none"`` tells nothing: the patches are then a set.
        embedding_multiplier: factor on the embedded patches and positions.
        output_multiplier: factor on the logits.

    Raises:
        ValueError: as ``TransformerConfig``; if an image does not divide into patches, a choice is unknown,
            or the width does not divide by four for ``"sincos"``.

    Example:
        >>> from widelimit.models import leaves
        >>> from widelimit.scaling import completep
        >>> sizes = {"image": (8, 8), "inputs": 3, "patch": 2, "outputs": 10, "width": 64, "base_width": 16}
        >>> config = ViTConfig(**sizes, head_size=8, parametrization=completep(), depth=4)
        >>> kernel = leaves(config)["patches"]["kernel"]
        >>> kernel.role.value, kernel.shape, leaves(config)["positions"]["table"].shape
        ('input', (12, 64), (16, 64))

    Reference:
        Dosovitskiy et al., arXiv 2010.11929; Beyer et al., Better plain ViT baselines for ImageNet-1k (arXiv
        2205.01580), for mean pooling and sincos.
    """

    known_positions: ClassVar[tuple[str, ...]] = ("learned", "sincos", "none")

    image: tuple[int, int]
    inputs: int
    patch: int
    outputs: int
    pool: Literal["mean", "token"] = "mean"
    positions: Literal["learned", "sincos", "none"] = "learned"  # type: ignore[assignment]
    embedding_multiplier: float = 1.0
    output_multiplier: float = 1.0

    def __post_init__(self) -> None:
        """Checks what no vision transformer could have."""
        super().__post_init__()
        for name in ("inputs", "patch", "outputs"):
            positive(name, getattr(self, name))
        if not isinstance(self.image, tuple) or len(self.image) != 2:
            raise ValueError(f"image must be a tuple of height and width; got {self.image!r}.")
        for size in self.image:
            if positive("a side of an image", size) % self.patch:
                raise ValueError(
                    f"images of {self.image[0]} x {self.image[1]} pixels do not divide into patches of "
                    f"{self.patch} x {self.patch}; crop or resize them, or choose another patch."
                )
        if self.pool not in _POOLS:
            raise ValueError(f"pool must be one of {', '.join(_POOLS)}; got {self.pool!r}.")
        if self.positions == "sincos" and (self.width % 4 or self.base_width % 4):
            raise ValueError(
                "sincos positions divide the width into sines and cosines of rows and columns: width and "
                f"base_width must be multiples of 4; got {self.width} and {self.base_width}."
            )

    @property
    def grid(self) -> tuple[int, int]:
        """The number of patches in a column and in a row."""
        return self.image[0] // self.patch, self.image[1] // self.patch

    @property
    def tokens(self) -> int:
        """The length of the sequence: patches, and the class token."""
        return self.grid[0] * self.grid[1] + (self.pool == "token")

    def layers(self) -> Shapes:
        """Returns the shape of each layer, nested as the parameters are."""
        stream, pixels = growing(self.width, self.base_width), finite(self.patch**2 * self.inputs)
        common: Shapes = {"outputs": stream, "width": self.width, "base_width": self.base_width}
        shapes: Shapes = {"patches": dataclasses.replace(self._dense(pixels, stream, None), depth=None)}
        if self.pool == "token":
            shapes["token"] = EmbeddingShape(entries=1, std=self.table_std(), **common)
        if self.positions == "learned":
            shapes["positions"] = EmbeddingShape(entries=self.tokens, std=self.table_std(), **common)
        return {**shapes, **self.blocks(), **self.final_norm(), "readout": self.readout(self.outputs)}


class ViT(nn.Module):
    """The network of a ``ViTConfig``: its variables are ``params`` and ``multipliers``.

    Example:
        >>> from widelimit.scaling import mup
        >>> sizes = {"image": (4, 6), "inputs": 1, "patch": 2, "outputs": 3, "width": 16, "base_width": 8}
        >>> model = ViT(ViTConfig(**sizes, head_size=4, parametrization=mup(table=8)))
        >>> variables = model.init(jax.random.key(0), jnp.ones((1, 4, 6, 1)))
        >>> model.apply(variables, jnp.ones((5, 4, 6, 1))).shape
        (5, 3)
    """

    config: ViTConfig

    @nn.compact
    def __call__(self, images: Num[Array, "*batch height width inputs"]) -> Float[Array, "*batch outputs"]:
        """Returns the logits of the classes."""
        config, shapes = self.config, self.config.layers()
        patches = cut(images, config)
        narrow = patches if config.compute_dtype is None else patches.astype(config.compute_dtype)
        x = dense(config, shapes, "patches")(narrow).astype(wide(images.dtype))
        if config.pool == "token":
            token = jnp.broadcast_to(self._table("token").first(1), (*x.shape[:-2], 1, x.shape[-1]))
            x = jnp.concatenate([token.astype(x.dtype), x], axis=-2)
        if config.positions != "none":
            x = x + self._positions().astype(x.dtype).reshape((1,) * (x.ndim - 2) + x.shape[-2:])
        x = scaled(config.embedding_multiplier, x)
        stream = x.dtype
        x = norm(config, inside=False)(run_blocks(config, x, Signal(None, None, None)))
        x = x[..., 0, :] if config.pool == "token" else x.mean(-2)
        readout = Dense(
            shapes["readout"],
            config.parametrization,
            config.dtype,
            compute_dtype=config.compute_dtype,
            output_dtype=stream.name,
            name="readout",
        )
        return scaled(config.output_multiplier, readout(x))

    def _positions(self) -> jax.Array:
        """Returns what is added to each patch, and to the class token, [tokens, width]."""
        config = self.config
        if config.positions == "learned":
            return self._table("positions").first(config.tokens)
        fixed = sincos_positions(*config.grid, config.width)
        return jnp.asarray(np.pad(fixed, ((config.tokens - len(fixed), 0), (0, 0))))

    def _table(self, name: str) -> Embedding:
        """Returns a trained table of the network."""
        config = self.config
        return Embedding(config.layers()[name], config.parametrization, config.dtype, name=name)


def cut(
    images: Num[Array, "*batch height width inputs"], config: ViTConfig
) -> Float[Array, "*batch patches pixels"]:
    """Returns the patches of images, row by row, and the pixels of each, row by row and channels last.

    Args:
        images: floating, of the config's size.
        config: of the network.

    Raises:
        ValueError: if images have another size.
        TypeError: if they are not floating.
    """
    wanted = (*config.image, config.inputs)
    if images.shape[-3:] != wanted:
        raise ValueError(
            f"the network expects images (..., height, width, channels) of {wanted}; got {images.shape}."
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"images must have a floating dtype; got {images.dtype}: scale and convert them.")
    (rows, columns), size, batch = config.grid, config.patch, images.shape[:-3]
    split = images.reshape(*batch, rows, size, columns, size, config.inputs)
    return jnp.moveaxis(split, -4, -3).reshape(*batch, rows * columns, size**2 * config.inputs)


def sincos_positions(rows: int, columns: int, width: int) -> np.ndarray:
    r"""Returns ``(sin r w, cos r w, sin c w, cos c w)`` of the row r and column c of each patch.

    ``w_i = 10000^(-4 i / width)``, i = 0, ..., width/4 - 1: entries of order one at every width.

    Args:
        rows: of patches.
        columns: of patches.
        width: of the stream, a multiple of 4.

    Returns:
        Shape [rows * columns, width], patches row by row.

    Example:
        >>> sincos_positions(1, 2, 4).round(3).tolist()
        [[0.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.841, 0.54]]

    Reference:
        Chen et al., arXiv 2104.02057, Section 5.
    """
    place = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1).reshape(-1, 2, 1)
    angles = place * 10_000.0 ** (-np.arange(width // 4) / (width // 4))  # [patches, 2, width/4]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).reshape(rows * columns, width)
