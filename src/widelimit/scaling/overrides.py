"""Explicit entries: what a user declares of a parameter, which always wins over the trace."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from widelimit.scaling.contraction import Contraction
from widelimit.scaling.roles import Role, role_of

Entry = Role | tuple[int, ...]
"""A role, or the axes that the forward pass contracts."""


def match(overrides: Mapping[str, Entry], paths: Sequence[str]) -> dict[int, Entry]:
    """Assigns entries to parameters; an exact path wins over a pattern.

    Args:
        overrides: entries by path or pattern.
        paths: paths of the parameters.

    Raises:
        ValueError: if a key matches nothing, two patterns disagree on a parameter, or an entry is no entry.
    """
    entries: dict[int, Entry] = {}
    origin: dict[int, str] = {}
    for key, entry in overrides.items():
        if not isinstance(entry, Role) and not (
            isinstance(entry, tuple) and all(isinstance(axis, int) for axis in entry)
        ):
            raise ValueError(
                f"overrides[{key!r}] must be a Role or a tuple of contracted axes; got {entry!r}."
            )
        exact = [number for number, path in enumerate(paths) if path == key]
        hits = exact or [number for number, path in enumerate(paths) if fnmatchcase(path, key)]
        if not hits:
            raise ValueError(f"overrides[{key!r}] matches no parameter; the paths are {', '.join(paths)}.")
        for number in hits:
            before = origin.get(number)
            if before is not None and before != paths[number] and not exact and entries[number] != entry:
                raise ValueError(
                    f"overrides[{before!r}] and overrides[{key!r}] disagree on {paths[number]}; add an entry "
                    "for exactly this path."
                )
            if before is None or exact:
                entries[number], origin[number] = entry, key
    return entries


def is_source(entry: Entry, growing: Sequence[bool]) -> bool:
    """Whether an entry declares a table that later layers act on, as they act on data."""
    return any(growing) and entry in (Role.INPUT, ())


def settle(path: str, entry: Entry, growing: Sequence[bool], traced: Contraction) -> Contraction:
    """Turns an entry into axes; a role leaves the axes to the trace where that agrees with it.

    Args:
        path: path of the parameter, for the error.
        entry: what the user declared.
        growing: which axes of the parameter grow.
        traced: what the trace found.

    Raises:
        ValueError: if the axes are out of range, or a role does not say which axes are contracted.
    """
    if isinstance(entry, tuple):
        rank = len(growing)
        if any(not -rank <= axis < rank for axis in entry):
            raise ValueError(f"overrides for {path}: axes must lie in 0..{rank - 1}; got {entry}.")
        axes = tuple(sorted({axis % rank for axis in entry}))
        shared = tuple(axis for axis in traced.shared if axis not in axes)
        return Contraction(axes, shared, traced.tied and role_of(growing, axes) is Role.INPUT)
    summed = role_of(growing, traced.contracted) in (Role.HIDDEN, Role.OUTPUT)
    if traced.doubt is None and summed == (entry in (Role.HIDDEN, Role.OUTPUT)):
        return dataclasses.replace(traced, tied=traced.tied and entry is Role.INPUT)
    if entry is Role.HIDDEN:
        raise ValueError(
            f"overrides for {path}: Role.HIDDEN does not say which axes are contracted and the trace does "
            "not either; give them, as in (0,)."
        )
    axes = tuple(axis for axis, grows in enumerate(growing) if grows) if entry is Role.OUTPUT else ()
    return dataclasses.replace(traced, contracted=axes, tied=traced.tied and entry is Role.INPUT, doubt=None)
