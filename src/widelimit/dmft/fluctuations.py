"""Finite width: how the mean and the spread of a two-layer network of width N leave the limit, as 1/N."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from widelimit.dmft.fluctuations_linear import Estimate, Moments, moments
from widelimit.dmft.fluctuations_networks import trained_networks
from widelimit.dmft.labelled import Labelled
from widelimit.dmft.problem import Problem, ResidualProblem
from widelimit.dmft.steps import check_path, is_identity, wide
from widelimit.dmft.two_layer_noise import check_draws, check_whole, draw, gaussian, padded, root, starts
from widelimit.dmft.two_layer_particles import form, setting, simulate
from widelimit.kernels.empirical.budget import parse_bytes
from widelimit.models import activation

_POINTS, _MODES = 2**13, 4000
"""Points of a default quadrature, and (step, sample, output) that a propagator has, at most."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FiniteWidth:
    r"""What is left of a finite width: at width N the mean is limit + bias / N, the variance variance / N.

    Args:
        problem: whose network it is.
        method: how it was computed.
        bias: of predictions, axes (time, sample) or (time, sample, output).
        variance: of predictions over networks, alike.
        ntk_bias: of the tangent kernel after training, axes (sample, sample') or (sample, output, sample',
            output').
        ntk_variance: of each entry of it, alike.
        diagnostics: numbers by name.

    Example:
        >>> problem = Problem(
        ...     targets=[1.0], kernel=[[1.0]], steps=2, learning_rate=0.1, activation="identity"
        ... )
        >>> finite_width(problem, method="quadrature").variance.axes
        ('time', 'sample')
    """

    problem: Problem
    method: str
    bias: Labelled
    variance: Labelled
    ntk_bias: Labelled
    ntk_variance: Labelled
    diagnostics: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def finite_width(
    problem: Problem,
    *,
    method: Literal["propagator", "quadrature", "networks"] = "propagator",
    centred: bool = True,
    samples: int = 2048,
    replicas: int = 8,
    nodes: int | None = None,
    widths: Sequence[int] = (32, 64),
    networks: int = 4096,
    seed: int = 0,
    memory: str | float = 4 * 2**30,
) -> FiniteWidth:
    r"""Returns the leading 1/N bias and variance of a two-layer network's predictions and final NTK.

    ``"propagator"``: neurons are independent given the outputs f, and f is the average A[f] over them, so
    that fluctuations obey ``N Cov(f) = (1 - A')^{-1} Sigma (1 - A')^{-T}``, with Sigma the covariance over
    single neurons and A' the derivative through training; the second order gives the bias. Averages are over
    particles, with error bars over replicas. ``"quadrature"`` is the same over Gaussian nodes;
    ``diagnostics["quadrature_error"]`` is its largest change from a coarser grid, relative to the largest
    entry.
    ``"networks"`` trains networks of several widths and extrapolates N times their bias and variance to
    ``1/N -> 0``; it alone knows activations with kinks, whose second derivative is concentrated there.

    Args:
        problem: of depth 1, with gamma0 > 0.
        method: as above.
        centred: whether networks are trained on f - f_0, as the problem says, or on f, whose f_0 fluctuates.
        samples: particles of a replica.
        replicas: independent sets of particles.
        nodes: of the quadrature in each direction; None is as many as fit 2^13 points, for ``"identity"`` 4,
            which is exact.
        widths: of the networks, two or more: the extrapolation is linear in 1/N.
        networks: trained at every width.
        seed: of the noise.
        memory: bytes that may be used, or text such as "2GiB".

    Raises:
        ValueError: for a deeper or residual network, gamma0 = 0, a kink where derivatives are taken, or
            what does not fit.
        Diverged: if the limit does.

    Example:
        >>> problem = Problem(
        ...     targets=[1.0], kernel=[[1.0]], steps=400, learning_rate=0.0125, activation="identity"
        ... )
        >>> raw = finite_width(problem, method="quadrature", centred=False)
        >>> print(raw.ntk_variance.values.round(1), raw.ntk_bias.values.round(1))  # 4/s^2, -1/s^3, s^2 = 2
        [[2.]] [[-0.4]]

    Reference:
        Bordelon & Pehlevan, Dynamics of Finite Width Kernel and Prediction Fluctuations in Mean Field Neural
        Networks (arXiv 2304.03408).
    """
    _check(problem, method)
    allowed = parse_bytes(memory)
    began = time.perf_counter()
    if method == "networks":
        found, diagnostics = trained_networks(problem, centred, widths, networks, seed, allowed)
    else:
        found, diagnostics = _propagated(problem, method, centred, samples, replicas, nodes, seed, allowed)
    return _labelled(problem, method, found, diagnostics | {"seconds": time.perf_counter() - began})


def _check(problem: Problem, method: str) -> None:
    """Refuses what has no such expansion, or none here."""
    if isinstance(problem, ResidualProblem) or problem.depth != 1:
        raise ValueError(
            f"finite_width is for networks with depth 1 and no branches; got {type(problem).__name__} of "
            f"depth {problem.depth}. Take compare.finite_ensemble."
        )
    if problem.gamma0 == 0:
        raise ValueError(
            "finite_width needs gamma0 > 0; for the lazy limit give a small one: corrections are O(gamma0^2)."
        )
    if method not in ("propagator", "quadrature", "networks"):
        raise ValueError(f'method must be "propagator", "quadrature" or "networks"; got {method!r}.')
    if method != "networks" and has_kink(problem):
        raise ValueError(
            f"{method!r} differentiates through training and the activation has a kink; take "
            'method="networks".'
        )


