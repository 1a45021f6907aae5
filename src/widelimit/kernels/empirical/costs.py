"""What a contraction costs: Gram matrices over positions, or the gradients of all samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

from widelimit.kernels.empirical.groups import Group, Term

Form = Literal["full", "trace", "diagonal", "self", "sum"]
FORMS: tuple[Form, ...] = ("full", "trace", "diagonal", "self", "sum")


@dataclasses.dataclass(frozen=True)
class Cost:
    """Floating-point operations, and the largest intermediate array in bytes (before it is cut in pieces)."""

    flops: float
    bytes: float


@dataclasses.dataclass(frozen=True)
class Size:
    """The size of a kernel: samples on both sides, outputs, form, whether both are one, bytes a number."""

    rows: int
    columns: int
    outputs: int
    form: Form
    same: bool = False
    itemsize: int = 4

    @property
    def pairs(self) -> int:
        """Pairs of samples."""
        return self.rows if self.form == "self" else self.rows * self.columns

    @property
    def squared(self) -> int:
        """Pairs of outputs that are multiplied with one another."""
        return self.outputs**2 if self.form in ("full", "self") else self.outputs

    @property
    def kept(self) -> int:
        """Pairs of outputs in the result."""
        return 1 if self.form in ("trace", "sum") else self.squared

    @property
    def samples(self) -> int:
        """Samples whose gradients are needed."""
        return self.rows if self.same else self.rows + self.columns


def folds(terms: Sequence[Term], form: Form) -> bool:
    """Returns whether a sum over outputs needs one cotangent a sample, see ``pooled.Pooled.weights``.

    Args:
        terms: of one group.
        form: of the kernel.
    """
    return form == "trace" and len(terms) == 1 and terms[0].alike


def gram(terms: Sequence[Term], size: Size) -> Cost:
    r"""Returns the cost of ``sum_st <L_i(s), L_j(t)> <R_i(s), R_j(t)>``.

    Example:
        A dense layer at one position, in the full form: ``N^2 (K + O^2 M)`` products.
    """
    flops, largest = 0.0, 0.0
    if folds(terms, size.form):
        size = dataclasses.replace(size, outputs=1)
    for one in terms:
        for two in terms:
            (s, k, m), (t, _, _) = one.sizes, two.sizes
            if one.swapped != two.swapped:
                left = size.outputs * (1 if one.lookup or two.lookup else k)
                right, last = size.outputs * m, size.squared
            else:
                left = 1 if one.lookup and two.lookup else k
                right, last = size.squared * m, size.kept if s * t > 1 else 0
            flops += 2.0 * size.pairs * s * t * (left + right + last)
            largest = max(largest, size.itemsize * size.pairs * s * t * max(1, size.kept))
    return Cost(flops, largest)


def gradient(terms: Sequence[Term], size: Size, *, apart: bool = True) -> Cost:
    """Returns the cost of the gradients of all samples and outputs, and of their products.

    Args:
        terms: of one group.
        size: of the kernel.
        apart: whether cotangents that are products are kept as factors, which Jacobians cannot do.
    """
    _, k, m = terms[0].sizes
    positions = sum(term.sizes[0] for term in terms)
    if apart and folds(terms, size.form):
        size = dataclasses.replace(size, outputs=1)
    elif apart and len(terms) == 1 and terms[0].pooled:
        made = 2.0 * size.samples * positions * k * m
        products = 2.0 * size.pairs * m * (k + size.squared)
        return Cost(made + products, size.itemsize * float(size.samples * k * m))
    made = 2.0 * size.samples * size.outputs * positions * k * m if positions * k > 1 else 0.0
    return Cost(made + direct(k * m, size).flops, size.itemsize * float(size.samples * size.outputs * k * m))


def direct(entries: int, size: Size) -> Cost:
    """Returns the cost of the products of gradients that are there already."""
    return Cost(
        2.0 * size.pairs * size.squared * entries,
        size.itemsize * float(size.samples * size.outputs * entries),
    )


def choose(groups: Sequence[Group], clusters: Sequence[Sequence[int]], size: Size) -> list[str]:
    """Returns the cheaper way of each group, ``"gram"`` or ``"gradient"``.

    A bias goes the way of its weight, whose Gram matrix it uses.

    Args:
        groups: of all parameters.
        clusters: numbers of groups that share their cotangents.
        size: of the kernel.
    """
    ways = []
    for group in groups:
        cheaper = gram(group.terms, size).flops <= gradient(group.terms, size).flops
        ways.append("gram" if cheaper else "gradient")
    for cluster in clusters:
        weights = [number for number in cluster if groups[number].terms[0].uses[0].kind != "bias"]
        for number in cluster:
            if number not in weights and weights:
                ways[number] = "gram" if any(ways[n] == "gram" for n in weights) else "gradient"
    return ways
