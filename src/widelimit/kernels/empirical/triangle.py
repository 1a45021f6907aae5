"""The kernel of samples with themselves: one triangle is computed, in blocks of rows, and mirrored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from widelimit.kernels.empirical.costs import Size

Block = tuple[slice, slice]

# More blocks come closer to half the work. Products with fewer rows than this lose more than that saves:
# measured on two cores, for the kernels of benchmarks/empirical_ntk.py.
BLOCKS = 8
HEIGHT = 512


def blocks(size: Size) -> list[Block]:
    """Returns which rows to compute together, with which columns: from the block's first row on.

    Example:
        >>> blocks(Size(256, 256, 10, "full", same=True))[-1]
        (slice(204, 256, None), slice(204, 256, None))
        >>> blocks(Size(256, 256, 10, "full"))
        [(slice(0, 256, None), slice(0, 256, None))]
    """
    number = 1
    if size.same and size.form in ("full", "trace"):
        height = size.rows * (size.outputs if size.form == "full" else 1)
        number = max(1, min(BLOCKS, size.rows, height // HEIGHT))
    ends = [size.rows * at // number for at in range(number + 1)]
    return [
        (slice(a, b), slice(a if number > 1 else 0, size.columns))
        for a, b in zip(ends, ends[1:], strict=False)
    ]


def whole(parts: Sequence[Any], where: Sequence[Block], size: Size) -> Any:
    """Returns the kernel with its samples first, from blocks with samples beside their outputs.

    Args:
        parts: the blocks, ``[n, O, m, O]`` for "full", ``[n, O, m]`` for "diagonal", else samples first.
        where: these are.
        size: of the kernel.
    """
    own = {"full": (0, 2, 1, 3), "diagonal": (0, 2, 1)}.get(size.form)
    done = [part if own is None else part.transpose(own) for part in parts]
    if len(done) == 1:
        return done[0]
    rows = []
    for at, (cut, _) in enumerate(where):
        above = []
        for part, (_, columns) in zip(done[:at], where, strict=False):
            piece = part[:, cut.start - columns.start : cut.stop - columns.start]
            above.append(jnp.swapaxes(jnp.swapaxes(piece, 0, 1), -1, -2) if piece.ndim == 4 else piece.T)
        rows.append(jnp.concatenate([*above, done[at]], axis=1))
    return jnp.concatenate(rows)
