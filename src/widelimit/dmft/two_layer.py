"""Two-layer networks in the limit: particles with an error bar, or quadrature, or exactly."""

from __future__ import annotations

import functools
import time
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from widelimit.dmft.checks import Diverged
from widelimit.dmft.labelled import Labelled
from widelimit.dmft.lazy import at_gamma_zero, lazy
from widelimit.dmft.problem import Problem, ResidualProblem
from widelimit.dmft.replicas import Moments
from widelimit.dmft.solution import Solution
from widelimit.dmft.steps import check_path, float64_losses, is_identity, wide
from widelimit.dmft.two_layer_noise import (
    Noise,
    basis,
    check_draws,
    check_whole,
    draw,
    grids,
    root,
    starts,
)
from widelimit.dmft.two_layer_particles import (
    Form,
    Path,
    Setting,
    errors,
    form,
    precision,
    setting,
    simulate,
    two_times,
)
from widelimit.kernels.empirical.budget import parse_bytes

_SIDE = 512
"""Two-time order parameters are kept by default up to this many (time, sample, output) on a side."""
_DRAWN = {"samples": 1024, "replicas": 8, "noise": "matched", "control_variate": None}
"""Options of drawn particles, as they are by default: nothing else has a use for others."""


def two_layer(
    problem: Problem,
    *,
    samples: int = 1024,
    replicas: int = 8,
    seed: int = 0,
    method: Literal["particles", "quadrature", "closed"] = "particles",
    noise: Noise = "matched",
    control_variate: bool | None = None,
    nodes: int | None = None,
    two_time: bool | None = None,
    fields: bool = False,
    memory: str | float = 4 * 2**30,
) -> Solution:
    r"""Solves a network with one hidden layer: its neurons are independent particles (h, z).

    ``h <- h + eta gamma0 sum_nu p_nu K_nu phi'(h_nu) (Delta_nu . z)``,
    ``z <- z + eta gamma0 sum_nu p_nu phi(h_nu) Delta_nu``, ``f = <z phi(h)> / gamma0``, from h ~ N(0, K) and
    z ~ N(0, 1), with p the training points' share in the step (1/P); momentum and weight decay act on (h, z)
    as they do on weights. The average is over ``"particles"`` (Monte Carlo, any size), over the nodes of a
    ``"quadrature"`` (few samples; on a sphere where phi is homogeneous, like ReLU's), or
    ``"closed"`` (exact, activation ``"identity"``).

    ``gamma0 = 0`` is ``lazy(problem)``.

    Args:
        problem: of depth 1.
        samples: particles of a replica.
        replicas: independent runs, for the error bars.
        seed: of the noise; problems of one shape share it (common random numbers).
        method: as above. Only ``"particles"`` has error bars, and takes options of draws; ``"quadrature"``
            compares two grids and reports ``diagnostics["quadrature_error"]``, the largest change of a
            prediction.
        noise: ``"matched"`` (both signs of h and of z, sample covariance exact), ``"antithetic"`` (both signs
            of z) or ``"plain"``: a replica is then a network of width ``samples``.
        control_variate: subtract what the same noise does to the lazy limit, whose answer is known. None does
            so unless weights decay or ``lazy`` has no answer (its kernel of an activation with kinks other
            than ReLU may be too rough); ``diagnostics["control_variate"]`` says which.
        nodes: of the quadrature, in each direction; None is as many as fit 2^18 points, at most 256 (on a
            sphere 512, on a circle 4096).
        two_time: whether ``features`` and ``gradients`` are kept, at all pairs of times. None keeps them up
            to 512 (time, sample, output) on a side.
        fields: whether h and z of the first replica are kept at all times; a quadrature's have weights.
        memory: bytes that may be used, or text such as "2GiB".

    Raises:
        ValueError: for a deeper or residual network, a method that the problem does not have, an option that
            makes no sense or that the method has no use for, or what does not fit into memory.
        Diverged: if training blows up.

    Example:
        >>> problem = Problem(
        ...     targets=[1.0], kernel=[[1.0]], steps=400, learning_rate=0.01, activation="identity"
        ... )
        >>> exact = two_layer(problem, method="closed")
        >>> print(exact.ntk.values[-1, 0, 0].round(3), 2 * np.sqrt(2).round(3))
        2.825 2.828

    Reference:
        Bordelon & Pehlevan, arXiv 2205.09653, Section 4.1; Mei, Montanari & Nguyen, arXiv 1804.06561.
    """
    _check(problem, method)
    _check_kept(problem, two_time, fields)
    drawn = {"samples": samples, "replicas": replicas, "noise": noise, "control_variate": control_variate}
    _check_method(problem, method, nodes, drawn | {"seed": seed})
    allowed = parse_bytes(memory)
    if problem.gamma0 == 0:
        return at_gamma_zero(problem, allowed)
    began = time.perf_counter()
    side = (problem.steps + 1) * problem.points * problem.outputs
    keep = side <= _SIDE if two_time is None else two_time
    if method == "particles":
        with jax.enable_x64(precision(problem) is np.float64):
            return _particles(
                problem, samples, replicas, seed, noise, control_variate, keep, fields, allowed, began
            )
    return _deterministic(problem, method, nodes, keep, fields, allowed, began)


