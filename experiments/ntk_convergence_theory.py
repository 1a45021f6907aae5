"""What infinite width predicts: the kernels, the Gaussian process at every step, and the control variate."""

from __future__ import annotations

import dataclasses

import numpy as np

from experiments.ntk_convergence_networks import Task, shape_of
from widelimit.kernels import analytic, dynamics
from widelimit.training.data import Dataset

# Directions of function space in which the covariance is judged: of the training and of the test points,
# those with at least this share of the largest predicted variance, at most so many each. In the others the
# ensemble hardly varies, and a bias of order 1/n of its mean would be many of its standard deviations.
SHARE, DIRECTIONS = 0.1, 4


@dataclasses.dataclass(frozen=True, eq=False)
class Limit:
    """The infinite network, trained as the finite ones are.

    Args:
        nngp: covariance of the initial outputs, [N + M, N + M].
        ntk: its tangent kernel, the same shape.
        mean: of the outputs before each step and at the end, [T + 1, N + M].
        covariance: likewise, [T + 1, N + M, N + M].
        image: A, what training makes of the initial outputs: f_T = A f_0 + mean, [N + M, N + M].
    """

    nngp: np.ndarray
    ntk: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray
    image: np.ndarray


def make_task(data: Dataset, rate: float, steps: int) -> Task:
    """Returns training and test samples, each scaled to norm sqrt(D): the kernel's diagonal is constant."""
    x = np.concatenate([data.train_inputs, data.test_inputs]).astype(np.float64)
    x *= np.sqrt(x.shape[1]) / np.linalg.norm(x, axis=1, keepdims=True)
    y = np.concatenate([data.train_targets, data.test_targets])
    return Task(x.astype(np.float32), y.astype(np.float32), len(data.train_inputs), rate, steps)


def predict(task: Task, depth: int) -> Limit:
    """Returns the limit of the NTK parametrization for the discrete steps that are taken; no width enters."""
    inputs = task.inputs.astype(np.float64)
    nngp, ntk = analytic.kernel(shape_of(task, 1, depth, "ntk"), inputs, get=("nngp", "ntk"))
    nngp, ntk = np.asarray(nngp, float), np.asarray(ntk, float)
    targets = task.targets[: task.train, 0].astype(float)
    process = dynamics.ensemble(nngp, ntk, targets, rate=task.rate, steps=np.arange(task.steps + 1))
    basis = np.eye(len(nngp))
    image = linearised(task, ntk, basis, np.zeros((task.train, len(nngp))))
    return Limit(nngp, ntk, process.mean, process.covariance, image)


def linearised(task: Task, kernel: np.ndarray, initial: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Returns the outputs on all points after training under a fixed kernel, [N + M, ...].

    Gradient descent on a network's linearisation is gradient descent in function space under its initial
    kernel: no parameters are needed.

    Args:
        task: the samples, the rate and the number of steps.
        kernel: of all points, [N + M, N + M].
        initial: outputs at initialisation, [N + M] or [N + M, O].
        targets: of the training points, [N] or [N, O].
    """
    n = task.train
    path = dynamics.gradient_descent(
        kernel[:n, :n],
        targets,
        task.rate,
        [task.steps],
        initial=initial[:n],
        test=kernel[n:, :n],
        initial_test=initial[n:],
    )
    assert path.test is not None
    return np.concatenate([path.train[-1], path.test[-1]])


def deviations(limit: Limit, outputs: np.ndarray) -> np.ndarray:
    """Returns c = f_T - A f_0 - mean of each network: the control variate, whose limit is zero.

    As E f_0 = 0 at every width, E c = E f_T - mean, the bias of the ensemble's mean; but what a network's
    initial function contributes to the scatter of f_T is gone.

    Args:
        limit: the prediction.
        outputs: of S networks, [S, T + 1, N + M].
    """
    return np.asarray(outputs[:, -1] - outputs[:, 0] @ limit.image.T - limit.mean[-1], float)


def directions(task: Task, covariance: np.ndarray) -> np.ndarray:
    """Returns the directions in which a covariance is judged, orthonormal columns [N + M, k]."""
    points, columns = len(covariance), []
    for part in (slice(0, task.train), slice(task.train, points)):
        values, vectors = np.linalg.eigh(covariance[part, part])
        kept = np.flatnonzero(values >= SHARE * values[-1])[-DIRECTIONS:]
        block = np.zeros((points, kept.size))
        block[part] = vectors[:, kept]
        columns.append(block)
    return np.concatenate(columns, axis=1)
