"""Flops of the mean-field solvers: what their stated orders count, apart from any machine.

Products of matrices only, 2 per multiplication. Deep networks by the planner (a test holds it against the
traced program), particles by the traced program, linear networks, which are numpy, as they run.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from benchmarks.dmft_cases import Case
from benchmarks.ntk_flops import count
from widelimit import dmft
from widelimit.dmft.linear_state import LinearState
from widelimit.dmft.two_layer_particles import form, setting, simulate


def flops(case: Case) -> float:
    """Returns the flops of one replica of ``mlp``, of one call of the other solvers."""
    problem = case.problem()
    if case.solver == "mlp":
        options = {"samples": case.S, "replicas": case.R, "control_variate": False}
        return dmft.plan(problem, **options).flops / (case.R + 1)  # one is solved twice, for the bias
    if case.solver == "linear":
        return _linear(problem)
    kind, at = form(problem), setting(problem)
    start = jnp.zeros((case.P, case.S)), jnp.zeros((1, case.S)), jnp.ones((1, 1))
    return case.R * count(lambda u, r, weights: simulate(kind, at, u, r, weights), *start)


class Counting(np.ndarray):
    """An array that counts products of matrices; its views and results count too."""

    total = 0.0

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        """Computes as numpy does."""
        plain = [_plain(value) for value in inputs]
        if out is not None:
            options["out"] = tuple(_plain(value) for value in out)
        found = getattr(ufunc, method)(*plain, **options)
        if ufunc is np.matmul:
            Counting.total += 2.0 * found.size * plain[0].shape[-1]
        return out[0] if out is not None else np.asarray(found).view(Counting)


def _plain(value: Any) -> Any:
    """Without counting."""
    return value.view(np.ndarray) if isinstance(value, Counting) else value


def _linear(problem: dmft.Problem) -> float:
    """Solves with arrays that count."""
    state = LinearState(problem, 2**40)
    for name, value in vars(state).items():
        if isinstance(value, np.ndarray):
            setattr(state, name, value.view(Counting))
    Counting.total = 0.0
    for t in range(problem.steps + 1):
        state.forward(t)
        state.backward(t)
    return Counting.total
