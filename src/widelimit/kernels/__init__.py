"""Kernels: of the infinite network (NNGP, NTK), of the finite one (empirical NTK), their dynamics and spectra."""

from widelimit.kernels import analytic, dynamics, empirical, spectra

__all__ = ["analytic", "dynamics", "empirical", "spectra"]
