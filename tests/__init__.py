"""A package, so that the `tests` which the wheel of neural-tangents installs is not found before it."""
