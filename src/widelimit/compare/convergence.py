"""How fast finite networks come to a limit: fitted exponents of one network's distance, and of the mean's."""

from __future__ import annotations

import dataclasses

import numpy as np

from widelimit.compare.ensembles import squared_length_of_mean
from widelimit.compare.finite import Ensembles
from widelimit.compare.members import Moments
from widelimit.compare.orders import NAMES, side_by_side
from widelimit.compare.statistics import Estimate
from widelimit.dmft import Labelled, Solution


@dataclasses.dataclass(frozen=True, eq=False)
class Convergence:
    r"""Distances to a limit at every width, over the length of the limit, and how they fall.

    Squares are unbiased: what seeds and the limit's own Monte Carlo add on average is taken off, so that a
    distance that is not resolved is zero within its error, and may be negative.

    Args:
        widths: N, [W].
        single: mean square of one network's distance, [W].
        single_stderr: its standard error, from seeds.
        mean: square of the distance of the mean over seeds, [W].
        mean_stderr: its standard error, from seeds and the limit.
        floor: the limit's own standard error, as a length: below it no distance can be seen.
        single_rate: exponent s of the distance of one network, ~ N^s; theory says -1/2.
        mean_rate: exponent of the distance of the mean; theory says -1. NaN where fewer than two widths
            resolve it.

    Example:
        >>> found = Convergence(
        ...     np.array([8, 16]), np.array([0.04, 0.02]), np.zeros(2), np.array([0.01, -0.001]),
        ...     np.array([0.002, 0.002]), 0.01, Estimate(-0.5, 0.01), Estimate(np.nan, np.nan)
        ... )
        >>> found.resolved
        array([ True, False])
    """

    widths: np.ndarray
    single: np.ndarray
    single_stderr: np.ndarray
    mean: np.ndarray
    mean_stderr: np.ndarray
    floor: float
    single_rate: Estimate
    mean_rate: Estimate

    @property
    def resolved(self) -> np.ndarray:
        """Where the mean's distance is more than two standard errors, [W]."""
        return np.asarray(self.mean > 2 * self.mean_stderr)


def convergence(
    ensembles: Ensembles, solution: Solution, *, names: tuple[str, ...] = NAMES, correction: bool = False
) -> dict[str, Convergence]:
    r"""Fits how fast finite networks come to a limit: of every order parameter, ~ N^s with error bars.

    With v the entries of an order parameter at all times, layers and samples: one network's distance is
    ``sqrt(<|v - limit|^2>)``, dominated by fluctuations, s = -1/2; that of the mean is ``|<v> - limit|``, a
    bias, s = -1. Squares are fitted by least squares, weighted with their standard errors, so that widths at
    which noise dominates count little and need not be chosen. Error bars come from the seeds and from the
    limit's Monte Carlo, whose errors are taken as fully correlated between entries (cautious), and grow with
    the scatter about the fit.

    Args:
        ensembles: of two or more widths.
        solution: the limit; a solver's, or ``richardson``'s of other networks.
        names: which order parameters; those that are missing on either side are left out.
        correction: also fit a factor ``exp(k / N)`` in the distance, where small widths bend the line;
            needs three widths.

    Raises:
        ValueError: if there are too few widths or seeds (four at each width), or the two do not fit.

    Example:
        >>> from widelimit import dmft
        >>> from widelimit.compare import finite_ensemble
        >>> problem = dmft.Problem(
        ...     targets=[1.0], kernel=[[1.0]], steps=8, learning_rate=0.1, activation="identity"
        ... )
        >>> networks = finite_ensemble(problem, [16, 32, 64], 200, measures=["ntk"])
        >>> rates = convergence(networks, dmft.linear(problem))
        >>> abs(rates["ntk"].single_rate.z(-0.5)) < 4
        True

    Reference:
        Bordelon & Pehlevan, arXiv 2205.09653, Figure 2 (alignment with the limit against width).
    """
    widths = ensembles.widths
    fewest = min(len(own.loss) for own in ensembles.members.values())
    if len(widths) < 2 + correction or fewest < 4:
        raise ValueError(
            f"A rate needs {2 + correction} widths or more of four seeds or more; got widths {list(widths)} "
            f"with at least {fewest} seeds."
        )
    found = {}
    for name in names:
        if name not in ensembles.measures:
            continue
        distances = []
        for width in widths:
            pair = side_by_side(ensembles.solution(width), solution, name)
            if pair is None:
                break
            moments = ensembles.members[width].moments[name]
            distances.append(_distances(_cut(moments, pair[0]), pair[1]))
        else:
            found[name] = _rates(np.array(widths), np.array(distances), correction)
    return found


