"""Five predictors on one training set: two kernel regressions, two networks, a support-vector machine.

Whatever is tuned is tuned inside the training set. Test images are read once, to count errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments import lazy_or_rich_networks as networks
from experiments.lazy_or_rich_networks import Schedule
from widelimit.kernels import analytic, dynamics
from widelimit.models import MLPConfig

CLASSES = 10
RIDGES = 10.0 ** np.arange(-6, 0)  # times the mean of the kernel's diagonal
VALIDATION = 0.2  # of the training samples, where a rate is chosen
COSTS = (0.1, 1.0, 10.0, 100.0)  # the machine's C
GAMMAS = (0.25, 0.5, 1.0, 2.0, 4.0)  # times 1 / (D Var x), scikit-learn's default
FOLDS = 5
PREDICTORS = ("nngp", "ntk", "lazy", "rich", "svm")


class Sample(NamedTuple):
    """Images and digits, in a random order.

    Attributes:
        x: training images.  # shape=(N, D), dtype=float32
        labels: their digits.  # shape=(N,), dtype=int32
        x_test: test images.  # shape=(M, D), dtype=float32
        labels_test: their digits.  # shape=(M,), dtype=int32
    """

    x: np.ndarray
    labels: np.ndarray
    x_test: np.ndarray
    labels_test: np.ndarray

    @property
    def y(self) -> np.ndarray:
        """Centred one-hot targets, [N, 10]: what a network without an initial function can start from."""
        return targets(self.labels)


class Networks(NamedTuple):
    """How the two finite networks are trained.

    Attributes:
        shape: of both.
        seed: of their initial weights.
        schedule: rate as a share of the largest stable one of the infinite network.
        lazy_scale: output scale of the lazy one.
        rich_scale: output scale of the feature-learning one.
        shares: rates to choose from for the latter.
    """

    shape: MLPConfig
    seed: tuple[int, ...]
    schedule: Schedule
    lazy_scale: float
    rich_scale: float
    shares: Sequence[float]


def targets(labels: np.ndarray) -> np.ndarray:
    """Returns one-hot rows less their mean 1/10."""
    return (np.eye(CLASSES)[labels] - 1 / CLASSES).astype(np.float32)


def share_right(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Returns the share of rows whose largest entry is at the label."""
    return float(np.mean(np.argmax(outputs, axis=1) == labels))


def stable_rate(kernel: np.ndarray, schedule: Schedule) -> Schedule:
    """Turns a share of the largest stable rate under a kernel into a rate."""
    largest = dynamics.largest_rate(kernel, momentum=schedule.momentum)
    return schedule._replace(rate=schedule.rate * largest)


