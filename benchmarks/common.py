"""What the benchmarks share: where they ran, a median with its interval, a table beside a JSON file."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]


def environment() -> Row:
    """Returns the versions and the machine that a number belongs to."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy", "widelimit")
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        **{name: version(name) for name in packages},
    }


def median(values: Sequence[float]) -> tuple[float, float, float]:
    """Returns the median and the distribution-free 95% interval of it that two order statistics give."""
    ordered = np.sort(np.asarray(values, dtype=float))
    reach = 0.98 * len(ordered) ** 0.5  # 1.96 standard deviations of Binomial(n, 1/2)
    low, high = int(len(ordered) / 2 - reach), int(np.ceil(len(ordered) / 2 + reach))
    return float(np.median(ordered)), float(ordered[max(low, 0)]), float(ordered[min(high, len(ordered) - 1)])


def table(rows: Sequence[Row]) -> str:
    """Returns the rows as a Markdown table, in the order of the first row's columns."""
    texts = [
        [f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()] for row in rows
    ]
    lines = [list(rows[0]), ["---"] * len(rows[0]), *texts]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def report(name: str, rows: Sequence[Row], output: Path | None = None) -> Path:
    """Prints the rows and writes them, with the environment, to a JSON file."""
    path = output or Path("runs") / "benchmarks" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    result = {"benchmark": name, "environment": environment(), "rows": list(rows)}
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{table(rows)}\n\nwritten to {path}")
    return path
