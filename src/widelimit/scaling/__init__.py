"""Exponents, roles and rules: how parameters scale with width (exact arithmetic and shapes)."""

from widelimit.scaling.branches import in_branches
from widelimit.scaling.classify import Classification, classify
from widelimit.scaling.depth import completep, depth_mup, with_depth
from widelimit.scaling.depth_stability import DepthSlopes, depth_slopes, derive_depth
from widelimit.scaling.describe import describe
from widelimit.scaling.pairings import GrowingProduct, growing_products
from widelimit.scaling.parametrization import (
    DepthExponents,
    Parametrization,
    PerRole,
    Rate,
    exponents,
    gradient_exponents,
    to_absolute,
    to_relative,
)
from widelimit.scaling.probe import probe
from widelimit.scaling.roles import Leaf, Role, leaf_from_axes, role_of
from widelimit.scaling.rules import Rules, make_rules
from widelimit.scaling.serialize import from_json, to_json
from widelimit.scaling.stability import (
    FIRST_SMALL_STEP,
    FULL,
    NO_ALIGNMENT,
    TENSOR_PROGRAMS,
    Alignments,
    Change,
    change,
    contribution_exponents,
    derive,
)
from widelimit.scaling.symmetry import fold, shift
from widelimit.scaling.tables import dmft, mean_field, mup, ntk, standard, uniform

__all__ = [
    "Alignments",
    "Change",
    "Classification",
    "DepthExponents",
    "DepthSlopes",
    "FIRST_SMALL_STEP",
    "FULL",
    "GrowingProduct",
    "Leaf",
    "NO_ALIGNMENT",
    "Parametrization",
    "PerRole",
    "Rate",
    "Role",
    "Rules",
    "TENSOR_PROGRAMS",
    "change",
    "classify",
    "completep",
    "contribution_exponents",
    "depth_mup",
    "depth_slopes",
    "derive",
    "derive_depth",
    "describe",
    "dmft",
    "exponents",
    "fold",
    "from_json",
    "gradient_exponents",
    "growing_products",
    "in_branches",
    "leaf_from_axes",
    "make_rules",
    "mean_field",
    "mup",
    "ntk",
    "probe",
    "role_of",
    "shift",
    "standard",
    "to_absolute",
    "to_json",
    "to_relative",
    "uniform",
    "with_depth",
]
