"""Kernels of infinite networks (NNGP, NTK) and finite ones (empirical NTK), their dynamics and spectra."""

from widelimit.kernels import analytic, dynamics, empirical, spectra
from widelimit.kernels.neural_tangents import neural_tangents

__all__ = [
    "analytic",
    "dynamics",
    "empirical",
    "neural_tangents",
    "spectra",
]
