"""How the time of the mean-field solvers grows with samples, points and times, beside the stated orders."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from pathlib import Path

from benchmarks.common import Row
from benchmarks.dmft_cases import Case
from benchmarks.ntk_scaling import slope

# `mlp` takes L S n^2 + L n^3 with n = P T: the first term rules where samples are many, the second where they
# are few; both ends are fitted.
MANY = Case("mlp", 4, 40, 20, 2, 0.05, 0.1, 8000, 3)
FEW = Case("mlp", 8, 100, 20, 2, 0.05, 0.1, 64, 3)
PARTICLES = Case("two_layer", 32, 100, 64, 1, 0.05, 1.0, 2000, 8)
EXACT = Case("linear", 10, 80, 40, 3, 0.025, 1.0)
SWEEPS: tuple[tuple[str, Case, str, tuple[int, ...], str], ...] = (
    ("mlp, S > n", MANY, "S", (4000, 8000, 16000, 32000), "1"),
    ("mlp, S > n", MANY, "P", (4, 8, 12, 16), "2"),
    ("mlp, S > n", MANY, "T", (40, 80, 120, 160), "2"),
    ("mlp, S < n", FEW, "P", (8, 10, 13, 16), "3"),
    ("mlp, S < n", FEW, "T", (100, 130, 160, 200), "3"),
    ("two_layer", PARTICLES, "S", (2000, 4000, 8000, 16000), "1"),
    ("two_layer", PARTICLES, "P", (32, 64, 128, 256), "2"),
    ("two_layer", PARTICLES, "T", (50, 100, 200, 400), "1"),
    ("linear", EXACT, "P", (10, 20, 40, 80), "2"),
    ("linear", EXACT, "T", (40, 80, 160, 320), "3"),
)
QUICK_SWEEPS = (
    ("mlp", Case("mlp", 2, 6, 3, 2, 0.05, 0.1, 64, 3), "S", (64, 128), "1"),
    ("two_layer", Case("two_layer", 2, 6, 3, 1, 0.05, 1.0, 64, 4), "T", (6, 12), "1"),
    ("linear", Case("linear", 2, 6, 3, 2, 0.025, 1.0), "P", (2, 4), "2"),
)


def seconds(case: Case) -> float:
    """Of one replica, or of one call where there is none: the fastest of a few, without compilation."""
    if case.solver == "mlp":
        return _between_replicas(case)
    options = {"two_time": False} if case.solver == "two_layer" else {}
    times = []
    for seed in range(4):
        begin = time.perf_counter()
        case.solve(seed, **options)
        times.append(time.perf_counter() - begin)
    return min(times[1:])


def _between_replicas(case: Case) -> float:
    """A replica is kept in a file when it is finished; the time from one to the next has no compilation."""
    with tempfile.TemporaryDirectory() as folder:
        case.solve(0, directory=folder, control_variate=False)
        finished = sorted(path.stat().st_mtime for path in Path(folder).rglob("*.npz"))
    assert len(finished) == case.R, finished
    return min(after - before for before, after in zip(finished, finished[1:], strict=False))


def scaling(quick: bool = False) -> list[Row]:
    """Returns the fitted exponents, a row for each solver and axis."""
    rows = []
    for name, base, axis, sizes, stated in QUICK_SWEEPS if quick else SWEEPS:
        cases = [Case(**dataclasses.asdict(base) | {axis: size}) for size in sizes]
        times = [seconds(case) for case in cases]
        exponent, spread = slope(sizes, times)
        last, _ = slope(sizes[-2:], times[-2:])
        row: Row = {
            "solver": name,
            "axis": axis,
            "sizes": ", ".join(map(str, sizes)),
            "seconds": ", ".join(f"{value:.3g}" for value in times),
            "exponent": round(exponent, 2),
            "standard error": round(spread, 2),
            "of the last two": round(last, 2),
            "stated": stated,
        }
        rows.append(row)
        print(row, flush=True)
    return rows
