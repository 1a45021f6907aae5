"""What comes of replicas: means, standard errors, and the axes of a solution."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from widelimit.dmft.labelled import Labelled
from widelimit.dmft.problem import Problem, ResidualProblem
from widelimit.dmft.steps import float64_losses, wide

Arrays = dict[str, np.ndarray]
AXES = {
    "features": "layer time sample time' sample'",
    "gradients": "layer time sample output time' sample' output'",
    "feature_response": "layer time sample time' sample' output'",
    "gradient_response": "layer time sample output time' sample'",
    "ntk": "time sample output sample' output'",
    "predictions": "time sample output",
    "h": "layer time sample draw",
    "z": "layer time sample output draw",
    "g": "layer time sample output draw",
}


class Moments:
    """Mean and spread of arrays that come one after the other (Welford)."""

    def __init__(self) -> None:
        """Nothing came yet."""
        self.count, self.mean, self._squares = 0, np.zeros(()), np.zeros(())

    def add(self, value: ArrayLike) -> None:
        """Counts one more array."""
        new = np.array(value, np.float64)
        self.count += 1
        if self.count == 1:
            self.mean, self._squares = new, np.zeros_like(new)
            return
        change = new - self.mean
        self.mean += change / self.count
        self._squares += change * (new - self.mean)

    def stderr(self) -> np.ndarray | None:
        """Standard error of the mean; None if only one came."""
        return None if self.count < 2 else np.sqrt(self._squares / (self.count * (self.count - 1)))

    def labelled(self, axes: tuple[str, ...], shape: tuple[int, ...]) -> Labelled:
        """Mean and standard error in this shape, with names of axes."""
        stderr = self.stderr()
        return Labelled(self.mean.reshape(shape), axes, None if stderr is None else stderr.reshape(shape))


def labelled(problem: Problem, name: str, values: np.ndarray, stderr: np.ndarray | None = None) -> Labelled:
    """Returns an order parameter in its axes; without those of outputs where targets have none.

    Args:
        problem: that was solved.
        name: of the order parameter.
        values: with axes of outputs.
        stderr: like values.
    """
    axes = AXES[name].split()
    if not wide(problem):
        index = tuple(0 if axis.startswith("output") else slice(None) for axis in axes)
        values = values[index]
        stderr = None if stderr is None else stderr[index]
        axes = [axis for axis in axes if not axis.startswith("output")]
    # A residual network's stream has a layer in front of its first branch.
    return Labelled(values, tuple(axes), stderr, first_layer=0 if isinstance(problem, ResidualProblem) else 1)


def loss(problem: Problem, f: np.ndarray, bias: np.ndarray | None = None) -> Labelled:
    """Returns the loss of the mean prediction; its error by leaving out each replica in turn, and the bias.

    Args:
        problem: that was solved.
        f: predictions, shape [replicas, T + 1, p, c]; of one replica no error is known.
        bias: estimated, of predictions, shape [T + 1, p, c]; None is 0.
    """
    f = f[:, :, : problem.samples]
    count, whole = len(f), f.mean(0)
    values = float64_losses(problem, whole)
    if count < 2:
        return Labelled(values, ("time",))
    left = np.stack([float64_losses(problem, (count * whole - one) / (count - 1)) for one in f])
    spread = np.sqrt(((left - left.mean(0)) ** 2).sum(0) * (count - 1) / count)
    if bias is not None:
        spread = np.hypot(spread, float64_losses(problem, whole - bias[:, : problem.samples]) - values)
    return Labelled(values, ("time",), spread)
