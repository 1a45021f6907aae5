"""From networks to rows: what is kept of each, and how many are needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.ntk_convergence_networks import Task
from experiments.ntk_convergence_theory import Limit, deviations, linearised
from widelimit.compare import samples_for_slope, squared_length_of_mean
from widelimit.kernels import spectra

if TYPE_CHECKING:
    from experiments.ntk_convergence import Config

OVERHEAD = 100  # a network of width n costs about n^2 + 100 n: small ones spend their time on the inputs


def at_once(batch: int, width: int) -> int:
    """Returns how many networks of a width are trained at once."""
    return max(1, min(batch, batch * 128**2 // width**2))


def chunk(batch: int, width: int) -> int:
    """Returns how many networks of a width make a row."""
    return 8 * at_once(batch, width)


def of_network(
    task: Task, limit: Limit, measured: Mapping[str, Mapping[str, np.ndarray]]
) -> list[dict[str, Any]]:
    """Returns a row per parametrization of one network; kernels are those of the training points.

    Args:
        task: what it learned.
        limit: the prediction.
        measured: as ``networks.measure`` returns it.
    """
    reference = _symmetric(measured["ntk"]["kernel_0"])
    result = []
    for name, one in measured.items():
        start = _symmetric(one["kernel_0"])
        before = {
            "parametrization": name,
            "fluctuation": spectra.relative_change(
                start[: task.train, : task.train], _train(task, limit.ntk)
            ),
            "differs": spectra.relative_change(start, reference),
        }
        diverged = not all(np.isfinite(array).all() for array in one.values())
        after = dict.fromkeys(AFTER) if diverged else _after(task, start, one)
        result.append({**before, **after, "diverged": diverged})
    return result


AFTER = (
    *("kernel", "features", "gap", "cka", "motion", "train_loss", "test_loss", "trace_ratio"),
    *("alignment_0", "alignment_T", "rank_0", "rank_T", "eigenvalues_0", "eigenvalues_T"),
)


def _after(task: Task, start: np.ndarray, one: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns what training did to a network that has not diverged, in the order of ``AFTER``."""
    y, outputs = task.targets[:, 0].astype(float), one["outputs"].astype(float)
    first, last = _train(task, start), _train(task, _symmetric(one["kernel_T"]))
    linear = linearised(task, start, outputs[0], y[: task.train])
    errors, labels = (outputs[-1] - y) ** 2 / 2, y[: task.train]
    values = (
        spectra.relative_change(last, first),
        float(one["features"]),
        float(np.linalg.norm(outputs[-1] - linear) / np.linalg.norm(y)),
        spectra.cka_gap(last, first),
        float(one["motion"]),
        float(errors[: task.train].mean()),
        float(errors[task.train :].mean()),
        spectra.trace_ratio(last, first),
        spectra.alignment(first, labels, centred=True),
        spectra.alignment(last, labels, centred=True),
        spectra.effective_rank(np.linalg.eigvalsh(first)),  # of a kernel, float64 would allow less rounding
        spectra.effective_rank(np.linalg.eigvalsh(last)),
        np.linalg.eigvalsh(first),
        np.linalg.eigvalsh(last),
    )
    return dict(zip(AFTER, values, strict=True))


def _train(task: Task, kernel: np.ndarray) -> np.ndarray:
    """Returns the kernel of the training points."""
    return kernel[: task.train, : task.train]


def _symmetric(kernel: np.ndarray) -> np.ndarray:
    """Returns a kernel in double precision without the asymmetry of rounding."""
    kernel = np.asarray(kernel, float)
    return (kernel + kernel.T) / 2


def of_curves(limit: Limit, outputs: np.ndarray) -> dict[str, Any]:
    """Returns what is kept of an ensemble's curves: first and second moments over networks."""
    end = outputs[:, -1]
    return {
        "mean": outputs.mean(axis=0),
        "square": (outputs**2).mean(axis=0),
        "second": end.T @ end / len(end),
    }


def of_deviations(limit: Limit, outputs: np.ndarray) -> dict[str, Any]:
    """Returns what is kept for the bias of the mean: f_T - mean, with and without the control variate."""
    plain, controlled = outputs[:, -1] - limit.mean[-1], deviations(limit, outputs)
    return {
        "plain": plain.mean(axis=0),
        "plain_square": (plain**2).sum(axis=1).mean(),
        "controlled": controlled.mean(axis=0),
        "controlled_square": (controlled**2).sum(axis=1).mean(),
    }


def power(config: Config, pilot: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    """Returns how many networks each width needs for the exponent of the bias; empty before the pilot.

    To leading order the bias is beta / n and the covariance of a network's deviation is Sigma / n. The length
    of the mean over S networks then has relative variance r / S, r = n b.Sigma.b / |beta|^2 with b the unit
    vector along beta. Both constants come from the pilot, beta without the bias of its own noise.

    Args:
        config: of the run.
        pilot: the rows of the pilot, whose networks are used for nothing else.
    """
    widths = sorted({row["width"] for row in pilot})
    if len(widths) < 2:
        return {}
    beta, lengths, spreads = [], [], []
    for width in widths:
        own = [row for row in pilot if row["width"] == width]
        means = np.array([row["controlled"] for row in own], float)
        if not np.isfinite(means).all():  # a network diverged: no exponent, however many there are
            return {each: 3 * chunk(config.batch, each) for each in config.mean_widths}
        beta.append(width * means.mean(axis=0))
        lengths.append(width**2 * squared_length_of_mean(means).value)
        spreads.append(width * own[0]["networks"] * np.cov(means.T))
    along = np.mean(beta, axis=0)
    along /= np.linalg.norm(along)
    least = 0.1 * float(
        np.mean(np.sum(np.square(beta), axis=1))
    )  # where noise hides it: many networks, capped
    ratio = float(along @ np.mean(spreads, axis=0) @ along) / max(float(np.mean(lengths)), least)
    n = np.array(config.mean_widths, float)
    wanted = samples_for_slope(n, ratio * n, n**2 + OVERHEAD * n, config.mean_stderr)
    counts = {}
    for width, count in zip(config.mean_widths, wanted.tolist(), strict=True):
        size = chunk(config.batch, width)
        counts[width] = size * max(3, -(-min(count, config.most) // size))
    return counts
