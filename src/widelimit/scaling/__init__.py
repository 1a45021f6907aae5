"""Exponents, roles and rules: how a network's parameters must scale with its width (exact arithmetic and shapes)."""

from widelimit.scaling.describe import describe
from widelimit.scaling.parametrization import (
    Parametrization,
    PerRole,
    Rate,
    exponents,
    gradient_exponents,
    to_absolute,
    to_relative,
)
from widelimit.scaling.roles import Leaf, Role, leaf_from_axes, role_of
from widelimit.scaling.rules import Rules, make_rules
from widelimit.scaling.serialize import from_json, to_json
from widelimit.scaling.tables import dmft, mean_field, mup, ntk, standard

__all__ = [
    "Leaf",
    "Parametrization",
    "PerRole",
    "Rate",
    "Role",
    "Rules",
    "describe",
    "dmft",
    "exponents",
    "from_json",
    "gradient_exponents",
    "leaf_from_axes",
    "make_rules",
    "mean_field",
    "mup",
    "ntk",
    "role_of",
    "standard",
    "to_absolute",
    "to_json",
    "to_relative",
]
