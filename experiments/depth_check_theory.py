"""What theory says about the depth check before anything is run: exponents of depth and of width."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np

from widelimit.scaling import DepthExponents, Leaf, Parametrization, completep, depth_mup, depth_slopes, mup
from widelimit.scaling.parametrization import Family

Axis = Literal["depth", "width"]


def _branches_only() -> Parametrization:
    """Half of depth-muP: its branches, with the learning rates of plain muP."""
    half = depth_mup()
    plain = tuple(dataclasses.replace(row, depth=DepthExponents()) for row in half.rates)
    return dataclasses.replace(half, name="branches_only", rates=plain)


CASES: Mapping[str, Parametrization] = {
    "mup": mup(table=8),
    "branches_only": _branches_only(),
    "depth_mup": depth_mup(),
    "completep": completep(),
}
FIELDS = ("stream", "branches", "branch", "logits")
SMALL = 0.25  # the small step, as a share of the ordinary rate, where nothing is predicted to grow


def cases(chosen: Sequence[str], optimizer: str) -> list[str]:
    """Returns the parametrizations that an optimizer tells apart: at alpha = 1/2 SGD's rate has no factor."""
    known: dict[Any, str] = {}
    for case in sorted(chosen, key=lambda name: name == "branches_only"):
        known.setdefault((CASES[case].branch, CASES[case].rate(optimizer).depth.learning_rate), case)
    return [case for case in CASES if case in known.values()]


def family(case: str, optimizer: str) -> Family:
    """Returns the optimizer's family."""
    return CASES[case].rate(optimizer).family


def inside(leaves: Any) -> list[str]:
    """Returns the names of the parameters inside a block, e.g. ``"Dense_0/kernel"``, in tree order."""
    flat = jax.tree.leaves(leaves, is_leaf=lambda node: isinstance(node, Leaf))
    return [leaf.path.partition("/")[2] for leaf in flat if leaf.depth is not None]


def trial_names(names: Sequence[str]) -> list[str]:
    """Returns the name of each trial step: which part of the first update is made.

    Args:
        names: of the parameters inside a block.
    """
    alone = ["input", *(f"upper {name}" for name in names), "middle block", "all blocks"]
    return [*alone, *(f"half {name}" for name in alone)]


