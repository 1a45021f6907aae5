"""Models linear in their parameters: trained in parameter space, they are the oracle of the dynamics."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Linear:
    """f_o(x_i) = sum_d features[i, o, d] w_d, with start w_0 and targets y."""

    train: np.ndarray  # [N, O, D]
    test: np.ndarray  # [M, O, D]
    start: np.ndarray  # [D]
    targets: np.ndarray  # [N, O]

    def kernel(self) -> np.ndarray:
        """(N, N, O, O)."""
        return np.einsum("iod,jpd->ijop", self.train, self.train)

    def cross(self) -> np.ndarray:
        """(M, N, O, O)."""
        return np.einsum("iod,jpd->ijop", self.test, self.train)

    def settings(self) -> dict[str, np.ndarray]:
        """Returns what gradient_flow and gradient_descent take by keyword."""
        return {
            "initial": self.train @ self.start,
            "test": self.cross(),
            "initial_test": self.test @ self.start,
        }

    def simulate(self, residual, rate, steps, momentum=0.0, nesterov=False):
        """Trains w step by step; returns train and test predictions after each step, from step 0."""
        w, velocity, path = self.start.copy(), np.zeros_like(self.start), []
        for _ in range(steps + 1):
            f = self.train @ w
            path.append((f, self.test @ w))
            g = np.einsum("io,iod->d", residual(f, self.targets), self.train) / len(f)
            velocity = momentum * velocity + g
            w = w - rate * (g + momentum * velocity if nesterov else velocity)
        return tuple(np.array(part) for part in zip(*path, strict=True))


def linear(seed=0, samples=6, tests=4, outputs=2, features=9) -> Linear:
    """A random one; with features < samples * outputs its kernel is singular."""
    rng = np.random.default_rng(seed)
    return Linear(
        train=rng.normal(size=(samples, outputs, features)) / features**0.5,
        test=rng.normal(size=(tests, outputs, features)) / features**0.5,
        start=rng.normal(size=features),
        targets=rng.normal(size=(samples, outputs)),
    )


def difference(f, y):
    """The residual of the squared error."""
    return f - y


def softmax(f):
    """Probabilities, outputs on the last axis."""
    p = np.exp(f - f.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


def probabilities(seed=0, samples=6, classes=3):
    """Random soft targets."""
    return softmax(np.random.default_rng(seed + 100).normal(size=(samples, classes)))
