"""Residual branches of a model none of our code built: the user says which parameters lie in one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import Any

import jax

from widelimit.scaling.roles import Leaf

PyTree = Any


def in_branches(
    leaves: PyTree, branches: str | Sequence[str], ends: str | Sequence[str], *, depth: int, base_depth: int
) -> PyTree:
    """Adds the depth to what is known of a model: which parameters lie in residual branches, which end one.

    Neither shapes nor a trace of the forward pass need tell it: pass what ``probe`` returned. *Inside* is
    everything whose effect on the stream passes an addition ``h + F(h)``, the norm at the start of a branch
    included; an *end* is what the output of a branch is linear in: kernel and bias of its last layer.
    Parameters stacked for a scan over the blocks count like single ones.

    Args:
        leaves: of the model, without depth (or with that of other branches).
        branches: paths or patterns (``*``, ``?``, ``[...]``; ``*`` also crosses ``/``) of all parameters
            inside branches.
        ends: paths or patterns of those in the last layer of a branch.
        depth: number of blocks L.
        base_depth: number of blocks at which hyperparameters are tuned.

    Returns:
        The leaves, those in branches with their depth.

    Raises:
        ValueError: if a pattern matches nothing, an end is in no branch, no end is given, a parameter has a
            depth already, or a number of blocks is not a positive integer.

    Example:
        >>> import jax.numpy as jnp
        >>> from widelimit.scaling import completep, make_rules, probe
        >>> names = ("in", "block_0/up", "block_0/down", "block_1/up", "block_1/down")
        >>> init = lambda n: {name: jnp.ones((5 if name == "in" else n, n)) for name in names}
        >>> def apply(n, p, x):
        ...     h = x @ p["in"]
        ...     for block in (0, 1):
        ...         h = h + jnp.tanh(h @ p[f"block_{block}/up"]) @ p[f"block_{block}/down"]
        ...     return h
        >>> leaves = probe(init, apply, jnp.ones((1, 5)), width=64, base_width=16)
        >>> leaves = in_branches(leaves, "block_*", "block_*/down", depth=2, base_depth=1)
        >>> make_rules(leaves, completep()).multiplier["block_1/down"]
        0.5

    Reference:
        Dey et al., arXiv 2505.01618, Table 1.
    """
    for name, count in (("depth", depth), ("base_depth", base_depth)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{name} is a number of blocks, a positive integer; got {count!r}.")
    flat, treedef = jax.tree.flatten(leaves, is_leaf=lambda node: isinstance(node, Leaf))
    if not all(isinstance(leaf, Leaf) for leaf in flat):
        raise ValueError("leaves must be a pytree of Leaf, as probe or models.leaves return it.")
    paths = [leaf.path for leaf in flat]
    inside, last = _matched(branches, "branches", paths), _matched(ends, "ends", paths)
    for path in sorted(last - inside):
        raise ValueError(f"{path} is to end a branch, but no pattern in branches={branches!r} matches it.")
    if not last:
        raise ValueError(
            "ends must name the last layer of every branch, which its multiplier belongs to; got none."
        )
    for leaf in flat:
        if leaf.path in inside and leaf.depth is not None:
            raise ValueError(f"{leaf.path} has the depth ratio {leaf.depth} already; say it once.")
    ratio = Fraction(depth, base_depth)
    placed = [
        dataclasses.replace(leaf, depth=ratio, ends_branch=leaf.path in last) if leaf.path in inside else leaf
        for leaf in flat
    ]
    return jax.tree.unflatten(treedef, placed)


def _matched(patterns: str | Sequence[str], name: str, paths: Sequence[str]) -> set[str]:
    """Returns the paths that the patterns match; each must match one."""
    found: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        hits = {path for path in paths if path == pattern or fnmatchcase(path, pattern)}
        if not hits:
            raise ValueError(f"{name}: {pattern!r} matches no parameter; the paths are {', '.join(paths)}.")
        found |= hits
    return found
