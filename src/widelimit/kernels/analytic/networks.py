"""Which layers a network applies, in which order: the walk of each of our models over covariances."""

from __future__ import annotations

from collections.abc import Mapping

from widelimit.kernels.analytic.duals import Dual
from widelimit.kernels.analytic.layers import (
    State,
    Weights,
    channels,
    entrywise,
    linear,
    pixels,
    plus,
    window,
)
from widelimit.models import ConvConfig, MLPConfig, ResidualMLPConfig

Config = MLPConfig | ConvConfig | ResidualMLPConfig


def walk(config: Config, weights: Mapping[str, Weights], phi: Dual, state: State) -> State:
    """Returns the covariances of the outputs from those of the inputs.

    Args:
        config: of the network.
        weights: of each layer by name, in the order of ``config.layers()``.
        phi: of the activation.
        state: the covariances of the inputs.
    """
    if isinstance(config, ConvConfig):
        return _convolutional(config, weights, phi, state)
    if isinstance(config, ResidualMLPConfig):
        return _residual(config, weights, phi, state)
    *hidden, last = weights.values()
    for w in hidden:
        state = entrywise(linear(state, channels, w), phi)
    return linear(state, channels, last)


def _convolutional(config: ConvConfig, weights: Mapping[str, Weights], phi: Dual, state: State) -> State:
    """Convolutions, the mean over all pixels, a dense readout."""
    *hidden, last = weights.values()
    for index, w in enumerate(hidden):
        mean = window(config.window, config.stride if index else 1)
        state = entrywise(linear(state, mean, w), phi)
    return linear(State(*map(pixels, state)), channels, last)


def _residual(config: ResidualMLPConfig, weights: Mapping[str, Weights], phi: Dual, state: State) -> State:
    """A stream, blocks that add to it, a readout."""
    first, *_, last = weights.values()
    stream = linear(state, channels, first)
    for names in config.branches():
        branch = stream
        for name in names:
            branch = linear(entrywise(branch, phi), channels, weights[name])
        stream = plus(stream, branch, config.branch_scale)
    return linear(entrywise(stream, phi) if config.final_activation else stream, channels, last)
