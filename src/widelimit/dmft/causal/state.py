"""What a replica remembers: the fields of the times so far, factors of kernels, and rows of results."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from widelimit.dmft.causal import pathwise
from widelimit.dmft.causal.factor import Factor, empty
from widelimit.dmft.causal.pathwise import Paths
from widelimit.dmft.causal.settings import Settings


class Rows(NamedTuple):
    """Results, one row for each time; tuples hold one array for each layer.

    W is the window (times that fit), p the points, c the outputs. Two-point functions are kept for times up
    to that of the row.
    """

    predictions: jax.Array  # shape=(W + 1, p, c), dtype=float64
    offset: jax.Array  # f before it is centred at t = 0, shape=(p, c), dtype=float64
    errors: jax.Array  # Delta at training points, zero at others, shape=(W, p, c), dtype=float64
    ntk: jax.Array  # shape=(W, c, p, c, p)
    features: tuple[jax.Array, ...]  # shape=(W, p, W, p), layers 1..L
    gradients: tuple[jax.Array, ...]  # shape=(W, c, p, W, c, p), layers 1..L
    feature_response: tuple[jax.Array, ...]  # gamma0 A, shape=(W, p, W, c, p), layers 1..L-1
    gradient_response: tuple[jax.Array, ...]  # gamma0 B, shape=(W, c, p, W, p), layers 1..L-1
    pairing: jax.Array  # both sides of the identity: largest difference, largest size, shape=(W, L - 1, 2)
    largest: jax.Array  # max |h|, shape=(W, L)
    concentrated: jax.Array  # part of Phi that the top 1% of samples carry, shape=(W, L)
    h: jax.Array  # some samples of h, shape=(W, L, p, fields)
    z: jax.Array  # some samples of z, shape=(W, L, c, p, fields)


class State(NamedTuple):
    """Everything that goes from one step to the next; the sample axis s is last.

    Fields of all times are kept as the matrices that products take: XLA would else copy them whole, twice, in
    every step (a fused reshape keeps it from writing a time's rows in place).
    """

    phi: tuple[jax.Array, ...]  # phi(h), shape=(W p, s), layers 1..L
    g: tuple[jax.Array, ...]  # shape=(W c p, s), layers 1..L
    forward: tuple[Factor, ...]  # of Phi^(l-1), layers 2..L
    backward: tuple[Factor, ...]  # of G^(l+1), layers 1..L-1
    paths: tuple[Paths, ...]  # of each layer, or none
    rows: Rows


def start(settings: Settings, window: int) -> State:
    """Returns the state before the first step, with space for some times.

    Args:
        settings: sizes.
        window: W, times that fit.
    """
    w, p, c, s, depth = window, settings.points, settings.outputs, settings.samples, settings.depth
    dtype, ridged = settings.dtype, settings.response == "stein"
    wide = jnp.float64

    def many(count: int, *shape: int) -> tuple[jax.Array, ...]:
        return tuple(jnp.zeros(shape, dtype) for _ in range(count))

    rows = Rows(
        predictions=jnp.zeros((w + 1, p, c), wide),
        offset=jnp.zeros((p, c), wide),
        errors=jnp.zeros((w, p, c), wide),
        ntk=jnp.zeros((w, c, p, c, p), dtype),
        features=many(depth, w, p, w, p),
        gradients=many(depth, w, c, p, w, c, p),
        feature_response=many(depth - 1, w, p, w, c, p),
        gradient_response=many(depth - 1, w, c, p, w, p),
        pairing=jnp.zeros((w, depth - 1, 2), dtype),
        largest=jnp.zeros((w, depth), dtype),
        concentrated=jnp.zeros((w, depth), dtype),
        h=jnp.zeros((w, depth, p, settings.fields), dtype),
        z=jnp.zeros((w, depth, c, p, settings.fields), dtype),
    )
    return State(
        phi=many(depth, w * p, s),
        g=many(depth, w * c * p, s),
        forward=tuple(empty(w * p, ridged) for _ in range(depth - 1)),
        backward=tuple(empty(w * c * p, ridged) for _ in range(depth - 1)),
        paths=pathwise.start(settings, window),
        rows=rows,
    )


def grow(state: State, settings: Settings, window: int) -> State:
    """Returns the state with space for more times: what is new is as at the start.

    Args:
        state: of fewer times.
        settings: sizes.
        window: W, times that fit.
    """

    def pad(old: jax.Array, new: jax.Array) -> jax.Array:
        return lax.dynamic_update_slice(new, old, (0,) * old.ndim) if old.shape != new.shape else old

    return jax.tree.map(pad, state, start(settings, window))
