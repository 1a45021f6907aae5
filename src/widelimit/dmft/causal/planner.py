"""What a run will take, before it starts: seconds, bytes, and the windows of time that fit."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import time
from typing import Any

import jax
import numpy as np

from widelimit.dmft.causal.bias import ridged
from widelimit.dmft.causal.settings import DEFAULTS, Settings, settings
from widelimit.dmft.causal.state import start
from widelimit.dmft.problem import Problem
from widelimit.kernels.empirical.budget import parse_bytes, show_bytes, tree_bytes

GROWTHS = (1.6, 2.5, 5.0, math.inf)  # of windows: programs to compile against work on rows still empty
LEAST = 16  # times of the smallest window
NOMINAL = 5e10  # operations a second by which windows are chosen: the same on every machine
COMPILE = (0.9, 0.5)  # seconds to compile a window's program on one core: a constant, and for each layer
STEP = 1.2e-3  # seconds of a step and layer that are no products
SLOWER = 1.3  # than the products alone: what is copied and entrywise


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run of ``mlp`` will take.

    Attributes:
        seconds: predicted for all replicas, with compilation, on this machine.
        bytes: predicted peak of arrays.
        parts: the bytes by what they hold.
        windows: ends of the windows of time; each is one compiled program.
        flops: of all replicas, in products of matrices, with the one solved twice for the bias.
        samples: S of each replica.
        replicas: how many.
        response: how responses are estimated.
    """

    seconds: float
    bytes: int
    parts: dict[str, int]
    windows: tuple[int, ...]
    flops: float
    samples: int
    replicas: int
    response: str

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {show_bytes(size)}" for name, size in self.parts.items())
        return (
            f"{self.replicas} replicas of {self.samples} samples, {self.response} responses: "
            f"{self.seconds:.0f} s, {show_bytes(self.bytes)} ({parts}), windows of time up to "
            f"{', '.join(map(str, self.windows))}"
        )


def plan(problem: Problem, *, memory: str | int | None = None, **options: Any) -> Plan:
    """Returns what ``mlp`` would take with these options; nothing is computed but a short measurement.

    Args:
        problem: what is to be solved.
        memory: bytes, or text such as "2GiB"; None is what the device has.
        options: as for ``mlp``.

    Raises:
        ValueError: if it cannot fit into the memory, with the numbers.

    Example:
        >>> from widelimit import dmft
        >>> problem = dmft.Problem(targets=[1.0], kernel=[[1.0]], steps=99, learning_rate=0.1, depth=3)
        >>> dmft.plan(problem, samples=1000, replicas=4).windows  # one program
        (100,)
        >>> dmft.plan(problem, samples=1000, replicas=4, memory="1MiB")
        Traceback (most recent call last):
        ...
        ValueError: 1000 samples at 100 times of 1 points in 3 layers need ... MiB (...), and memory ...
    """
    unknown = set(options) - set(DEFAULTS)
    if unknown:
        raise TypeError(f"options are those of mlp, {', '.join(DEFAULTS)}; got {', '.join(sorted(unknown))}.")
    return make(settings(problem, **{**DEFAULTS, **options}), memory)


def make(s: Settings, memory: str | int | None) -> Plan:
    """The plan for checked settings: the fastest windows that fit."""
    limit = available() if memory is None else parse_bytes(memory)
    times = s.steps + 1
    choices = [(ends, _bytes(s, ends)) for ends in (windows(times, growth) for growth in GROWTHS)]
    fitting = [choice for choice in choices if limit is None or sum(choice[1].values()) <= limit]
    ends, parts = min(fitting or choices[-1:], key=lambda choice: _seconds(s, choice[0], NOMINAL))
    size = sum(parts.values())
    if limit is not None and size > limit:
        fixed = size - parts["fields"] - parts["noise"]
        fits = int(s.samples * (limit - fixed) / (parts["fields"] + parts["noise"])) // 2 * 2
        advice = f"take {fits} samples" if fits >= 2 else "take fewer steps or points"
        shown = ", ".join(f"{name} {show_bytes(part)}" for name, part in parts.items())
        raise ValueError(
            f"{s.samples} samples at {times} times of {s.points} points in {s.depth} layers need "
            f"{show_bytes(size)} ({shown}), and memory is {show_bytes(limit)}: {advice}, or give more memory."
        )
    return Plan(
        seconds=_seconds(s, ends, speed()),
        bytes=size,
        parts=parts,
        windows=tuple(ends),
        flops=(s.replicas + ridged(s)) * _flops(s, ends),
        samples=s.samples,
        replicas=s.replicas,
        response=s.response,
    )


