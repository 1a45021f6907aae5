"""Ensembles of the NTK experiment: moments joined from rows, and their z-scores against predictions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.ntk_convergence_networks import Task
from experiments.ntk_convergence_theory import Limit, directions
from widelimit.compare import (
    Estimate,
    chi_square_score,
    mean_over_seeds,
    second_moment_scores,
    squared_length_of_mean,
)
from widelimit.kernels import dynamics


@dataclasses.dataclass(frozen=True, eq=False)
class Ensemble:
    """Moments of an ensemble's outputs.

    Args:
        networks: how many.
        mean: [T + 1, N + M].
        std: over networks, the same shape.
        second: uncentred second moment of the trained outputs, [N + M, N + M].
    """

    networks: int
    mean: np.ndarray
    std: np.ndarray
    second: np.ndarray

    @staticmethod
    def join(rows: Sequence[Mapping[str, Any]]) -> Ensemble:
        """Returns the moments of all chunks together; the chunks of a width are of one size."""
        mean, square, second = (
            np.mean(np.array([row[name] for row in rows], float), axis=0)
            for name in ("mean", "square", "second")
        )
        spread = np.sqrt(np.maximum(square - mean**2, 0.0))
        return Ensemble(sum(row["networks"] for row in rows), mean, spread, second)


@dataclasses.dataclass(frozen=True)
class Bias:
    """Deviations from the Gaussian process's mean, as root mean squares over the inputs.

    Args:
        networks: how many.
        bias: of the ensemble's mean, through the control variate, without the bias of its noise; negative
            where the estimate of its square is.
        plain: the same without the control variate.
        scatter: of single networks, with the control variate.
        variance: of a network's outputs about the mean, averaged over the inputs, with the control variate.
        plain_variance: without.
    """

    networks: int
    bias: Estimate
    plain: Estimate
    scatter: Estimate
    variance: float
    plain_variance: float

    @staticmethod
    def join(rows: Sequence[Mapping[str, Any]]) -> Bias:
        """Returns what all chunks together say."""
        controlled, plain = (np.array([row[name] for row in rows], float) for name in ("controlled", "plain"))
        points = controlled.shape[1]
        squares = [
            np.array([row[f"{name}_square"] for row in rows], float) / points
            for name in ("controlled", "plain")
        ]
        networks = sum(row["networks"] for row in rows)
        if not (np.isfinite(controlled).all() and np.isfinite(squares).all()):
            none = Estimate(float("nan"), float("nan"))
            return Bias(networks, none, none, none, float("nan"), float("nan"))
        means = [np.sum(means.mean(axis=0) ** 2) / points for means in (controlled, plain)]
        return Bias(
            networks=networks,
            bias=_root(squared_length_of_mean(controlled), points),
            plain=_root(squared_length_of_mean(plain), points),
            scatter=_root(mean_over_seeds(squares[0]), 1),
            variance=float(squares[0].mean() - means[0]),
            plain_variance=float(squares[1].mean() - means[1]),
        )


def _root(square: Estimate, points: int) -> Estimate:
    """Returns the root of a mean square with its error bar, and the sign of what is under it."""
    value = float(np.sqrt(abs(square.value) / points))
    return Estimate(float(np.copysign(value, square.value)), square.stderr / points / (2 * value))


def scores(
    task: Task, ensemble: Ensemble, mean: np.ndarray, covariance: np.ndarray, by: np.ndarray | None = None
) -> np.ndarray:
    """Returns independent z-scores of the trained ensemble's second moment against a Gaussian's.

    They are NaN where a network has diverged.

    Args:
        task: what was learned.
        ensemble: the networks.
        mean: predicted, [N + M].
        covariance: predicted, [N + M, N + M].
        by: the covariance whose directions are judged; None is the predicted one.
    """
    basis = directions(task, covariance if by is None else by)
    if not np.isfinite(ensemble.second).all():
        return np.full(basis.shape[1] * (basis.shape[1] + 1) // 2, np.nan)
    moments = (basis.T @ ensemble.second @ basis, basis.T @ mean, basis.T @ covariance @ basis)
    return second_moment_scores(moments[0], ensemble.networks, moments[1], moments[2])


def together(each: np.ndarray) -> float:
    """Returns independent z-scores as one, that of their chi-square; NaN where a network has diverged."""
    return chi_square_score(each) if np.isfinite(each).all() else float("nan")


def expected_shift(count: int, networks: int, correction: float) -> float:
    """Returns how far a relative error of the covariance moves the z-score of ``count`` scores' chi-square.

    In k whitened directions a covariance (1 + correction) C adds ``networks correction^2 / 2`` to each of the
    k squares on the diagonal; the shift is in units of the chi-square's standard deviation.
    """
    size = (np.sqrt(8 * count + 1) - 1) / 2
    return float(size * networks * correction**2 / 2 / np.sqrt(2 * count))


def predictions(task: Task, limit: Limit) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns mean and covariance of the trained outputs by name: ours first, then others that it is not."""
    targets = task.targets[: task.train, 0].astype(float)
    flow = dynamics.ensemble(limit.nngp, limit.ntk, targets, [task.rate * task.steps])
    start = dynamics.ensemble(limit.nngp, limit.nngp, targets, rate=task.rate, steps=[task.steps])
    zero = np.zeros_like(limit.mean[-1])
    return {
        "NTK Gaussian process, discrete steps": (limit.mean[-1], limit.covariance[-1]),
        "the same, gradient flow instead of steps": (flow.mean[-1], flow.covariance[-1]),
        "only the readout trained (kernel NNGP)": (start.mean[-1], start.covariance[-1]),
        "the initial functions, moved by the mean": (limit.mean[-1], limit.nngp),
        "the right covariance about mean zero": (zero, limit.covariance[-1]),
    }
