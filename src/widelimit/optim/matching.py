"""Meeting of two trees: the rules' numbers and the updates of an optax transform."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from widelimit.scaling import Rules

PyTree = Any


def is_hole(node: object) -> bool:
    """Whether a node stands for "nothing to update here": None, or what ``optax.masked`` leaves behind."""
    return node is None or isinstance(node, optax.MaskedNode)


def _path(path: tuple[Any, ...]) -> str:
    """Names a place in a tree the way ``Leaf.path`` does; the root itself has no name.

    An NNX variable holds its array as ``.value``, and ``nnx.Optimizer`` passes variables to ``init`` and bare
    arrays to ``update``: one name for both.
    """
    if path and isinstance(path[-1], jax.tree_util.GetAttrKey) and path[-1].name == "value":
        path = path[:-1]
    return jax.tree_util.keystr(path, simple=True, separator="/") or "(root)"


def match(rule_tree: PyTree, tree: PyTree) -> list[Any]:
    """Returns the rules' leaf for every leaf of ``tree`` (any, at a hole); by path if containers differ.

    Raises:
        ValueError: if a leaf has no rule, or a rule has no leaf, naming the first.
    """
    structures: list[Any] = [jax.tree.structure(part, is_leaf=is_hole) for part in (rule_tree, tree)]
    if structures[0] == structures[1]:
        return jax.tree.leaves(rule_tree, is_leaf=is_hole)
    rules = {_path(path): leaf for path, leaf in jax.tree.leaves_with_path(rule_tree)}
    if structures[1].num_leaves == 0:
        return []  # nothing to update: an empty model, or optax's placeholder for one
    matched: list[Any] = []
    holes: list[str] = []
    for keys, leaf in jax.tree.leaves_with_path(tree, is_leaf=is_hole):
        path = _path(keys)
        if is_hole(leaf):
            holes.append(path)
            matched.append(None)
        elif path in rules:
            matched.append(rules.pop(path))
        else:
            raise ValueError(_mismatch(path, "parameters", "rules"))
    for path in rules:
        if not any(path == hole or path.startswith(hole + "/") or hole == "(root)" for hole in holes):
            raise ValueError(_mismatch(path, "rules", "parameters"))
    return matched


def _mismatch(path: str, present: str, absent: str) -> str:
    """Says where two trees part."""
    return (
        f"rules and parameters must have the same structure, but {path!r} is in the {present} and not in the "
        f"{absent}; make the rules from the leaves of this very model."
    )


def check(rules: Rules, params: PyTree) -> None:
    """Raises unless ``rules`` were made for ``params``: the same paths, the same shapes.

    Raises:
        ValueError: naming the first path that differs.
    """
    leaves = jax.tree.unflatten(jax.tree.structure(rules.learning_rate), rules.leaves)
    matched = match(leaves, params)
    for leaf, param in zip(matched, jax.tree.leaves(params, is_leaf=is_hole), strict=True):
        if not is_hole(param) and np.shape(param) != leaf.shape:
            raise ValueError(
                f"the rules were made for {leaf.path!r} of shape {leaf.shape}, but that parameter has shape "
                f"{np.shape(param)}; make rules at this width (for stacked models, call init inside vmap)."
            )


def map_with_rule(function: Callable[..., Any], rule_tree: PyTree, updates: PyTree, *rest: PyTree) -> PyTree:
    """Maps ``function(number, update, *rest)`` over the updates that are not holes."""
    numbers = jax.tree.unflatten(jax.tree.structure(updates, is_leaf=is_hole), match(rule_tree, updates))

    def call(update: Any, number: Any, *others: Any) -> Any:
        return update if is_hole(update) else function(number, update, *others)

    return jax.tree.map(call, updates, numbers, *rest, is_leaf=is_hole)


def times(number: Any, array: jax.Array) -> jax.Array:
    """Returns ``number * array`` in the array's dtype; a plain 1 costs no operation."""
    if isinstance(number, numbers.Real):
        return array if number == 1 else float(number) * array
    return jnp.asarray(number, dtype=array.dtype) * array


def is_number(value: object) -> bool:
    """Whether a value is a plain number, known now: not a schedule, an array or a tracer."""
    return isinstance(value, numbers.Real)


def product(x: Any, y: Any) -> Any:
    """Returns ``x * y`` of two scalars, numbers or arrays, in the first array's dtype."""
    x, y = (float(value) if is_number(value) else value for value in (x, y))
    if is_number(x) or is_number(y):
        return x * y
    return x * jnp.asarray(y, dtype=jnp.result_type(x))


def cast(number: Any, like: jax.Array) -> Any:
    """Gives an array the dtype of another; plain numbers adapt by themselves."""
    return float(number) if is_number(number) else jnp.asarray(number, dtype=like.dtype)


def wider(*dtypes: Any) -> Any:
    """Returns the dtype that holds all of these, also where promotion is strict."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*dtypes)


def require_family(rules: Rules, alias: str, family: str) -> None:
    """Refuses the rules of another optimizer family."""
    if not isinstance(rules, Rules):
        raise TypeError(
            f"{alias} takes rules made by widelimit.scaling.make_rules; got {type(rules).__name__}."
        )
    if rules.optimizer != family:
        raise ValueError(
            f"{alias} needs the learning rates of optimizer {family!r}, but these rules were made for "
            f"{rules.optimizer!r}; call make_rules(..., optimizer={family!r})."
        )
