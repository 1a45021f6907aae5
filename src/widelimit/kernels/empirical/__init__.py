"""The tangent kernel of a finite network."""

from widelimit.kernels.empirical.ntk import ntk
from widelimit.kernels.empirical.project import ntk_hutchinson, sketch
from widelimit.kernels.empirical.sharded import ntk_sharded

__all__ = ["ntk", "ntk_hutchinson", "ntk_sharded", "sketch"]
