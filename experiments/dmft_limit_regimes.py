"""What one regime holds: predictions of infinite width, networks, and the distances between them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from widelimit import dmft
from widelimit.compare import Convergence, Ensembles, Estimate, convergence, richardson

if TYPE_CHECKING:
    from experiments.dmft_limit import Config

REGIMES = ("lazy", "rich")
QUANTITIES = {
    "predictions": "predictions",
    "loss": "loss curves",
    "features": "feature kernels",
    "gradients": "gradient kernels",
    "ntk": "tangent kernels",
}
# Of the means of these, the pilot's slope bent over the widths: their exponents are fitted together with a
# factor exp(k / N).
BENT = ("gradients", "ntk")


class Sizes(NamedTuple):
    """Distances at every width, as lengths.

    Attributes:
        values: relative to the limit's own length, [W]; 0 where noise is larger.
        errors: standard errors, [W].
    """

    values: np.ndarray
    errors: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Regime:
    """One gamma0: three predictions and the networks.

    Args:
        name: "lazy" or "rich".
        problem: what was solved.
        full: DMFT's solution.
        none: without response functions, f by the kernel's own Euler steps.
        euler: with responses, f by the same steps: what the rule alone misses.
        lazy: the NTK's, exact.
        ensembles: the networks.
    """

    name: str
    problem: dmft.Problem
    full: dmft.Solution
    none: dmft.Solution
    euler: dmft.Solution
    lazy: dmft.Solution
    ensembles: Ensembles

    @property
    def widths(self) -> tuple[int, ...]:
        """The widths, increasing."""
        return self.ensembles.widths

    @functools.cached_property
    def rates(self) -> dict[str, Convergence]:
        """How the networks come to DMFT."""
        return convergence(self.ensembles, self.full)

    @functools.cached_property
    def corrected(self) -> dict[str, Convergence]:
        """The same, with a factor exp(k / N) fitted too."""
        return convergence(self.ensembles, self.full, correction=True)

    def rate(self, quantity: str, which: str) -> tuple[Estimate, bool]:
        """The fitted exponent, and whether a correction was fitted with it."""
        bent = which == "mean" and quantity in BENT
        return getattr((self.corrected if bent else self.rates)[quantity], f"{which}_rate"), bent

    @functools.cached_property
    def extrapolated(self) -> dmft.Solution:
        """The networks at infinite width, without any theory."""
        return richardson(self.ensembles)

    def sizes(self, quantity: str, which: str) -> Sizes:
        """Distances of single networks ("single") or of their mean ("mean") from DMFT."""
        found = self.rates[quantity]
        squares, errors = getattr(found, which), getattr(found, f"{which}_stderr")
        values = np.sqrt(np.maximum(squares, 0.0))
        return Sizes(values, errors / (2 * np.maximum(values, np.sqrt(errors))))

    def off(self, solution: dmft.Solution) -> Estimate:
        """Distance of a prediction's f from the extrapolated networks', over the latter's length.

        The noise of both is taken off.
        """
        measured, value = self.extrapolated.predictions, solution.predictions
        errors = [part.stderr for part in (measured, value) if part.stderr is not None]
        noise = sum((np.mean(error**2) for error in errors), 0.0)
        size = np.sqrt(np.mean(measured.values**2))
        gap = np.sqrt(max(np.mean((value.values - measured.values) ** 2) - noise, 0.0))
        return Estimate(float(gap / size), float(np.sqrt(noise) / size))


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """Everything a run found.

    Args:
        config: of the run.
        lazy: the lazy regime.
        rich: the rich one.
        test_targets: of the held-out images' first output.
        rows: finished stages.
    """

    config: Config
    lazy: Regime
    rich: Regime
    test_targets: np.ndarray
    rows: Sequence[dict[str, Any]]

    @property
    def regimes(self) -> tuple[Regime, Regime]:
        """Both."""
        return self.lazy, self.rich


def describe(regime: str, what: str, solution: dmft.Solution, seconds: float) -> str:
    """A line about a finished stage."""
    loss = solution.loss
    error = "" if loss.stderr is None else f" +- {loss.stderr[-1]:.1g}"
    return f"{regime}: {what}: final loss {loss.values[-1]:.4g}{error} ({seconds:.0f} s)"
