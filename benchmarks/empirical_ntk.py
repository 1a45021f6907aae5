"""The structured empirical NTK beside neural-tangents' and a plain Jacobian's: time, memory, flops.

    python -m benchmarks.empirical_ntk                   (11 minutes on 2 idle cores, 12 GiB)
    python -m benchmarks.empirical_ntk --quick           (seconds: small sizes, to see that all of it runs)
    python -m benchmarks.empirical_ntk --cases mlp-trace scaling

Aims, on the CPU, against the best implementation of neural-tangents that works: an MLP (3 hidden layers of
512, ReLU, 64 inputs, 10 outputs, 256 samples) 100 times as fast for the full kernel and 300 times for the
trace; a convolutional network (64 samples) 10 times; a decoder (16 samples) twice, against a plain Jacobian
too; a tenth of the memory. On a GPU the same table is made, with the fraction of its peak.

Every way of computing a kernel is a process of its own. Processes take turns in random order, so that a busy
machine slows all; a slow one leaves the round when it has had its share of seconds. Compilation is reported
beside the times, not in them. What would take more flops or memory than allowed runs with fewer samples, and
its time is multiplied by the square of the ratio, its memory by the ratio; the table says with how many.
"memory" is how far the peak of the process (on a GPU: of the device) rose above what was in use before the
call; "planned" is what the compiler reserves. "difference" is to our kernel, relative, in Frobenius norm.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import Row, Worker, median, report, table
from benchmarks.ntk_big import big
from benchmarks.ntk_cases import Case
from benchmarks.ntk_flops import needed
from benchmarks.ntk_scaling import scaling
from benchmarks.ntk_worker import MATMUL, OURS, SIDES

CASES = {
    "mlp-full": Case("mlp", "full", 256, 512, 10),
    "mlp-trace": Case("mlp", "trace", 256, 512, 10),
    "cnn-full": Case("cnn", "full", 64, 64, 10),
    "decoder-trace": Case("decoder", "trace", 16, 128, 64),
}
QUICK = {
    "mlp-full": Case("mlp", "full", 16, 32, 3),
    "mlp-trace": Case("mlp", "trace", 16, 32, 3),
    "cnn-full": Case("cnn", "full", 4, 8, 3),
    "decoder-trace": Case("decoder", "trace", 4, 16, 8),
}
AIMS = {"mlp-full": 100, "mlp-trace": 300, "cnn-full": 10, "decoder-trace": 2}
PEAK = "matmul"
LIMIT = 600.0  # seconds for one call


def start(side: str, case: Case, flags: argparse.Namespace) -> tuple[Worker, int]:
    """Starts a process, with fewer samples where the case takes too much; returns their number too."""
    while True:
        command = [sys.executable, "-m", "benchmarks.ntk_worker", side, json.dumps(dataclasses.asdict(case))]
        worker = Worker(*command)
        facts = worker.first
        allowed = facts["planned"] <= flags.memory * 2**30 and facts["flops"] <= flags.flops
        if allowed or case.samples < 2:
            return worker, case.samples
        worker.__exit__()
        case = dataclasses.replace(case, samples=case.samples // 2)


def turns(workers: dict[str, Worker], folder: Path, flags: argparse.Namespace) -> dict[str, list[Row]]:
    """Asks all in turn, in random order; the slow ones as often as their share of seconds allows."""
    answers: dict[str, list[Row]] = {side: [] for side in workers}
    spent, order = dict.fromkeys(workers, 0.0), random.Random(0)
    for number in range(flags.repeats):
        for side in order.sample(list(workers), len(workers)):
            if number and spent[side] * (number + 1) / number > flags.seconds:
                continue
            request: Row = {"calls": 5 if side in (OURS, PEAK) else 1}
            if not number and side != PEAK:
                request["save"] = str(folder / f"{side}.npy")
            workers[side].ask(request)
            try:
                answer = workers[side].answer(LIMIT)
            except TimeoutError as error:
                sys.exit(f"{side}: {error}; pass a smaller --flops to run it with fewer samples.")
            spent[side] += sum(answer["seconds"])
            answers[side].append(answer)
    return answers


def compare(name: str, case: Case, flags: argparse.Namespace) -> list[Row]:
    """Returns the rows of one case, a row for each way of computing the kernel."""
    with ExitStack() as stack, tempfile.TemporaryDirectory() as directory:
        started = {side: start(side, case, flags) for side in SIDES}
        workers = {side: stack.enter_context(worker) for side, (worker, _) in started.items()}
        folder = Path(directory)
        answers = turns(workers, folder, flags)
        kernels = {side: np.load(folder / f"{side}.npy") for side in workers if side != PEAK}
    times = {side: [float(np.median(a["seconds"])) for a in several] for side, several in answers.items()}
    peak = 2.0 * MATMUL**3 / median(times[PEAK])[0]
    grown = {side: max(a["grown"] for a in several) for side, several in answers.items()}
    rows = []
    for side, kernel in kernels.items():
        samples, facts = started[side][1], workers[side].first
        more = case.samples / samples
        ratio, low, high = median([more**2 * a / b for a, b in zip(times[side], times[OURS], strict=False)])
        seconds, shortest, longest = median(times[side])
        own = kernels[OURS][:samples, :samples]
        rows.append(
            {
                "case": name,
                "side": side,
                "samples": samples,
                "runs": sum(len(a["seconds"]) for a in answers[side]),
                "compile (s)": round(facts["trace"] + facts["compile"], 2),
                "seconds": seconds,
                "95% interval": f"{shortest:.4g} to {longest:.4g}",
                f"times ours (N={case.samples})": ratio,
                "its interval": f"{low:.4g} to {high:.4g}",
                "aim": AIMS[name] if side != OURS else "",
                "memory (MB)": grown[side] / 1e6,
                "times our memory": more * grown[side] / max(grown[OURS], 1.0),
                "planned (MB)": facts["planned"] / 1e6,
                "Gflop": facts["flops"] / 1e9,
                "Gflop by XLA": facts["xla_flops"] / 1e9,
                "Gflop needed": needed(case) / 1e9 if side == OURS else "",
                "Gflop/s": facts["flops"] / seconds / 1e9,
                "of the matmul peak": facts["flops"] / seconds / peak,
                "difference": float(np.linalg.norm(kernel - own) / np.linalg.norm(own)),
            }
        )
    print(f"{case}: a float32 matrix product of {MATMUL}^3 reached {peak / 1e9:.1f} Gflop/s")
    print(table(rows), flush=True)  # also in the report; a run that is stopped has shown what it has
    return rows


def parse() -> argparse.Namespace:
    """Returns the flags."""
    names = [*CASES, "scaling", "big"]
    parser = argparse.ArgumentParser(description="The structured empirical NTK beside its peers, in turn.")
    parser.add_argument("--cases", nargs="+", choices=names, default=names, help="default: all")
    parser.add_argument("--quick", action="store_true", help="small sizes and two rounds")
    parser.add_argument("--repeats", type=int, default=9, help="rounds at most (default 9)")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each process and case (default 30)")
    parser.add_argument("--flops", type=float, default=2e12, help="of a call at most (default 2e12)")
    parser.add_argument("--memory", type=float, default=12.0, help="GiB of a call at most (default 12)")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/benchmarks"), help="folder of the JSON files"
    )
    flags = parser.parse_args()
    if flags.quick:
        flags.repeats = min(flags.repeats, 2)
    return flags


def main() -> int:
    """Measures, prints and writes; asserts nothing."""
    flags = parse()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # several processes share a GPU
    cases = QUICK if flags.quick else CASES
    rows: list[Row] = []
    for name, case in cases.items():
        if name in flags.cases:
            rows += compare(name, case, flags)
    tables: dict[str, Any] = {"empirical_ntk": rows}
    if "scaling" in flags.cases:
        tables["empirical_ntk_scaling"] = scaling(flags.quick)
    if "big" in flags.cases:
        tables["empirical_ntk_big"] = big(flags.quick)
    for name, made in tables.items():
        if made:
            report(name, made, flags.output / f"{name}.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
