"""Deep linear networks whose width, data and dimension grow together: exact training dynamics."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from widelimit.dmft.checks import check_loss
from widelimit.dmft.labelled import Labelled
from widelimit.kernels.matrices import as_float64
from widelimit.models import MLPConfig
from widelimit.scaling import dmft


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ProportionalProblem:
    r"""Gradient descent of a deep linear network, width N and dimension D growing together.

    ``h^1 = W^0 x / sqrt(D)``, ``h^{l+1} = W^l h^l / sqrt(N)``, ``f = sqrt(D) w . h^L / (g N)``, weights and
    inputs ~ N(0, 1), targets ``y = beta . x / sqrt(D)`` with ``|beta|^2 = D``. Every step takes
    ``eta0 g^2 N`` times the gradient of the mean of ``(f - y)^2 / 2``: over all inputs, over P of them, the
    same at every step, or over B fresh ones. Not centred: the loss starts at ``1 + 1 / (g^2 nu)``.

    A fixed g is muP; ``g = nu^(-1/2)`` is the NTK parametrization, ``f = w . h^L / sqrt(N)`` at rate ``eta0
    D`` whatever the width.

    Args:
        nu: N / D; ``math.inf`` is the limit of width alone.
        steps: number T of gradient steps; results hold T + 1 times.
        eta0: learning rate over D: a number, or one for every step, shape [T].
        depth: number L of hidden layers.
        g: feature-learning strength, ``gamma0 sqrt(D)``.
        data: P / D of a fixed training set; ``math.inf`` is the population.
        batch: B / D of fresh samples at every step (one pass); ``math.inf`` is the population.

    Raises:
        ValueError: if a number is out of range, or both data and batch are finite.

    Example:
        >>> problem = ProportionalProblem(nu=4.0, steps=5, eta0=0.1, depth=2)
        >>> problem.network(100).width
        400

    Reference:
        Bordelon & Pehlevan, Deep Linear Network Training Dynamics from Random Initialization: Data, Width,
        Depth, and Hyperparameter Transfer (arXiv 2502.02531).
    """

    nu: float
    steps: int
    eta0: ArrayLike
    depth: int = 1
    g: float = 1.0
    data: float = math.inf
    batch: float = math.inf

    def __post_init__(self) -> None:
        """Checks everything once, and turns the rate into a float64 array."""
        for name in ("steps", "depth"):
            if int(getattr(self, name)) != getattr(self, name) or getattr(self, name) < 1:
                raise ValueError(f"{name} must be a whole number, 1 or more; got {getattr(self, name)!r}.")
        for name in ("nu", "data", "batch"):
            if not getattr(self, name) > 0:
                raise ValueError(
                    f"{name} must be a positive number or math.inf; got {getattr(self, name)!r}."
                )
        if not (math.isfinite(self.g) and self.g > 0):
            raise ValueError(f"g must be a positive, finite number; got {self.g!r}.")
        if math.isfinite(self.data) and math.isfinite(self.batch):
            raise ValueError(
                f"Give data (a fixed training set) or batch (fresh samples at every step), not both; got "
                f"{self.data} and {self.batch}."
            )
        rate, _ = as_float64(self.eta0, "eta0")
        if rate.shape not in ((), (self.steps,)) or (rate <= 0).any():
            raise ValueError(
                f"eta0 must be positive, a number or one for each of {self.steps} steps; got {self.eta0!r}."
            )
        object.__setattr__(self, "eta0", rate)

    @property
    def rates(self) -> np.ndarray:
        """The rate of every step, [T]."""
        return np.broadcast_to(np.asarray(self.eta0), (self.steps,))

    def counts(self, size: int) -> tuple[int, int, int]:
        """Returns N, P and B of the finite network of dimension D = size; 0 stands for the population.

        Raises:
            ValueError: if nu, data or batch times size is not whole.
        """
        found = []
        for name in ("nu", "data", "batch"):
            ratio = getattr(self, name)
            count = 0.0 if math.isinf(ratio) else ratio * size
            if name == "nu" and not count:
                raise ValueError("a finite network needs a finite nu; got inf.")
            if abs(count - round(count)) > 1e-9 * max(count, 1.0) or (count and round(count) < 1):
                raise ValueError(f"{name} times size must be whole; got {ratio} x {size}.")
            found.append(round(count))
        return found[0], found[1], found[2]

    def network(self, size: int) -> MLPConfig:
        """Returns the config of the finite network of dimension D = size.

        Args:
            size: D.
        """
        width = self.counts(size)[0]
        return MLPConfig(
            inputs=size,
            outputs=1,
            width=width,
            base_width=width,
            parametrization=dmft(gamma0=self.g / math.sqrt(size)),
            depth=self.depth,
            activation="identity",
            bias=False,
        )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Proportional:
    r"""The training of an infinitely large deep linear network of a given shape; exact.

    ``v = beta - beta_hat`` is the error of the network's linear map, per input coordinate.

    Args:
        problem: what was solved.
        loss: of fresh inputs, ``<v v>`` (no 1/2), axes (time,).
        train_loss: of the fixed training set; where there is none, the loss again.
        errors: ``C_v = <v(t) v(s)>``, axes (time, time').
        features: ``H^l = <h^l h^l>`` of the hidden fields that v (what a batch sees of it) drives, layers
            1..L, axes (layer, time, time').
        gradients: ``G^l = <g^l g^l>``, alike.
        error_response: ``R_v = dv / dr^0``, axes (time, time').
        feature_response: ``R_h^l = dh^l / dr^l``, axes (layer, time, time').
        gradient_response: ``R_g^l = dg^l / du^l``, alike.
        diagnostics: seconds, bytes.
    """

    problem: ProportionalProblem
    loss: Labelled
    train_loss: Labelled
    errors: Labelled
    features: Labelled
    gradients: Labelled
    error_response: Labelled
    feature_response: Labelled
    gradient_response: Labelled
    diagnostics: Mapping[str, Any]


def proportional(problem: ProportionalProblem) -> Proportional:
    r"""Solves the training of a deep linear network in the limit of width, data and dimension together.

    All fields are linear in Gaussians, so times x times matrices close; with n = T + 1, Id - C D is
    triangular in time and one pass over the steps solves all layers::

        E    = tril(eta0 G^1) + R_g^1 / g,     M = (Id + E R_q)^-1,     R_v = -M / (g sqrt(nu))
        C_v  = M (J + G^1 / (g^2 nu)) M^T + (M E) N (M E)^T
        C^1  = R_q R_v / sqrt(nu) + g tril(C_seen eta0),      C^l = R_h^{l-1} + g tril(H^{l-1} eta0)
        D^l  = R_g^{l+1} + g tril(G^{l+1} eta0),      X = (Id - C D)^-1,     Y = (Id - D C)^-1
        H^l  = X (H^{l-1} + C G^{l+1} C^T) X^T,     R_h^l = X C     (H^0 = C_seen)
        G^l  = Y (G^{l+1} + D H^{l-1} D^T) Y^T,     R_g^l = Y D     (G^{L+1} = J, R_g^{L+1} = 0)

    J is all ones, tril strictly lower. The gradient sees the errors v only through the inputs that it is
    taken over, ``R_q v + noise`` of covariance N: for the population ``R_q = Id, N = 0, C_seen = C_v``; for a
    fixed set ``R_q = (Id + M E / data)^-1, N = R_q C_v R_q^T / data`` (which is the training loss over data);
    for fresh batches ``R_q = Id, N = diag(C_v) / batch``.

    Args:
        problem: what to solve.

    Returns:
        Losses and order parameters, exact up to rounding; O(L T^3) time, O(L T^2) memory.

    Raises:
        Diverged: if training does, with the step.

    Example:
        >>> solution = proportional(ProportionalProblem(nu=1.0, steps=20, eta0=0.05))
        >>> [round(float(solution.loss.values[t]), 5) for t in (0, 5, 20)]
        [2.0, 0.7189, 0.10137]

    Reference:
        arXiv 2502.02531; the equations above are derived for discrete steps, and checked against networks.
    """
    started = time.monotonic()
    state = _State(problem)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is a divergence, and said below
        for t in range(problem.steps + 1):
            state.backward(t)
            state.error(t)
            state.forward(t)
            for loss in (state.cov_v, state.cov_q):
                check_loss(t, float(loss[t, t]), float(loss[0, 0]))
    return state.solution(time.monotonic() - started)


class _State:
    """All matrices, known up to the time that was solved; a row of each is added at every step."""

    def __init__(self, problem: ProportionalProblem) -> None:
        """Zeros: what is not known yet never enters."""
        self.problem = problem
        n, layers = problem.steps + 1, problem.depth
        self.eta = np.append(problem.rates, 0.0)  # the last time drives nothing
        self.inverse_nu, self.inverse_data = 1 / problem.nu, 1 / problem.data
        self.c, self.d, self.x, self.y, self.h, self.g, self.r_h, self.r_g = np.zeros((8, layers, n, n))
        self.e, self.m, self.me, self.q, self.s, self.r_q = np.zeros((6, n, n))
        self.cov_v, self.cov_q, self.seen, self.noise = np.zeros((4, n, n))
        self.ones, self.none = np.ones((n, n)), np.zeros((n, n))

    def backward(self, t: int) -> None:
        """g^L .. g^1 at time t, which need fields up to the time before."""
        for layer in reversed(range(self.problem.depth)):
            last = layer == self.problem.depth - 1
            above, response = (self.ones, self.none) if last else (self.g[layer + 1], self.r_g[layer + 1])
            below = self.h[layer - 1] if layer else self.seen
            d, y, r_g = self.d[layer], self.y[layer], self.r_g[layer]
            d[t, :t] = response[t, :t] + self.problem.g * self.eta[:t] * above[t, :t]
            y[t, :t] = d[t, :t] @ self.r_h[layer, :t, :t]
            y[t, t] = 1.0
            r_g[t, :t] = d[t, :t] @ self.x[layer, :t, :t]
            _extend(self.g[layer], t, (y, above), (r_g, below))

    def error(self, t: int) -> None:
        """The error v at time t, and what the gradient sees of it."""
        problem, now = self.problem, slice(None, t + 1)
        self.e[t, :t] = self.eta[:t] * self.g[0, t, :t] + self.r_g[0, t, :t] / problem.g
        self.m[t, :t] = -self.e[t, :t] @ self.q[:t, :t]
        self.m[t, t] = 1.0
        self.me[t, :t] = self.m[t, now] @ self.e[now, :t]
        start = self.ones + self.g[0] * self.inverse_nu / problem.g**2
        _extend(self.cov_v, t, (self.m, start), (self.me, self.noise))
        self.r_q[t, :t] = -self.inverse_data * (self.me[t, :t] @ self.r_q[:t, :t])
        self.r_q[t, t] = 1.0
        self.q[t, now] = self.r_q[t, now] @ self.m[now, now]
        self.s[t, :t] = -self.r_q[t, now] @ self.me[now, :t]
        self.s[t, t] = 1.0
        _extend(self.cov_q, t, (self.r_q, self.cov_v))
        if math.isfinite(problem.data):
            self.noise[t, now] = self.noise[now, t] = self.cov_q[t, now] * self.inverse_data
        self.noise[t, t] += self.cov_v[t, t] / problem.batch
        _extend(self.seen, t, (self.q, start), (self.s, self.noise))

    def forward(self, t: int) -> None:
        """h^1 .. h^L at time t."""
        problem, now = self.problem, slice(None, t + 1)
        for layer in range(problem.depth):
            below = self.h[layer - 1] if layer else self.seen
            above = self.g[layer + 1] if layer + 1 < problem.depth else self.ones
            c, x, r_h = self.c[layer], self.x[layer], self.r_h[layer]
            c[t, now] = (
                self.r_h[layer - 1, t, now] if layer else -self.q[t, now] * self.inverse_nu / problem.g
            )
            c[t, :t] += problem.g * self.eta[:t] * below[t, :t]
            x[t, now] = c[t, now] @ self.r_g[layer, now, now]
            x[t, t] += 1.0
            r_h[t, now] = c[t, now] @ self.y[layer, now, now]
            _extend(self.h[layer], t, (x, below), (r_h, above))

    def solution(self, seconds: float) -> Proportional:
        """Everything under its name."""
        matrix, layers = ("time", "time'"), ("layer", "time", "time'")
        root = math.sqrt(self.inverse_nu) / self.problem.g
        size = sum(value.nbytes for value in vars(self).values() if isinstance(value, np.ndarray))
        return Proportional(
            problem=self.problem,
            loss=Labelled(self.cov_v.diagonal().copy(), ("time",)),
            train_loss=Labelled(self.cov_q.diagonal().copy(), ("time",)),
            errors=Labelled(self.cov_v, matrix),
            features=Labelled(self.h, layers),
            gradients=Labelled(self.g, layers),
            error_response=Labelled(-root * self.m, matrix),
            feature_response=Labelled(self.r_h, layers),
            gradient_response=Labelled(self.r_g, layers),
            diagnostics={"seconds": seconds, "bytes": size},
        )


def _extend(covariance: np.ndarray, t: int, *parts: tuple[np.ndarray, np.ndarray]) -> None:
    """Adds row and column t of ``sum_i A_i K_i A_i^T``, A_i lower triangular, to a covariance."""
    now = slice(None, t + 1)
    row = sum((a[t, now] @ k[now, now]) @ a[now, now].T for a, k in parts)
    covariance[t, now] = covariance[now, t] = row
