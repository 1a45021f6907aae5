"""When a replica is no solution: it blew up, or a few samples carry everything."""

from __future__ import annotations

import numpy as np

from widelimit.dmft.causal.state import Rows
from widelimit.dmft.checks import Diverged, check_field, check_loss
from widelimit.dmft.problem import Problem
from widelimit.dmft.steps import float64_losses

MOST = 0.5  # of Phi, carried by 1% of the samples
ENOUGH = 400  # samples of which 1% say something


def check(problem: Problem, samples: int, rows: Rows, begin: int, end: int) -> None:
    """Raises at the first time that is no solution.

    Args:
        problem: what is solved.
        samples: of each average.
        rows: results so far.
        begin: the first time to be looked at.
        end: the time after the last.

    Raises:
        Diverged: if the loss or a field blew up, or 1% of the samples carry more than half of Phi.
    """
    f = np.asarray(rows.predictions)[:end, : problem.samples]
    losses = float64_losses(problem, f)
    largest = np.asarray(rows.largest).max(axis=1)
    concentrated = np.asarray(rows.concentrated).max(axis=1)
    if begin == 0 and not np.isfinite([largest[0], losses[0], concentrated[0]]).all():
        raise ValueError(
            "fields, activations or the loss are not finite before the first step: the activation must be "
            "finite for every number, and so must the loss of the first predictions."
        )
    for t in range(begin, end):
        check_field(t, float(largest[t]), float(largest[0]), problem.gamma0)
        check_loss(t, float(losses[t]), float(losses[0]))
        if samples >= ENOUGH and concentrated[t] > MOST:
            raise Concentrated(t)


class Concentrated(Diverged):
    """A few samples carry an average, so that sampling does not find it; no smaller rate need help.

    Args:
        step: after which step it was seen.
    """

    def __init__(self, step: int) -> None:
        """Says what few samples carry, and what to do."""
        super().__init__(step, "Phi")
        self.args = (
            f"1% of the samples carry more than half of Phi after step {step}: take more samples, or an "
            "activation that grows more slowly.",
        )

    def __reduce__(self) -> tuple[type[Diverged], tuple[int]]:  # type: ignore[override]
        """Pickles by what it was made from."""
        return type(self), (self.step,)
