"""Spectra of tangent kernels, matrix-free, and measures of how two kernels differ."""

from widelimit.kernels.spectra.matrices import as_matrix, centre, eigenvalues
from widelimit.kernels.spectra.measures import (
    alignment,
    cka,
    cka_gap,
    kernel_velocity,
    relative_change,
    trace_ratio,
)
from widelimit.kernels.spectra.ranks import degrees_of_freedom, effective_rank

__all__ = [
    "alignment",
    "as_matrix",
    "centre",
    "cka",
    "cka_gap",
    "degrees_of_freedom",
    "effective_rank",
    "eigenvalues",
    "kernel_velocity",
    "relative_change",
    "trace_ratio",
]
