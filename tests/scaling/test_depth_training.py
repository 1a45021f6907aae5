"""The predicted slopes in depth, measured: one step of real residual networks with SGD, Adam and Muon.

All depths, exponents and optimizers share a compiled program: 64 blocks lie in one scanned stack, and a mask
leaves the first L of them.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from widelimit import optim
from widelimit.models import initialise
from widelimit.scaling import depth_slopes, leaf_from_axes, make_rules, mup, with_depth

N, BASE, BLOCKS, SAMPLES, SEEDS = 32, 16, 64, 6, 8
DEPTHS = (4, 8, 16, 32, 64)
NUMBERS = ("init_std", "multiplier", "learning_rate", "epsilon", "weight_decay", "gradient_norm")
RULES = {"muP": mup(), "1/2": with_depth(mup(), "1/2"), "1": with_depth(mup(), 1)}
OPTIMIZERS = {
    "sgd": lambda rules: optim.sgd(1e-4, rules),
    "adam": lambda rules: optim.adam(1e-4, rules, eps=0.0),
    "muon": lambda rules: optim.muon(1e-4, rules, eps=0.0),
}


def leaves(blocks):
    """Input, a stack of two-layer branches, readout; width twice the base width."""

    def leaf(path, shape, base, contracted, growing, **place):
        facts = {"width": Fraction(N, BASE), "base_width": BASE, "growing": growing, "contracted": contracted}
        return leaf_from_axes(path, shape, base, **facts, **place)

    stack = {"shared": (0,), "depth": Fraction(blocks)}
    hidden = ((BLOCKS, N, N), (BLOCKS, BASE, BASE), (1,), (False, True, True))
    return {
        "in": leaf("in", (5, N), (5, BASE), (0,), (False, True)),
        "one": leaf("one", *hidden, **stack),
        "two": leaf("two", *hidden, **stack, ends_branch=True),
        "out": leaf("out", (N, 3), (BASE, 3), (0,), (True, False), init_scale=0.1),
    }


def branch(w, multiplier, h):
    """A pre-norm branch of two layers: tanh between them."""
    normed = h / jnp.sqrt(jnp.mean(h**2, axis=-1, keepdims=True))
    inner = jnp.tanh(multiplier["one"] * normed @ w["one"])
    return multiplier["two"] * inner @ w["two"]


def stream(params, multiplier, mask, x):
    """The stream before every block [blocks, samples, n], and after the last."""

    def block(h, layer):
        w, on = layer
        return h + on * branch(w, multiplier, h), h

    start = multiplier["in"] * x @ params["in"]
    last, before = jax.lax.scan(block, start, ({name: params[name] for name in ("one", "two")}, mask))
    return last, before, start


def rms(array):
    return jnp.sqrt(jnp.mean(array**2))


def run(key, numbers, blocks):
    """Sizes of everything that is predicted, after one step of each optimizer from the same weights."""
    rules = {
        name: dataclasses.replace(make_rules(leaves(BLOCKS), mup(), name), **numbers[name])
        for name in OPTIMIZERS
    }
    multiplier, mask = rules["sgd"].multiplier, (jnp.arange(BLOCKS) < blocks).astype(float)
    draw, data, labels = jax.random.split(key, 3)
    x, y = jax.random.normal(data, (SAMPLES, 5)), jax.random.normal(labels, (SAMPLES, 3))
    params = initialise(draw, rules["sgd"], "float64")

    def loss(p):
        last, before, start = stream(p, multiplier, mask, x)
        return jnp.mean((multiplier["out"] * last @ p["out"] - y) ** 2), (last, before, start)

    gradient, (last, before, start) = jax.grad(loss, has_aux=True)(params)
    middle = blocks // 2

    def pick(tree):
        return {layer: tree[layer][middle] for layer in ("one", "two")}

    def own(w):
        return branch(w, multiplier, before[middle])

    def after(updates):
        moved = jax.tree.map(jnp.add, params, updates)
        last_moved, before_moved, _ = stream(moved, multiplier, mask, x)
        old, linear = jax.jvp(own, (pick(params),), (pick(updates),))
        change = own(pick(moved)) - old
        return {
            "weight_change": rms(updates["one"][middle]),
            "own_change": rms(change),
            "branch_change": rms(branch(pick(moved), multiplier, before_moved[middle]) - old),
            "stream_change": rms(last_moved - last),
            "laziness": rms(change - linear) / rms(linear),
        }

    steps = []
    for name, make in OPTIMIZERS.items():
        optimizer = make(rules[name])
        steps.append(optimizer.update(gradient, optimizer.init(params), params)[0])
    inside = {name: gradient[name] * float(name in ("one", "two")) for name in gradient}
    sizes = {
        "stream": rms(last),
        "branches": rms(last - start),
        "gradient": rms(gradient["two"][middle]),
        "norm": optim.global_norm(inside, rules["sgd"]),
    }
    return jax.vmap(after)(jax.tree.map(lambda *each: jnp.stack(each), *steps)), sizes


@functools.cache
def measured(alpha):
    """Returns log sizes, [depths, seeds], by optimizer and name."""
    program, rows = compiled(), []
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), SEEDS)
        for blocks in DEPTHS:
            rules = {name: make_rules(leaves(blocks), RULES[alpha], name) for name in OPTIMIZERS}
            numbers = {name: {field: getattr(own, field) for field in NUMBERS} for name, own in rules.items()}
            rows.append(jax.tree.map(np.log, jax.device_get(program(keys, numbers, blocks))))
    changes, sizes = jax.tree.map(lambda *depths: np.stack(depths), *rows)
    return {
        name: {size: values[..., index] for size, values in changes.items()} | sizes
        for index, name in enumerate(OPTIMIZERS)
    }


@functools.cache
def compiled():
    """One program for every depth and exponent, side by side in the seeds."""
    return jax.jit(jax.vmap(run, in_axes=(0, None, None)))


def fit(depths, logs):
    """Slope over the seeds and its standard error."""
    slopes = np.polyfit(np.log(depths), logs, 1)[0]
    return slopes.mean(), slopes.std(ddof=1) / math.sqrt(SEEDS)


@pytest.mark.parametrize("alpha", ["1/2", "1"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_rule_of_depth_does_what_it_promises(name, alpha):
    """Every predicted slope over L = 4..64 within 0.15 (bound of the sheet), with an error below 0.05.

    Among them: the stream and its change flat, each branch's own change 1/L, laziness -1/2 or 0. The
    weighted gradient norm is flat as well, so that one clip serves every depth.
    """
    logs, predicted = measured(alpha)[name], depth_slopes(RULES[alpha], name)
    for size, values in logs.items():
        slope, error = fit(DEPTHS, values)
        want = 0 if size == "norm" else float(getattr(predicted, size))
        assert error < 0.05, size
        assert abs(slope - want) < 0.15, f"{size}: predicted {want:+.2f}, found {slope:+.3f} +- {error:.3f}"


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_without_a_rule_of_depth_the_stream_explodes(name):
    """muP alone: the stream grows like L^1/2 and its change like L or faster, while laziness sees nothing."""
    logs, predicted = measured("muP")[name], depth_slopes(mup(), name)
    for size in ("stream", "branches", "own_change", "weight_change", "laziness"):
        slope, error = fit(DEPTHS, logs[size])
        assert error < 0.05, size
        assert abs(slope - float(getattr(predicted, size))) < 0.15, f"{size}: {slope:+.3f} +- {error:.3f}"
    slope, error = fit(DEPTHS, logs["stream_change"])
    assert slope - 2 * error > 0.85
    # Early blocks have larger gradients, by (L/l)^p; the sum of their squares is L^(2p) as 2p > 1.
    z, weights = np.polynomial.hermite_e.hermegauss(80)
    p = np.sum(weights / np.cosh(z) ** 4) / (2 * np.sum(weights * np.tanh(z) ** 2))
    slope, error = fit(DEPTHS, logs["norm"])
    assert p > 0.5
    assert error < 0.05
    assert abs(slope - p) < 0.15
