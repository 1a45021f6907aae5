"""The tangent kernel of a finite network."""

from widelimit.kernels.empirical.blocks import ntk_in_blocks
from widelimit.kernels.empirical.contract import contract
from widelimit.kernels.empirical.features import Features, features
from widelimit.kernels.empirical.ntk import ntk
from widelimit.kernels.empirical.plan import Plan, plan
from widelimit.kernels.empirical.project import ntk_hutchinson, sketch
from widelimit.kernels.empirical.sharded import ntk_sharded

__all__ = [
    "Features",
    "Plan",
    "contract",
    "features",
    "ntk",
    "ntk_hutchinson",
    "ntk_in_blocks",
    "ntk_sharded",
    "plan",
    "sketch",
]
