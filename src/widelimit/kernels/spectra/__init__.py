"""Spectra of tangent kernels, matrix-free, and measures of how two kernels differ."""

from widelimit.kernels.matrices import as_matrix, centre, eigenvalues
from widelimit.kernels.spectra.lanczos import Eigenpairs, top_eigenpairs
from widelimit.kernels.spectra.lazy import Laziness, laziness
from widelimit.kernels.spectra.learning_curves import (
    LearningCurve,
    learnabilities,
    learning_curve,
)
from widelimit.kernels.spectra.measures import (
    alignment,
    cka,
    cka_gap,
    kernel_velocity,
    relative_change,
    trace_ratio,
)
from widelimit.kernels.spectra.operators import KernelOperator, from_matrix, hessian, operator
from widelimit.kernels.spectra.probes import (
    ProbeEstimate,
    Quadrature,
    SpectralDensity,
    effective_dimension,
    log_determinant,
    quadrature,
    spectral_density,
    trace,
)
from widelimit.kernels.spectra.random_features import RandomFeatureCurve, random_feature_curve
from widelimit.kernels.spectra.ranks import degrees_of_freedom, effective_rank

__all__ = [
    "Eigenpairs",
    "KernelOperator",
    "Laziness",
    "LearningCurve",
    "ProbeEstimate",
    "Quadrature",
    "RandomFeatureCurve",
    "SpectralDensity",
    "alignment",
    "as_matrix",
    "centre",
    "cka",
    "cka_gap",
    "degrees_of_freedom",
    "effective_dimension",
    "effective_rank",
    "eigenvalues",
    "from_matrix",
    "hessian",
    "kernel_velocity",
    "laziness",
    "learnabilities",
    "learning_curve",
    "log_determinant",
    "operator",
    "quadrature",
    "random_feature_curve",
    "relative_change",
    "spectral_density",
    "top_eigenpairs",
    "trace",
    "trace_ratio",
]
