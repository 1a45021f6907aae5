"""Equivalent forms of muP train alike with every optimizer of the room, clip and epsilon included."""

from __future__ import annotations

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from widelimit import optim
from widelimit.scaling import leaf_from_axes, make_rules, mup

STEPS = 4
WIDTH = Fraction(4)
LEAVES = {
    "bias": leaf_from_axes("bias", (8,), (2,), contracted=(), width=WIDTH, base_width=2),
    "hidden": leaf_from_axes("hidden", (8, 8), (2, 2), contracted=(0,), width=WIDTH, base_width=2),
    "input": leaf_from_axes("input", (3, 8), (3, 2), contracted=(0,), width=WIDTH, base_width=2),
    "output": leaf_from_axes("output", (8, 2), (2, 2), contracted=(0,), width=WIDTH, base_width=2),
}
# name -> (family, decay convention, optimizer); the coupled convention differs between forms by definition.
OPTIMIZERS = {
    "sgd": ("sgd", "undone", lambda r: optim.sgd(0.1, r, momentum=0.9, weight_decay=0.1)),
    "adam": ("adam", "coupled", lambda r: optim.adam(0.1, r, eps=0.1, eps_root=0.01)),
    "adamw": ("adam", "independent", lambda r: optim.adamw(0.1, r, eps=0.0, weight_decay=0.1)),
    "adamw_undone": ("adam", "undone", lambda r: optim.adamw(0.1, r, eps=0.1, weight_decay=0.1)),
    "adamw_sqrt": ("adam", "sqrt_width", lambda r: optim.adamw(0.1, r, eps=0.1, weight_decay=0.1)),
    "adam_atan2": ("adam", "coupled", lambda r: optim.adam_atan2(0.1, r)),
    "lion": ("adam", "undone", lambda r: optim.lion(0.1, r, weight_decay=0.1)),
    "adafactor": ("adafactor", "undone", lambda r: optim.adafactor(0.1, r, eps=0.1, weight_decay=0.1)),
}


def effective(table, family, decay, build, max_norm):
    """Trains raw weights on a loss of the effective ones; returns the path of the latter, and the norms."""
    rules = make_rules(LEAVES, mup(table=table), family, weight_decay=decay)
    optimizer = optax.chain(optim.clip_by_global_norm(max_norm, rules), build(rules))
    generator = np.random.default_rng(0)
    start = {name: generator.normal(size=leaf.shape) for name, leaf in LEAVES.items()}
    start["bias"][:] = 0.0  # moves at first by Adafactor's smallest scale
    targets = {name: generator.normal(size=leaf.shape) for name, leaf in LEAVES.items()}
    raw = jax.tree.map(lambda w, a: jnp.asarray(w / a), start, rules.multiplier)

    def loss(raw):
        square = lambda w, a, y: jnp.sum(jnp.sin(w * a - y) ** 2)  # noqa: E731
        return jax.tree.reduce(lambda x, y: x + y, jax.tree.map(square, raw, rules.multiplier, targets))

    state, path, norms = optimizer.init(raw), [], []
    for _ in range(STEPS):
        gradient = jax.grad(loss)(raw)
        norms.append(float(optim.global_norm(gradient, rules)))
        updates, state = optimizer.update(gradient, state, raw)
        raw = optax.apply_updates(raw, updates)
        path.append(jax.tree.map(lambda w, a: np.asarray(w * a), raw, rules.multiplier))
    return path, norms


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_forms_agree(name):
    """The symmetry moves factors between weight, multiplier, rate and epsilon: training may not notice."""
    with jax.enable_x64(True):
        path, norms = effective(3, *OPTIMIZERS[name], max_norm=1.0)
        assert norms[0] > 1.0  # the clip acts
        for table in (8, 9):
            other, other_norms = effective(table, *OPTIMIZERS[name], max_norm=1.0)
            np.testing.assert_allclose(other_norms, norms, rtol=1e-10)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13), other, path)


def test_the_plain_clip_tells_the_forms_apart():
    """The test above can fail: optax's own clip sees other norms in other forms."""
    norms = []
    for table in (3, 9):
        rules = make_rules(LEAVES, mup(table=table), "sgd")
        raw = jax.tree.map(lambda a, leaf: np.ones(leaf.shape) * a, rules.multiplier, LEAVES)
        norms.append(float(optax.tree.norm(raw)))
    assert abs(norms[0] / norms[1] - 1) > 0.1