def windows(times: int, growth: float) -> list[int]:
    """Returns the ends of the windows: each program works on arrays of this many times.

    Args:
        times: T + 1.
        growth: from one window to the next.
    """
    ends = [times]
    while ends[0] > LEAST * growth:
        ends.insert(0, round(ends[0] / growth))
    return ends


def _flops(s: Settings, ends: list[int]) -> float:
    """Operations of one replica."""
    return sum(window_flops(s, end) * (end - begin) for begin, end in zip([0, *ends], ends, strict=False))


def _seconds(s: Settings, ends: list[int], speed: float) -> float:
    """Seconds of all replicas, with compilation."""
    each = SLOWER * _flops(s, ends) / speed + STEP * s.depth * (s.steps + 1)
    runs = s.replicas + ridged(s)  # one more shows what the ridge does
    return len(ends) * (COMPILE[0] + COMPILE[1] * s.depth) + runs * each


def window_flops(s: Settings, window: int) -> float:
    """Returns the operations of one step on arrays of a window, those in float64 counted twice.

    Args:
        s: sizes.
        window: W.
    """
    p, c, m, depth = s.points, s.outputs, s.pairs, s.depth
    n = window * p
    samples = s.samples
    deep = depth - 1
    # h and z by drives, Phi and G; then u, r, and covariances with their noise
    fields = 2 * p * n * samples * (depth * (c + 1 + c * c) + c * deep)
    noise = 2 * p * n * m * deep * (1 + c * c + (2 * c if s.response == "stein" else 0))
    factors = 2 * p * n * n * deep * (1 + c**3) * 2 * (7 if s.response == "stein" else 2)
    work = float(fields + noise + factors)
    if s.response == "pathwise":
        columns = window * s.train * s.response_samples
        work += 2 * deep * (2 * p * c * n) * columns * (1 + c)
    return work


def _bytes(s: Settings, ends: list[int]) -> dict[str, int]:
    """Peak bytes by what they hold, in the last window."""
    with jax.enable_x64(True):
        last = jax.eval_shape(lambda: start(s, ends[-1]))
        before = jax.eval_shape(lambda: start(s, ends[-2])) if len(ends) > 1 else None
    item = np.dtype(s.dtype).itemsize
    n, deep, c = s.points * (s.steps + 1), s.depth - 1, s.outputs
    kept = 2 * 8 * n * n * (s.depth * (1 + c * c) + (2 * c * deep if s.response != "none" else 0))
    rows = tree_bytes(last.rows)
    factors = tree_bytes((last.forward, last.backward))
    fields = tree_bytes((last.phi, last.g))
    return {
        "fields": fields + (0 if before is None else tree_bytes((before.phi, before.g))),
        "noise": 2 * s.pairs * item * deep * n * (1 + c),
        "factors": 2 * factors,
        "responses": tree_bytes(last.paths) * 5 // 4,
        "results": 2 * rows + kept,
    }


def available() -> int | None:
    """Returns the bytes that the device has for arrays; None where it does not say."""
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    try:
        return int(0.8 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):
        return None


@functools.cache
def speed() -> float:
    """Returns operations a second in products of the shape of a step, measured once in some milliseconds."""
    a, b = jax.numpy.ones((16, 1024), "float32"), jax.numpy.ones((1024, 2048), "float32")
    multiply = jax.jit(jax.numpy.matmul)
    multiply(a, b).block_until_ready()
    best = math.inf
    for _ in range(30):
        began = time.perf_counter()
        multiply(a, b).block_until_ready()
        best = min(best, time.perf_counter() - began)
    return 2 * 16 * 1024 * 2048 / best
