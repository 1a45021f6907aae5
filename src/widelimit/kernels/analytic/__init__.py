"""NNGP and NTK of infinitely wide networks, from the configs of our models."""

from widelimit.kernels.analytic.kernel import Kernel, kernel
from widelimit.kernels.analytic.monte_carlo import monte_carlo

__all__ = [
    "Kernel",
    "kernel",
    "monte_carlo",
]