def _check(problem: Problem, method: str) -> None:
    """Refuses problems that cannot be solved so, before anything is computed."""
    if isinstance(problem, ResidualProblem) or problem.depth != 1:
        raise ValueError(
            f"two_layer solves networks with depth 1 and no branches; got {type(problem).__name__} of depth "
            f"{problem.depth}. Take dmft.mlp or dmft.residual."
        )
    if method not in ("particles", "quadrature", "closed"):
        raise ValueError(f'method must be "particles", "quadrature" or "closed"; got {method!r}.')
    if method == "closed" and not is_identity(problem):
        raise ValueError('method="closed" is for activation="identity"; take "quadrature" or "particles".')


def _check_kept(problem: Problem, two_time: Any, fields: Any) -> None:
    """Refuses wishes for results that are none, or that the problem's limit does not have."""
    if two_time not in (None, True, False) or fields not in (True, False):
        raise ValueError(
            f"two_time is None, True or False, and fields True or False; got {two_time!r} and {fields!r}."
        )
    if fields and problem.gamma0 == 0:
        raise ValueError(
            "fields=True needs gamma0 > 0: at gamma0 = 0 the answer is that of dmft.lazy, which draws none."
        )


def _check_method(problem: Problem, method: str, nodes: int | None, options: dict[str, Any]) -> None:
    """Refuses options that make no sense, or that this method would not look at."""
    if method != "quadrature" and nodes is not None:
        raise ValueError(f'nodes is for method="quadrature"; got nodes={nodes!r} with method="{method}".')
    check_whole("seed", options["seed"], 0)
    if nodes is not None:
        check_whole("nodes", nodes, 4)
    if method == "particles":
        check_whole("replicas", options["replicas"], 2)
        check_draws(options["noise"], options["samples"], root(problem).shape[1], problem.outputs)
        if options["control_variate"] and problem.weight_decay:
            raise ValueError("control_variate needs weight_decay = 0, where the lazy limit keeps its kernel.")
        return
    if options["control_variate"] is False:  # there is none
        options = options | {"control_variate": None}
    for name, default in _DRAWN.items():
        if options[name] != default:
            raise ValueError(
                f'{name} is for method="particles"; got {name}={options[name]!r} with method="{method}", '
                "which draws nothing."
            )


def _fit(problem: Problem, particles: int, keep: bool, fields: bool, memory: float, size: int) -> int:
    """Bytes that a run needs at most at one time; refused if over memory."""
    times, points, sides = problem.steps + 1, problem.points, problem.points * problem.outputs
    needed = particles * (8 * points + 4 * problem.outputs) * size + 6 * times * sides**2 * 8
    if keep or fields:
        needed += particles * times * (points + problem.outputs) * size
    if keep:
        needed += times**2 * (points**2 + sides**2) * 4 * 8 + 2 * particles * times * sides * size
    if needed > memory:
        raise ValueError(
            f"This needs about {needed / 2**30:.3g} GiB, more than memory = {memory / 2**30:.3g} GiB: take "
            "fewer samples, two_time=False, fields=False, or more memory."
        )
    return needed


