"""The same moments from trained networks: S particles with plain noise are a network of width S."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from widelimit.dmft.checks import Diverged
from widelimit.dmft.fluctuations_linear import Estimate, Moments
from widelimit.dmft.problem import Problem
from widelimit.dmft.steps import is_identity
from widelimit.dmft.two_layer import two_layer
from widelimit.dmft.two_layer_noise import draw, root, starts
from widelimit.dmft.two_layer_particles import (
    Form,
    Setting,
    form,
    precision,
    setting,
    simulate,
    tangent_kernel,
)
from widelimit.kernels.analytic.duals import dual

_BATCHES = 8
"""Networks are trained in so many batches, which bounds the memory."""
_FEW = 3
"""Up to so many dimensions the limit is taken from quadrature."""


@functools.partial(jax.jit, static_argnames=("kind", "centred"))
def train(
    kind: Form, at: Setting, centred: bool, u: jax.Array, r: jax.Array, weights: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Trains networks u [B, n, N], r [B, C, N].

    Returns:
        Outputs [B, T + 1, n, C], the last tangent kernels [B, n C, n C], the first, and <phi(u) r> [B, n, C].
    """

    def one(u: jax.Array, r: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        path = simulate(kind, at, u, r, weights, ntk=False, centred=centred)
        start = tangent_kernel(kind, at, u, r, weights)
        return path.predictions, path.ntk[0], start, (kind.phi(u) * weights) @ r.T

    return jax.vmap(one)(u, r)


def trained_networks(
    problem: Problem, centred: bool, widths: Sequence[int], networks: int, seed: int, memory: float
) -> tuple[Estimate, dict[str, Any]]:
    """Returns N times the bias and the variance of trained networks, extrapolated to 1/N -> 0.

    Raises:
        ValueError: for widths or counts that cannot be extrapolated.
        Diverged: if a network blows up.
    """
    sizes = np.asarray(widths)
    if sizes.ndim != 1 or len(set(widths)) < 2 or sizes.dtype.kind not in "iu" or sizes.min() < 1:
        raise ValueError(f"widths must be two or more different whole numbers; got {widths!r}.")
    if int(networks) != networks or networks < 4 * _BATCHES:
        raise ValueError(f"networks must be a whole number, {4 * _BATCHES} or more; got {networks!r}.")
    batch = networks // _BATCHES
    values = (problem.steps + 1) * problem.points * problem.outputs
    ntk = (problem.points * problem.outputs) ** 2
    needed = 8 * batch * (3 * (values + ntk) + 6 * int(sizes.max()) * (problem.points + problem.outputs))
    if needed > memory:
        raise ValueError(
            f"{batch} networks at a time need {needed / 2**30:.3g} GiB, more than memory = "
            f"{memory / 2**30:.3g} GiB: take fewer networks or smaller widths."
        )
    limit = _limit(problem, seed)
    streams = np.random.default_rng(seed).spawn(len(sizes))
    with jax.enable_x64(precision(problem) is np.float64):
        found = [
            _moments(problem, centred, int(width), batch, limit, stream)
            for width, stream in zip(sizes, streams, strict=True)
        ]
    return _extrapolated(sizes, found), {"networks": batch * _BATCHES, "widths": list(map(int, sizes))}


def _limit(problem: Problem, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Predictions and final NTK of the limit, flat, with errors far below those of the networks."""
    if is_identity(problem):
        solution = two_layer(problem, method="closed", two_time=False)
    elif root(problem).shape[1] + problem.outputs <= _FEW:
        solution = two_layer(problem, method="quadrature", two_time=False)
    else:
        samples = max(4096, 32 * problem.points)
        solution = two_layer(problem, samples=samples, replicas=128, seed=seed + 1, two_time=False)
    assert solution.ntk is not None
    found = []
    for part in (solution.predictions, solution.ntk.at(time=-1)):
        error = np.zeros_like(part.values) if part.stderr is None else part.stderr
        found.append((part.values.ravel(), error.ravel()))
    return found


def _moments(
    problem: Problem,
    centred: bool,
    width: int,
    batch: int,
    limit: list[tuple[np.ndarray, np.ndarray]],
    stream: np.random.Generator,
) -> tuple[Moments, Moments]:
    """N times bias and variance at one width, and their standard errors."""
    dtype, factor = precision(problem), root(problem)
    kind, at = form(problem), setting(problem, dtype)
    rank, outputs = factor.shape[1], problem.outputs
    lazy, parts = _first_kernel(problem), []
    for _ in range(_BATCHES):
        places = np.concatenate(draw(rank, outputs, batch * width, "plain", stream))
        u, r, average = starts(factor, places, np.full(1, 1 / width), dtype)
        u, r = (a.reshape(-1, batch, width).swapaxes(0, 1) for a in (u, r))
        trained = train(kind, at, centred, u, r, average)
        f, ntk, first, mixed = (np.asarray(part, np.float64).reshape(batch, -1) for part in trained)
        if not (np.isfinite(f).all() and np.isfinite(ntk).all()):
            bad = ~np.isfinite(f.reshape(batch, problem.steps + 1, -1)).all((0, 2))
            raise Diverged(int(np.argmax(bad)), f"a network of width {width}")
        known = _known(places.reshape(-1, batch, width), None if lazy is None else first - lazy, mixed)
        parts.append([_mean(f, known), _variance(f), _mean(ntk, known), _variance(ntk)])
    values = [np.mean([part[index][0] for part in parts], axis=0) for index in range(4)]
    errors = [
        np.sqrt(np.mean([part[index][1] ** 2 for part in parts], axis=0) / _BATCHES) for index in range(4)
    ]
    for index, (centre, error) in zip((0, 2), limit, strict=True):
        values[index] = values[index] - centre
        errors[index] = np.hypot(errors[index], error)
    return Moments(*(width * value for value in values)), Moments(*(width * error for error in errors))


def _known(places: np.ndarray, kernel: np.ndarray | None, mixed: np.ndarray) -> np.ndarray:
    """What moves a network's outputs most and has mean 0 over networks, [B, q].

    Second moments of its Gaussians, [rank + C, B, N], its first tangent kernel's (where its mean is known)
    and readout's deviations.
    """
    width, size = places.shape[2], len(places)
    second = np.einsum("abn,cbn->bac", places, places) / width - np.eye(size)
    upper = np.triu_indices(size)
    parts = [second[:, upper[0], upper[1]], mixed]
    if kernel is not None:
        side = math.isqrt(kernel.shape[1])
        upper = np.triu_indices(side)
        parts.insert(1, kernel.reshape(-1, side, side)[:, upper[0], upper[1]])
    return np.concatenate(parts, axis=1)


def _first_kernel(problem: Problem) -> np.ndarray | None:
    """The limit's tangent kernel before training, flat [(n C)^2]; None if kinks hide it."""
    kernel = np.asarray(problem.kernel)
    try:
        value, slope = dual(problem.activation, 1e-6)(kernel, np.diag(kernel)[:, None], np.diag(kernel)[None])
    except ValueError:
        return None
    return np.kron(value + kernel * slope, np.eye(problem.outputs)).ravel()


def _mean(values: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean of values [B, d] over networks, less what they owe to features of mean 0, and its error."""
    known = known[:, (known**2).mean(0) > 0]
    if known.shape[1] > len(values) // 4:
        known = known[:, :0]
    design = np.concatenate([np.ones((len(values), 1)), known], axis=1)
    fitted = np.linalg.lstsq(design, values, rcond=None)[0]
    rest = ((values - design @ fitted) ** 2).sum(0) / (len(values) - design.shape[1])
    return np.asarray(fitted[0]), np.sqrt(rest / len(values))


def _variance(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The variance of values [B, d] over networks, and its error."""
    squares = (values - values.mean(0)) ** 2
    return values.var(0, ddof=1), squares.std(0, ddof=1) / math.sqrt(len(values))


def _extrapolated(sizes: np.ndarray, found: list[tuple[Moments, Moments]]) -> Estimate:
    """The intercepts of lines in 1/N, each width weighted by its mean error."""
    values, errors = [], []
    design = np.stack([np.ones(len(sizes)), 1 / sizes], axis=1)
    for index in range(len(Moments._fields)):
        value = np.stack([moment[index] for moment, _ in found])
        error = np.stack([spread[index] for _, spread in found])
        weight = 1 / np.maximum((error**2).mean(1), 1e-300)
        normal = design.T * weight
        intercept = np.linalg.solve(normal @ design, normal)[0]
        values.append(intercept @ value)
        errors.append(np.sqrt(intercept**2 @ error**2))
    return Estimate(Moments(*values), Moments(*errors))
