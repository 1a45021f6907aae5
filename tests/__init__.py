"""A package, so that the `tests` which the wheel of neural-tangents installs beside its own is not found first."""
