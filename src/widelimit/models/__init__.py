"""Functional Flax models whose layers declare their roles and take multipliers from a parametrization."""

from widelimit.models.activations import ACTIVATIONS, activation
from widelimit.models.build import Network, initialise, leaves, rules
from widelimit.models.conv import ConvConfig, ConvNet
from widelimit.models.embedding import Embedding, EmbeddingShape
from widelimit.models.group_norm import GroupNorm
from widelimit.models.layers import Conv, Dense
from widelimit.models.mlp import MLP, MLPConfig
from widelimit.models.norm import Norm, NormShape
from widelimit.models.rescale import Rescaled, rescale
from widelimit.models.residual import ResidualMLP, ResidualMLPConfig
from widelimit.models.resnet import ResNet, ResNetConfig
from widelimit.models.shapes import Axis, LayerShape, finite, growing
from widelimit.models.transformer import (
    Decoder,
    DecoderConfig,
    ViT,
    ViTConfig,
    stack_blocks,
    unstack_blocks,
)

__all__ = [
    "ACTIVATIONS",
    "Axis",
    "Conv",
    "ConvConfig",
    "ConvNet",
    "Decoder",
    "DecoderConfig",
    "Dense",
    "Embedding",
    "EmbeddingShape",
    "GroupNorm",
    "LayerShape",
    "MLP",
    "MLPConfig",
    "Network",
    "Norm",
    "NormShape",
    "ResNet",
    "ResNetConfig",
    "Rescaled",
    "ResidualMLP",
    "ResidualMLPConfig",
    "ViT",
    "ViTConfig",
    "activation",
    "finite",
    "growing",
    "initialise",
    "leaves",
    "rescale",
    "rules",
    "stack_blocks",
    "unstack_blocks",
]