def has_kink(problem: Problem) -> bool:
    """Whether phi' jumps somewhere in [-6, 6]: it still does on a grid ten times as fine."""
    phi, jumps = activation(problem.activation), []
    with jax.enable_x64(True):
        for points in (12_001, 120_001):
            x = jnp.linspace(-6.0, 6.0, points) + 1e-7
            slope = jax.jvp(phi, (x,), (jnp.ones_like(x),))[1]
            jumps.append(float(np.abs(np.diff(np.asarray(slope))).max()))
    return jumps[1] > 0.5 * jumps[0] > 1e-9


def _propagated(
    problem: Problem,
    method: str,
    centred: bool,
    samples: int,
    replicas: int,
    nodes: int | None,
    seed: int,
    memory: float,
) -> tuple[Estimate, dict[str, Any]]:
    """Moments from derivatives, over particles or nodes."""
    factor = root(problem)
    rank, outputs = factor.shape[1], problem.outputs
    if method == "quadrature":
        size = _nodes(problem, rank + outputs, nodes)
        rules = padded([gaussian(rank + outputs, count) for count in (max(3, int(size / 1.4)), size)])
    else:  # noise that matches second moments would lower the fourth, which variances are
        check_draws("antithetic", samples, rank, outputs)
        check_whole("replicas", replicas, 2)
        streams = np.random.default_rng(seed).spawn(replicas)
        drawn = (np.concatenate(draw(rank, outputs, samples, "antithetic", stream)) for stream in streams)
        rules = [(places, np.full(samples, 1 / samples)) for places in drawn]
    needed = _fit(problem, len(rules[0][1]), memory)
    results = []
    with jax.enable_x64(True):
        kind, at = form(problem), setting(problem, np.float64)
        for places, weights in rules:
            u, r, average = starts(factor, places, weights, np.float64)
            seen = simulate(kind, at, u, r, average, ntk=False)
            path = np.asarray(seen.predictions)
            check_path(problem, path, seen.size)
            results.append(moments(kind, at, centred, path, np.asarray(u).T, np.asarray(r).T, weights))
    diagnostics: dict[str, Any] = {"points": len(rules[0][1]), "bytes": needed}
    if method == "quadrature":
        changes = (np.abs(a - b).max() / max(np.abs(b).max(), 1e-300) for a, b in zip(*results, strict=True))
        return Estimate(results[-1], None), diagnostics | {"quadrature_error": float(max(changes))}
    return _combine(results), diagnostics | {"replicas": replicas}


def _nodes(problem: Problem, dimensions: int, nodes: int | None) -> int:
    """Quadrature nodes in each direction."""
    if nodes is None:
        most = 4 if is_identity(problem) else 128
        nodes = min(most, int(_POINTS ** (1 / dimensions) + 1e-9))
        if nodes < min(most, 8):
            raise ValueError(
                f"Quadrature in {dimensions} dimensions (the kernel's rank and the outputs) would have "
                f'{nodes} nodes in each: too few. Take method="propagator".'
            )
    check_whole("nodes", nodes, 3)
    return int(nodes)


def _fit(problem: Problem, particles: int, memory: float) -> int:
    """Bytes that the propagator needs; refused if too large."""
    modes = problem.steps * problem.samples * problem.outputs
    values = (problem.steps + 1) * problem.points * problem.outputs
    ntk = (problem.points * problem.outputs) ** 2
    needed = 8 * (4 * particles * (values + ntk) + 4 * modes * (modes + values + ntk))
    if modes > _MODES or needed > memory:
        raise ValueError(
            f"The propagator of {modes} (step, sample, output) and {particles} particles needs "
            f"{needed / 2**30:.3g} GiB; at most {_MODES} and memory = {memory / 2**30:.3g} GiB are allowed. "
            'Take fewer steps or samples, or method="networks".'
        )
    return needed


def _combine(results: list[Moments]) -> Estimate:
    """Mean over replicas and its standard error."""
    stacked = [np.stack(parts) for parts in zip(*results, strict=True)]
    errors = (part.std(0, ddof=1) / math.sqrt(len(results)) for part in stacked)
    return Estimate(Moments(*(part.mean(0) for part in stacked)), Moments(*errors))


def _labelled(problem: Problem, method: str, found: Estimate, diagnostics: dict[str, Any]) -> FiniteWidth:
    """Puts names on everything."""
    times, points, outputs = problem.steps + 1, problem.points, problem.outputs
    many = wide(problem)
    size = (outputs,) if many else ()
    output, output_ = (("output",), ("output'",)) if many else ((), ())
    f = ((times, points, *size), ("time", "sample", *output))
    ntk = ((points, *size, points, *size), ("sample", *output, "sample'", *output_))

    def named(name: str) -> Labelled:
        shape, axes = ntk if name.startswith("ntk") else f
        error = None if found.stderr is None else getattr(found.stderr, name).reshape(shape)
        return Labelled(getattr(found.value, name).reshape(shape), axes, error)

    return FiniteWidth(
        problem=problem,
        method=method,
        bias=named("bias"),
        variance=named("variance"),
        ntk_bias=named("ntk_bias"),
        ntk_variance=named("ntk_variance"),
        diagnostics=diagnostics,
    )
