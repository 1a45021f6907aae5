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
    for t in range(begin, end):
        check_field(t, float(largest[t]), float(largest[0]))
        check_loss(t, float(losses[t]), float(losses[0]))
        if samples >= ENOUGH and concentrated[t] > MOST:
            raise Diverged(t, "the activation of 1% of the samples, which carry more than half of Phi,")