def choose_ridge(kernel: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Returns the ridge with the fewest leave-one-out errors, and their share; ties go to smaller residuals.

    Leaving each sample out in turn is a validation inside the training set, and has a closed form.
    """
    y, found = targets(labels).astype(np.float64), []
    for ridge in RIDGES * np.mean(np.diagonal(kernel)):
        away = dynamics.leave_one_out(kernel, y, ridge=float(ridge))
        found.append((1 - share_right(away, labels), float(np.mean((away - y) ** 2)), float(ridge)))
    error, _, ridge = min(found)
    return ridge, error


def regression(kernel: np.ndarray, test: np.ndarray, sample: Sample) -> dict[str, Any]:
    """Kernel ridge regression of an infinite network."""
    ridge, error = choose_ridge(kernel, sample.labels)
    fit = dynamics.kernel_regression(kernel, sample.y, test=test, ridge=ridge)
    assert fit.test is not None
    return {
        "accuracy": share_right(fit.test, sample.labels_test),
        "train_accuracy": share_right(fit.train, sample.labels),
        "ridge": ridge,
        "validation_error": error,
    }


def train_network(setting: Networks, sample: Sample, scale: float, schedule: Schedule) -> dict[str, Any]:
    """Trains a finite network, and reads it at the test images."""
    apply, start = networks.forward(setting.shape), networks.draw(setting.shape, *setting.seed)
    end = networks.descend(apply, start, sample.x, sample.y, scale, schedule)
    test = networks.outputs(apply, start, end.offset, scale, sample.x_test)
    loss = float(networks.losses(end, sample.y)[-1])
    return {
        "diverged": not np.isfinite(loss),
        "accuracy": share_right(test, sample.labels_test),
        "train_accuracy": share_right(np.asarray(end.train[-1]), sample.labels),
        "train_loss": loss,
        "outputs": test,
    }


def choose_share(setting: Networks, sample: Sample, kernel: np.ndarray) -> tuple[float, float]:
    """Returns the share of the largest stable rate that does best on held-out training samples, and its loss.

    Judged by squared error: a few samples tell rates apart by it that make equally many mistakes.
    """
    kept = len(sample.x) - max(1, round(VALIDATION * len(sample.x)))
    inside = Sample(sample.x[:kept], sample.labels[:kept], sample.x[kept:], sample.labels[kept:])
    largest = dynamics.largest_rate(kernel[:kept, :kept], momentum=setting.schedule.momentum)
    held_out, found = targets(inside.labels_test), []
    for share in setting.shares:
        schedule = setting.schedule._replace(rate=share * largest)
        seen = train_network(setting, inside, setting.rich_scale, schedule)["outputs"]
        loss = 0.5 * float(np.mean(np.sum((seen - held_out) ** 2, axis=1)))
        found.append((loss if np.isfinite(loss) else np.inf, share))
    loss, share = min(found)
    return share, loss


def machine(sample: Sample, seed: int) -> dict[str, Any]:
    """A support-vector machine with radial basis functions, C and gamma by cross-validation."""
    from sklearn.model_selection import GridSearchCV, KFold
    from sklearn.svm import SVC

    usual = 1 / (sample.x.shape[1] * float(np.var(sample.x)))
    grid = {"C": COSTS, "gamma": [factor * usual for factor in GAMMAS]}
    folds = KFold(FOLDS, shuffle=True, random_state=seed)  # plain folds: small sets lack some digits
    search = GridSearchCV(SVC(kernel="rbf"), grid, cv=folds).fit(sample.x, sample.labels)
    return {
        "accuracy": float(search.score(sample.x_test, sample.labels_test)),
        "train_accuracy": float(search.score(sample.x, sample.labels)),
        "cost": float(search.best_params_["C"]),
        "gamma": float(search.best_params_["gamma"]),
        "validation_error": 1 - float(search.best_score_),
    }


def compare(sample: Sample, setting: Networks) -> list[dict[str, Any]]:
    """Returns a row per predictor."""
    own = analytic.kernel(setting.shape, sample.x)
    test = analytic.kernel(setting.shape, sample.x_test, sample.x)
    rows: dict[str, dict[str, Any]] = {
        name: regression(getattr(own, name), getattr(test, name), sample) for name in ("nngp", "ntk")
    }
    largest = dynamics.largest_rate(own.ntk, momentum=setting.schedule.momentum)
    schedule = setting.schedule._replace(rate=setting.schedule.rate * largest)
    infinite = dynamics.gradient_descent(
        own.ntk, sample.y, schedule.rate, [schedule.steps], momentum=schedule.momentum, test=test.ntk
    )
    assert infinite.test is not None
    alike = infinite.test[0]  # the infinite network after the steps of the lazy one
    rows["lazy"] = lazy = train_network(setting, sample, setting.lazy_scale, schedule)
    finite = lazy.pop("outputs")
    lazy["infinite_accuracy"] = share_right(alike, sample.labels_test)
    lazy["infinite_distance"] = float(np.linalg.norm(finite - alike) / np.linalg.norm(alike))
    share, loss = choose_share(setting, sample, own.ntk)
    schedule = schedule._replace(rate=share * largest)
    rows["rich"] = train_network(setting, sample, setting.rich_scale, schedule)
    del rows["rich"]["outputs"]
    rows["rich"] |= {"rate_share": share, "validation_loss": loss}
    rows["svm"] = machine(sample, setting.seed[0])
    return [{"predictor": name, **rows[name]} for name in PREDICTORS]
