"""One causal run of the residual network's single-site equations: forward, then backward, step by step."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from widelimit.dmft.checks import check_field, check_loss
from widelimit.dmft.problem import ResidualProblem
from widelimit.dmft.residual_channel import Channel
from widelimit.dmft.residual_noise import Noise
from widelimit.dmft.steps import float64_errors
from widelimit.models import activation

Nonlinearity = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to step.

    Attributes:
        responses: whether a weight answers to itself; without, backward weights are others than forward.
        euler: predictions by the tangent kernel, ``f(t+1) = f(t) + eta NTK Delta``, and not by the readout.
        random: whether initial branches act; without, the limit of infinite depth for exponents above 1/2.
        tolerance: share of a kernel's scale below which directions are left out.
        fields: how many draws of h and g to keep.
    """

    responses: bool = True
    euler: bool = False
    random: bool = True
    tolerance: float = 1e-5
    fields: int = 0


class Run:
    """A run in progress, and all that it has found.

    Histories of fields are [time, row, draw]; rows are points forward, (point, output) backward.
    """

    def __init__(self, problem: ResidualProblem, noise: Noise, settings: Settings) -> None:
        self.problem, self.noise, self.settings = problem, noise, settings
        self.depth, self.times = problem.depth, problem.steps + 1
        self.points, self.outputs = problem.points, problem.outputs
        self.back = self.points * self.outputs
        self.phi = nonlinearity(problem.activation)
        self.last = self.phi if problem.final_activation else nonlinearity("identity")
        self.errors_of, self.losses_of = float64_errors(problem), jax.jit(problem.losses)
        self.keep, self.drive = problem.memory()
        self.share = problem.shares()
        self.branch = problem.branch_scale * self.depth**-problem.branch_exponent
        self.step_size = problem.branch_scale**2 / self.depth  # the branch's square times its rate
        self._allocate()

    def _allocate(self) -> None:
        """Histories of fields, kernels, and the channels of the branches' weights."""
        depth, times, points, back = self.depth, self.times, self.points, self.back
        size = self.noise.size
        self.features = np.zeros((depth + 1, times, points, size))
        self.gradients = np.zeros((depth + 1, times, back, size))
        self.slopes = np.zeros((depth + 1, points, size))
        self.feature_kernel = np.zeros((depth + 1, times, points, times, points))
        self.gradient_kernel = np.zeros((depth + 1, times, back, times, back))
        self.feature_response = np.zeros((depth, times, points, times, back))
        self.gradient_response = np.zeros((depth, times, back, times, points))
        self.ntk = np.zeros((times, back, back))
        self.predictions = np.zeros((times, points, self.outputs))
        self.loss = np.zeros(times)
        self.delta = np.zeros((times, points, self.outputs))  # test points drive nothing
        rest = (times, self.settings.tolerance)
        self.forward = [Channel(self.noise, "forward", k + 1, points, *rest) for k in range(depth)]
        self.backward = [Channel(self.noise, "backward", k + 1, back, *rest) for k in range(depth)]
        self.start = root(np.asarray(self.problem.kernel)) @ self.noise.block("forward", 0, 0, points)
        self.readout = self.noise.block("backward", 0, 0, self.outputs)
        self.kept = np.zeros((2, depth + 1, times, back, self.settings.fields))
        self.unpaired, self.paired = 0.0, 0.0

    def run(self) -> Run:
        """Steps through all times."""
        rms = 0.0
        for t in range(self.times):
            answered = self._go_forward(t)
            size = float(np.sqrt(np.mean(self.features[-1, t] ** 2)))
            rms = rms or size
            check_field(t, size, rms, self.problem.gamma0)
            vector = self._read(t)
            check_loss(t, self.loss[t], self.loss[0])
            self._go_backward(t, vector, answered)
            self._tangent(t)
        return self

    def _weights(self, t: int) -> np.ndarray:
        """What each past error does to weights now: gamma0 drive share Delta, [s, point, output]."""
        share = np.zeros((t, self.points, 1))
        share[:, : self.problem.samples, 0] = self.share[:t]
        now: np.ndarray = self.problem.gamma0 * self.drive[t, :t, None, None] * share * self.delta[:t]
        return now

    def _go_forward(self, t: int) -> list[np.ndarray]:
        """Every layer's features at time t; returns what each branch's initial weight made of them."""
        weights, made = self._weights(t), []
        kernel = np.asarray(self.problem.kernel)
        h = self.keep[t] * self.start + self._driven(kernel[:, None, :, None] * weights, 0, t)
        for k in range(self.depth):
            x, self.slopes[k] = self.phi(h)
            self._keep_field(0, k, t, h)
            self._store(self.features, self.feature_kernel, k, t, x)
            move = self.step_size * self.feature_kernel[k, t, :, :t, :, None] * weights
            h = h + self._driven(move, k + 1, t)
            if self.settings.random:
                made.append(self.forward[k].advance(x))
                if self.settings.responses:
                    pull, response = self.backward[k].answer(x)
                    made[k] = made[k] + pull
                    self.feature_response[k, t] = response.reshape(self.feature_response[k, t].shape)
                h = h + self.branch * self.keep[t] * made[k]
        x, self.slopes[-1] = self.last(h)
        self._keep_field(0, self.depth, t, h)
        self._store(self.features, self.feature_kernel, self.depth, t, x)
        return made

    def _driven(self, move: np.ndarray, layer: int, t: int) -> np.ndarray:
        """Past gradients of a layer, weighted by [point, s, point', output']."""
        past = self.gradients[layer, :t].reshape(t * self.back, self.noise.size)
        driven: np.ndarray = move.reshape(self.points, t * self.back) @ past
        return driven

    def _store(self, fields: np.ndarray, kernels: np.ndarray, layer: int, t: int, field: np.ndarray) -> None:
        """Keeps a field and its kernel with all times up to now."""
        fields[layer, t] = field
        rows = len(field)
        past = fields[layer, : t + 1].reshape((t + 1) * rows, self.noise.size)
        block = (field @ past.T / self.noise.size).reshape(rows, t + 1, rows)
        kernels[layer, t, :, : t + 1] = block
        kernels[layer, : t + 1, :, t] = block.transpose(1, 2, 0)

    def _keep_field(self, which: int, layer: int, t: int, field: np.ndarray) -> None:
        """Keeps some draws of h (0) or g (1) for who asked."""
        if self.settings.fields:
            self.kept[which, layer, t, : len(field)] = field[:, : self.settings.fields]

    def _read(self, t: int) -> np.ndarray:
        """Predictions, losses and errors; returns the readout's vector, [output, draw]."""
        move = np.moveaxis(self._weights(t), 2, 0).reshape(self.outputs, t * self.points)
        past = self.features[-1, :t].reshape(t * self.points, self.noise.size)
        vector: np.ndarray = self.keep[t] * self.readout + move @ past
        if not self.settings.euler:
            self.predictions[t] = self.features[-1, t] @ vector.T / (self.noise.size * self.problem.gamma0)
        train = self.predictions[t, : self.problem.samples]
        with jax.enable_x64(True):
            self.loss[t] = np.mean(self.losses_of(jnp.asarray(train)))
        self.delta[t, : self.problem.samples] = self.errors_of(train)
        return vector

    def _go_backward(self, t: int, vector: np.ndarray, answered: list[np.ndarray]) -> None:
        """Every layer's gradient at time t, from the readout down."""
        weights, (points, outputs) = self._weights(t), (self.points, self.outputs)
        g = (self.slopes[-1][:, None] * vector).reshape(self.back, -1)
        self._store(self.gradients, self.gradient_kernel, self.depth, t, g)
        self._keep_field(1, self.depth, t, g)
        for k in reversed(range(self.depth)):
            kernel = self.gradient_kernel[k + 1, t, :, :t].reshape(self.back, t, points, outputs)
            move = self.step_size * np.sum(kernel * weights, axis=3).reshape(self.back, t * points)
            add = move @ self.features[k, :t].reshape(t * points, self.noise.size)
            if self.settings.random:
                made = self.backward[k].advance(g)
                if self.settings.responses:
                    push, response = self.forward[k].answer(g)
                    made = made + push
                    self.gradient_response[k, t] = response.reshape(self.gradient_response[k, t].shape)
                self._pair(k, t, made, g, answered[k])
                add = add + self.branch * self.keep[t] * made
            g = g + (self.slopes[k][:, None] * add.reshape(points, outputs, -1)).reshape(g.shape)
            self._store(self.gradients, self.gradient_kernel, k, t, g)
            self._keep_field(1, k, t, g)

    def _pair(self, k: int, t: int, made: np.ndarray, g: np.ndarray, answered: np.ndarray) -> None:
        """A weight's two fields must agree: <(W^T g) phi> = <g (W phi)> for the initial W."""
        one, other = made @ self.features[k, t].T, g @ answered.T
        self.unpaired = max(self.unpaired, float(np.abs(one - other).max()))
        self.paired = max(self.paired, float(np.abs(other).max()))

    def _tangent(self, t: int) -> None:
        """The tangent kernel with all times up to now, and with it the next prediction, if asked for."""
        shape = (self.points, self.outputs, t + 1, self.points, self.outputs)
        forward = self.feature_kernel[:, t, :, None, : t + 1, :, None]
        backward = self.gradient_kernel[:, t, :, : t + 1].reshape(-1, *shape)
        kernel = np.asarray(self.problem.kernel)[:, None, None, :, None] * backward[0]
        kernel = kernel + self.step_size * np.sum(forward[:-1] * backward[1:], axis=0)
        kernel = kernel + forward[-1] * np.eye(self.outputs)[None, :, None, None, :]
        self.ntk[t] = kernel[:, :, t].reshape(self.back, self.back)
        if self.settings.euler and t < self.times - 1:
            share = np.zeros((t + 1, self.points, 1))
            share[:, : self.problem.samples, 0] = self.share[: t + 1]
            change = (self.drive[t + 1] - self.drive[t])[: t + 1, None, None] * share * self.delta[: t + 1]
            self.predictions[t + 1] = self.predictions[t] + np.einsum("pcsqd,sqd->pc", kernel, change)


@functools.lru_cache(maxsize=64)
def nonlinearity(name: str | Callable[[jax.Array], jax.Array]) -> Nonlinearity:
    """Returns an entrywise function and its derivative together, in float64."""
    if name == "identity":
        return lambda h: (h, np.ones_like(h))
    if name == "tanh":  # without the way to JAX and back
        return lambda h: (value := np.tanh(h), 1 - value**2)
    phi = activation(name)
    both = jax.jit(lambda h: jax.jvp(phi, (h,), (jnp.ones_like(h),)))

    def evaluate(h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with jax.enable_x64(True):
            value, slope = both(jnp.asarray(h))
        return np.asarray(value), np.asarray(slope)

    return evaluate


def root(kernel: np.ndarray) -> np.ndarray:
    """Returns the symmetric square root of a positive semi-definite matrix."""
    values, vectors = np.linalg.eigh(kernel)
    made: np.ndarray = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    return made
