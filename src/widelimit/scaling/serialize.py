"""Rules to JSON and back, checked against the model they are for."""

from __future__ import annotations

import dataclasses
import json
import math
from fractions import Fraction
from typing import Any

import jax

from widelimit.scaling.parametrization import DepthExponents, Parametrization, PerRole, Rate
from widelimit.scaling.roles import Leaf, Role
from widelimit.scaling.rules import NUMBERS, PyTree, Rules

FORMAT = "widelimit rules 2"


def _plain(value: Any) -> Any:
    """Writes fractions and roles as strings, for JSON."""
    if isinstance(value, Fraction):
        return str(value)
    if isinstance(value, Role):
        return value.value
    raise TypeError(
        f"rules must hold plain numbers to be saved; got {type(value).__name__} (a traced value?)."
    )


def to_json(rules: Rules) -> str:
    """Returns the rules as JSON text: exact fractions as strings, one entry per parameter path.

    Raises:
        TypeError: if the numbers are traced values or arrays.

    Example:
        >>> from widelimit.scaling import leaf_from_axes, make_rules, mup
        >>> leaf = leaf_from_axes("w", (8, 2), (4, 2), contracted=(0,), width=Fraction(2), base_width=4)
        >>> rules = make_rules({"w": leaf}, mup())
        >>> from_json(to_json(rules), like={"w": 0}) == rules
        True

    Reference:
        None; the format is ours, versioned by its ``format`` field.
    """
    columns = [jax.tree.leaves(getattr(rules, name)) for name in NUMBERS]
    entries = [
        {"leaf": dataclasses.asdict(leaf), "rule": dict(zip(NUMBERS, numbers, strict=True))}
        for leaf, *numbers in zip(rules.leaves, *columns, strict=True)
    ]
    head = {name: getattr(rules, name) for name in ("optimizer", "alignment", "decay")}
    body = {
        "format": FORMAT,
        **head,
        "parametrization": dataclasses.asdict(rules.parametrization),
        "parameters": entries,
    }
    return json.dumps(body, indent=1, default=_plain)


def from_json(text: str, like: PyTree) -> Rules:
    """Reads rules from JSON text, in the tree structure of a model's parameters.

    Args:
        text: what ``to_json`` returned.
        like: the parameters (or their abstract shapes) the rules are for; their paths, and shapes where they
            have one, must be those the rules were made for.

    Raises:
        ValueError: if the text is no rules file, or is the rules file of another model.

    Example:
        >>> from_json("{}", like={"w": 0})
        Traceback (most recent call last):
        ...
        ValueError: expected a rules file ('widelimit rules 2'); got JSON without that format field.

    Reference:
        None; see ``to_json``.
    """
    try:
        body = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"expected a rules file in JSON; got text that is not JSON ({error}).") from None
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise ValueError(f"expected a rules file ({FORMAT!r}); got JSON without that format field.")
    try:
        leaves = tuple(_leaf(entry["leaf"]) for entry in body["parameters"])
        numbers = {name: [entry["rule"][name] for entry in body["parameters"]] for name in NUMBERS}
        parametrization = _parametrization(body["parametrization"])
        head = {name: body[name] for name in ("optimizer", "alignment", "decay")}
        parametrization.rate(head["optimizer"], head["alignment"])
    except (KeyError, TypeError, AttributeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(
            f"the rules file is damaged: a field is missing or of the wrong kind ({str(error).rstrip('.')}); "
            "write it again with to_json."
        ) from None
    _check_same_model(leaves, like)
    for name, values in numbers.items():
        for leaf, value in zip(leaves, values, strict=True):
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(
                    f"the rules file is damaged: {name} of {leaf.path!r} must be a finite number; got "
                    f"{value!r}."
                )
    treedef = jax.tree.structure(like)
    trees = {name: jax.tree.unflatten(treedef, values) for name, values in numbers.items()}
    return Rules(**trees, leaves=leaves, parametrization=parametrization, **head)


def _check_same_model(leaves: tuple[Leaf, ...], like: PyTree) -> None:
    """Raises unless the parameters have the paths and shapes of the leaves."""
    have: dict[str, Any] = {
        jax.tree_util.keystr(path, simple=True, separator="/"): getattr(array, "shape", None)
        for path, array in jax.tree_util.tree_leaves_with_path(like)
    }
    want = {leaf.path: leaf.shape for leaf in leaves}
    for path in [*want, *have]:
        if path not in have or path not in want:
            where = (
                "is in the rules but not in the model"
                if path not in have
                else "is in the model but not in the rules"
            )
            raise ValueError(
                f"the rules file is of another model: {path!r} {where}; make the rules anew for this model."
            )
        if have[path] is not None and tuple(have[path]) != want[path]:
            raise ValueError(
                f"the rules file is of another model: {path!r} has shape {tuple(have[path])}, "
                f"the rules are for {want[path]}; make the rules anew at this width."
            )


def _leaf(fields: dict[str, Any]) -> Leaf:
    """Reads one ``Leaf``."""
    exact = {
        "role": Role(fields["role"]),
        "width": Fraction(fields["width"]),
        "depth": None if fields["depth"] is None else Fraction(fields["depth"]),
    }
    shapes = {name: tuple(fields[name]) for name in ("shape", "base_shape", "contracted", "shared")}
    return Leaf(**(fields | exact | shapes))


def _per_role(fields: dict[str, Any], kind: type) -> PerRole[Any]:
    """Reads one value per role."""
    return PerRole(**{name: kind(value) for name, value in fields.items()})


def _parametrization(fields: dict[str, Any]) -> Parametrization:
    """Reads a ``Parametrization`` with its rates."""
    rates = tuple(
        Rate(
            row["family"],
            row["alignment"],
            _per_role(row["learning_rate"], Fraction),
            _per_role(row["epsilon"], Fraction),
            _per_role(row["learning_rate_constant"], float),
            _per_role(row["epsilon_constant"], float),
            DepthExponents(**{name: Fraction(value) for name, value in row["depth"].items()}),
        )
        for row in fields["rates"]
    )
    exact = {name: _per_role(fields[name], Fraction) for name in ("multiplier", "init")}
    floats = {name: _per_role(fields[name], float) for name in ("multiplier_constant", "init_constant")}
    return Parametrization(
        **(fields | exact | floats | {"rates": rates, "branch": Fraction(fields["branch"])})
    )
