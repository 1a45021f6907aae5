"""What is measured at one gamma0, of independent draws: once of all, and once without each of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from widelimit.compare import Estimate
from widelimit.dmft import Problem, Solution
from widelimit.kernels.spectra import alignment, relative_change

LOSS, HELD_OUT, TO_FIT, DEVIATION = "training loss", "held-out loss", "steps to fit", "distance from the NTK"
NTK = "tangent kernel"
UNITS = {LOSS: "mean |f - y|^2 / 2", HELD_OUT: "mean |f - y|^2 / 2", TO_FIT: "steps"}


def features(layer: int) -> str:
    """The name of a layer's feature kernel."""
    return f"features of layer {layer}"


def moved(kernel: str) -> str:
    """The name of a kernel's relative movement, ``|K_T - K_0| / |K_0|``."""
    return f"movement, {kernel}"


def aligned(kernel: str) -> str:
    """The name of a kernel's alignment with the labels, after training."""
    return f"alignment, {kernel}"


def kernels(depth: int) -> list[str]:
    """The kernels whose movement is measured."""
    return [*map(features, range(1, depth + 1)), NTK]


def names(depth: int) -> list[str]:
    """Everything that theory and networks are compared in, in the order of tables."""
    movements = [moved(kernel) for kernel in kernels(depth)]
    return [LOSS, HELD_OUT, TO_FIT, *movements, aligned(features(depth)), aligned(NTK)]


class Draws(NamedTuple):
    """Independent parts of one estimate: replicas of DMFT, or means over blocks of networks.

    Means over draws are kept in the same form, without the first axis.

    Attributes:
        f: predictions of all points, [B, T + 1, P + M].
        loss: mean training loss of single networks, [B, T + 1]; None: the loss of the mean f.
        held_out: mean loss of single networks on held-out points after training, [B]; None: that of mean f.
        features: feature kernels before and after training, [B, layers, 2, P + M, P + M].
        ntk: the tangent kernel likewise, [B, 2, P + M, P + M].
    """

    f: np.ndarray
    loss: np.ndarray | None
    held_out: np.ndarray | None
    features: np.ndarray
    ntk: np.ndarray


def measure(
    draws: Draws, problem: Problem, held_out: np.ndarray, lazy: Solution, share: float
) -> list[dict[str, float]]:
    """Returns all quantities by name: first of all draws, then without each of them in turn.

    Args:
        draws: the parts.
        problem: what was trained.
        held_out: targets of the held-out points, [M].
        lazy: the same problem's lazy limit.
        share: of the loss at the start, below which the training points count as fitted.
    """
    each = np.arange(len(draws.f))

    def mean(kept: np.ndarray) -> Draws:
        return Draws(*(None if part is None else part[kept].mean(axis=0) for part in draws))  # type: ignore[arg-type]

    points = [mean(each), *(mean(np.delete(each, draw)) for draw in each)]
    return [quantities(point, problem, held_out, lazy.predictions.values, share) for point in points]


def quantities(
    point: Draws, problem: Problem, held_out: np.ndarray, lazy: np.ndarray, share: float
) -> dict[str, float]:
    """Returns all quantities of one estimate by name.

    Args:
        point: means of f, losses and kernels.
        problem: what was trained.
        held_out: targets of the held-out points, [M].
        lazy: predictions of the lazy limit, [T + 1, P + M].
        share: as for ``measure``.
    """
    targets, train = np.asarray(problem.targets), problem.samples
    loss = np.mean((point.f[:, :train] - targets) ** 2, axis=1) / 2 if point.loss is None else point.loss
    own = np.mean((point.f[-1, train:] - held_out) ** 2) / 2 if point.held_out is None else point.held_out
    found = {
        LOSS: float(loss[-1]),
        HELD_OUT: float(own),
        TO_FIT: steps_to_fit(loss, share),
        DEVIATION: float(np.sqrt(np.mean((point.f - lazy) ** 2))),
    }
    of_points = dict(zip(kernels(len(point.features)), [*point.features, point.ntk], strict=True))
    for name, (before, after) in of_points.items():
        found[moved(name)] = relative_change(after, before)
        found[aligned(name)] = alignment(after[:train, :train], targets)
    return found


def steps_to_fit(loss: np.ndarray, share: float) -> float:
    """Returns when the loss falls below a share of its start; its logarithm is linear between steps.

    Args:
        loss: at all times, [T + 1].
        share: of the start.

    Returns:
        A number of steps, NaN where the loss stays above.
    """
    below = np.flatnonzero(loss < share * loss[0])
    if not below.size:
        return math.nan
    step = int(below[0])
    before, after = np.log(loss[step - 1 : step + 1] / (share * loss[0]))
    return float(step - 1 + before / (before - after))


def lazy_quantities(lazy: Solution, held_out: np.ndarray, share: float) -> dict[str, float]:
    """Returns what the NTK predicts for all quantities: exact numbers, and kernels that do not move.

    Args:
        lazy: the solution.
        held_out: targets of the held-out points, [M].
        share: as for ``measure``.
    """
    assert lazy.features is not None and lazy.ntk is not None
    static = np.stack([kernel[0, :, 0] for kernel in lazy.features.values])
    point = Draws(
        f=lazy.predictions.values,
        loss=None,
        held_out=None,
        features=np.stack([static, static], axis=1),
        ntk=np.stack([lazy.ntk.values[0]] * 2),
    )
    return quantities(point, lazy.problem, held_out, lazy.predictions.values, share)


def jackknife(function: Callable[..., float], groups: Sequence[np.ndarray]) -> Estimate:
    """Returns a function of several independent estimates, without the bias of their noise, and its error.

    Leaving out each draw of each group in turn gives both: variances add up, and so do the biases that noise
    has in what is not linear, such as a norm.

    Args:
        function: takes one vector per group.
        groups: of each the vector of all draws, then those without each of the B draws, [1 + B, k].
    """
    whole = function(*(group[0] for group in groups))
    bias = variance = 0.0
    for i, group in enumerate(groups):
        fixed = [other[0] for other in groups]
        left = np.array([function(*fixed[:i], one, *fixed[i + 1 :]) for one in group[1:]])
        bias += (left.size - 1) * (left.mean() - whole)
        variance += (left.size - 1) * left.var()
    return Estimate(float(whole - bias), float(math.sqrt(variance)))


def lazy_slope(gamma0s: np.ndarray, sizes: np.ndarray) -> float:
    """Returns the exponent of gamma0 as gamma0 -> 0, of sizes ``c gamma0^s (1 + k gamma0^2)``.

    Args:
        gamma0s: three of them.
        sizes: what was measured there; NaN is returned where noise made one negative.
    """
    if not (sizes > 0).all():
        return math.nan
    design = np.stack([np.ones(3), np.log(gamma0s), gamma0s**2], axis=1)
    return float(np.linalg.solve(design, np.log(sizes))[1])
