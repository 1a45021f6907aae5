"""What decoders and vision transformers have in common: sizes, flags, and the shapes of a block."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from math import sqrt
from typing import Any, ClassVar, Literal, NamedTuple

import jax.numpy as jnp

from widelimit.models.activations import Activation
from widelimit.models.layers import COMPUTE
from widelimit.models.norm import NORMS, NormKind, NormShape
from widelimit.models.shapes import Axis, LayerShape, finite, growing, positive
from widelimit.models.transformer.activations import SWIGLU, feedforward_activation
from widelimit.models.transformer.positions import POSITIONS, Positions, Signal, rotary_angles, signal
from widelimit.scaling import Parametrization

Shapes = dict[str, Any]


class Heads(NamedTuple):
    """How attention divides the width.

    Args:
        queries: number of query heads.
        keys: number of heads of keys and values; each serves ``queries / keys`` query heads.
        size: of a head.
        base_size: of a head at the base width.
    """

    queries: int
    keys: int
    size: int
    base_size: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    r"""A pre-norm stack of ``L = depth`` blocks on a stream x of ``width`` entries per position.

    ``x <- x + b_L attention(norm(x))``, ``x <- x + b_L mlp(norm(x))``, ``b_L = branch_scale (L/L_0)^-alpha``

    with alpha of the parametrization (0 without a rule of depth); the power is in the forward multipliers of
    the layers ``output`` and ``down``.

    Args:
        width: of the stream.
        base_width: where hyperparameters are tuned; a relative parametrization changes nothing there.
        parametrization: e.g. ``completep()``.
        depth: number of blocks L.
        base_depth: where hyperparameters are tuned: a rule of depth changes nothing there.
        head_size: size d of every head, the same at every width, so that heads grow in number.
        heads: number of heads, the same at every width, so that they grow in size. Exactly one of the two.
        kv_heads: number of heads of keys and values: None is one for each query head, 1 multi-query
            attention, others grouped.
        mlp_ratio: size of the hidden layer of the MLP in units of the width, rounded to an integer.
        activation: ``"swiglu"`` (a gated MLP), ``"relu_squared"``, a name of ``ACTIVATIONS``, or a function.
        norm: ``"rms"`` or ``"layer"``.
        gains: whether norms have trained gains.
        positions: ``"rope"``, ``"learned"`` or ``"alibi"``; ``"none"`` tells nothing about positions.
        bias: whether the dense layers of the blocks have biases, and layer norms with gains too.
        zero_query: start the queries at zero: attention starts uniform at every width.
        zero_readout: start the readout at zero.
        init_std: std of every matrix and table at the base width, as in GPT-2; None is ``1/sqrt(fan_in)``,
            and 1 for tables.
        attention_scale: factor on the attention logits: ``"parametrization"`` is ``sqrt(d_0)/d`` under muP,
            with d_0 the base head size, ``d_0^(e - 1/2) / d^e`` with ``e = a + b`` of the readout in
            general; ``"sqrt"`` is ``1/sqrt(d)``.
        attention_kernel: ``"cudnn"`` never forms the matrix of attention weights; it needs an NVIDIA GPU and
            a compute dtype of 16 bits. ``"xla"`` runs everywhere.
        branch_scale: factor on every branch at the base depth.
        norm_epsilon: added to the mean square in norms.
        dtype: of the parameters.
        compute_dtype: of matrix products, e.g. ``"bfloat16"``; None is that of the parameters. The stream,
            statistics of norms, softmax and logits stay in the parameters' dtype.
        scan: compile one block and loop over it; parameters of blocks are then stacked.
        remat: recompute each block in the backward pass instead of storing its activations.

    Raises:
        ValueError: if a size is not positive, the width does not divide into the heads, or a flag is unknown.
        TypeError: if the activation is neither a name nor a function.

    Reference:
        Yang et al., arXiv 2203.03466 (attention, 1/d); Dey et al., arXiv 2505.01618 (depth).
    """

    known_positions: ClassVar[tuple[str, ...]] = POSITIONS
    causal: ClassVar[bool] = False

    width: int
    base_width: int
    parametrization: Parametrization
    depth: int = 2
    base_depth: int = 2
    head_size: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    mlp_ratio: float = 4
    activation: str | Activation = "gelu"
    norm: NormKind = "rms"
    gains: bool = False
    positions: Positions = "rope"
    bias: bool = False
    zero_query: bool = False
    zero_readout: bool = False
    init_std: float | None = None
    attention_scale: Literal["parametrization", "sqrt"] = "parametrization"
    attention_kernel: Literal["xla", "cudnn"] = "xla"
    branch_scale: float = 1.0
    norm_epsilon: float = 1e-5
    dtype: str = "float32"
    compute_dtype: str | None = None
    scan: bool = False
    remat: bool = False

    def __post_init__(self) -> None:
        """Checks what no transformer could have."""
        for name in ("width", "base_width", "depth", "base_depth"):
            positive(name, getattr(self, name))
        self.split()
        choices = {
            "norm": NORMS,
            "positions": self.known_positions,
            "attention_scale": ("parametrization", "sqrt"),
            "attention_kernel": ("xla", "cudnn"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}; got {getattr(self, name)!r}.")
        for name in ("mlp_ratio", "init_std", "norm_epsilon", "branch_scale"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be a number, 0 or more; got {value!r}.")
        if round(self.mlp_ratio * min(self.width, self.base_width)) < 1:
            raise ValueError(f"mlp_ratio must leave the MLP a hidden layer; got {self.mlp_ratio!r}.")
        if self.compute_dtype not in (None, *COMPUTE):
            raise ValueError(
                f"compute_dtype must be one of {', '.join(COMPUTE)}, or None for that of the parameters; "
                f"got {self.compute_dtype!r}."
            )
        if self.attention_kernel == "cudnn" and self.compute_dtype != "bfloat16":
            raise ValueError(
                "attention_kernel='cudnn' computes in 16 bits; set compute_dtype='bfloat16', or leave 'xla'. "
                f"Got compute_dtype={self.compute_dtype!r}."
            )
        if self.positions == "rope":
            rotary_angles(1, self.split().size)
            rotary_angles(1, self.split().base_size)
        if self.activation != SWIGLU:
            feedforward_activation(self.activation)

    def split(self) -> Heads:
        """Returns how attention divides the width, or says why it cannot."""
        if (self.head_size is None) == (self.heads is None):
            raise ValueError(
                "give exactly one of head_size (heads grow in number with the width) and heads (they grow in "
                f"size); got head_size={self.head_size} and heads={self.heads}."
            )
        name = "heads" if self.head_size is None else "head_size"
        parts = positive(name, getattr(self, name))
        for which in ("width", "base_width"):
            if getattr(self, which) % parts:
                raise ValueError(
                    f"{which} must be a multiple of {name} = {parts}; got {getattr(self, which)}."
                )
        queries, base_queries = (
            (parts, parts) if self.head_size is None else (self.width // parts, self.base_width // parts)
        )
        keys = queries if self.kv_heads is None else positive("kv_heads", self.kv_heads)
        if self.kv_heads is not None and (queries % keys or base_queries % keys):
            raise ValueError(
                f"kv_heads must divide the number of heads, {queries} and at the base width {base_queries}; "
                f"got {keys}."
            )
        return Heads(queries, keys, self.width // queries, self.base_width // base_queries)

    def temperature(self) -> float:
        r"""Returns the factor on the attention logits ``q.k``.

        Queries and keys are aligned after a step, like the readout and the features that enter it, so the
        sum over d entries needs the readout's exponent ``e = a + b``: 1 under muP, 1/2 under the standard
        parametrization. ``d_0^(e - 1/2) / d^e`` is ``1/sqrt(d_0)`` at the base head size.
        """
        heads, readout = self.split(), self.parametrization
        exponent = float(readout.multiplier.output + readout.init.output)
        if self.attention_scale == "sqrt":
            exponent = 0.5
        return (heads.base_size / heads.size) ** exponent / sqrt(heads.base_size)

    def signal(self, length: int, dtype: jnp.dtype) -> Signal:
        """Returns what attention is told about the positions of a sequence."""
        heads = self.split()
        return signal(
            self.positions,
            length=length,
            heads=heads.queries,
            head_size=heads.size,
            causal=self.causal and self.attention_kernel == "xla",  # the other masks by itself
            dtype=jnp.dtype(dtype).name,
        )

    def block(self, stack: int | None = None) -> Shapes:
        """Returns the shapes of one block, nested as its parameters are, or of a stack of them."""
        stream = growing(self.width, self.base_width)
        # Keys and values of a fixed number of fixed heads have a finite axis, which the axes alone would
        # call readout-like. They are declared to grow: their entries meet the queries and the stream like
        # those of every other head, and the hidden rate 1/m is the one that Lingle (arXiv 2404.05728) finds
        # to transfer with multi-query attention.
        heads = self.split()
        keys = growing(heads.keys * heads.size, self._base_keys() * heads.base_size)
        hidden = growing(round(self.mlp_ratio * self.width), round(self.mlp_ratio * self.base_width))
        attention = {
            **self._norm("norm", stack, inside=True),
            "query": self._dense(stream, stream, stack, zero=self.zero_query),
            "key": self._dense(stream, keys, stack),
            "value": self._dense(stream, keys, stack),
            "output": self._dense(stream, stream, stack, last=True),
        }
        gate = {"gate": self._dense(stream, hidden, stack)} if self.activation == SWIGLU else {}
        mlp = {
            **self._norm("norm", stack, inside=True),
            **gate,
            "up": self._dense(stream, hidden, stack),
            "down": self._dense(hidden, stream, stack, last=True),
        }
        return {"attention": attention, "mlp": mlp}

    def blocks(self) -> Shapes:
        """Returns the shapes of all blocks by name: ``block_0`` and on, or ``blocks`` when scanned."""
        if self.scan:
            return {"blocks": self.block(stack=self.depth)}
        return {f"block_{index}": self.block() for index in range(self.depth)}

    def final_norm(self) -> Shapes:
        """Returns the shape of the norm before the readout, if it has parameters."""
        return self._norm("norm", None, inside=False)

    def readout(self, outputs: int) -> LayerShape:
        """Returns the shape of a readout without bias."""
        stream = growing(self.width, self.base_width)
        shape = self._dense(stream, finite(outputs), None, zero=self.zero_readout)
        return dataclasses.replace(shape, depth=None, bias=False)

    def table_std(self) -> float:
        """Returns the initial std of a table."""
        return 1.0 if self.init_std is None else self.init_std

    def norm_shape(self, stack: int | None, inside: bool) -> NormShape:
        """Returns the shape of a norm, inside a branch or before the readout."""
        return NormShape(
            axis=growing(self.width, self.base_width),
            width=self.width,
            base_width=self.base_width,
            gains=self.gains,
            bias=self.gains and self.bias and self.norm == "layer",
            depth=self._deep() if inside else None,
            stack=stack,
        )

    def _norm(self, name: str, stack: int | None, inside: bool) -> Shapes:
        """Returns the shape of a norm by its name, nothing for one without parameters."""
        return {name: self.norm_shape(stack, inside)} if self.gains else {}

    def _deep(self) -> Fraction:
        """Returns the ratio m_L of the number of blocks to the base number."""
        return Fraction(self.depth, self.base_depth)

    def _base_keys(self) -> int:
        """Returns the number of heads of keys and values at the base width."""
        base = dataclasses.replace(self, width=self.base_width) if self.width != self.base_width else self
        return base.split().keys

    def _dense(
        self, inputs: Axis, outputs: Axis, stack: int | None, *, zero: bool = False, last: bool = False
    ) -> LayerShape:
        """Returns the shape of a dense layer of a block."""
        scale = 1.0 if self.init_std is None else self.init_std * sqrt(inputs.base)
        return LayerShape(
            inputs=inputs,
            outputs=outputs,
            width=self.width,
            base_width=self.base_width,
            bias=self.bias,
            kernel_scale=0.0 if zero else scale,
            depth=self._deep(),
            ends_branch=last,
            stack=stack,
        )