def _particles(
    problem: Problem,
    samples: int,
    replicas: int,
    seed: int,
    noise: Noise,
    control: bool | None,
    keep: bool,
    fields: bool,
    memory: float,
    began: float,
) -> Solution:
    """Monte Carlo: replicas one after the other through one program."""
    dtype, factor = precision(problem), root(problem)
    needed = _fit(problem, samples, keep, fields, memory, np.dtype(dtype).itemsize)
    kind, at = form(problem), setting(problem, dtype)
    average = {name: Moments() for name in ("ntk", "features", "gradients")}
    known = _exact_lazy(problem, control)
    runs, shifts, kept = [], [], None
    for stream in np.random.default_rng(seed).spawn(replicas):
        places = np.concatenate(draw(factor.shape[1], problem.outputs, samples, noise, stream))
        start = starts(factor, places, np.full(samples, 1 / samples), dtype)
        path = simulate(kind, at, *start, record=keep or (fields and kept is None))
        runs.append(np.asarray(path.predictions, np.float64))
        check_path(problem, runs[-1], path.size)
        average["ntk"].add(path.ntk)
        if known is not None:
            shifts.append(np.asarray(lazy_path(kind, at, path.ntk[0]), np.float64))
        if keep:
            phi, g = two_times(kind, path.h, path.z, start[2])
            average["features"].add(phi)
            average["gradients"].add(g)
        if fields and kept is None:
            kept = _fields(problem, path)
    f, ratio = np.stack(runs), 1.0
    if known is not None:
        f, ratio = _controlled(f, np.stack(shifts) - known)
    diagnostics = {
        "samples": samples,
        "replicas": replicas,
        "replica_spread": float(f.std(0, ddof=1).max()),
        "control_variate": known is not None,
        "control_variate_ratio": ratio,
        "effective_rank": _effective_rank(problem),
        "bytes": needed,
        "seconds": time.perf_counter() - began,
    }
    return _solution(problem, f, average, kept, diagnostics)


def _deterministic(
    problem: Problem, method: str, nodes: int | None, keep: bool, fields: bool, memory: float, began: float
) -> Solution:
    """Quadrature on two grids, or the closed form."""
    factor = root(problem)
    closed = method == "closed"
    rules = [basis(factor.shape[1] + problem.outputs)] if closed else grids(problem, factor, nodes, memory)
    needed = _fit(problem, len(rules[-1][1]), keep, fields, memory, 8)
    average = {name: Moments() for name in ("ntk", "features", "gradients")}
    answers = []
    with jax.enable_x64(True):
        kind, at = form(problem), setting(problem, np.float64)
        for places, weights in rules:
            start = starts(factor, places, weights, np.float64)
            path = simulate(kind, at, *start, record=keep or fields)
            answers.append(np.asarray(path.predictions))
            check_path(problem, answers[-1], path.size)
        average["ntk"].add(path.ntk)
        if keep:
            phi, g = two_times(kind, path.h, path.z, start[2])
            average["features"].add(phi)
            average["gradients"].add(g)
    kept = _fields(problem, path, rules[-1][1]) if fields else None
    diagnostics = {
        "points": len(rules[-1][1]),
        "quadrature_error": float(np.abs(answers[-1] - answers[0]).max()),
        "effective_rank": _effective_rank(problem),
        "bytes": needed,
        "seconds": time.perf_counter() - began,
    }
    return _solution(problem, answers[-1][None], average, kept, diagnostics)


def _losses(problem: Problem, f: np.ndarray) -> np.ndarray:
    """Mean training loss, [T + 1], of predictions [T + 1, n, C]."""
    return float64_losses(problem, f[:, : problem.samples])


@functools.partial(jax.jit, static_argnames="kind")
def lazy_path(kind: Form, at: Setting, kernel: jax.Array) -> jax.Array:
    """Predictions [T + 1, n, C] of training with a kernel [n C, n C] that stays as it is."""
    points, outputs = len(at.kernel), at.targets.shape[1]
    trained = at.targets.size

    def step(state: Any, now: Any) -> tuple[Any, jax.Array]:
        f, buffer = state
        rate, share = now
        delta = share[:, None] * errors(kind, f[: len(share)], at.targets)
        buffer = at.momentum * buffer + (kernel[:, :trained] @ delta.ravel()).reshape(f.shape)
        return (f + rate * buffer, buffer), f

    start = jnp.zeros((points, outputs), at.targets.dtype)
    (last, _), path = jax.lax.scan(step, (start, start), (at.rates, at.shares))
    return jnp.concatenate([path, last[None]])


