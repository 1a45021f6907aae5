"""What comes of a residual network's runs: arrays in a solution's axes, their means and standard errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from widelimit.dmft.problem import ResidualProblem
from widelimit.dmft.replicas import Arrays, Moments, labelled, loss
from widelimit.dmft.residual_step import Run
from widelimit.dmft.solution import Solution


def arrays(run: Run) -> Arrays:
    """Returns a finished run's results by name, in the axes of a solution, always with those of outputs.

    Args:
        run: after ``run()``.
    """
    layers, times, points, outputs = run.depth + 1, run.times, run.points, run.outputs
    both = (points, outputs)
    unit = run.branch * run.problem.gamma0  # responses are divided by it, and so O(1) in depth and gamma0
    found = {
        "predictions": run.predictions,
        "features": run.feature_kernel,
        "gradients": run.gradient_kernel.reshape(layers, times, *both, times, *both),
        "ntk": run.ntk.reshape(times, *both, *both),
    }
    if run.settings.responses and run.settings.random:
        shape = (layers - 1, times, points, times, *both)
        found["feature_response"] = run.feature_response.reshape(shape) / unit
        shape = (layers - 1, times, *both, times, points)
        found["gradient_response"] = run.gradient_response.reshape(shape) / unit
    if run.settings.fields:
        found["h"] = run.kept[0, :, :, :points]
        found["g"] = run.kept[1].reshape(layers, times, *both, -1)
    return found


class Replicas:
    """Means over replicas as they come; of predictions, all."""

    def __init__(self) -> None:
        self.predictions: list[np.ndarray] = []
        self._means: dict[str, Moments] = {}
        self._fields: Arrays = {}

    def add(self, found: Arrays) -> None:
        """Counts one replica's arrays."""
        for name, value in found.items():
            if name == "predictions":
                self.predictions.append(value)
            elif name not in ("h", "g"):
                self._means.setdefault(name, Moments()).add(value)
            else:
                self._fields.setdefault(name, value)

    def solution(self, problem: ResidualProblem, solver: str, diagnostics: Mapping[str, Any]) -> Solution:
        """Returns what was found; without standard errors where there is one replica.

        Args:
            problem: that was solved.
            solver: its name.
            diagnostics: numbers to hand on.
        """
        f = np.stack(self.predictions)
        fields = {name: labelled(problem, name, value) for name, value in self._fields.items()}
        means = {
            name: labelled(problem, name, part.mean, part.stderr()) for name, part in self._means.items()
        }
        spread = _stderr(f)
        most = 0.0 if spread is None else float(f.std(0, ddof=1).max())
        return Solution(
            problem=problem,
            solver=solver,
            predictions=labelled(problem, "predictions", f.mean(0), spread),
            loss=loss(problem, f),
            fields=fields or None,
            diagnostics={**diagnostics, "replica_spread": most},
            **means,
        )


def _stderr(values: np.ndarray) -> np.ndarray | None:
    """Standard error of the mean over the first axis."""
    if len(values) < 2:
        return None
    spread: np.ndarray = values.std(0, ddof=1) / np.sqrt(len(values))
    return spread


def extrapolated(found: Sequence[Arrays], weights: Sequence[float], strides: Sequence[int]) -> Arrays:
    """Returns weighted sums of the same quantities at several depths, at the nodes that they share.

    Args:
        found: results at every depth.
        weights: of the depths; they add up to 1.
        strides: layers of each depth per layer of the coarsest.
    """
    mixed: Arrays = {}
    for name in found[0]:
        nodes = [
            part[name] if name in ("predictions", "ntk") else part[name][::stride]
            for part, stride in zip(found, strides, strict=True)
        ]
        mixed[name] = np.sum([weight * node for weight, node in zip(weights, nodes, strict=True)], axis=0)
    return mixed
