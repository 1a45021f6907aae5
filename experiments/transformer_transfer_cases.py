"""Which decoders `transformer_transfer` compares: two parametrizations, and changes to muP, one at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Literal

from widelimit.models import DecoderConfig
from widelimit.scaling import Parametrization, mup, standard


@dataclasses.dataclass(frozen=True)
class Case:
    """A kind of decoder, at all widths.

    Args:
        parametrization: how it scales.
        gains: whether its norms have trained gains.
        growing_heads: whether its heads grow in size with the width, and not in number.
        attention_scale: factor on attention logits, as in ``DecoderConfig``.
        zero_readout: whether the readout starts at zero.
    """

    parametrization: Parametrization
    gains: bool = False
    growing_heads: bool = False
    attention_scale: Literal["parametrization", "sqrt"] = "parametrization"
    zero_readout: bool = True


def _standard_readout() -> Parametrization:
    """muP whose readout starts with variance 1/fan_in, as the standard one, and not 1/fan_in^2."""
    rule = mup(table=3)
    return dataclasses.replace(
        rule, name="mup, standard readout", init=dataclasses.replace(rule.init, output=Fraction(1, 2))
    )


# In the first two and in all changes but the last, queries and readout start at zero (arXiv 2203.03466,
# Appendix D.2), so that all are one network at the base width and nothing there decays like width^-1/2.
MAIN = ("standard", "mup")
CASES: Mapping[str, Case] = {
    "standard": Case(standard()),
    "mup": Case(mup(table=3)),
    "gains": Case(mup(table=3), gains=True),
    "growing_heads": Case(mup(table=3), growing_heads=True),
    "sqrt_attention": Case(mup(table=3), growing_heads=True, attention_scale="sqrt"),
    "standard_readout": Case(_standard_readout(), zero_readout=False),
}
ABLATIONS = tuple(name for name in CASES if name not in MAIN)
# What arXiv 2404.05728 reports of a change: whether the rate still transfers.
TRANSFERS = {"gains": False, "growing_heads": True, "sqrt_attention": False, "standard_readout": True}
LABELS = {
    "standard": "standard",
    "mup": "muP",
    "gains": "trained gains",
    "growing_heads": "growing heads, 1/d",
    "sqrt_attention": "growing heads, 1/sqrt(d)",
    "standard_readout": "standard readout",
}


def decoder(config: Any, name: str, width: int, vocabulary: int) -> DecoderConfig:
    """Returns the decoder of a case at a width.

    Args:
        config: of the experiment.
        name: of the case.
        width: of the stream.
        vocabulary: of the text.
    """
    case = CASES[name]
    base = config.widths[0]
    heads: dict[str, Any] = {"head_size": config.head_size}
    if case.growing_heads and width != base:  # at the base width they are the same, and so is the program
        heads = {"heads": base // config.head_size, "attention_scale": case.attention_scale}
    return DecoderConfig(
        vocabulary=vocabulary,
        context=config.context,
        width=width,
        base_width=base,
        parametrization=case.parametrization,
        depth=config.depth,
        base_depth=config.depth,
        activation=config.activation,
        gains=case.gains,
        zero_query=True,
        zero_readout=case.zero_readout,
        compute_dtype=None if config.compute_dtype == "float32" else config.compute_dtype,
        **heads,
    )