def shares(leaves: Any, depth: int) -> Any:
    """Returns which entries of which parameter move in each trial: shaped like the parameters, behind [K].

    In turn: what lies below the blocks; one array of a block at a time, in the upper half of the blocks; the
    middle block; all blocks. Then the same at half the rate.
    """
    own = inside(leaves)
    count = len(own) + 3
    upper = (np.arange(depth) >= depth // 2).astype(np.float32)
    middle = (np.arange(depth) == depth // 2).astype(np.float32)

    def share(leaf: Leaf) -> np.ndarray:
        if leaf.depth is None:
            below = leaf.role.value == "input"
            rows = np.zeros((count, *(1 for _ in leaf.shape)), np.float32)
            rows[0] = float(below)
        else:
            place = own.index(leaf.path.partition("/")[2])
            rows = np.zeros((count, depth), np.float32)
            rows[1 + place], rows[-2], rows[-1] = upper, middle, 1.0
            rows = rows.reshape(count, depth, *(1 for _ in leaf.shape[1:]))
        return np.concatenate([rows, rows / 2])

    return jax.tree.map(share, leaves, is_leaf=lambda node: isinstance(node, Leaf))


def contributions(
    case: str, optimizer: str, names: Sequence[str], branch_depth: int
) -> dict[tuple[str, str], float | None]:
    """Returns the exponent of depth of what each part of the first update changes; None where it has none.

    A stream that grows hands a change of its lower end on at a power that depends on the activation, so that
    only the upper half and the middle are predicted there.
    """
    table = CASES[case]
    slopes = depth_slopes(table, optimizer, branch_depth=branch_depth, final_norm=True)
    own, stream, alpha = float(slopes.own_change), float(slopes.stream), float(table.branch)
    still = stream == 0
    found: dict[tuple[str, str], float | None] = {
        ("input", "stream"): 0.0 if still else None,
        ("input", "branch"): -alpha if still else None,
        ("input", "logits"): 0.0 if still else None,
    }
    for name in names:
        # The middle block is the lowest of the upper half. Its MLP also sees what its attention adds.
        branch = own - alpha - stream if name.startswith("attention/") else own
        powers = {"stream": 1 + own, "branch": branch, "logits": 1 + own - stream}
        # Which token is attended to matters less and less as tokens become alike, in a stream that grows.
        fixed = still or not name.startswith(("attention/query", "attention/key"))
        found |= {(f"upper {name}", field): power if fixed else None for field, power in powers.items()}
    found |= {
        ("middle block", "stream"): own,
        ("middle block", "branch"): own,
        ("middle block", "logits"): own - stream,
        ("all blocks", "stream"): 1 + own if still else None,
        ("all blocks", "logits"): 1 + own if still else None,
    }
    return found


def trials(case: str, optimizer: str, names: Sequence[str], branch_depth: int, spread: float) -> np.ndarray:
    """Returns the sizes of the trial steps, so small that nothing moves more in the deepest network.

    Args:
        case: key of ``CASES``.
        optimizer: an optimizer family.
        names: of the parameters inside a block.
        branch_depth: layers in a branch.
        spread: largest depth / smallest depth.
    """
    powers = contributions(case, optimizer, names, branch_depth).values()
    # Where a change of the lower end grows by a power of its own, it does so more slowly than L^1.
    growth = max(1.0 if power is None else power for power in powers)
    return np.full(len(trial_names(names)), SMALL * spread ** -max(growth, 0.0), np.float32)


@dataclasses.dataclass(frozen=True)
class Asked:
    """One exponent that theory fixes: along which axis, of which field and cells, and what it should be."""

    axis: Axis
    case: str
    optimizer: str
    branch_depth: int
    kind: str
    field: str
    name: str
    predicted: float


def asked(
    axis: Axis, case: str, optimizer: str, names: Sequence[str], branch_depth: int, steps: int
) -> list[Asked]:
    """Returns everything that theory fixes of one network and optimizer along one axis."""
    table = CASES[case]
    slopes = depth_slopes(table, optimizer, branch_depth=branch_depth, final_norm=True)
    alpha, stream = float(table.branch), float(slopes.stream)
    grows = stream > 0 or 1 + slopes.own_change > 0
    powers = [
        ("at first", "initial stream", "stream at first", stream),
        ("at first", "initial branches", "sum of branches at first", float(slopes.branches)),
        ("at first", "initial branch", "middle branch at first", -alpha),
        ("at first", "initial logits", "logits at first", 0.0),
    ]
    powers += [
        ("small first step", f"{source} -> {field}", f"{source} -> {_NOUNS[field]}", power)
        for (source, field), power in contributions(case, optimizer, names, branch_depth).items()
        if power is not None
    ]
    totals = {"stream": slopes.stream_change, "branch": slopes.branch_change, "logits": slopes.stream_change}
    if not grows or axis == "width":
        powers += [
            ("ordinary steps", f"step {t} {field}", f"{_NOUNS[field]} after step {t}", float(power))
            for field, power in totals.items()
            for t in range(1, steps + 1)
        ]
    if axis == "width":  # muP: nothing moves with it but the logits of a readout that starts at 1/n
        powers = [(kind, at, name, -0.5 if at == "initial logits" else 0.0) for kind, at, name, _ in powers]
    cell = f"{axis}: {case}/{optimizer}/{branch_depth}"
    return [
        Asked(axis, case, optimizer, branch_depth, kind, field, f"{cell}: {name}", 0.0 + power)
        for kind, field, name, power in powers
    ]


_NOUNS = {"stream": "the stream", "branch": "the middle branch", "logits": "the logits"}
