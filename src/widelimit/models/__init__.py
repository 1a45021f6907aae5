"""Functional Flax models whose layers declare their roles and take multipliers from a parametrization."""

from widelimit.models.activations import ACTIVATIONS, activation
from widelimit.models.build import Network, initialise, leaves, rules
from widelimit.models.conv import ConvConfig, ConvNet
from widelimit.models.layers import Conv, Dense
from widelimit.models.mlp import MLP, MLPConfig
from widelimit.models.rescale import Rescaled, rescale
from widelimit.models.residual import ResidualMLP, ResidualMLPConfig
from widelimit.models.shapes import Axis, LayerShape, finite, growing

__all__ = [
    "ACTIVATIONS",
    "Axis",
    "Conv",
    "ConvConfig",
    "ConvNet",
    "Dense",
    "LayerShape",
    "MLP",
    "MLPConfig",
    "Network",
    "Rescaled",
    "ResidualMLP",
    "ResidualMLPConfig",
    "activation",
    "finite",
    "growing",
    "initialise",
    "leaves",
    "rescale",
    "rules",
]
