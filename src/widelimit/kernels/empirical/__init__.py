"""The tangent kernel of a finite network."""

from widelimit.kernels.empirical.ntk import ntk

__all__ = ["ntk"]
