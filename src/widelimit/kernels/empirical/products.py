"""The products behind a kernel: axes i, j are samples, c, d outputs, s, t positions, k rows, m columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from widelimit.kernels.empirical.costs import Form
from widelimit.kernels.empirical.einsum import einsum
from widelimit.kernels.empirical.features import Ids
from widelimit.kernels.empirical.pooled import Pooled, by_pooled
from widelimit.kernels.empirical.triangle import Block

# Bytes that an intermediate array may take before it is computed in pieces.
PIECE = 2**26
LETTERS: dict[Form, tuple[str, str, str]] = {
    "full": ("j", "d", "icjd"),
    "trace": ("j", "c", "ij"),
    "diagonal": ("j", "c", "icj"),
    "self": ("i", "d", "icd"),
}


class Side(NamedTuple):
    """The two factors of a term's gradients, for the samples of one side."""

    factor: Any  # shape=(N, S, K), or Ids
    cotangent: Any  # shape=(N, C, S, M), or Pooled
    swapped: bool
    rows: int
    weights: Any = None  # shape=(M,), of the columns where cotangents are folded, see Pooled

    @property
    def left(self) -> tuple[Any, str]:
        """The factor over rows, and its axes."""
        return (self.cotangent, "icsk") if self.swapped else (self.factor, "isk")

    @property
    def right(self) -> tuple[Any, str]:
        """The factor over columns, and its axes."""
        return (self.factor, "ism") if self.swapped else (self.cotangent, "icsm")

    @property
    def weighted(self) -> tuple[Any, str]:
        """The same for one of the two sides of a product, times the weights if there are any."""
        array, axes = self.right
        return (array if self.weights is None else array * self.weights[None, None, None]), axes


def by_gradient(
    terms1: Sequence[Side], terms2: Sequence[Side], form: Form, where: Sequence[Block]
) -> list[Any]:
    """Returns the products of gradients, which are summed over terms and positions first, rows in pieces.

    By blocks of the kernel.
    """
    same = terms1 is terms2
    if isinstance(terms1[0].cotangent, Pooled):
        (one,), (two,) = terms1, terms2
        first = einsum("isk,ism->ikm", one.factor, one.cotangent.shared)
        second = first if same else einsum("isk,ism->ikm", two.factor, two.cotangent.shared)
        return [
            by_pooled(first[rows], one.cotangent.rows[rows], second[cols], two.cotangent.rows[cols], form)
            for rows, cols in where
        ]
    rows, columns = terms1[0].rows, terms1[0].right[0].shape[-1]
    samples, outputs = terms1[0].cotangent.shape[:2]
    samples = max(samples, terms2[0].cotangent.shape[0])
    width = terms1[0].cotangent.dtype.itemsize * samples * outputs * columns
    pieces = min(rows, math.ceil(rows * width / PIECE))
    height = math.ceil(rows / pieces)

    def piece(begin: Any) -> list[Any]:
        first = _gradient(terms1, begin, height)
        second = first if same else _gradient(terms2, begin, height)
        weights = terms1[0].weights
        first = first if weights is None else first * weights[None, None, :, None]
        j, d, out = LETTERS[form]
        return [einsum(f"icmk,{j}{d}mk->{out}", first[rows], second[cols]) for rows, cols in where]

    if pieces == 1:
        return piece(0)
    terms1 = _padded(terms1, pieces * height)
    terms2 = terms1 if same else _padded(terms2, pieces * height)
    begins = jnp.arange(pieces, dtype=jnp.int32) * height

    def add(parts: list[Any], begin: Any) -> tuple[list[Any], None]:
        return [a + b for a, b in zip(parts, piece(begin), strict=True)], None

    total, _ = jax.lax.scan(add, piece(0), begins[1:])
    return total


def _padded(terms: Sequence[Side], rows: int) -> list[Side]:
    """Terms with rows of zeros at the end."""

    def pad(array: Any) -> Any:
        return jnp.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, rows - array.shape[-1])])

    done = []
    for term in terms:
        if term.swapped:
            done.append(term._replace(cotangent=pad(term.cotangent)))
        else:
            done.append(term if isinstance(term.factor, Ids) else term._replace(factor=pad(term.factor)))
    return done