def _exact_lazy(problem: Problem, control: bool | None) -> np.ndarray | None:
    """Predictions [T + 1, n, C] of the lazy limit; None if it is not wanted, or has none and need not."""
    if control is False or (control is None and problem.weight_decay):
        return None
    try:
        found = lazy(problem)
    except (ValueError, Diverged) as error:
        if control is None:
            return None
        raise ValueError(
            "control_variate=True needs the answer of dmft.lazy, which this problem does not have to 1e-6 "
            "(an activation with a kink, or training that diverges): leave control_variate out."
        ) from error
    return np.asarray(found.predictions.values).reshape(-1, problem.points, problem.outputs)


def _controlled(f: np.ndarray, shift: np.ndarray) -> tuple[np.ndarray, float]:
    """Replicas' predictions [R, T + 1, n, C] less their regression on the lazy limit's shift.

    The slope of each time is fitted on the other replicas, so that no replica corrects itself; times at which
    it does not help are left as they are. Also returns by how much it shrank the error.
    """
    away, moved = f - f.mean(0), shift - shift.mean(0)
    both, square = (away * moved).sum((2, 3)), (moved**2).sum((2, 3))
    rest, scale = square.sum(0) - square, square.sum(0).max()
    slope = (both.sum(0) - both) / np.where(rest > 1e-12 * scale, rest, np.inf)
    result = f - slope[:, :, None, None] * shift
    before = (away**2).sum((0, 2, 3))
    after = ((result - result.mean(0)) ** 2).sum((0, 2, 3))
    helps = after < before
    ratio = np.where(helps, after, before).sum() / max(before.sum(), 1e-300)
    return np.where(helps[:, None, None], result, f), float(np.sqrt(ratio)) if before.any() else 1.0


def _effective_rank(problem: Problem) -> float:
    """(tr K)^2 / tr K^2 of the inputs' kernel."""
    kernel = np.asarray(problem.kernel)
    return float(np.trace(kernel) ** 2 / max((kernel**2).sum(), 1e-300))


def _fields(problem: Problem, path: Path, weights: np.ndarray | None = None) -> dict[str, Labelled]:
    """Fields h and z of one run, draws first."""
    h, z = np.asarray(path.h).transpose(2, 0, 1), np.asarray(path.z).transpose(2, 0, 1)
    scalar = not wide(problem)
    found = {
        "h": Labelled(h, ("draw", "time", "sample")),
        "z": Labelled(z[..., 0], ("draw", "time")) if scalar else Labelled(z, ("draw", "time", "output")),
    }
    return found if weights is None else found | {"weights": Labelled(weights, ("draw",))}


def _solution(
    problem: Problem,
    f: np.ndarray,
    average: dict[str, Moments],
    fields: dict[str, Labelled] | None,
    diagnostics: dict[str, Any],
) -> Solution:
    """Puts names on everything."""
    times, points, outputs = problem.steps + 1, problem.points, problem.outputs
    scalar = not wide(problem)
    predictions, losses = Moments(), Moments()
    for run in f:
        predictions.add(run)
        losses.add(_losses(problem, run))
    mean = predictions.mean
    output, output_ = ((), ()) if scalar else (("output",), ("output'",))
    size, size_ = ((), ()) if scalar else ((outputs,), (outputs,))
    ntk = average["ntk"].labelled(
        ("time", "sample", *output, "sample'", *output_), (times, points, *size, points, *size_)
    )
    features = gradients = None
    if average["features"].count:
        first = ("layer", "time", "sample")
        features = average["features"].labelled(
            (*first, "time'", "sample'"), (1, times, points, times, points)
        )
        gradients = average["gradients"].labelled(
            (*first, *output, "time'", "sample'", *output_), (1, times, points, *size, times, points, *size_)
        )
    loss = losses.labelled(("time",), (times,))
    return Solution(
        problem=problem,
        solver="two_layer",
        predictions=predictions.labelled(("time", "sample", *output), (times, points, *size)),
        loss=loss._replace(values=_losses(problem, mean)),
        features=features,
        gradients=gradients,
        ntk=ntk,
        fields=fields,
        diagnostics=diagnostics,
    )
