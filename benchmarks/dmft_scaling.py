"""How time and flops of the mean-field solvers grow with samples, points and times, beside stated orders."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from pathlib import Path

from benchmarks.common import Row
from benchmarks.dmft_cases import Case
from benchmarks.dmft_flops import flops
from benchmarks.ntk_scaling import slope

# `mlp` takes L S n^2 + L n^3 with n = P T: the first term rules where samples are many, the second where they
# are few; both ends are fitted. Windows of time jump in number, so that sizes of one window are cleaner.
MANY = Case("mlp", 24, 12, 200, 2, 0.05, 0.1, 32000, 4)
FEW = Case("mlp", 48, 20, 200, 2, 0.05, 0.1, 64, 4)
LONG = Case("mlp", 8, 40, 20, 2, 0.05, 0.1, 8000, 4)
WIDE = Case("mlp", 96, 20, 200, 2, 0.05, 0.1, 64, 4)
PARTICLES = Case("two_layer", 128, 20, 1024, 1, 0.05, 1.0, 8192, 2)
EXACT = Case("linear", 40, 40, 80, 2, 0.025, 1.0)
SWEEPS: tuple[tuple[str, Case, str, tuple[int, ...], str], ...] = (
    ("mlp, S > n", MANY, "S", (8000, 16000, 32000, 64000), "1"),
    ("mlp, S > n", MANY, "P", (24, 48, 72, 96), "2"),
    ("mlp, S > n", LONG, "T", (40, 80, 120, 160), "2"),
    ("mlp, S < n", FEW, "P", (24, 36, 54, 80), "3"),
    ("mlp, S < n", WIDE, "T", (8, 12, 17, 25), "3"),
    ("two_layer", PARTICLES, "S", (4096, 8192, 16384, 32768), "1"),
    ("two_layer", PARTICLES, "P", (128, 256, 512, 1024), "2"),
    ("two_layer", PARTICLES, "T", (20, 40, 80, 160), "1"),
    ("linear", EXACT, "P", (40, 80, 160, 320), "2"),
    ("linear", EXACT, "T", (120, 160, 240, 320), "3"),
)
QUICK_SWEEPS = (
    ("mlp", Case("mlp", 2, 6, 3, 2, 0.05, 0.1, 64, 3), "S", (64, 128), "1"),
    ("two_layer", Case("two_layer", 2, 6, 3, 1, 0.05, 1.0, 64, 4), "T", (6, 12), "1"),
    ("linear", Case("linear", 2, 6, 3, 2, 0.025, 1.0), "P", (2, 4), "2"),
)


def seconds(case: Case) -> float:
    """Of one replica of ``mlp``, of one call of the others: the fastest of a few, without compilation."""
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
        times, counts = [seconds(case) for case in cases], [flops(case) for case in cases]
        exponent, spread = slope(sizes, times)
        row: Row = {
            "solver": name,
            "axis": axis,
            "sizes": ", ".join(map(str, sizes)),
            "seconds": ", ".join(f"{value:.3g}" for value in times),
            "Gflop/s": ", ".join(f"{of / time / 1e9:.0f}" for of, time in zip(counts, times, strict=True)),
            "exponent": round(exponent, 2),
            "standard error": round(spread, 2),
            "of the flops": round(slope(sizes, counts)[0], 2),
            "stated": stated,
        }
        rows.append(row)
        print(row, flush=True)
    return rows
