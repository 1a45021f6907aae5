"""The rows of the NTK experiment as arrays, and the exponents fitted to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import ntk_convergence_ensembles as ensembles
from experiments.ntk_convergence_networks import PARAMETRIZATIONS, Task
from experiments.ntk_convergence_theory import Limit
from widelimit.compare import PowerLaw, fit_exponent
from widelimit.training import pivot

if TYPE_CHECKING:
    from experiments.ntk_convergence import Config

NAMES = {"ntk": "NTK", "mup": "muP"}


@dataclasses.dataclass(frozen=True)
class Quantity:
    """Something measured of every network, and what theory and pilots say of it.

    Args:
        title: for figures.
        axis: the formula, for figures.
        name: what is claimed of it.
        formula: of the quantity.
        predicted: exponent of the width by parametrization; None where nothing is claimed.
        spread: standard deviation over networks of its square, relative to the mean square, by
            parametrization: found in pilots with other seeds, rounded up.
    """

    title: str
    axis: str
    name: str
    formula: str
    predicted: Mapping[str, float | None]
    spread: Mapping[str, float]


# muP starts from the same kernel, so that its fluctuation is no claim of its own.
QUANTITIES: Mapping[str, Quantity] = {
    "fluctuation": Quantity(
        "initial kernel: distance from limit",
        r"$\|\Theta_0 - \Theta_\infty\|\; /\; \|\Theta_\infty\|$",
        "the initial kernel's distance from the analytic one",
        "|Theta_0 - Theta_inf| / |Theta_inf|",
        {"ntk": -0.5, "mup": None},
        {"ntk": 0.45, "mup": 0.45},
    ),
    "kernel": Quantity(
        "kernel: change in training",
        r"$\|\Theta_T - \Theta_0\|\; /\; \|\Theta_0\|$",
        "the kernel's change in training",
        "|Theta_T - Theta_0| / |Theta_0|",
        {"ntk": -1.0, "mup": 0.0},
        {"ntk": 0.5, "mup": 0.35},
    ),
    "features": Quantity(
        "features: change per unit",
        r"rms $(h_T - h_0)$",
        "the change of a unit's pre-activation",
        "rms(h_T - h_0)",
        {"ntk": -0.5, "mup": 0.0},
        {"ntk": 0.4, "mup": 0.1},
    ),
    "gap": Quantity(
        "gap to the own linearisation",
        r"$\|f_T - f_{\mathrm{lin},T}\|\; /\; \|y\|$",
        "the gap to the network's own linearisation",
        "|f_T - f_lin,T| / |y|",
        {"ntk": -1.0, "mup": 0.0},
        {"ntk": 0.85, "mup": 0.3},
    ),
    "cka": Quantity(
        "kernel: change of direction",
        "1 \N{MINUS SIGN} CKA" + r"$(\Theta_0, \Theta_T)$",
        "1 - CKA(Theta_0, Theta_T)",
        "1 - CKA(Theta_0, Theta_T)",
        {"ntk": -2.0, "mup": 0.0},
        {"ntk": 0.8, "mup": 0.25},
    ),
}


class Found:
    """The rows of a run as arrays and fits.

    Args:
        config: of the run.
        task: what was learned.
        limit: what was predicted.
        rows: all of them.
    """

    def __init__(self, config: Config, task: Task, limit: Limit, rows: Sequence[Mapping[str, Any]]) -> None:
        self.config, self.task, self.limit = config, task, limit
        self.widths, self.fitted = list(config.widths), list(config.widths[1:])
        self._networks = {
            name: [row for row in rows if row["stage"] == "rates" and row["parametrization"] == name]
            for name in PARAMETRIZATIONS
        }
        self.ensembles = {
            width: ensembles.Ensemble.join(
                [row for row in rows if row["stage"] == "ensemble" and row["width"] == width]
            )
            for width in config.ensemble_widths
        }
        self.bias = {
            width: ensembles.Bias.join(
                [row for row in rows if row["stage"] == "mean" and row["width"] == width]
            )
            for width in config.mean_widths
        }

    def table(self, name: str, parametrization: str) -> np.ndarray:
        """Returns a quantity of all networks, [S, W]."""
        return pivot(self._networks[parametrization], name, ("seed", "width"))[0]

    def law(self, name: str, parametrization: str) -> PowerLaw:
        """Returns the exponent of its root mean square over seeds."""
        return rms_law(self.fitted, self.table(name, parametrization)[:, 1:])

    def rms(self, name: str, parametrization: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns the root mean square over seeds at each width, and its standard error."""
        squares = self.table(name, parametrization) ** 2
        rms = np.sqrt(squares.mean(axis=0))
        return rms, squares.std(axis=0, ddof=1) / np.sqrt(len(squares)) / (2 * rms)

    @property
    def diverged(self) -> int:
        """How many networks and chunks of networks have no finite outputs."""
        bad = sum(bool(row["diverged"]) for rows in self._networks.values() for row in rows)
        means = [one.mean for one in self.ensembles.values()]
        return bad + sum(not np.isfinite(mean).all() for mean in means)

    def spectra(self, parametrization: str, when: str, width: int) -> np.ndarray:
        """Returns the kernels' eigenvalues, [S, N]."""
        rows = [row for row in self._networks[parametrization] if row["width"] == width]
        kept = [row for row in sorted(rows, key=lambda row: row["seed"]) if not row["diverged"]]
        return np.array([row[f"eigenvalues_{when}"] for row in kept])


NO_LAW = PowerLaw(*(float("nan"),) * 5, 0, 2, float("nan"))  # of what diverged: claims on it are inconclusive


def rms_law(widths: Sequence[int], values: np.ndarray) -> PowerLaw:
    """Returns the exponent of a root mean square over seeds [S, W], which widths do not share."""
    if not np.isfinite(values).all():
        return NO_LAW
    return fit_exponent(widths, values, mean="rms", paired=False)


def mean_laws(found: Found, correction: bool = False) -> tuple[PowerLaw, PowerLaw]:
    """Returns the exponents of the bias of the mean and of single networks' scatter.

    Args:
        found: the rows of a run.
        correction: fit a factor exp(k / width) as well: closer to theory at small widths, and noisier.
    """
    widths = list(found.bias)
    weights = leverage(widths, correction)
    laws = []
    for each in ([one.bias for one in found.bias.values()], [one.scatter for one in found.bias.values()]):
        values, errors = (np.array([getattr(one, name) for one in each]) for name in ("value", "stderr"))
        if not (values > 0).all():  # noise has hidden the bias, or a network diverged
            laws.append(NO_LAW)
            continue
        law = fit_exponent(widths, values, correction=correction)
        stderr = float(np.sqrt(np.sum((weights * errors / values / np.log(2)) ** 2)))
        laws.append(dataclasses.replace(law, stderr_seeds=stderr, seeds=2))
    return laws[0], laws[1]


def leverage(widths: Sequence[int], correction: bool = False) -> np.ndarray:
    """Returns how each log2(value) enters the fitted slope."""
    n = np.asarray(widths, float)
    columns = [np.ones(n.size), np.log2(n)] + ([1 / n] if correction else [])
    return np.asarray(np.linalg.pinv(np.stack(columns, axis=1))[1])
