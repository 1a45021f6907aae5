"""Residual networks of infinite width and depth: several depths with the same noise, extrapolated."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence

import numpy as np

from widelimit.dmft.causal.settings import NOT_LAZY
from widelimit.dmft.labelled import Labelled
from widelimit.dmft.lazy import lazy
from widelimit.dmft.problem import ResidualProblem
from widelimit.dmft.replicas import Arrays
from widelimit.dmft.residual import Notes, check, fits, noise, settings
from widelimit.dmft.residual_results import Replicas, arrays, extrapolated
from widelimit.dmft.residual_step import Run
from widelimit.dmft.solution import Solution
from widelimit.dmft.steps import float64_losses


def infinite_depth(
    problem: ResidualProblem,
    *,
    depths: Sequence[int] = (8, 16, 32),
    samples: int | None = 2000,
    replicas: int = 8,
    seed: int = 0,
    response: str = "auto",
    output_rule: str = "exact",
    tolerance: float | None = None,
    memory: str | float = 2**32,
) -> Solution:
    r"""Returns the limit of a residual network's training as depth goes to infinity after width.

    At ``tau = k / L`` and for alpha = 1/2 the equations of ``residual`` become, with Brownian U and R,

    ``dh = b keep dU + b^2 (gamma0 keep A + sum c Phi) g dtau``,  ``E[dU dU'] = Phi(tau) dtau``,
    ``-dg = phi'(h) [b keep dR + b^2 (gamma0 keep B + sum c G) phi(h) dtau]``;

    networks of depth L are its Euler scheme. For alpha > 1/2 the initial branches add to ``L^(1 - 2 alpha)``,
    that is nothing, and with them dU, dR, A and B vanish: each neuron follows an ordinary differential
    equation from its h(0) and readout. Both err by 1/L at L nodes, which extrapolation over several L takes
    away, power by power. All depths share their Brownian paths, so that their difference has little noise.

    Args:
        problem: residual, of any depth, which plays no role.
        depths: L of the solutions to extrapolate from, increasing, each a divisor of the last and a multiple
            of the first. Two remove 1/L, three also 1/L^2.
        samples: as in ``residual``.
        replicas: as in ``residual``.
        seed: as in ``residual``.
        response: as in ``residual``.
        output_rule: as in ``residual``.
        tolerance: as in ``residual``.
        memory: bytes that one replica at the last depth may take, or text such as "2GiB".

    Returns:
        The solution. Layer k of its order parameters is ``tau = k / depths[0]``. Diagnostics as in
        ``residual``, and ``depths``, ``depth_error`` (root mean square over time and samples of the change
        in f when the first depth is left out) and ``depth_slope``, the exponent of f's changes from depth to
        depth, -1 where 1/L rules (NaN for fewer than three depths).

    Raises:
        TypeError: as ``residual``.
        ValueError: as ``residual``, and for depths that do not nest.
        Diverged: if training blows up.

    Example:
        >>> problem = ResidualProblem(
        ...     targets=[1.0], kernel=[[1.0]], steps=2, learning_rate=0.1, activation="identity"
        ... )
        >>> found = infinite_depth(problem, depths=(8, 16, 32), samples=None)
        >>> abs(float(found.ntk.values[0, 0, 0]) - 3 * math.e) < 0.005
        True

    Reference:
        Bordelon et al., Depthwise Hyperparameter Transfer in Residual Networks (arXiv 2309.16620), limit of
        infinite depth.
    """
    check(problem, samples, replicas, seed, response, output_rule, 0)
    strides = _strides(depths)
    began = time.perf_counter()
    flow = problem.branch_exponent > 0.5
    chosen = dataclasses.replace(settings(samples, response, output_rule, tolerance, 0), random=not flow)
    at = [_of_depth(problem, depth) for depth in depths]
    weights = extrapolation(depths)
    if problem.gamma0 == 0:
        if not flow and response == "none" and output_rule == "exact":  # a flow has no responses to leave out
            raise ValueError(NOT_LAZY)
        return _lazy(problem, at, depths)
    fits(at[-1], samples, memory)
    found, notes, curves = Replicas(), Notes(), []
    for replica in range(replicas if samples else 1):
        parts: list[Arrays] = []
        for one in at:
            merge = 1 if flow else depths[-1] // one.depth
            run = Run(one, noise(one, samples, (seed, replica), merge), chosen).run()
            notes.add(run)
            parts.append(arrays(run))
        curves.append(np.stack([part["predictions"] for part in parts]))
        found.add(extrapolated(parts, weights, strides))
    error, slope = _convergence(np.mean(curves, axis=0), depths)
    diagnostics = {
        "seconds": time.perf_counter() - began,
        **notes.summary(samples),
        "replicas": len(curves),
        "depths": list(depths),
        "depth_error": error,
        "depth_slope": slope,
    }
    return found.solution(problem, "infinite_depth", diagnostics)


def extrapolation(depths: Sequence[int]) -> list[float]:
    """Weights that take a polynomial in 1/L from these L to 1/L = 0 (Lagrange)."""
    return [math.prod(depth / (depth - other) for other in depths if other != depth) for depth in depths]


def _strides(depths: Sequence[int]) -> list[int]:
    """Layers per node that all depths share."""
    nested = len(depths) >= 2 and list(depths) == sorted(set(depths)) and min(depths) >= 1
    if not nested or any(depth % depths[0] or depths[-1] % depth for depth in depths):
        raise ValueError(
            "depths must be two or more increasing numbers, each a multiple of the first and a divisor of "
            f"the last, such as (8, 16, 32); got {tuple(depths)}."
        )
    return [depth // depths[0] for depth in depths]


def _of_depth(problem: ResidualProblem, depth: int) -> ResidualProblem:
    """The same problem with another number of branches."""
    if problem.inputs is None:
        return dataclasses.replace(problem, depth=depth)
    return dataclasses.replace(problem, depth=depth, kernel=None)


def _lazy(problem: ResidualProblem, at: Sequence[ResidualProblem], depths: Sequence[int]) -> Solution:
    """The limit of small gamma0: kernels, and with them all else, extrapolated."""
    if 0.5 < problem.branch_exponent < 1:
        raise ValueError(
            "at gamma0 = 0 depths are extrapolated in powers of 1/L, for branch_exponent 1/2 or 1; got "
            f"{problem.branch_exponent!r}."
        )
    found = [lazy(one) for one in at]
    parts = [
        {
            name: value.values
            for name in ("predictions", "features", "gradients", "ntk")
            if (value := getattr(one, name)) is not None
        }
        for one in found
    ]
    mixed = extrapolated(parts, extrapolation(depths), _strides(depths))
    labels = {name: getattr(found[0], name)._replace(values=value) for name, value in mixed.items()}
    train = mixed["predictions"][:, : problem.samples].reshape(-1, problem.samples, problem.outputs)
    error, slope = _convergence(np.stack([part["predictions"] for part in parts]), depths)
    return Solution(
        problem=problem,
        solver="infinite_depth",
        loss=Labelled(float64_losses(problem, train), ("time",)),
        diagnostics={
            "seconds": sum(one.diagnostics["seconds"] for one in found),
            "depths": list(depths),
            "depth_error": error,
            "depth_slope": slope,
        },
        **labels,
    )


def _convergence(curves: np.ndarray, depths: Sequence[int]) -> tuple[float, float]:
    """What the first depth changes in the extrapolated f, and the exponent of the changes with depth."""
    whole = np.tensordot(extrapolation(depths), curves, 1)
    if len(depths) < 3:
        return _size(whole - curves[-1]), math.nan
    error = _size(whole - np.tensordot(extrapolation(depths[1:]), curves[1:], 1))
    first, second = (_size(curves[i + 1] - curves[i]) for i in (-3, -2))
    if not first or not second:  # nothing changes with depth: no exponent
        return error, math.nan
    return error, math.log(second / first) / math.log(depths[-1] / depths[-2])


def _size(values: np.ndarray) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.mean(values**2)))
