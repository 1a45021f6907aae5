"""The small language-model runs that EleutherAI/nanoGPT-mup and widelimit both do, in numpy alone.

As in problem.py, weights and batches come from ``numpy.random.RandomState``, whose stream never changes, so
both sides draw them and only losses are kept. Every array is away from its usual start (gains from 1, biases
from 0), so that a rule that is wrong for one of them shows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

VOCABULARY, CONTEXT, BATCH, BATCHES, STEPS = 24, 12, 4, 5, 20
BASE_WIDTH, BASE_DEPTH, HEADS, MLP_RATIO = 16, 2, 4, 4
WIDTH, DEPTH = 64, 4  # m_N = 4, m_L = 2; with HEADS fixed the heads grow from 4 to 16 coordinates
SEED = 20250502
BETAS = (0.9, 0.95)

# branch: of the peer's repository. scheme: "standard" is the peer with muP disabled; "mup" with it enabled;
# "depth" with its depth rule of exponent alpha as well. eps and weight_decay are what its user would set.
# clip: the peer's training script clips the global norm of the gradient.
USUAL: dict[str, Any] = {
    "branch": "completep",
    "scheme": "depth",
    "alpha": 1.0,
    "bias": True,
    "learning_rate": 0.01,
    "weight_decay": 0.0,
    "eps": 1e-8,
    "input_alpha": 1.0,
    "output_alpha": 1.0,
    "clip": None,
}
CASES: dict[str, dict[str, Any]] = {
    name: USUAL | changes
    for name, changes in {
        "standard": {"branch": "master", "scheme": "standard", "weight_decay": 1.0},
        "mup": {"branch": "master", "scheme": "mup"},
        "mup, multipliers, no biases": {
            "branch": "master",
            "scheme": "mup",
            "bias": False,
            "input_alpha": 2.0,
            "output_alpha": 0.5,
        },
        "mup, weight decay": {"branch": "master", "scheme": "mup", "weight_decay": 1.0},
        "mup, large eps": {"branch": "master", "scheme": "mup", "eps": 1e-2},
        "mup, clipped": {"branch": "master", "scheme": "mup", "eps": 1e-2, "clip": 0.3},
        "mup, weight decay, second branch": {"scheme": "mup", "weight_decay": 1.0},
        "completep": {},
        "completep, multipliers, no biases": {"bias": False, "input_alpha": 2.0, "output_alpha": 0.5},
        "completep, weight decay": {"weight_decay": 1.0},
        "completep, large eps": {"eps": 1e-2},
        "alpha 1/2": {"alpha": 0.5},
        "alpha 1/2, weight decay": {"alpha": 0.5, "weight_decay": 1.0},
        "alpha 1/2, large eps": {"alpha": 0.5, "eps": 1e-2},
    }.items()
}
# The sizes at which the peer's initial standard deviations are measured: wide enough for half a percent.
INIT_BASE, INIT_MULTIPLES, INIT_DEPTH = 64, (1, 4), 4


def weights(bias: bool, width: int = WIDTH, depth: int = DEPTH) -> dict[str, Any]:
    """Raw initial weights; kernels are (fan_in, fan_out), gains are whole (not offsets from 1)."""
    stream = np.random.RandomState([SEED, width, depth])

    def affine(fan_in: int, fan_out: int) -> dict[str, np.ndarray]:
        layer = {"kernel": fan_in**-0.5 * stream.standard_normal((fan_in, fan_out))}
        return layer | with_bias(fan_out)

    def norm() -> dict[str, np.ndarray]:
        return {"gain": 1 + 0.3 * stream.standard_normal(width)} | with_bias(width)

    def with_bias(size: int) -> dict[str, np.ndarray]:
        values = 0.3 * stream.standard_normal(size)  # drawn in any case: the rest stays the same without
        return {"bias": values} if bias else {}

    def block() -> dict[str, Any]:
        names = ("query", "key", "value", "output")
        attention = {"norm": norm()} | {name: affine(width, width) for name in names}
        inner = MLP_RATIO * width
        return {
            "attention": attention,
            "mlp": {"norm": norm(), "up": affine(width, inner), "down": affine(inner, width)},
        }

    return {
        "embedding": 0.5 * stream.standard_normal((VOCABULARY, width)),
        "positions": 0.5 * stream.standard_normal((CONTEXT, width)),
        "blocks": [block() for _ in range(depth)],
        "norm": norm(),
    }


def batches() -> np.ndarray:
    """Token ids with axes (BATCHES, BATCH, CONTEXT + 1); step t uses batch t mod BATCHES."""
    stream = np.random.RandomState([SEED])
    return stream.randint(VOCABULARY, size=(BATCHES, BATCH, CONTEXT + 1))


def fingerprint() -> float:
    """A number that changes if the drawn weights or batches do, to tell that apart from a wrong rule."""

    def total(tree: Any) -> float:
        if isinstance(tree, np.ndarray):
            return float(np.abs(tree).sum())
        return sum(total(part) for part in (tree.values() if isinstance(tree, dict) else tree))

    return total(weights(True)) + float((batches() * np.arange(CONTEXT + 1)).sum())
