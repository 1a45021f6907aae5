"""From a network's config to its leaves, its rules and its initial weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import jax

from widelimit.models.layers import available, normal
from widelimit.scaling import Parametrization, Rules, make_rules
from widelimit.scaling.rules import Decay

PyTree = Any


class Network(Protocol):
    """What ``leaves`` and ``rules`` ask of a config: named layers, and a parametrization.

    ``MLPConfig`` and ``ConvConfig`` are such; so is that of any network built from ``Dense`` and ``Conv``.
    """

    @property
    def parametrization(self) -> Parametrization:
        """How the network scales with its width."""

    def layers(self) -> Mapping[str, Any]:
        """Returns the shape of each layer by its name in the parameter tree; a module of layers nests."""


def leaves(config: Network) -> dict[str, Any]:
    """Returns what is known of each parameter of a network, as a tree shaped like its ``params``.

    The layers declare it: the same ``LayerShape`` shapes the parameters in the model, so that roles are
    right at the base width too, whatever the layers are called.

    Args:
        config: of the network, at the target width.

    Example:
        >>> from widelimit.models import MLPConfig
        >>> from widelimit.scaling import mup
        >>> config = MLPConfig(inputs=3, outputs=2, width=8, base_width=8, parametrization=mup(), bias=False)
        >>> [(leaf.path, leaf.role.value) for leaf in jax.tree.leaves(leaves(config))]
        [('Dense_0/kernel', 'input'), ('Dense_1/kernel', 'hidden'), ('Dense_2/kernel', 'output')]
    """
    return _leaves(config.layers(), "")


def _leaves(layers: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Returns the leaves of a module, whose layers may be modules."""
    below = {name: f"{path}/{name}" if path else name for name in layers}
    return {
        name: _leaves(node, below[name]) if isinstance(node, Mapping) else node.leaves(below[name])
        for name, node in layers.items()
    }


def rules(
    config: Network, optimizer: str = "adam", alignment: str | None = None, weight_decay: Decay = "coupled"
) -> Rules:
    """Returns the rules of a network under the parametrization of its config.

    ``make_rules(leaves(config), config.parametrization, optimizer, alignment, weight_decay)``.

    Args:
        config: of the network, at the target width.
        optimizer: ``"sgd"``, ``"adam"``, ``"adafactor"`` or ``"muon"``.
        alignment: assumption behind the learning rates; None is the parametrization's default.
        weight_decay: the convention.

    Raises:
        ValueError: as ``make_rules`` does.

    Example:
        >>> from widelimit.models import MLPConfig
        >>> from widelimit.scaling import mup
        >>> config = MLPConfig(inputs=3, outputs=2, width=32, base_width=8, parametrization=mup(), bias=False)
        >>> [layer["kernel"] for layer in rules(config, "adam").learning_rate.values()]
        [1.0, 0.25, 0.25]
    """
    return make_rules(leaves(config), config.parametrization, optimizer, alignment, weight_decay)


def initialise(key: jax.Array, rules: Rules, dtype: str = "float32") -> PyTree:
    r"""Returns random raw weights with the structure of the rules: ``w = rules.init_std * N(0, 1)``.

    Parameter i, in tree order, uses key i of ``jax.random.split(key, number of parameters)``. The draws do
    not depend on the stds: two parametrizations start from the same numbers, scaled, and equivalent forms
    from the same network. The stds may be arrays: one compiled program then serves every parametrization.

    Args:
        key: of JAX's random numbers.
        rules: of the network; any optimizer's will do.
        dtype: of the weights; ``"float64"`` inside ``jax.enable_x64(True)``.

    Raises:
        ValueError: if the dtype is float64 and that is off.
        TypeError: if the dtype is not a floating one.

    Example:
        >>> from widelimit.models import MLPConfig
        >>> from widelimit.scaling import ntk
        >>> config = MLPConfig(inputs=3, outputs=2, width=500, base_width=500, parametrization=ntk())
        >>> params = initialise(jax.random.key(0), rules(config))
        >>> f"{params['Dense_1']['kernel'].std() * 500 ** 0.5:.2f}"
        '1.00'
    """
    asked = available(dtype)
    stds = jax.tree.leaves(rules.init_std)
    keys = jax.random.split(key, len(stds))
    drawn = zip(keys, stds, rules.leaves, strict=True)
    weights = [normal(key, std, leaf.shape, asked) for key, std, leaf in drawn]
    return jax.tree.unflatten(jax.tree.structure(rules.init_std), weights)
