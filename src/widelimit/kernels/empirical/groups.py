"""Uses of one parameter that add up: stacked along positions where they index it alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from widelimit.kernels.empirical.uses import Use


@dataclasses.dataclass(frozen=True)
class Term:
    r"""Uses with one layout, stacked: ``sum_s left(s) (x) back(s)`` over the positions of all of them.

    Args:
        uses: the uses.
        swapped: whether the columns here are the rows of the group's first term (a tied readout).
    """

    uses: tuple[Use, ...]
    swapped: bool

    @property
    def lookup(self) -> bool:
        """Whether the left factor is one-hot."""
        return self.uses[0].kind == "embedding"

    @property
    def pooled(self) -> bool:
        """Whether its cotangents are products, see ``Pooled``."""
        return len(self.uses) == 1 and self.uses[0].pool is not None and not self.swapped

    @property
    def alike(self) -> bool:
        """Whether what depends on the output is the same for all samples in these products."""
        return self.pooled and self.uses[0].alike

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Positions in all, rows, columns."""
        _, rows, columns = self.uses[0].sizes
        return sum(use.sizes[0] for use in self.uses), rows, columns


@dataclasses.dataclass(frozen=True)
class Group:
    """Entries of a parameter whose gradient is the sum of some terms.

    Args:
        leaf: number of the parameter.
        terms: to add before anything is squared.
    """

    leaf: int
    terms: tuple[Term, ...]


def gather(uses: Sequence[Use]) -> tuple[list[Group], dict[int, str]]:
    """Returns the groups of all parameters, and the parameters whose uses overlap in part."""
    found: dict[int, list[list[tuple[Use, bool]]]] = {}
    failed: dict[int, str] = {}
    for use in uses:
        groups = found.setdefault(use.leaf, [])
        home = None
        for members in groups:
            first, _ = members[0]
            if _same(use, first):
                home = (members, False)
            elif _same(use, first, swapped=True):
                home = (members, True)
            elif np.shares_memory(use.cells, first.cells):
                failed[use.leaf] = "has uses that share some entries and not others"
        if home is None:
            groups.append([(use, False)])
        else:
            home[0].append((use, home[1]))
    made = [Group(leaf, _terms(members)) for leaf, groups in found.items() for members in groups]
    return made, failed


def _terms(members: Sequence[tuple[Use, bool]]) -> tuple[Term, ...]:
    """Stacks what has the same layout and kind of factor."""
    stacks: dict[tuple[bool, bool], list[Use]] = {}
    for use, swapped in members:
        stacks.setdefault((swapped, use.kind == "embedding"), []).append(use)
    return tuple(Term(tuple(uses), swapped) for (swapped, _), uses in stacks.items())


def _same(use: Use, other: Use, swapped: bool = False) -> bool:
    """Whether two uses index the same entries in the same way, or with rows and columns exchanged."""
    layout = (use.cols, use.rows) if swapped else (use.rows, use.cols)
    return _start(use.cells) == _start(other.cells) and layout == (other.rows, other.cols)


def _start(cells: np.ndarray) -> int:
    """The address of the first cell."""
    return int(cells.__array_interface__["data"][0])
