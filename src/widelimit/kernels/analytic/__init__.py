"""NNGP and NTK of infinitely wide networks, from the configs of our models."""

__all__: list[str] = []