def _gradient(terms: Sequence[Side], begin: Any, height: int) -> Any:
    """Some rows of the gradients of all samples, ``icmk``: products of these need no transposition."""
    total = None
    for term in terms:
        (left, axes), (right, others) = term.left, term.right
        if isinstance(left, Ids):
            numbers = jnp.arange(height, dtype=left.ids.dtype) + begin
            hot = left.ids[:, :, None] == numbers[None, None, :]
            left = hot.astype(right.dtype) * left.weights[:, :, None]
        elif left.shape[-1] != height:
            left = jax.lax.dynamic_slice_in_dim(left, begin, height, axis=-1)
        part = einsum(f"{axes},{others}->icmk", left, right)
        total = part if total is None else total + part
    return total


def by_gram(
    groups1: Sequence[Sequence[Side]],
    groups2: Sequence[Sequence[Side]],
    scales: Sequence[Any],
    form: Form,
    where: Sequence[Block],
) -> list[Any]:
    """Returns ``sum_g scale_g sum_st <L_i(s), L_j(t)> <R_i(s), R_j(t)>`` by blocks of the kernel.

    Several groups must have one term each and share its cotangent, whose Gram matrix is computed once.
    """
    if len(where) == 1:
        return [_by_gram(groups1, groups2, scales, form)]

    def cut(groups: Sequence[Sequence[Side]], samples: slice) -> list[list[Side]]:
        return _with(groups, jax.tree.map(lambda array: array[samples], _arrays(groups)))

    return [_by_gram(cut(groups1, rows), cut(groups2, columns), scales, form) for rows, columns in where]


