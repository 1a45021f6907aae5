"""Where the particles of a two-layer network start: Gaussian draws, or the nodes of a quadrature."""

from __future__ import annotations

import math
import numbers
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from widelimit.dmft.problem import Problem
from widelimit.dmft.steps import is_identity
from widelimit.models import activation

Noise = Literal["matched", "antithetic", "plain"]
_GRID = 2**18
"""Points of a default quadrature at most."""
_FEWEST, _MOST, _CIRCLE = 8, 256, 4096
"""Nodes of a default quadrature in each direction: at least, at most, and on a circle."""
_EVEN, _REACH = 24, 7.5
"""From how many nodes on they are evenly spaced, and how far they reach."""


def root(problem: Problem) -> np.ndarray:
    """A square root of the kernel, [n, rank]: ``u = root e`` has covariance K for e ~ N(0, 1)."""
    values, vectors = np.linalg.eigh(np.asarray(problem.kernel))
    values, vectors = values[::-1], vectors[:, ::-1]
    kept = values > 1e-12 * max(values[0], 0.0)
    result: np.ndarray = vectors[:, kept] * np.sqrt(values[kept])
    return result if kept.any() else np.zeros((len(values), 1))


def draw(
    rank: int, outputs: int, samples: int, noise: Noise, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Returns unit Gaussians for u, [rank, S], and for r, [C, S].

    ``"antithetic"`` holds (e, r) and (e, -r), so that f = 0 at the start. ``"matched"`` holds all four signs
    of e and r, and a sample covariance that is exactly the identity.
    """
    if noise == "plain":
        return rng.standard_normal((rank, samples)), rng.standard_normal((outputs, samples))
    if noise == "antithetic":
        e, r = rng.standard_normal((rank, samples // 2)), rng.standard_normal((outputs, samples // 2))
        return np.concatenate([e, e], 1), np.concatenate([r, -r], 1)
    e, r = rng.standard_normal((rank, samples // 4)), rng.standard_normal((outputs, samples // 4))
    e, r = _whiten(e), _whiten(r)
    return np.concatenate([e, e, -e, -e], 1), np.concatenate([r, -r, r, -r], 1)


def _whiten(e: np.ndarray) -> np.ndarray:
    """The draws [d, S] with exactly unit covariance."""
    factor = np.linalg.cholesky(e @ e.T / e.shape[1])
    result: np.ndarray = np.linalg.solve(factor, e)
    return result


def check_whole(name: str, value: Any, least: int) -> None:
    """Refuses what is not a whole number, or too small.

    Raises:
        ValueError: with the value.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise ValueError(f"{name} must be a whole number, {least} or more; got {value!r}.")


def check_draws(noise: str, samples: int, rank: int, outputs: int) -> None:
    """Refuses counts that the noise cannot have.

    Raises:
        ValueError: with the counts.
    """
    multiple = {"matched": 4, "antithetic": 2, "plain": 1}.get(noise)
    if multiple is None:
        raise ValueError(f'noise must be "matched", "antithetic" or "plain"; got {noise!r}.')
    check_whole("samples", samples, 1)
    if samples % multiple:
        raise ValueError(
            f"samples must be a positive multiple of {multiple} for {noise} noise; got {samples!r}."
        )
    fewest = 8 * max(rank, outputs)
    if noise == "matched" and samples < fewest:
        raise ValueError(
            f"matched noise needs at least {fewest} samples, 8 times the larger of the kernel's rank "
            f'({rank}) and the outputs ({outputs}); got {samples}. Take more, or noise="antithetic".'
        )


def is_homogeneous(problem: Problem) -> bool:
    """Whether phi(c x) = c phi(x) for c > 0, as of ReLU: by name, or seen at sizes from 1e-3 to 1e3."""
    phi = activation(problem.activation)
    if phi in (activation("identity"), activation("relu")):
        return True
    size = np.geomspace(1e-3, 1e3, 1201).astype(np.float32)
    value = np.asarray(phi(jnp.asarray(np.stack([-size, 0 * size, size]))))
    one = np.asarray(phi(jnp.asarray([[-1.0], [0.0], [1.0]], np.float32)))
    return bool(np.allclose(value, one * size, rtol=1e-5, atol=0.0))


def basis(dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors with weight 1: exact for quadratic forms, which linear networks are."""
    return np.eye(dimensions), np.ones(dimensions)


def gaussian(dimensions: int, nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """A product rule for unit Gaussians: places [d, n^d] and weights, tiny ones left out.

    Gauss-Hermite below 24 nodes in each direction; above, evenly spaced nodes, whose error falls as
    ``exp(-2 pi a / spacing)`` with a the distance of phi's nearest pole, where Gauss-Hermite's falls as
    ``exp(-2 a sqrt(2 nodes))``.
    """
    if nodes < _EVEN:
        x, w = np.polynomial.hermite_e.hermegauss(nodes)
    else:
        x = np.linspace(-_REACH, _REACH, nodes)
        w = np.exp(-(x**2) / 2)
    return _pruned(*_product([(x, w / w.sum())] * dimensions))


def sphere(dimensions: int, nodes: int, kinks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A rule for functions with f(c x) = c^2 f(x): directions times sqrt(d), exact along the radius.

    Midpoints between kinks on the circle of the first two coordinates, Gauss-Gegenbauer for the other angles
    (half as many nodes).
    """
    from scipy.special import roots_gegenbauer

    angles, weights = _circle(nodes, kinks)
    place = np.stack([np.cos(angles), np.sin(angles)])
    for power in range(1, dimensions - 1):
        x, w = roots_gegenbauer(max(nodes // 2, 1), power / 2)
        sides = np.sqrt(1 - x**2)
        place = np.concatenate([np.kron(sides, place), np.kron(x, np.ones_like(place[:1]))])
        weights = np.kron(w / w.sum(), weights)
    return math.sqrt(dimensions) * place, weights


def kinks(factor: np.ndarray) -> np.ndarray:
    """Angles in the plane of the first two coordinates at which some h = 0 at the start.

    Known where the kernel has rank 1 or 2; above, a kink is a surface that no rule here follows.
    """
    rank = factor.shape[1]
    if rank > 2:
        return np.zeros(1)
    rows = factor if rank == 2 else np.concatenate([factor, 0 * factor], 1)
    across = np.arctan2(rows[:, 1], rows[:, 0]) + math.pi / 2
    return np.concatenate([across, across + math.pi])


def _circle(nodes: int, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Midpoints of equal pieces of each arc between edges, in all about so many, and their weights."""
    edges = np.unique(np.round(np.mod(edges, 2 * math.pi), 12))
    ends = np.append(edges[1:], edges[0] + 2 * math.pi)
    angles, weights = [], []
    for start, end in zip(edges, ends, strict=True):
        pieces = max(1, math.ceil(nodes * (end - start) / (2 * math.pi) - 1e-9))
        angles.append(start + (end - start) * (np.arange(pieces) + 0.5) / pieces)
        weights.append(np.full(pieces, (end - start) / (2 * math.pi * pieces)))
    return np.concatenate(angles), np.concatenate(weights)


def _product(rules: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """The product of one-dimensional rules."""
    places = np.stack([axis.ravel() for axis in np.meshgrid(*(x for x, _ in rules), indexing="ij")])
    weights = np.ones(1)
    for _, w in rules:
        weights = np.kron(weights, w)
    return places, weights


def _pruned(places: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Without the points whose weights are below rounding."""
    kept = weights > 1e-18 * weights.max()
    return places[:, kept], weights[kept]


def grids(
    problem: Problem, factor: np.ndarray, nodes: int | None, memory: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns places [rank + C, S] and weights [S] of a coarse and of a fine grid.

    Raises:
        ValueError: if the grid has too few nodes in each direction, or does not fit into memory.
    """
    dimensions = factor.shape[1] + problem.outputs
    homogeneous = is_homogeneous(problem)
    free = max(dimensions - homogeneous, 1)
    if nodes is None:
        most = _CIRCLE if homogeneous and dimensions == 2 else 2 * _MOST if homogeneous else _MOST
        nodes = min(most, int(_GRID ** (1 / free) + 1e-9))
        if nodes < _FEWEST:
            raise ValueError(
                f"Quadrature in {dimensions} dimensions (the kernel's rank and the outputs) would have "
                f'{nodes} nodes in each: too few. Take method="particles".'
            )
    points = float(nodes) ** free
    bytes_needed = 8 * points * (6 * problem.points + 2 * dimensions)
    if bytes_needed > memory:
        raise ValueError(
            f"Quadrature with {nodes} nodes in each of {free} directions needs {points:.3g} points and "
            f"{bytes_needed / 2**30:.3g} GiB, more than memory = {memory / 2**30:.3g} GiB: take fewer "
            'nodes or method="particles".'
        )
    coarse = max(2, int(nodes / 1.4))
    if homogeneous:
        edges = np.zeros(1) if is_identity(problem) else kinks(factor)
        return padded([sphere(dimensions, size, edges) for size in (coarse, nodes)])
    return padded([gaussian(dimensions, size) for size in (coarse, nodes)])


def padded(rules: list[tuple[np.ndarray, np.ndarray]]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rules with as many points, some of weight 0: one compiled program serves them."""
    most = max(len(weights) for _, weights in rules)
    lacks = [most - len(weights) for _, weights in rules]
    return [
        (np.pad(places, ((0, 0), (0, lack))), np.pad(weights, (0, lack)))
        for (places, weights), lack in zip(rules, lacks, strict=True)
    ]


def starts(
    factor: np.ndarray, places: np.ndarray, weights: np.ndarray, dtype: type
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns u, [n, S], r, [C, S], and weights, [1, S], at places [rank + C, S] of the unit Gaussians."""
    rank = factor.shape[1]
    parts = (factor @ places[:rank], places[rank:], weights[None])
    u, r, average = (jnp.asarray(np.asarray(part, dtype)) for part in parts)
    return u, r, average
