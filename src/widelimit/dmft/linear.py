"""Deep linear networks of infinite width: exact, causal, with nothing sampled."""

from __future__ import annotations

import dataclasses
import time

import numpy as np

from widelimit.dmft.lazy import lazy
from widelimit.dmft.linear_state import LinearState
from widelimit.dmft.problem import Problem, ResidualProblem, check_kind
from widelimit.dmft.residual_linear import residual_linear
from widelimit.dmft.solution import Solution
from widelimit.dmft.steps import is_identity


def linear(problem: Problem, *, memory: str | float = 4 * 2**30) -> Solution:
    r"""Returns the training of an infinitely wide deep linear network, exactly, for finite steps.

    For phi = identity all fields are linear in Gaussians, and the theory closes in covariances:

    ``h^l = keep u^l + C^l g^l``,  ``g^l = keep r^l + D^l h^l``,
    ``C^l = keep gamma0 A^{l-1} + gamma0 drive H^{l-1} share Delta``,  ``D^l`` alike from B^l and G^{l+1},
    ``H^l = <h^l h^l>``, ``G^l = <g^l g^l>``, ``gamma0 A^l = d h^l / d r^l``,
    ``gamma0 B^{l-1} = d g^l / d u^l``, ``f = <w . h^L> / gamma0``,

    with C and D strictly causal, so that one pass through time solves it: no iteration, no inverse. g^l has
    an index of time and output and none of the sample. Cost ``O(L (P T)^2 C T)``, of products of matrices;
    memory ``8 L (P T)^2`` bytes, P with test points. Covariances of g with h at two times follow from those
    of the next layer and the updates of the weights between.

    Args:
        problem: with ``activation="identity"``, of any depth, loss, number of outputs, momentum, weight
            decay and batches. A ``ResidualProblem`` has layers 0..L, the stream before and behind branches.
            At gamma0 = 0 the answer is that of ``lazy``.
        memory: bytes that may be used, or text such as "2GiB".

    Returns:
        The solution. Its gradients have axes (layer, time, time'), or (layer, time, output, time',
        output') where targets are [P, C]; feature_response those of features and gradients (time, sample,
        time', output'), gradient_response (time, output, time', sample') of training points, layers 1..L-1.

    Raises:
        ValueError: for another activation, or if memory does not suffice.
        Diverged: if training blows up.

    Example:
        >>> problem = Problem(
        ...     targets=[1.0], kernel=[[1.0]], steps=600, learning_rate=0.01, depth=2, activation="identity"
        ... )
        >>> linear(problem).ntk.values[-2].round(5).item()
        5.15489

    Reference:
        Bordelon & Pehlevan, Self-Consistent Dynamical Field Theory of Kernel Evolution in Wide Neural
        Networks (arXiv 2205.09653), deep linear networks.
    """
    check_kind(problem, "linear")
    if not is_identity(problem):
        raise ValueError(
            f'dmft.linear solves linear networks, activation="identity"; got {problem.activation!r}. Use '
            "dmft.two_layer or dmft.mlp."
        )
    if problem.gamma0 == 0:
        return _lazy(problem, memory)
    if isinstance(problem, ResidualProblem):
        return residual_linear(problem, memory=memory)
    began = time.perf_counter()
    state = LinearState(problem, memory)
    with np.errstate(over="ignore", invalid="ignore"):
        for t in range(problem.steps + 1):
            state.forward(t)
            state.backward(t)
    return state.solution(began)


def _lazy(problem: Problem, memory: str | float) -> Solution:
    """The lazy limit in the axes of a linear network, whose gradients have no sample."""
    solution = lazy(problem, memory=memory)
    assert solution.gradients is not None
    return dataclasses.replace(
        solution, solver="linear", gradients=solution.gradients.at(sample=0, sample_=0)
    )
