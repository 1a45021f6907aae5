"""Kernels of more samples than fit into the memory given, each in a process of its own: time and memory.

python -m benchmarks.ntk_big '{"network": "mlp", ...}' FILE      (FILE may be empty: into memory)
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import jax
import numpy as np

from benchmarks.common import Row
from benchmarks.ntk_cases import Case
from benchmarks.ntk_worker import STATUS, memory

MEMORY = "2GiB"
CASES = [(Case("mlp", "trace", 10_000, 512, 10), False), (Case("mlp", "full", 2_000, 512, 10), True)]
QUICK = [(Case("mlp", "trace", 40, 16, 3), False), (Case("mlp", "full", 20, 16, 3), True)]


class Watch(threading.Thread):
    """Samples the memory that is no file's: mapped pages of a file go when others need the room."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before = self.peak = self.now()
        self.stop = threading.Event()

    def now(self) -> float:
        """Returns bytes in use."""
        if not STATUS.exists():
            return 0.0
        values = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
        return 1024.0 * int(values["RssAnon"].split()[0])

    def run(self) -> None:
        """Looks every hundredth of a second."""
        while not self.stop.wait(0.01):
            self.peak = max(self.peak, self.now())


def one(case: Case, file: str) -> Row:
    """Computes one kernel in this process."""
    from widelimit.kernels import empirical

    apply, params, x = case.build()
    x = np.asarray(x)
    # What compiling and the first buffers take is the program's, not the kernel's.
    small = case.samples if case.samples < 100 else 64
    empirical.ntk_in_blocks(apply, params, x[:small], form=case.form, memory=MEMORY)  # type: ignore[arg-type]
    before, _ = memory(reset=True)
    watch = Watch()
    watch.start()
    begin = time.perf_counter()
    kernel = empirical.ntk_in_blocks(
        apply,
        params,
        x,
        form=case.form,  # type: ignore[arg-type]
        memory=MEMORY,
        file=file or None,
        progress=True,
    )
    seconds = time.perf_counter() - begin
    watch.stop.set()
    probe = empirical.ntk(apply, params, x[:8], x[-8:], form=case.form)  # type: ignore[arg-type]
    corner = np.asarray(kernel[:8, -8:])
    return {
        "case": str(case),
        "to a file": bool(file),
        "memory given": MEMORY,
        "seconds": seconds,
        "kernel (MB)": kernel.nbytes / 1e6,
        "peak over what was in use (MB)": (memory()[1] - before) / 1e6,
        "of it not the file's pages (MB)": (watch.peak - watch.before) / 1e6,
        "difference in a corner": float(np.linalg.norm(corner - probe) / np.linalg.norm(probe)),
        "device": jax.devices()[0].device_kind,
    }


def big(quick: bool = False) -> list[Row]:
    """Returns a row for each kernel, its progress bar shown on the way."""
    rows = []
    for case, on_disk in QUICK if quick else CASES:
        with tempfile.TemporaryDirectory() as folder:
            file = str(Path(folder) / "kernel.npy") if on_disk else ""
            command = [sys.executable, "-m", "benchmarks.ntk_big", json.dumps(dataclasses.asdict(case)), file]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
    return rows


if __name__ == "__main__":
    print(json.dumps(one(Case(**json.loads(sys.argv[1])), sys.argv[2])))
