"""One time step: forward through the layers, the errors, and backward; no iteration."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from widelimit.dmft.causal import pathwise
from widelimit.dmft.causal.factor import JITTER, Factor, extend, stein
from widelimit.dmft.causal.noise import Noise
from widelimit.dmft.causal.pathwise import Paths
from widelimit.dmft.causal.products import (
    HIGHEST,
    Pairs,
    at,
    dot,
    mean,
    mean_own,
    merge,
    put,
    put_field,
    put_layer,
)
from widelimit.dmft.causal.settings import Settings
from widelimit.dmft.causal.state import State
from widelimit.dmft.causal.watch import watch
from widelimit.dmft.problem import Problem
from widelimit.models import activation

T = TypeVar("T")


class Tables(NamedTuple):
    """The problem as arrays."""

    kernel: jax.Array  # K, shape=(p, p), dtype=float64
    keep: jax.Array  # shape=(T + 1,), dtype=float64
    ridge: jax.Array  # of Stein's responses, shape=(), dtype=float64
    push: jax.Array  # gamma0 drive(t, s) share(s, mu), 0 at test points, shape=(T + 2, W, p), dtype=float64


class Step:
    """The equations of time t, written down for one window.

    Args:
        problem: what is solved.
        settings: how.
        tables: the problem as arrays.
        noise: of this replica, cut to the window.
        state: after time t - 1.
        t: the time, an integer.
    """

    def __init__(
        self,
        problem: Problem,
        settings: Settings,
        tables: Tables,
        noise: Noise,
        state: State,
        t: jax.Array,
    ) -> None:
        self.problem, self.settings, self.tables, self.noise, self.t = problem, settings, tables, noise, t
        self.dtype = settings.dtype
        self.p, self.c = settings.points, settings.outputs
        self.pairs, phi = Pairs(settings.antithetic), activation(problem.activation)
        self.phi = lambda h: phi(h).astype(h.dtype)  # constants of a user's function may be float64
        self.keep = at(tables.keep, t).astype(self.dtype)
        # [W, c, p]: what the errors so far push at t; drive(t, s) is zero for s >= t
        self.push = jnp.swapaxes(at(tables.push, t)[:, :, None] * state.rows.errors, 1, 2).astype(self.dtype)
        self.state = state
        self.h: list[jax.Array] = []  # shape=(p, s), as are the next two
        self.x: list[jax.Array] = []  # phi(h)
        self.slope: list[jax.Array] = []  # phi'(h)
        self.z: dict[int, jax.Array] = {}  # shape=(c, p, s)
        self.same: dict[int, jax.Array] = {}  # d g / d u of the same time and point, averaged, shape=(c, p)
        self.moved: list[tuple[jax.Array | None, jax.Array | None]] = []  # dh / dr and dh / du

    def run(self) -> State:
        """Returns the state after time t."""
        window = len(self.push)
        kernel = jnp.broadcast_to(self.tables.kernel.astype(self.dtype)[:, None, :], (self.p, window, self.p))
        response = None
        for layer in range(self.settings.depth):
            kernel, response = self.up(layer, kernel, response)
        readout = self.readout()
        self.output(readout)
        ntk = jnp.eye(self.c, dtype=self.dtype)[:, None, None, :, None] * kernel[None, :, :, None, :]
        gradient, response = None, None
        for layer in reversed(range(self.settings.depth)):
            gradient, response, ntk = self.down(layer, gradient, response, ntk, readout)
        rows = self.state.rows
        rows = rows._replace(ntk=put(rows.ntk, at(ntk, self.t, axis=2), self.t))
        if self.settings.output_rule == "ntk_euler":
            rows = rows._replace(predictions=self.euler(ntk))
        return self.state._replace(rows=watch(self, rows))

    def up(
        self, layer: int, kernel: jax.Array, response: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Makes h and phi(h) of a layer; returns rows of its kernel, [p, W, p], and of gamma0 A.

        Args:
            layer: its place, from 0.
            kernel: rows of the kernel of the layer below.
            response: gamma0 A of the layer below, [p, W, c, p], or None where it is zero.
        """
        state = self.state
        if layer == 0:
            u = self.noise.first
        else:
            factor, root = self.extend(state.forward[layer - 1], kernel)
            state = state._replace(forward=_swap(state.forward, layer - 1, factor))
            u = dot(root, self.noise.forward[layer - 1])
        drive = kernel[:, :, None, :] * self.push[None]
        if response is not None:
            drive = drive + self.keep * response
        drive = drive.reshape(self.p, -1)
        h = self.keep * self.pairs.same(u) + dot(drive, state.g[layer])
        x, back = jax.vjp(self.phi, h)
        self.h.append(h)
        self.x.append(x)
        self.slope.append(back(jnp.ones_like(x))[0])
        if state.paths:
            slope = pathwise.chosen(self.settings, self.slope[layer])
            paths, *moved = pathwise.forward(state.paths[layer], drive, slope, self.keep, self.t)
            self.moved.append((moved[0], moved[1]))
            state = state._replace(paths=_swap(state.paths, layer, paths))
        state = state._replace(phi=put_field(state.phi, layer, x, self.t))
        kernel = mean_own(x, state.phi[layer])
        rows = state.rows._replace(features=put_layer(state.rows.features, layer, kernel, self.t))
        response = None
        if layer < self.settings.depth - 1 and self.settings.response != "none":
            response = self.feature_response(layer, state)
            rows = rows._replace(feature_response=put_layer(rows.feature_response, layer, response, self.t))
        self.state = state._replace(rows=rows)
        return kernel, response

    def extend(self, factor: Factor, rows: jax.Array) -> tuple[Factor, jax.Array]:
        """The factor of a kernel with this time's rows, and these rows of the root."""
        matrix = rows.reshape(-1, len(factor.inverse)).astype(factor.inverse.dtype)
        factor, root = extend(factor, matrix, self.t, JITTER[self.dtype], self.tables.ridge)
        return factor, root.astype(self.dtype)

    def feature_response(self, layer: int, state: State) -> jax.Array:
        """gamma0 A, [p, W, c, p]."""
        if state.paths:
            return pathwise.feature_response(state.paths[layer], self.p, self.t)
        # Stein: only the odd part of phi(h) knows the noise of r
        covariance = mean(self.pairs.odd(self.x[layer]), self.noise.backward[layer])
        # Test points move nothing, but their columns stay: where G is singular (linear networks, duplicate
        # samples) a response is shared out between equal fields, and only all columns together are right.
        return self.stein(state.backward[layer], covariance).reshape(self.p, -1, self.c, self.p)

    def gradient_response(self, layer: int, g: jax.Array) -> jax.Array:
        """gamma0 B between a layer and that above, [c, p, W, p], of the fields g above, by u there."""
        if self.state.paths:
            return pathwise.gradient_response(self.state.paths[layer + 1], self.same[layer + 1], self.t)
        covariance = mean(merge(self.pairs.even(g)), self.noise.forward[layer])
        return self.stein(self.state.forward[layer], covariance).reshape(self.c, self.p, -1, self.p)

    def paths(self, layer: int, state: State, drive: jax.Array, z: jax.Array) -> Paths:
        """Derivatives of a layer with those of g; beside them, that of g by u at the same time and point."""
        bend = pathwise.curvature(self.phi, self.h[layer])
        now = jnp.diagonal(at(drive, self.t, axis=2), axis1=1, axis2=2)
        self.same[layer] = self.keep * (
            (bend[None] * z).mean(axis=2) + now * (self.slope[layer] ** 2).mean(axis=1)[None]
        )
        part = [pathwise.chosen(self.settings, field) for field in (self.slope[layer], bend[None] * z)]
        return pathwise.backward(
            state.paths[layer], drive, part[0], part[1], *self.moved[layer], self.keep, self.t
        )

    def stein(self, factor: Factor, covariance: jax.Array) -> jax.Array:
        """Mean derivatives by a field, from the covariance with its noise."""
        return stein(factor, covariance.astype(factor.root.dtype)).astype(self.dtype)

    def readout(self) -> jax.Array:
        """What the readout w(t) has learned, [c, s]; its noise is beside."""
        return dot(jnp.swapaxes(self.push, 0, 1).reshape(self.c, -1), self.state.phi[-1])

    def output(self, learned: jax.Array) -> None:
        """Predictions <z phi(h)> / gamma0 and errors at t."""
        rows, settings = self.state.rows, self.settings
        if settings.output_rule == "exact":
            # the noise's part in pairs: f(0) is then 0, and not a sum of rounding errors
            own = dot(self.pairs.odd(self.x[-1]), self.noise.last.T) / settings.pairs
            f = self.keep * own + dot(self.x[-1], learned.T) / settings.samples
            f = f.astype(rows.predictions.dtype) / self.problem.gamma0
            # centred, as the network is; of pairs the offset is a rounding error
            rows = rows._replace(offset=jnp.where(self.t == 0, f, rows.offset))
            f = f - rows.offset
            rows = rows._replace(predictions=put(rows.predictions, f, self.t))
        f = at(rows.predictions, self.t)[: settings.train]
        errors = jnp.pad(self.problem.errors(f), [(0, settings.points - settings.train), (0, 0)])
        self.state = self.state._replace(rows=rows._replace(errors=put(rows.errors, errors, self.t)))

    def down(
        self,
        layer: int,
        gradient: jax.Array | None,
        response: jax.Array | None,
        ntk: jax.Array,
        learned: jax.Array,
    ) -> tuple[jax.Array, jax.Array | None, jax.Array]:
        """Makes z and g of a layer; returns rows of G, [c, p, W, c, p], of gamma0 B, and of the NTK.

        Args:
            layer: its place, from 0.
            gradient: rows of G of the layer above; None above the last.
            response: gamma0 B between this layer and that above, [c, p, W, p], or None where it is zero.
            ntk: rows of the sum over the layers above, [c, p, W, c, p].
            learned: what the readout has learned.
        """
        state, c, p = self.state, self.c, self.p
        if gradient is None:
            z = self.keep * self.pairs.flip(self.noise.last) + learned
            z = jnp.broadcast_to(z[:, None, :], (c, p, z.shape[1]))
            drive = jnp.broadcast_to(jnp.swapaxes(self.push, 0, 1)[:, None], (c, p, len(self.push), p))
        else:
            factor, root = self.extend(state.backward[layer], gradient)
            state = state._replace(backward=_swap(state.backward, layer, factor))
            r = dot(root, self.noise.backward[layer])
            drive = jnp.einsum("cpweq,weq->cpwq", gradient, self.push, precision=HIGHEST)
            if response is not None:
                drive = drive + self.keep * response
            z = self.keep * self.pairs.flip(r) + dot(drive.reshape(c * p, -1), state.phi[layer])
            z = z.reshape(c, p, -1)
        g = self.slope[layer][None] * z
        if state.paths:
            state = state._replace(paths=_swap(state.paths, layer, self.paths(layer, state, drive, z)))
        state = state._replace(g=put_field(state.g, layer, g, self.t))
        gradient = mean_own(g, state.g[layer])
        if layer == 0:
            below = self.tables.kernel.astype(self.dtype)[None, :, None, None, :]
        else:
            below = at(state.rows.features[layer - 1], self.t)[None, :, :, None, :]
        rows = state.rows._replace(gradients=put_layer(state.rows.gradients, layer, gradient, self.t))
        self.z[layer], self.state = z, state._replace(rows=rows)
        response = None
        if layer > 0 and self.settings.response != "none":
            response = self.gradient_response(layer - 1, g)
            found = put_layer(rows.gradient_response, layer - 1, response, self.t)
            self.state = self.state._replace(rows=rows._replace(gradient_response=found))
        return gradient, response, ntk + gradient * below

    def euler(self, ntk: jax.Array) -> jax.Array:
        """Predictions with those of the next time, by the tangent kernel of this one.

        ``f(t+1) = f(t) + sum_s [drive(t+1, s) - drive(t, s)] NTK(t, s) share(s) Delta(s)``.
        """
        rows = self.state.rows
        moved = (at(self.tables.push, self.t + 1) - at(self.tables.push, self.t))[:, :, None] * rows.errors
        step = jnp.einsum("cpweq,wqe->pc", ntk.astype(moved.dtype), moved, precision=HIGHEST)
        f = at(rows.predictions, self.t) + step / self.problem.gamma0
        return put(rows.predictions, f, self.t + 1)


def _swap(layers: tuple[T, ...], place: int, layer: T) -> tuple[T, ...]:
    """The layers with one replaced."""
    return (*layers[:place], layer, *layers[place + 1 :])