def _by_gram(
    groups1: Sequence[Sequence[Side]], groups2: Sequence[Sequence[Side]], scales: Sequence[Any], form: Form
) -> Any:
    """One block, row by row where that is large."""
    j, d, _ = LETTERS[form]
    columns = 1 if j == "i" else groups2[0][0].cotangent.shape[0]
    samples, outputs, _, _ = groups1[0][0].cotangent.shape
    positions = sum(term.cotangent.shape[2] for term in groups1[0])
    kept = {"full": outputs**2, "self": outputs**2, "diagonal": outputs, "trace": 1}[form]
    if len(groups1[0]) > 1:
        kept = max(kept, outputs)
    row = groups1[0][0].cotangent.dtype.itemsize * columns * kept * positions**2
    if positions == 1 or samples * row <= PIECE:
        return _grams(groups1, groups2, scales, form)
    arrays1, arrays2 = _arrays(groups1), _arrays(groups2)

    def one(row1: Any, row2: Any) -> Any:
        return _grams(_with(groups1, row1), _with(groups2, row2), scales, form)[0]

    def single(arrays: Any) -> Any:
        return jax.tree.map(lambda array: array[None], arrays)

    batch = max(1, PIECE // row)
    if j == "i":
        pairs = (arrays1, arrays2)
        return jax.lax.map(lambda pair: one(single(pair[0]), single(pair[1])), pairs, batch_size=batch)
    return jax.lax.map(lambda rows: one(single(rows), arrays2), arrays1, batch_size=batch)


def _arrays(groups: Sequence[Sequence[Side]]) -> Any:
    """The arrays of some terms."""
    return [[(term.factor, term.cotangent) for term in terms] for terms in groups]


def _with(groups: Sequence[Sequence[Side]], arrays: Any) -> list[list[Side]]:
    """Terms with other arrays."""
    return [
        [term._replace(factor=f, cotangent=c) for term, (f, c) in zip(terms, values, strict=True)]
        for terms, values in zip(groups, arrays, strict=True)
    ]


def _grams(
    groups1: Sequence[Sequence[Side]], groups2: Sequence[Sequence[Side]], scales: Sequence[Any], form: Form
) -> Any:
    """The same at once."""
    if len(groups1[0]) == 1:
        left: Any = 0.0
        for (one,), (two,), scale in zip(groups1, groups2, scales, strict=True):
            gram, axes = _gram(one.left, two.left, form, "")
            left = left + scale * gram
        right = _gram(groups1[0][0].weighted, groups2[0][0].right, form, "")
        return _product((left, axes), right, form)
    (terms1,), (terms2,), (scale,) = groups1, groups2, scales
    total = None
    for one in terms1:
        for two in terms2:
            # One output index is in both Gram matrices only where a term is swapped and the other is not.
            kept = "cd" if one.swapped != two.swapped else ""
            pair = [_gram(a, b, form, kept) for a, b in ((one.left, two.left), (one.right, two.right))]
            part = _product(pair[0], pair[1], form)
            total = part if total is None else total + part
    return scale * total


def _gram(one: tuple[Any, str], two: tuple[Any, str], form: Form, kept: str) -> tuple[Any, str]:
    """Products of the factors of two terms over rows or columns, and the axes of the result."""
    j, d, out = LETTERS[form]
    (first, axes1), (second, axes2) = one, two
    axes2 = axes2.translate(str.maketrans("ics", f"{j}{d}t"))
    result = [a for a in axes1 if a in "is" or (a == "c" and ("c" in out or kept))]
    result += [a for a in axes2 if (a in "jt" or (a in "cd" and (a in out or kept))) and a not in result]
    if isinstance(first, Ids) and isinstance(second, Ids):
        return _equal(first, second, j), "".join(result)
    if isinstance(second, Ids):
        return _columns(second, first, axes2, axes1, result), "".join(result)
    if isinstance(first, Ids):
        return _columns(first, second, axes1, axes2, result), "".join(result)
    return einsum(f"{axes1},{axes2}->{''.join(result)}", first, second), "".join(result)


def _equal(first: Ids, second: Ids, j: str) -> Any:
    """Products of one-hot rows: where the ids agree."""
    if j == "i":
        hits = first.ids[:, :, None] == second.ids[:, None, :]
        return hits.astype(first.weights.dtype) * einsum("is,it->ist", first.weights, second.weights)
    hits = first.ids[:, :, None, None] == second.ids[None, None, :, :]
    return hits.astype(first.weights.dtype) * einsum("is,jt->isjt", first.weights, second.weights)


def _columns(hot: Ids, dense: Any, hot_axes: str, axes: str, result: Sequence[str]) -> Any:
    """Products of one-hot rows with dense ones: the dense columns that the ids name."""
    sample, position = hot_axes[0], hot_axes[1]
    rest = axes[:-1]
    if axes[0] == sample:  # each sample with itself
        taken = jax.vmap(lambda array, ids: jnp.take(array, ids, axis=-1))(dense, hot.ids)
        return jnp.einsum(f"{rest}{position},{sample}{position}->{''.join(result)}", taken, hot.weights)
    taken = jnp.take(dense, hot.ids, axis=-1)
    made = f"{rest}{sample}{position}"
    return jnp.einsum(f"{made},{sample}{position}->{''.join(result)}", taken, hot.weights)


def _product(left: tuple[Any, str], right: tuple[Any, str], form: Form) -> Any:
    """The product of two Gram matrices, summed over positions."""
    out = LETTERS[form][2]
    axes = [a for a in "icsjdt" if a in left[1] or a in right[1]]
    aligned = []
    for array, own in (left, right):
        array = array.transpose([own.index(a) for a in axes if a in own])
        aligned.append(jnp.expand_dims(array, [n for n, a in enumerate(axes) if a not in own]))
    summed = [n for n, a in enumerate(axes) if a not in out]
    product = (aligned[0] * aligned[1]).sum(summed) if summed else aligned[0] * aligned[1]
    kept = [a for a in axes if a in out]
    return product.transpose([kept.index(a) for a in out])


def of_gradients(first: Any, second: Any, form: Form, where: Sequence[Block]) -> list[Any]:
    """Returns the products of gradients ``[N, C, entries]`` by blocks of the kernel."""
    j, d, out = LETTERS[form]
    return [einsum(f"icp,{j}{d}p->{out}", first[rows], second[columns]) for rows, columns in where]
