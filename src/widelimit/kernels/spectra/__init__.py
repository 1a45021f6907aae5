"""Spectra of tangent kernels, matrix-free, and measures of how two kernels differ."""

__all__: list[str] = []
