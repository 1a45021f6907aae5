"""What our `adamw` costs beside `optax.adamw` on the same model: at most 1.03 times as much a step.

    python -m benchmarks.optimizer_overhead        (about two minutes; exits 1 above the limit)

Two models: an MLP with biases, trained (forward, backward, update), and the parameters of a small
transformer, updated only, which leaves nothing for a costlier optimizer to hide behind. Both sides are jitted
with donated buffers. A pair times a few steps of each, in random order; reported is the median of the pairs'
ratios.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.common import Row, median, report
from widelimit import optim, scaling

LIMIT = 1.03
BASE = 4  # the base width is a quarter of the model's, so that every factor differs from 1
Shapes = dict[str, tuple[int, ...]]
State = tuple[Any, Any]


def mlp(width: int = 512, depth: int = 3, inputs: int = 64, outputs: int = 10) -> Shapes:
    """Returns the shapes of an MLP's kernels and biases."""
    sizes = [inputs, *[width] * depth, outputs]
    pairs = enumerate(zip(sizes[:-1], sizes[1:], strict=True))
    return {
        f"{name}{i}": shape for i, (a, b) in pairs for name, shape in (("kernel", (a, b)), ("bias", (b,)))
    }


def transformer(width: int = 256, blocks: int = 6, vocabulary: int = 1000) -> Shapes:
    """Returns the shapes of a small transformer: 12 arrays a block, embedding and readout."""
    block: Shapes = dict.fromkeys(("query", "key", "value", "out"), (width, width))
    block |= {"up": (width, 4 * width), "down": (4 * width, width), "up_bias": (4 * width,)}
    block |= dict.fromkeys(("down_bias", "gain1", "shift1", "gain2", "shift2"), (width,))
    shapes = {f"block{i}_{name}": shape for i in range(blocks) for name, shape in block.items()}
    return {"embedding": (vocabulary, width), **shapes, "readout": (width, vocabulary)}


def rules(shapes: Shapes, width: int) -> scaling.Rules:
    """Returns muP's rules: multiples of the width grow, and matrices contract their first axis."""

    def leaf(name: str, shape: tuple[int, ...]) -> scaling.Leaf:
        base = tuple(size // BASE if size % width == 0 else size for size in shape)
        contracted = (0,) if len(shape) == 2 and name != "embedding" else ()
        return scaling.leaf_from_axes(
            name, shape, base, contracted=contracted, width=Fraction(BASE), base_width=width // BASE
        )

    return scaling.make_rules(
        {name: leaf(name, shape) for name, shape in shapes.items()}, scaling.mup(), "adam"
    )


def loss(params: dict[str, jax.Array], batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Returns the MLP's mean squared error."""
    x, target = batch
    layers = len(params) // 2
    for i in range(layers):
        x = x @ params[f"kernel{i}"] + params[f"bias{i}"][None, :]
        x = jnp.tanh(x) if i < layers - 1 else x
    return jnp.mean((x - target) ** 2)


def stepper(optimizer: optax.GradientTransformation, trains: bool) -> Callable[[State, Any], State]:
    """Returns one jitted step; it consumes the state it is given."""

    def step(state: State, data: Any) -> State:
        params, inner = state
        gradients = jax.grad(loss)(params, data) if trains else data
        updates, inner = optimizer.update(gradients, inner, params)
        return optax.apply_updates(params, updates), inner

    return jax.jit(step, donate_argnums=0)


def compare(name: str, shapes: Shapes, width: int, trains: bool, pairs: int, steps: int) -> tuple[Row, float]:
    """Times both optimizers on one model; returns the table's row and the median ratio."""
    key = jax.random.key(0)
    params = {path: 0.05 * jax.random.normal(key, shape) for path, shape in shapes.items()}
    if trains:
        data: Any = (jax.random.normal(key, (64, shapes["kernel0"][0])), jnp.ones((64, 10)))
    else:
        data = jax.tree.map(lambda p: 0.1 * p, params)
    optimizers = {
        "ours": optim.adamw(1e-3, rules(shapes, width), weight_decay=1e-2),
        "optax": optax.adamw(1e-3, weight_decay=1e-2),
    }
    steppers = {side: stepper(optimizer, trains) for side, optimizer in optimizers.items()}
    states: dict[str, State] = {}
    for side, optimizer in optimizers.items():
        fresh = jax.tree.map(jnp.copy, params)
        states[side] = steppers[side]((fresh, optimizer.init(fresh)), data)

    def seconds(side: str) -> float:
        state = jax.block_until_ready(states[side])
        start = time.perf_counter()
        for _ in range(steps):
            state = steppers[side](state, data)
        states[side] = jax.block_until_ready(state)
        return (time.perf_counter() - start) / steps

    times: dict[str, list[float]] = {"ours": [], "optax": []}
    order = random.Random(0)
    for _ in range(pairs):
        for side in order.sample(["ours", "optax"], 2):
            times[side].append(seconds(side))
    ratio, low, high = median([a / b for a, b in zip(times["ours"], times["optax"], strict=True)])
    row = {
        "model": name,
        "arrays": len(shapes),
        "parameters": sum(p.size for p in params.values()),
        "optax.adamw (us)": 1e6 * median(times["optax"])[0],
        "widelimit adamw (us)": 1e6 * median(times["ours"])[0],
        "ratio": round(ratio, 4),
        "95% interval": f"{low:.4f} to {high:.4f}",
        "limit": LIMIT,
    }
    return row, ratio


def main() -> int:
    """Measures, prints, and returns 1 if a median ratio is above the limit."""
    parser = argparse.ArgumentParser(description="Our adamw beside optax.adamw, paired, median of many.")
    parser.add_argument("--pairs", type=int, default=400, help="timed pairs per model (default 400)")
    parser.add_argument("--steps", type=int, default=10, help="steps timed at once (default 10)")
    flags = parser.parse_args()
    results = [
        compare("MLP 3x512, training step", mlp(), 512, True, flags.pairs, flags.steps),
        compare("transformer 6x256, update only", transformer(), 256, False, flags.pairs, flags.steps),
    ]
    report("optimizer_overhead", [{**row, "device": jax.devices()[0].device_kind} for row, _ in results])
    return int(max(ratio for _, ratio in results) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
