"""Ensembles of finite networks under the very problem whose infinite-width limit a solver solves."""

from __future__ import annotations

import contextlib
import dataclasses
import operator
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np

from widelimit.compare.finite_jobs import Job
from widelimit.compare.members import Members, gather
from widelimit.dmft import Problem, Solution
from widelimit.kernels.empirical.budget import parse_bytes

MEASURES = ("features", "gradients", "ntk")
_BLOCKS = 32


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Ensembles:
    """Finite networks of several widths, trained under one problem, and what was measured of them.

    Args:
        problem: what was trained.
        members: what was measured, by width; see ``Members``.
        times: the steps at which order parameters were measured.
        seconds: it took.
        centred: whether f - f_0 was trained, as in the problem, or f.

    Example:
        >>> from widelimit.dmft import Problem
        >>> problem = Problem(targets=[1.0, -1.0], kernel=np.eye(2), steps=10, learning_rate=0.2)
        >>> ensembles = finite_ensemble(problem, widths=[8, 16], seeds=4, measures=())
        >>> ensembles.widths, ensembles.members[8].predictions.shape, ensembles.solution(16).loss.values.shape
        ((8, 16), (4, 11, 2), (11,))
    """

    problem: Problem
    members: Mapping[int, Members]
    times: tuple[int, ...]
    seconds: float
    centred: bool

    @property
    def widths(self) -> tuple[int, ...]:
        """The widths, as they were given."""
        return tuple(self.members)

    @property
    def measures(self) -> tuple[str, ...]:
        """Predictions, loss, and the order parameters that were measured."""
        return tuple(next(iter(self.members.values())).moments)

    def solution(self, width: int) -> Solution:
        """Returns the means over seeds with their standard errors, in the form that solvers return.

        Order parameters have the ensemble's times, and equal ones unless ``two_time`` was set; ``fields`` are
        those of the first networks.

        Args:
            width: one of the widths.
        """
        own = self.members[width]
        means = {name: moments.mean() for name, moments in own.moments.items()}
        return Solution(
            problem=self.problem,
            solver="finite_ensemble",
            fields=own.fields or None,
            diagnostics={"width": width, "seeds": own.seeds, "times": list(self.times)},
            **means,
        )


