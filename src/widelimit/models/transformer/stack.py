"""Between the two layouts of a transformer's parameters: one array per block, and blocks stacked in one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from widelimit.models.transformer.config import TransformerConfig

PyTree = Any


def stack_blocks(tree: PyTree, config: TransformerConfig) -> PyTree:
    """Returns a tree with ``blocks`` stacked in place of ``block_0``, ``block_1``, ...

    Args:
        tree: parameters, gradients, or anything that holds such trees, like the state of an optimizer.
        config: of the network; whether it scans does not matter.

    Raises:
        ValueError: if the tree holds no blocks, or not as many as the config says.

    Example:
        >>> from widelimit.models import DecoderConfig
        >>> from widelimit.scaling import mup
        >>> sizes = {"vocabulary": 5, "context": 4, "width": 8, "base_width": 8, "heads": 2}
        >>> config = DecoderConfig(**sizes, parametrization=mup(table=8), depth=2)
        >>> stack_blocks({"block_0": {"w": jnp.zeros(3)}, "block_1": {"w": jnp.ones(3)}}, config)
        {'blocks': {'w': Array([[0., 0., 0.],
               [1., 1., 1.]], dtype=float32)}}
    """
    names = [f"block_{index}" for index in range(config.depth)]

    def convert(node: Mapping[str, Any]) -> dict[str, Any]:
        found = [name for name in node if name.startswith("block_")]
        if set(found) != set(names):
            raise ValueError(f"a network of {config.depth} blocks has {names}; got {sorted(found)}.")
        stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *(node[name] for name in names))
        return {**{name: node[name] for name in node if name not in names}, "blocks": stacked}

    return _convert(tree, "block_0", convert)


def unstack_blocks(tree: PyTree, config: TransformerConfig) -> PyTree:
    """Returns a tree with ``block_0``, ``block_1``, ... in place of the stacked ``blocks``.

    Args:
        tree: as for ``stack_blocks``.
        config: of the network.

    Raises:
        ValueError: if the tree holds no stacked blocks, or not as many as the config says.

    Example:
        >>> from widelimit.models import DecoderConfig
        >>> from widelimit.scaling import mup
        >>> sizes = {"vocabulary": 5, "context": 4, "width": 8, "base_width": 8, "heads": 2}
        >>> config = DecoderConfig(**sizes, parametrization=mup(table=8), depth=2)
        >>> sorted(unstack_blocks({"blocks": {"w": jnp.zeros((2, 3))}}, config))
        ['block_0', 'block_1']
    """

    def convert(node: Mapping[str, Any]) -> dict[str, Any]:
        counts = {array.shape[:1] for array in jax.tree.leaves(node["blocks"])}
        if counts != {(config.depth,)}:
            raise ValueError(f"the config has {config.depth} blocks; got stacks of {sorted(counts)}.")
        blocks = {
            f"block_{index}": jax.tree.map(lambda array, i=index: array[i], node["blocks"])
            for index in range(config.depth)
        }
        return {**{name: node[name] for name in node if name != "blocks"}, **blocks}

    return _convert(tree, "blocks", convert)


def _convert(tree: PyTree, mark: str, convert: Any) -> PyTree:
    """Returns the tree with every mapping that has the mark converted, however deep it lies."""

    def marked(node: Any) -> bool:
        return isinstance(node, Mapping) and mark in node

    nodes, treedef = jax.tree.flatten(tree, is_leaf=marked)
    if not any(map(marked, nodes)):
        raise ValueError(f"the tree holds no {mark!r}; got one of structure {treedef}.")
    return jax.tree.unflatten(treedef, [convert(node) if marked(node) else node for node in nodes])
