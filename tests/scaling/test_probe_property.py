"""However the axes of random networks are laid out, probe finds the roles they were built with."""

from __future__ import annotations

import jax.numpy as jnp
from hypothesis import given, settings
from hypothesis import strategies as st

from widelimit.scaling import Role, probe

IN, HID, OUT, FIX = Role.INPUT, Role.HIDDEN, Role.OUTPUT, Role.SCALAR
LETTERS = "abcdefgh"


@st.composite
def einsum_networks(draw):
    """A chain of einsum layers with permuted axes: subscripts, order, shape, role and input axes of each."""
    layers = []
    depth = draw(st.integers(1, 3))
    blocks = [[3], *([["n"], [4, "n"]][draw(st.integers(0, 1))] for _ in range(depth)), [2]]
    for inner, outer in zip(blocks[:-1], blocks[1:], strict=True):
        ins, outs = LETTERS[: len(inner)], LETTERS[len(inner) : len(inner) + len(outer)]
        order = draw(st.permutations(range(len(inner) + len(outer))))
        names, sizes = ins + outs, [*inner, *outer]
        kernel = "".join(names[axis] for axis in order)
        kernel_first = draw(st.booleans())
        subscripts = f"{kernel},z{ins}->z{outs}" if kernel_first else f"z{ins},{kernel}->z{outs}"
        role = {(False, True): IN, (True, True): HID, (True, False): OUT, (False, False): FIX}[
            "n" in inner, "n" in outer
        ]
        layers.append((subscripts, kernel_first, [sizes[axis] for axis in order], role, inner))
    return layers, draw(st.booleans()), draw(st.booleans())


@given(einsum_networks())
@settings(max_examples=40, deadline=None)
def test_permuted_axes(network):
    """However the axes of the kernels are ordered, the roles are those of the network."""
    layers, bias, same_width = network

    def init(width):
        resolve = lambda sizes: [width if size == "n" else size for size in sizes]  # noqa: E731
        weights = {f"w{k}": jnp.zeros(resolve(shape)) for k, (_, _, shape, _, _) in enumerate(layers)}
        biases = {f"b{k}": jnp.zeros(resolve(layer[4])) for k, layer in enumerate(layers)} if bias else {}
        return weights | biases

    def apply(_, params, x):
        for k, (subscripts, kernel_first, _, _, _) in enumerate(layers):
            if bias:
                x = x + params[f"b{k}"][None]
            kernel = params[f"w{k}"]
            x = jnp.tanh(jnp.einsum(subscripts, *((kernel, x) if kernel_first else (x, kernel))))
        return x

    width = 4 if same_width else 12  # 4 is also a finite size of the network
    leaves = probe(init, apply, jnp.ones((2, 3)), width=width, base_width=4)
    for k, (_, _, _, role, inner) in enumerate(layers):
        fan_in = 1
        for size in inner:
            fan_in *= width if size == "n" else size
        assert (leaves[f"w{k}"].role, leaves[f"w{k}"].fan_in) == (role, fan_in)
        if bias:
            assert leaves[f"b{k}"].role is (IN if "n" in inner else FIX)
