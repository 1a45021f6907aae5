"""What the tests of training at scale share: small trainers, and the collectives of a compiled program."""

from __future__ import annotations

import dataclasses
import functools
import math
import re

import numpy as np
import optax

from widelimit.models import Decoder, DecoderConfig, ResidualMLP, ResidualMLPConfig, rules
from widelimit.optim import adam, adamw, clip_by_global_norm
from widelimit.scaling import completep, mup
from widelimit.training import cross_entropy
from widelimit.training.scale import Trainer, make_mesh, next_token_loss

DECODER = {
    "vocabulary": 40,
    "context": 6,
    "width": 32,
    "base_width": 16,
    "head_size": 8,
    "mlp_ratio": 3,
    "depth": 1,
    "base_depth": 1,
    "parametrization": completep(),
}


def decoder_trainer(mesh, micro_batches=1, **changes):
    """A decoder under CompleteP with AdamW and the clip."""
    config = DecoderConfig(**{**DECODER, **changes})
    numbers, model = rules(config, "adam", weight_decay="undone"), Decoder(config)

    def logits(params, tokens):
        return model.apply({"params": params, "multipliers": numbers.multiplier}, tokens)

    optimizer = optax.chain(clip_by_global_norm(1.0, numbers), adamw(1e-2, numbers))
    return Trainer(next_token_loss(logits), optimizer, numbers, mesh, micro_batches)


def token_windows(step, rows=8):
    """Random windows, a pure function of the step."""
    return np.random.default_rng([1, step]).integers(0, 40, (rows, 7)).astype(np.int32)


def mlp_config(width=8):
    """A residual network whose branches have two layers, as a transformer's."""
    return ResidualMLPConfig(
        inputs=5, outputs=4, width=width, base_width=4, parametrization=mup(), depth=1, branch_depth=2
    )


def mlp_trainer(mesh=None, micro_batches=1, rate=0.01, **changes):
    """The same on classes; the cheapest to compile that has branches."""
    config = mlp_config(**changes)
    numbers, model = rules(config, "adam"), ResidualMLP(config)

    def loss(params, batch):
        logits = model.apply({"params": params, "multipliers": numbers.multiplier}, batch["x"])
        return cross_entropy(logits, batch["y"])

    return Trainer(loss, adam(rate, numbers), numbers, mesh or make_mesh(), micro_batches)


def samples(step, rows=8):
    """Random classes, a pure function of the step."""
    draw = np.random.default_rng([2, step])
    x, y = draw.normal(size=(rows, 5)), draw.integers(0, 4, rows)
    return {"x": x.astype(np.float32), "y": y.astype(np.int32)}


@functools.cache
def shared_mlp_trainer():
    """One compiled program for all tests that need no other."""
    return mlp_trainer()


@dataclasses.dataclass(frozen=True)
class Collective:
    """One instruction by which devices talk: its kind, how many join, its results' shapes, its place."""

    kind: str
    devices: int
    shapes: tuple[tuple[int, ...], ...]
    source: str


def collectives(text):
    """Every collective of a compiled program's text."""
    kinds = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
    found = []
    for line in text.splitlines():
        if match := re.search(rf"= (.*?) ({kinds})(?:-start)?\(", line):
            source = re.search(r'op_name="([^"]*)"', line)
            found.append(Collective(match[2], _group(line), _shapes(match[1]), source[1] if source else ""))
    return found


def products(text):
    """The shapes of the results of all matrix products of one device."""
    return {_shapes(match[1])[0] for match in re.finditer(r"= (\S+) dot\(", text)}


def _shapes(text):
    """The shapes in a result's type, a tuple's parts one by one."""
    return tuple(
        tuple(int(size) for size in sizes.split(",") if size) for sizes in re.findall(r"\w\[([\d,]*)\]", text)
    )


def _group(line):
    """How many devices join, in any of the three ways in which XLA writes it."""
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]<=", line):
        return int(match[1])
    if match := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return len(match[1].split(","))
    if match := re.search(r"replica_groups=mesh\[(.*?)\].*?\{(.*?)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
        return math.prod(int(sizes[name]) for name in re.findall(r"'(\w+)'", match[2]))
    return 0
