"""What the benchmarks share: where they ran, processes, a median with its interval, tables and JSON files."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]


class Worker:
    """One side of a comparison: a process that answers lines of JSON, the first of them unasked."""

    def __init__(self, *command: str | Path):
        self._process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # XLA finds fault with every program it loads from a cache, even on the machine that wrote it.
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        self.first = self.answer()

    def ask(self, request: Row) -> None:
        """Sends a line."""
        assert self._process.stdin is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)

    def answer(self, limit: float | None = None) -> Row:
        """Waits for the next line; ends the process after a number of seconds, and says when it has died."""
        assert self._process.stdout is not None
        timer = threading.Timer(limit, self._process.kill) if limit else None
        if timer:
            timer.start()
        line = self._process.stdout.readline()
        late = timer is not None and not timer.is_alive()
        if timer:
            timer.cancel()
        if not line and late:
            raise TimeoutError(f"no answer in {limit:.0f} seconds")
        if not line:
            sys.exit(f"{self._process.args!r} stopped with code {self._process.wait()}; see its error above.")
        return dict(json.loads(line))

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.communicate()


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
    """Returns the median and the distribution-free 95% interval of it that two order statistics give.

    Of fewer than six values it is their range, which covers less: 94% for five, 75% for three.
    """
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
