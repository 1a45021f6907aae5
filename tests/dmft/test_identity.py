"""Functions of one's own: told apart by code, what they hold and values far out; alike if made alike."""

from __future__ import annotations

import dataclasses
import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from widelimit import dmft
from widelimit.compare import finite_ensemble
from widelimit.dmft.identity import functions

BASE = dmft.Problem(targets=[3.0, -3.0], kernel=[[1.0, 0.3], [0.3, 1.0]], steps=4, learning_rate=0.4)
FEW = {"samples": 40, "replicas": 2}


def identity(**changed):
    """Of the problem with other functions."""
    return functions(dataclasses.replace(BASE, **changed))


def clipped(bound):
    """The identity up to a bound."""
    return lambda h: jnp.clip(h, -bound, bound)


def huber(bound):
    """Half the square, up to an error from which on it is straight."""

    def loss(f, y):
        far = jnp.abs(f - y)
        return jnp.where(far < bound, far**2 / 2, bound * (far - bound / 2))

    return loss


def near(h, at=100.0, *, width=1e-3):
    """Tanh but for a place between those where values are taken."""
    return jnp.tanh(h) + (jnp.abs(h - at - 0.5) < width).astype(h.dtype)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"loss": "mse"}, {"loss": huber(1.0)}),
        ({"loss": huber(500.0)}, {"loss": huber(501.0)}),
        ({"activation": "relu"}, {"activation": jax.nn.relu6}),
        ({"activation": clipped(50.03)}, {"activation": clipped(50.04)}),
        ({"activation": near}, {"activation": functools.partial(near, at=200.0)}),
        ({"activation": near}, {"activation": functools.partial(near, width=1e-2)}),
        ({"activation": jax.jit(near)}, {"activation": jnp.tanh}),
        ({"activation": jnp.tanh}, {"activation": lambda h: jnp.tanh(h)}),
    ],
)
def test_what_differs_is_told_apart(one, two):
    """Far from the grid too, by constants, closures, defaults and arguments."""
    assert identity(**one) != identity(**two)


def test_what_a_function_holds_counts():
    """Arrays in closures and globals by their bytes, where values on no grid show them."""

    def holding(array):
        return lambda h: jnp.tanh(h) + 0 * h * array.sum()

    first, same, other = (identity(activation=holding(np.array([1.0, x]))) for x in (2.0, 2.0, 3.0))
    assert first == same != other


def test_derivatives_count():
    """Equal values with another derivative are another function."""

    def straight(slope):
        function = jax.custom_jvp(lambda h: jnp.tanh(h))
        function.defjvp(lambda primals, tangents: (jnp.tanh(primals[0]), slope * tangents[0]))
        return function

    assert identity(activation=straight(1.0)) != identity(activation=straight(2.0))


def test_the_same_functions_agree_everywhere():
    """A name and its function; a function made twice; 64 bits switched on; and another process."""
    assert identity(activation="relu") == identity(activation=jax.nn.relu)
    mine = {"activation": clipped(2.0), "loss": huber(1.0)}
    with jax.enable_x64(True):
        wide = identity(**mine)
    assert wide == identity(activation=clipped(2.0), loss=huber(1.0)) == identity(**mine)
    code = (
        "import sys; sys.path.insert(0, {!r})\n"
        "import test_identity as t\n"
        "print(t.identity(activation=t.clipped(2.0), loss=t.huber(1.0)))"
    ).format(str(__file__).rsplit("/", 1)[0])
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split()[-1] == wide


@pytest.mark.parametrize(
    ("kernel", "one", "two"),
    [
        (BASE.kernel, {}, {"loss": huber(1.0)}),
        (25 * np.asarray(BASE.kernel), {"activation": "relu"}, {"activation": jax.nn.relu6}),
    ],
)
def test_results_of_another_function_are_not_taken(tmp_path, kernel, one, two):
    """Losses that part far from the targets, activations that part far out: mlp and ensembles refuse each
    other's files, and go on with their own."""
    first, second = (
        dataclasses.replace(BASE, kernel=kernel, learning_rate=0.4 / kernel[0, 0], **own)
        for own in (one, two)
    )
    dmft.mlp(first, **FEW, directory=tmp_path / "mlp")
    assert dmft.mlp(first, **FEW, directory=tmp_path / "mlp").diagnostics["replicas_resumed"] == 2
    with pytest.raises(ValueError, match="holds replicas of another problem"):
        dmft.mlp(second, **FEW, directory=tmp_path / "mlp")
    finite_ensemble(first, [8], 4, directory=tmp_path / "finite")
    with pytest.raises(ValueError, match="choose another directory"):
        finite_ensemble(second, [8], 4, directory=tmp_path / "finite")
