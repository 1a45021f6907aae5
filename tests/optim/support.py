"""A small parameter tree with rules, and every alias with its optax counterpart."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import jax
import numpy as np
import optax

from widelimit import optim
from widelimit.scaling import leaf_from_axes, make_rules, standard

# path -> (shape, base shape, contracted axes, growing axes); width 4 times the base width 2
FACTS = {
    "input": {"bias": ((8,), (2,), (), (True,)), "kernel": ((3, 8), (3, 2), (0,), (False, True))},
    "hidden": {"kernel": ((8, 8), (2, 2), (0,), (True, True))},
    "output": {"kernel": ((8, 2), (2, 2), (0,), (True, False))},
}
STEPS = 3


def _leaf(path, fact, target):
    shape, base, contracted, growing = fact
    width = Fraction(4) if target else Fraction(1)
    base, base_width = (base, 2) if target else (shape, 8)
    return leaf_from_axes(
        path, shape, base, contracted=contracted, width=width, base_width=base_width, growing=growing
    )


def leaves(target=True):
    """Leaf facts of the tree, at four times the base width or at the base width itself."""
    return {
        layer: {name: _leaf(f"{layer}/{name}", fact, target) for name, fact in names.items()}
        for layer, names in FACTS.items()
    }


def is_fact(node):
    return isinstance(node, tuple)


def arrays(seed, dtype=np.float32, scale=1.0):
    """A tree of normal numbers with the shapes of the parameters."""
    generator = np.random.default_rng(seed)
    draw = lambda fact: (scale * generator.normal(size=fact[0])).astype(dtype)  # noqa: E731
    return jax.tree.map(draw, FACTS, is_leaf=is_fact)


def gradients(dtype=np.float32):
    """Gradients of all steps, stacked, of very different sizes; one entry never receives any."""
    steps = [arrays(seed, dtype, 10.0 ** (1 - 2 * seed)) for seed in range(STEPS)]
    for step in steps:
        step["hidden"]["kernel"][0, 0] = 0.0
    return jax.tree.map(lambda *rows: np.stack(rows), *steps)


def neutral(family, decay="coupled"):
    """Rules at the base width: every factor is 1."""
    return make_rules(leaves(target=False), standard(), family, alignment="global", weight_decay=decay)


def numbers(*values):
    """One number per parameter."""
    return jax.tree.unflatten(jax.tree.structure(FACTS, is_leaf=is_fact), values)


def uneven(family, decay="coupled"):
    """Rules with a different, unround factor everywhere, so that no two can be mixed up unseen."""
    return dataclasses.replace(
        make_rules(leaves(), standard(), family, alignment="global", weight_decay=decay),
        learning_rate=numbers(1.3, 0.7, 2.9, 0.31),
        epsilon=numbers(0.6, 1.7, 0.23, 3.1),
        weight_decay=numbers(1.0, 0.0, 1.9, 0.53),
        gradient_norm=numbers(0.9, 1.1, 2.3, 0.37),
        multiplier=numbers(1.0, 2.0, 0.5, 1.6),
    )


@dataclasses.dataclass(frozen=True)
class Alias:
    """Our optimizer, optax's, and the arguments that both take."""

    family: str
    ours: object
    theirs: object
    options: dict = dataclasses.field(default_factory=dict)
    decays: bool = True  # takes weight_decay


def optax_muon(learning_rate, weight_decay=0.0, **options):
    """optax's Muon for the hidden matrix, its Adam for the rest; on a square matrix its own factor is 1."""
    axes = {
        "input": {"bias": None, "kernel": None},
        "hidden": {"kernel": optax.contrib.MuonDimensionNumbers()},
        "output": {"kernel": None},
    }
    return optax.contrib.muon(
        learning_rate, weight_decay=weight_decay, adam_weight_decay=weight_decay,
        muon_weight_dimension_numbers=axes, **options,
    )  # fmt: skip


ALIASES = {
    "sgd": Alias("sgd", optim.sgd, optax.sgd),
    "momentum": Alias("sgd", optim.sgd, optax.sgd, {"momentum": 0.9}),
    "nesterov": Alias("sgd", optim.sgd, optax.sgd, {"momentum": 0.9, "nesterov": True}),
    "adam": Alias("adam", optim.adam, optax.adam, {"eps": 1e-3, "eps_root": 1e-5}, decays=False),
    "adamw": Alias("adam", optim.adamw, optax.adamw, {"b1": 0.8, "eps": 1e-2}),
    "adamw0": Alias("adam", optim.adamw, optax.adamw, {"eps": 0.0}),
    "nadamw": Alias("adam", optim.adamw, optax.adamw, {"nesterov": True, "eps": 1e-3}),
    "adam_atan2": Alias("adam", optim.adam_atan2, None, {"b2": 0.9}),
    "lion": Alias("adam", optim.lion, optax.lion),
    "adafactor": Alias("adafactor", optim.adafactor, optax.adafactor, {"eps": 1e-4}),
    "adafactor_momentum": Alias(
        "adafactor", optim.adafactor, optax.adafactor, {"momentum": 0.9, "min_dim_size_to_factor": 2}
    ),
    "muon": Alias("muon", optim.muon, optax_muon, {"beta": 0.9}),
}


def train_eagerly(optimizer, params, rows):
    """Runs one step per row of gradients without compiling the loop; returns the parameters after each."""
    state, path = optimizer.init(params), []
    for t in range(STEPS):
        row = jax.tree.map(lambda rows, t=t: rows[t], rows)
        updates, state = optimizer.update(row, state, params)
        params = optax.apply_updates(params, updates)
        path.append(params)
    return jax.tree.map(lambda *leaves: np.stack(leaves), *path)


def train(optimizer, params, rows):
    """Runs one step per row of gradients, compiled; returns the parameters after each, and the last state."""

    def step(carry, row):
        params, state = carry
        updates, state = optimizer.update(row, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    (_, state), path = jax.lax.scan(step, (params, optimizer.init(params)), rows)
    return path, state