def _cut(moments: Moments, shown: Labelled) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Block means and mean squares at what is compared: the first or all layers, the common times."""
    whole = moments.mean()
    if shown.values.shape != whole.values.shape:
        raise ValueError(
            "The limit must hold all times and layers of the ensemble; measure it at times that both have."
        )
    count = len(moments.means)
    return moments.means.reshape(count, -1), moments.squares.reshape(count, -1), moments.sizes


def _distances(blocks: tuple[np.ndarray, np.ndarray, np.ndarray], limit: Labelled) -> np.ndarray:
    """(single, its stderr, mean, its stderr from seeds, what the limit's error may do to it, floor)."""
    means, squares, sizes = blocks
    target = limit.values.ravel()
    error = np.zeros_like(target) if limit.stderr is None else limit.stderr.ravel()
    size = float(target @ target)
    each = np.sum(squares - 2 * means * target + target**2, axis=1)
    own = float(error @ error)
    single = np.average(each, weights=sizes) - own
    spread = each.std(ddof=1) / np.sqrt(len(each))
    mean = squared_length_of_mean(means - target)
    bias = np.average(means, axis=0, weights=sizes) - target
    shared = 2 * float(np.abs(bias) @ error)
    return np.array([single, spread, mean.value - own, mean.stderr, shared, own]) / size


def _rates(widths: np.ndarray, distances: np.ndarray, correction: bool) -> Convergence:
    """The fits of both distances."""
    single, single_error, mean, mean_error, shared, own = distances.T
    none = np.zeros_like(shared)
    return Convergence(
        widths=widths,
        single=single,
        single_stderr=single_error,
        mean=mean,
        mean_stderr=np.hypot(mean_error, shared),
        floor=float(np.sqrt(own[0])),
        single_rate=fit_squares(widths, single, single_error, none, correction),
        mean_rate=fit_squares(widths, mean, mean_error, shared, correction),
    )


def fit_squares(
    widths: np.ndarray, squares: np.ndarray, errors: np.ndarray, shared: np.ndarray, correction: bool
) -> Estimate:
    r"""Returns s of ``square = (c N^s exp(k / N))^2``, by least squares weighted with the errors.

    Args:
        widths: [W].
        squares: unbiased, may be negative, [W].
        errors: their independent standard errors, [W].
        shared: a further error that moves all of them together, [W].
        correction: whether k is fitted, or 0.
    """
    from scipy.optimize import least_squares

    total = np.hypot(errors, shared)
    seen = squares > 2 * total
    if seen.sum() < 2:
        return Estimate(float("nan"), float("nan"))
    x = np.log(widths / np.exp(np.mean(np.log(widths))))
    columns = [np.ones_like(x), 2 * x, *([2 * (1 / widths - np.mean(1 / widths))] if correction else [])]
    design = np.stack(columns, axis=1)
    weight = 1 / np.maximum(errors, 1e-9 * np.abs(squares))
    start = np.zeros(design.shape[1])
    start[:2] = np.linalg.lstsq(design[seen, :2], np.log(squares[seen]), rcond=None)[0]

    def misfit(theta: np.ndarray) -> np.ndarray:
        return np.asarray(weight * (np.exp(np.clip(design @ theta, -300, 300)) - squares))

    fit = least_squares(misfit, start, x_scale="jac")
    inverse = np.linalg.pinv(fit.jac)
    spare = max(len(x) - design.shape[1], 0)
    scatter = max(1.0, float(np.sum(fit.fun**2) / spare)) if spare else 1.0
    own = np.sum(inverse[1] ** 2) * scatter
    return Estimate(float(fit.x[1]), float(np.sqrt(own + (inverse[1] @ (weight * shared)) ** 2)))
