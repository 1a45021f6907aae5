"""NNGP and NTK of infinitely wide networks, from the configs of our models."""

from widelimit.kernels.analytic.kernel import Kernel, kernel

__all__ = [
    "Kernel",
    "kernel",
]
