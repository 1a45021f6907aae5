"""How the time of the empirical NTK grows with samples, width and outputs, beside the cost model."""

from __future__ import annotations

import dataclasses
import time

import jax
import numpy as np

from benchmarks.common import Row
from benchmarks.ntk_cases import Case
from benchmarks.ntk_flops import needed
from benchmarks.ntk_worker import OURS, compile_kernel

AXES = {"samples": (128, 256, 512, 1024), "width": (256, 512, 1024, 2048), "outputs": (5, 10, 20, 40)}
QUICK = {"samples": (4, 8), "width": (8, 16), "outputs": (2, 4)}
CALLS = 7


def slope(sizes: tuple[int, ...], values: list[float]) -> tuple[float, float]:
    """Returns the exponent of a power law, and its standard error (0 for two points)."""
    x, y = np.log(sizes), np.log(values)
    design = np.stack([x, np.ones_like(x)], axis=1)
    found, *_ = np.linalg.lstsq(design, y, rcond=None)
    free = max(len(x) - 2, 1)
    spread = float(np.sum((y - design @ found) ** 2)) / free
    return float(found[0]), float(np.sqrt(spread / np.sum((x - x.mean()) ** 2)))


def seconds(case: Case, calls: int) -> tuple[float, float]:
    """Returns the median time of a call, after one that is not counted, and its flops."""
    kernel, facts = compile_kernel(OURS, case)
    times = []
    for _ in range(calls + 1):
        begin = time.perf_counter()
        jax.block_until_ready(kernel())
        times.append(time.perf_counter() - begin)
    return float(np.median(times[1:])), facts["flops"]


def scaling(quick: bool = False) -> list[Row]:
    """Returns the fitted exponents of the MLP's kernels, a row for each form and axis."""
    rows = []
    base = Case("mlp", "full", 8, 16, 2) if quick else Case("mlp", "full", 128, 512, 10)
    for form in ("full", "trace"):
        for axis, sizes in (QUICK if quick else AXES).items():
            cases = [Case(**dataclasses.asdict(base) | {"form": form, axis: size}) for size in sizes]
            measured = [seconds(case, 2 if quick else CALLS) for case in cases]
            exponent, error = slope(sizes, [time for time, _ in measured])
            row = {
                "form": form,
                "axis": axis,
                "sizes": ", ".join(map(str, sizes)),
                "seconds": ", ".join(f"{time:.3g}" for time, _ in measured),
                "exponent of the time": round(exponent, 2),
                "standard error": round(error, 2),
                "of the flops counted": round(slope(sizes, [flops for _, flops in measured])[0], 2),
                "of the cost model": round(slope(sizes, [needed(case) for case in cases])[0], 2),
            }
            rows.append(row)
            print(row, flush=True)
    return rows