def finite_ensemble(
    problem: Problem,
    widths: Sequence[int],
    seeds: int | Sequence[int],
    *,
    seed: int = 0,
    measures: Sequence[str] = MEASURES,
    times: Sequence[int] | None = None,
    two_time: bool = False,
    fields: int | Sequence[int] = 0,
    field_times: Sequence[int] = (0, -1),
    centred: bool = True,
    dtype: Literal["float32", "float64"] = "float32",
    batch: int | None = None,
    memory: str | float = 2**30,
    progress: bool = False,
    directory: str | Path | None = None,
) -> Ensembles:
    r"""Trains finite networks of several widths and many seeds under exactly a problem, and measures them.

    The network is ``models.MLP`` or ``ResidualMLP`` on ``problem.network(width)``, its start is
    ``models.initialise``, its optimizer is SGD itself, ``m <- momentum m + gradient``, ``theta <- (1 - eta
    lambda) theta - eta rate m``, with the rates of ``models.rules``.
    Nothing is taken from the theory of the limit, so that this is an independent estimate of it. Order
    parameters are those of solvers: Phi^l = <phi(h^l) phi(h^l)>, G^l = <g^l g^l> with ``g^l = gamma0 N df /
    dh^l``, averaged over the N units, and the tangent kernel, for an MLP ``sum_l G^{l+1} Phi^l``.

    Networks differ in their seeds at every width: widths are independent. Network i of a width is the same
    whatever else is asked for, and starts from the same weights for every problem with the same shapes, so
    that problems with other gamma0, targets or rates are compared with common random numbers. To resolve the
    mean's 1/N bias at all, take 3 N seeds or more.

    One program is compiled for each width, whatever the problem's numbers; two threads share the work.

    Args:
        problem: what is trained; gamma0 > 0.
        widths: W different numbers N.
        seeds: networks of each width, a number or one per width.
        seed: of all random numbers.
        measures: of ``"features"``, ``"gradients"``, ``"ntk"``; predictions and loss always.
        times: steps at which order parameters are measured, increasing (negative ones count from the end);
            None is all.
        two_time: features and gradients between all pairs of these times, not only at equal ones.
        fields: networks of each width of which h^l and g^l are kept, unit by unit; a number or one per width.
        field_times: steps at which.
        centred: train f - f_0; False trains f.
        dtype: of the networks.
        batch: networks per compiled call; None follows from memory.
        memory: bytes that the results of one call may take, and that all means may take, or text such as
            "2GiB".
        progress: show a bar.
        directory: keeps what is done: a killed run goes on, and a finished one is read.

    Raises:
        ValueError: if an argument makes no sense, memory does not suffice, or the directory holds another
            ensemble.
        Diverged: if a network diverges.

    Example:
        >>> from widelimit.dmft import Problem
        >>> problem = Problem(targets=[1.0], kernel=[[1.0]], steps=3, learning_rate=0.1, activation="relu")
        >>> found = finite_ensemble(problem, widths=[16], seeds=8, times=[0, -1]).solution(16)
        >>> found.features.axes, found.features.values.shape
        (('layer', 'time', 'sample', "sample'"), (1, 2, 1, 1))

    Reference:
        Bordelon & Pehlevan, arXiv 2205.09653, Section 5 and Figure 2.
    """
    began = time.monotonic()
    counts = _counts(problem, widths, seeds)
    unknown = [name for name in measures if name not in MEASURES]
    if unknown or dtype not in ("float32", "float64"):
        raise ValueError(
            f"measures are {', '.join(MEASURES)}, dtype is float32 or float64; got {list(measures)} and "
            f"{dtype!r}."
        )
    settings: dict[str, Any] = {
        "measures": tuple(name for name in MEASURES if name in measures),
        "times": _steps(range(problem.steps + 1) if times is None else times, problem.steps, "times"),
        "two_time": bool(two_time),
        "centred": bool(centred),
        "dtype": dtype,
    }
    if not measures:
        settings["times"] = ()
    allowed = parse_bytes(memory)
    share = allowed // (2 * len(counts))
    jobs = [
        Job(problem, n, s, seed, settings, _BLOCKS, allowed // 2, share, batch) for n, s in counts.items()
    ]
    at = {**settings, "measures": ("fields",), "times": _steps(field_times, problem.steps, "field_times")}
    at["two_time"] = False  # the first networks once more, for what would be too much to keep of all
    wanted = _per_width(fields, len(counts), 0, "fields")
    taps = {
        n: Job(problem, n, min(some, counts[n]), seed, at, 1, allowed, allowed)
        for n, some in zip(counts, wanted, strict=True)
        if some
    }
    where = None if directory is None else Path(directory)
    if where is not None:
        where.mkdir(parents=True, exist_ok=True)
    with _bar(sum(counts.values()), progress) as tick, _pool() as pool:
        list(pool.map(lambda job: job.compile(where), jobs))
        tasks = [(job, number) for job in jobs for number in range(job.blocks)]
        done = list(pool.map(lambda task: task[0].block(task[1], where, tick), tasks))
        kept = dict(zip(taps, pool.map(lambda job: job.fields(), taps.values()), strict=True))
    members = {}
    for job in jobs:
        blocks = [block for (other, _), block in zip(tasks, done, strict=True) if other is job]
        members[job.width] = gather(problem, job.width, blocks, settings["two_time"], kept.get(job.width, {}))
    return Ensembles(
        problem=problem,
        members=members,
        times=settings["times"],
        seconds=time.monotonic() - began,
        centred=settings["centred"],
    )


def _counts(problem: Problem, widths: Sequence[int], seeds: int | Sequence[int]) -> dict[int, int]:
    """Networks by width, checked."""
    if problem.gamma0 == 0:
        raise ValueError(
            "gamma0 = 0 is the lazy limit, which no finite network has; take a small one, such as 0.01."
        )
    sizes = [operator.index(width) for width in widths]
    if not sizes or len(set(sizes)) < len(sizes) or min(sizes) < 1:
        raise ValueError(f"widths must be positive and all different; got {sizes}.")
    return dict(zip(sizes, _per_width(seeds, len(sizes), 1, "seeds"), strict=True))


def _per_width(number: int | Sequence[int], widths: int, least: int, name: str) -> list[int]:
    """One number for each width, checked."""
    given = [number] * widths if isinstance(number, int | np.integer) else list(number)
    if len(given) != widths or min(map(operator.index, given)) < least:
        raise ValueError(
            f"{name} must be whole, {least} or more, one number or one for each of {widths} widths; got "
            f"{number}."
        )
    return [int(one) for one in given]


def _steps(times: Sequence[int], steps: int, name: str) -> tuple[int, ...]:
    """Times as numbers of steps, checked."""
    found = tuple(operator.index(t) + (steps + 1 if t < 0 else 0) for t in times)
    if list(found) != sorted(set(found)) or (found and not 0 <= found[0] <= found[-1] <= steps):
        raise ValueError(f"{name} must increase from 0 to {steps} at most; got {tuple(times)}.")
    return found


@contextlib.contextmanager
def _pool() -> Iterator[ThreadPoolExecutor]:
    """Two threads: compiled programs run beside each other. A failure does not wait for the rest."""
    pool = ThreadPoolExecutor(min(2, os.cpu_count() or 1))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _bar(total: int, show: bool) -> Iterator[Callable[[int], object]]:
    """Counts networks."""
    if not show:
        yield lambda count: None
        return
    from tqdm import tqdm

    with tqdm(total=total, desc="finite networks", unit="net") as bar:
        yield bar.update
