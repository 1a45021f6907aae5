"""One step after the other: rows of all matrices of the proportional limit, known up to the time solved."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from widelimit.dmft.proportional import ProportionalProblem


class Steps:
    """All matrices, known up to the time that was solved; a row of each is added at every step."""

    def __init__(self, problem: ProportionalProblem) -> None:
        """Zeros: what is not known yet never enters."""
        self.problem = problem
        n, layers = problem.steps + 1, problem.layers
        self.eta = np.append(problem.rates, 0.0)  # the last time drives nothing
        self.inverse_nu, self.inverse_data = 1 / problem.nu, 1 / problem.data
        self.c, self.d, self.x, self.y, self.h, self.g, self.r_h, self.r_g = np.zeros((8, layers, n, n))
        self.e, self.m, self.me, self.q, self.s, self.r_q = np.zeros((6, n, n))
        self.cov_v, self.cov_q, self.seen, self.noise = np.zeros((4, n, n))
        self.ones, self.none = np.ones((n, n)), np.zeros((n, n))

    def run(self) -> Iterator[int]:
        """Solves time after time, and says which one is known."""
        for t in range(self.problem.steps + 1):
            self.backward(t)
            self.error(t)
            self.forward(t)
            yield t

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
            extend(self.g[layer], t, (y, above), (r_g, below))

    def error(self, t: int) -> None:
        """The error v at time t, and what the gradient sees of it."""
        problem, now = self.problem, slice(None, t + 1)
        self.e[t, :t] = self.eta[:t] * self.g[0, t, :t] + self.r_g[0, t, :t] / problem.g
        self.m[t, :t] = -self.e[t, :t] @ self.q[:t, :t]
        self.m[t, t] = 1.0
        self.me[t, :t] = self.m[t, now] @ self.e[now, :t]
        start = self.ones + self.g[0] * self.inverse_nu / problem.g**2
        extend(self.cov_v, t, (self.m, start), (self.me, self.noise))
        self.r_q[t, :t] = -self.inverse_data * (self.me[t, :t] @ self.r_q[:t, :t])
        self.r_q[t, t] = 1.0
        self.q[t, now] = self.r_q[t, now] @ self.m[now, now]
        self.s[t, :t] = -self.r_q[t, now] @ self.me[now, :t]
        self.s[t, t] = 1.0
        extend(self.cov_q, t, (self.r_q, self.cov_v))
        if math.isfinite(problem.data):
            self.noise[t, now] = self.noise[now, t] = self.cov_q[t, now] * self.inverse_data
        self.noise[t, t] += self.cov_v[t, t] / problem.batch
        extend(self.seen, t, (self.q, start), (self.s, self.noise))

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
            extend(self.h[layer], t, (x, below), (r_h, above))


def extend(covariance: np.ndarray, t: int, *parts: tuple[np.ndarray, np.ndarray]) -> None:
    """Adds row and column t of ``sum_i A_i K_i A_i^T``, A_i lower triangular, to a covariance."""
    now = slice(None, t + 1)
    row = sum((a[t, now] @ k[now, now]) @ a[now, now].T for a, k in parts)
    covariance[t, now] = covariance[now, t] = row
