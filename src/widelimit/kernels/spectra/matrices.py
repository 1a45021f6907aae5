"""Forwards to ``widelimit.kernels.matrices``, which holds the checks for both rooms."""

from widelimit.kernels.matrices import as_matrix, symmetric

__all__ = ["as_matrix", "symmetric"]
