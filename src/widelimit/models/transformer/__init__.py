"""Transformers: pre-norm blocks whose widths, heads and depth meet the rules of a parametrization."""

from widelimit.models.transformer.attention import Attention, attend
from widelimit.models.transformer.block import Block, run_blocks
from widelimit.models.transformer.config import TransformerConfig
from widelimit.models.transformer.decoder import Decoder, DecoderConfig
from widelimit.models.transformer.mlp import FeedForward
from widelimit.models.transformer.positions import alibi_slopes, rotary_angles
from widelimit.models.transformer.stack import stack_blocks, unstack_blocks
from widelimit.models.transformer.vit import ViT, ViTConfig, sincos_positions

__all__ = [
    "Attention",
    "Block",
    "Decoder",
    "DecoderConfig",
    "FeedForward",
    "TransformerConfig",
    "ViT",
    "ViTConfig",
    "alibi_slopes",
    "attend",
    "rotary_angles",
    "run_blocks",
    "sincos_positions",
    "stack_blocks",
    "unstack_blocks",
]
