"""The record of how each parameter meets the data, and which of its axes are summed when it does."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from widelimit.scaling.provenance import NONE, Kind, Label, Labels, Value, axes_of


@dataclasses.dataclass(frozen=True)
class Use:
    """One meeting of a parameter with the data: the axes summed, and those along which layers are stacked."""

    contracted: frozenset[int]
    shared: frozenset[int] = frozenset()


ProductKind = Literal["product", "lookup", "pair"]
"""A parameter times data; rows the data looked up; the product of two such rows."""


@dataclasses.dataclass
class Product:
    """A product of parameters and data whose role hangs on whether a sum follows."""

    value: Value
    kind: ProductKind = "product"
    summed: Labels | None = None
    must_sum: frozenset[int] = frozenset()


class Ledger:
    """Collects uses and doubts while a program is walked.

    Args:
        growing: for every parameter, which of its axes grow with width.
    """

    def __init__(self, growing: Sequence[Sequence[bool]]):
        self.growing = [frozenset(axis for axis, grows in enumerate(flags) if grows) for flags in growing]
        self.uses: list[tuple[int, Use]] = []
        self.doubts: list[tuple[int, str]] = []
        self.products: list[Product] = []
        self.stacked: set[Label] = set()
        self.pairings: list[tuple[str, int]] = []
        self._scopes: list[str] = []

    def mark(self) -> tuple[int, int, int, int]:
        """Where the record stands, to come back to after a trial walk of a loop."""
        return len(self.uses), len(self.doubts), len(self.products), len(self.pairings)

    def rewind(self, mark: tuple[int, int, int, int]) -> None:
        """Forgets what a trial walk recorded."""
        del self.uses[mark[0] :], self.doubts[mark[1] :], self.products[mark[2] :], self.pairings[mark[3] :]

    @contextlib.contextmanager
    def inside(self, scope: str) -> Iterator[None]:
        """While it lasts, what is recorded lies inside this named part of the program."""
        self._scopes.append(scope)
        try:
            yield
        finally:
            self._scopes.pop()

    def pair(self, line: str, size: int) -> None:
        """Records that two activations were multiplied and summed over so many entries."""
        scope = "/".join(filter(None, self._scopes))
        self.pairings.append((f"{scope} at {line}" if scope else line, size))

    def grows(self, labels: Iterable[Label]) -> Labels:
        """Those of the axes that grow with width."""
        return frozenset(label for label in labels if label[1] in self.growing[label[0]])

    def doubt(self, leaves: Iterable[int], reason: str) -> None:
        """Notes that tracing cannot decide these parameters; one without a growing axis needs no decision."""
        self.doubts.extend((leaf, reason) for leaf in leaves if self.growing[leaf])

    def open(
        self, value: Value, kind: ProductKind = "product", must_sum: frozenset[int] = frozenset()
    ) -> int:
        """Opens a product whose sum may follow; returns its number."""
        self.products.append(Product(value, kind, must_sum=must_sum))
        return len(self.products) - 1

    def sum_product(self, number: int, labels: Labels, kept: Labels) -> None:
        """Closes a product by the sum over these axes; ``kept`` are those left over."""
        product = self.products[number]
        labels = labels & product.value.labels()
        if not labels:
            return
        self._doubt_parts(labels & kept)
        if product.kind == "pair":
            reason = "rows looked up in it are multiplied with other rows and summed"
            self.doubt({leaf for leaf, _ in self.grows(labels)}, reason)
        if product.summed not in (None, labels):
            self.doubt(product.value.leaves, "its product with the data is summed in two different ways")
        product.summed = labels

    def close(self) -> None:
        """Turns the products into uses, once the whole program has been walked."""
        for product in self.products:
            summed = product.summed or NONE
            if product.kind != "product":
                continue
            unsummed = [leaf for leaf in product.must_sum if not any(label[0] == leaf for label in summed)]
            self.doubt(unsummed, "it multiplies repeated data entry by entry and no sum follows at once")
            self.use(product.value, summed)

    def use(self, value: Value, contracted: Labels, rest: Labels | None = None) -> None:
        """Records that parameters meet data, summed over ``contracted``; ``rest`` are the axes left over."""
        rest = value.labels() - contracted if rest is None else rest
        for joint in value.joints:
            twice = {leaf for leaf, _ in joint.left} & {leaf for leaf, _ in joint.right}
            self.doubt(
                {leaf for leaf in twice if len(self.growing[leaf]) == 1}, "it is multiplied with itself"
            )
        self._doubt_parts(contracted & rest)
        found = self._orient(value, contracted)
        self._separate_factors(value, found)
        visible = value.labels() | NONE.union(*(joint.left | joint.right for joint in value.joints))
        for leaf in sorted(value.leaves):
            axes = found.get(leaf, frozenset())
            hidden = {axis for owner, axis in value.reduced - visible if owner == leaf}
            if self.growing[leaf] and not any((leaf, axis) in visible for axis in self.growing[leaf]):
                continue  # only a sum or norm of it is left; its role shows where it is used whole
            picked = {axis for owner, axis in value.picked - visible if owner == leaf} - self.growing[leaf]
            shared = frozenset(picked - axes) if axes else frozenset[int]()
            self.uses.append((leaf, Use(axes | hidden, shared)))

    def _doubt_parts(self, labels: Labels) -> None:
        """Doubts growing axes that are both summed and left over."""
        parts = {leaf for leaf, _ in self.grows(labels)}
        self.doubt(parts, "a growing axis is split and only a part of it is summed")

    def _orient(self, value: Value, contracted: Labels) -> dict[int, frozenset[int]]:
        """Which axes of every parameter are summed, in a chain that the data enters at one end."""
        found = axes_of(contracted)
        if not value.joints:
            return found
        if not found:
            found = self._roots(value)
        inner: dict[int, frozenset[int]] = {}
        frontier = True
        while frontier:
            frontier = False
            for joint in value.joints:
                for near, far in joint.sides():
                    known = {leaf for leaf, _ in near} & (found.keys() | inner.keys())
                    if known or (not near and not contracted):
                        for leaf, axes in axes_of(far).items():
                            if leaf not in found and leaf not in inner:
                                inner[leaf] = axes
                                frontier = True
        self._check_inner(value, contracted, found, inner)
        return found | inner

    def _roots(self, value: Value) -> dict[int, frozenset[int]]:
        """Where a chain that was never summed against data begins: at learned tables, not at matrices."""
        if any(not side for joint in value.joints for side in (joint.left, joint.right)):
            return {}  # the chain begins at a constant array, which is read as data
        held = self.grows(NONE.union(*(joint.left | joint.right for joint in value.joints)))
        roots = {leaf for leaf, _ in held if len(self.growing[leaf]) == 1}
        if not roots:
            return {
                leaf: frozenset()
                for joint in value.joints
                for leaf, _ in joint.left | joint.right
                if not self.growing[leaf]
            }
        homes = {
            side
            for joint in value.joints
            for side in (joint.left, joint.right)
            if roots & {leaf for leaf, _ in side}
        }
        if len(homes) > 1:
            self.doubt(roots, "it is multiplied with other parameters and either may be the first")
        return {leaf: frozenset() for leaf in roots}

    def _check_inner(
        self,
        value: Value,
        contracted: Labels,
        found: dict[int, frozenset[int]],
        inner: dict[int, frozenset[int]],
    ) -> None:
        """Doubts a chain that reads both ways: as a readout behind the data or as a table before it."""
        reason = "it is multiplied with other parameters before it meets the data"
        for leaf, axes in inner.items():
            if contracted and self.growing[leaf] and self.growing[leaf] <= axes:
                self.doubt([leaf], reason)
        for joint in value.joints:
            for near, far in joint.sides():
                if near or not contracted:
                    continue
                for leaf, axes in axes_of(far).items():
                    other = found.get(leaf, inner.get(leaf, axes))
                    if bool(self.growing[leaf] & axes) != bool(self.growing[leaf] & other):
                        self.doubt([leaf], "it meets a constant array on one side and data on the other")
            for leaf in axes_of(joint.left | joint.right):
                if leaf not in found and leaf not in inner and self.growing[leaf]:
                    self.doubt([leaf], reason)

    def _separate_factors(self, value: Value, found: dict[int, frozenset[int]]) -> None:
        """Of several factors summed together, the one with a free growing axis is the matrix."""
        ends = {leaf for leaf, axes in found.items() if self.growing[leaf] and self.growing[leaf] <= axes}
        for pair in value.hadamard:
            for leaf in pair & ends:
                (other,) = pair - {leaf}
                if other not in found or not self.growing[other] & found[other]:
                    continue
                if other in ends:
                    self.doubt([leaf], "it is multiplied with another parameter and both are summed")
                else:
                    found[leaf] = frozenset()


def meets(values: Sequence[Value]) -> bool:
    """Whether parameters and data come together in one operation."""
    kinds = {value.kind for value in values}
    return Kind.PARAM in kinds and Kind.DATA in kinds
