"""Training in function space: regression, gradient flow and descent under a fixed kernel, linearised models."""

__all__: list[str] = []
