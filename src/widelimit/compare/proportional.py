"""Finite deep linear networks under the problem of the proportional limit: the independent check."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from widelimit.dmft import ProportionalProblem


class ProportionalNetworks(NamedTuple):
    """Losses of trained networks.

    Attributes:
        loss: ``|v|^2 / D`` of fresh inputs, shape [problems, seeds, steps + 1]; infinite or NaN after a
            divergence.
        train_loss: of the fixed training set; where there is none, the loss again.
    """

    loss: np.ndarray
    train_loss: np.ndarray


def finite_proportional(
    problems: Sequence[ProportionalProblem], *, size: int, seeds: Sequence[int | Sequence[int]]
) -> ProportionalNetworks:
    r"""Trains the finite networks whose limit is ``dmft.proportional``, in float64.

    Gradients of a linear network have rank one per input error: ``W^l(t) = W^l(0) + (g / sqrt(N)) sum_s
    eta0(s) g^{l+1}(s) h^l(s)^T``. So the weights of the start are stored once and all problems are trained
    from them, side by side, by products of these weights with vectors: exact gradient descent, without ever
    writing a trained matrix.

    Args:
        problems: they may differ in g and eta0 only.
        size: the dimension D; ``nu size`` (and ``data size``, ``batch size``) must be whole.
        seeds: of weights and data, one network each; equal seeds draw equal weights for all problems.

    Raises:
        ValueError: if problems differ in more, or a count is not whole.

    Example:
        >>> from widelimit.dmft import ProportionalProblem
        >>> problems = [ProportionalProblem(nu=1.0, steps=5, eta0=rate) for rate in (0.05, 0.1)]
        >>> finite_proportional(problems, size=32, seeds=range(3)).loss.shape
        (2, 3, 6)
    """
    first = problems[0]
    shared = ("nu", "depth", "steps", "data", "batch", "branch_scale")
    for other in problems:
        wrong = [name for name in shared if getattr(other, name) != getattr(first, name)]
        if wrong:
            raise ValueError(f"problems must share {', '.join(shared)}; they differ in {', '.join(wrong)}.")
    found = [_Networks(problems, size, seed).train() for seed in seeds]
    loss, train_loss = (np.stack(part, axis=1) for part in zip(*found, strict=True))
    return ProportionalNetworks(loss, train_loss)


class _Networks:
    """One draw of the weights, trained under every problem at once; the last axis counts problems."""

    def __init__(self, problems: Sequence[ProportionalProblem], size: int, seed: int | Sequence[int]) -> None:
        """Draws weights and data."""
        self.problem, self.size = problems[0], size
        self.width, self.data, self.batch = self.problem.counts(size)
        rng = np.random.default_rng(seed)
        shapes = [(self.width, size)] + [(self.width, self.width)] * (self.problem.layers - 1)
        # Layer l takes its input with 1 / sqrt(fan_in), and gives its gradient back with 1 / sqrt(width).
        self.weights = [rng.standard_normal(shape) for shape in shapes]
        self.readout = rng.standard_normal((self.width, 1))
        self.inputs = rng.standard_normal((self.data, size)) if self.data else None
        self.rng = rng
        self.g = np.array([problem.g for problem in problems])
        self.eta = np.stack([problem.rates for problem in problems], axis=1)  # [steps, problems]
        shape = (len(problems),)
        steps, scale = self.problem.steps, self.problem.branch_scale
        self.seen = np.zeros((steps, size, *shape))
        self.h, self.back = np.zeros((2, self.problem.layers, steps, self.width, *shape))
        self.skip, self.scale = (0.0, 1.0) if scale is None else (1.0, scale)  # between hidden layers

    def train(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns both losses, [problems, steps + 1]."""
        losses = np.zeros((2, len(self.g), self.problem.steps + 1))
        with np.errstate(over="ignore", invalid="ignore"):  # a divergence is a result
            for t in range(self.problem.steps + 1):
                back = self._backward(t)
                v = self._error(t, back[0])
                seen, losses[1, :, t] = self._see(v)
                losses[0, :, t] = (v**2).mean(axis=0)
                if t < self.problem.steps:
                    self.seen[t] = seen
                    self.back[:, t], self.h[:, t] = back, self._forward(t, seen)
        return losses[0], losses[1]

    def _backward(self, t: int) -> list[np.ndarray]:
        """g^1 .. g^L."""
        drive = self.g * self.eta[:t]
        field = self.readout + np.einsum("sb,snb->nb", drive, self.h[-1, :t])
        fields = [field]
        for layer in reversed(range(1, len(self.weights))):
            learned = self._memory(self.h[layer - 1, :t], self.scale * drive, self.back[layer, :t], field)
            branch = self.weights[layer].T @ field / math.sqrt(self.width) + learned
            field = self.skip * field + self.scale * branch
            fields.insert(0, field)
        return fields

    def _error(self, t: int, back: np.ndarray) -> np.ndarray:
        """V = beta - beta_hat, with beta all ones: weights do not know directions."""
        scale = math.sqrt(self.size) / (math.sqrt(self.width) * self.g)
        learned = self._memory(self.seen[:t], self.eta[:t], self.back[0, :t], back)
        return np.asarray(1.0 - scale * (self.weights[0].T @ back) / math.sqrt(self.width) - learned)

    def _see(self, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the gradient sees of v, and the loss on what it is taken over."""
        if not (self.data or self.batch):
            return v, (v**2).mean(axis=0)
        x = self.rng.standard_normal((self.batch, self.size)) if self.batch else self.inputs
        assert x is not None
        errors = x @ v / math.sqrt(self.size)
        square = (errors**2).mean(axis=0)
        seen = x.T @ errors * (math.sqrt(self.size) / len(x))
        return seen, square if self.data else (v**2).mean(axis=0)

    def _forward(self, t: int, seen: np.ndarray) -> np.ndarray:
        """h^1 .. h^L, of what the gradient sees."""
        drive = self.g * self.eta[:t]
        learned = self._memory(self.back[0, :t], drive, self.seen[:t], seen)
        fields = np.empty((len(self.weights), self.width, len(self.g)))
        fields[0] = field = self.weights[0] @ seen / math.sqrt(self.size) + learned
        for layer in range(1, len(self.weights)):
            learned = self._memory(self.back[layer, :t], self.scale * drive, self.h[layer - 1, :t], field)
            branch = self.weights[layer] @ field / math.sqrt(self.width) + learned
            fields[layer] = field = self.skip * field + self.scale * branch
        return fields

    @staticmethod
    def _memory(left: np.ndarray, drive: np.ndarray, right: np.ndarray, field: np.ndarray) -> np.ndarray:
        """``sum_s left(s) drive(s) (right(s) . field) / length``: what past updates do to a field."""
        overlap = np.einsum("snb,nb->sb", right, field) / len(field)
        return np.asarray(np.einsum("sb,snb->nb", drive * overlap, left))
