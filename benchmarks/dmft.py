"""The mean-field solvers at the sizes of the published notebooks: seconds, Monte-Carlo error, cost, peers.

    python -m benchmarks.dmft                            (about 10 minutes on 2 idle cores)
    python -m benchmarks.dmft --peer CLONE               (and up to 5 times --peer-seconds more)
    python -m benchmarks.dmft --quick                    (a minute: small sizes, to see that all of it runs)

Sizes: tanh, 3 hidden layers, 10 points, 100 times; ReLU, 1 hidden layer, 25 points, 200 times; linear, 5
hidden layers, 20 points, 100 times. Aims on 2 cores: less than 60 s, 2 s and 1 s, and a standard error of the
loss of at most 0.5% of the initial loss at every time, over 8 replicas (linear is exact). "cold" is the first
call of a process, with compilation; "warm" is a second one with other noise. On a GPU there is a case of 40
points, 100 times and 16384 samples too.

"scaling" fits time and flops against samples, points and times; stated orders stand beside. CLONE is a clone
of github.com/Pehlevan-Group/dmft_wide_networks, whose solvers run beside ours at the same sizes, in processes
of their own, each stopped after --peer-seconds. At equal error, Monte-Carlo times grow with its inverse
square; of the linear solver, which is exact, it is the time until its rounds settle.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import jax

from benchmarks.common import Row, report
from benchmarks.dmft_cases import AIMS, CASES, ON_GPU, QUICK, Case
from benchmarks.dmft_peer import beside, measured
from benchmarks.dmft_scaling import scaling


def parse() -> argparse.Namespace:
    """Returns the flags."""
    names = [*CASES, "scaling"]
    parser = argparse.ArgumentParser(description="The mean-field solvers: time, error, cost, peers.")
    parser.add_argument("--cases", nargs="+", choices=names, default=names, help="default: all")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--peer", type=Path, metavar="CLONE", help="folder of the published notebooks")
    parser.add_argument(
        "--peer-seconds", type=float, default=600.0, help="of each of their runs (default 600)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("runs/benchmarks"), help="folder of the JSON files"
    )
    return parser.parse_args()


def row(name: str, case: Case, found: Row) -> Row:
    """What was measured, beside what was aimed at."""
    seconds, most = AIMS.get(name, ("", ""))
    return {
        "case": name,
        "solver": case.solver,
        "P": case.P,
        "T": case.T,
        "L": case.L,
        "S": case.S or "",
        "R": case.R if case.S else "",
        "cold (s)": found["cold"],
        "warm (s)": found["warm"],
        "aim (s)": seconds,
        "error": found["error"] if case.S else "exact",
        "aim of the error": most if case.S else "",
        "pairing residual": found["pairing"] if case.solver == "mlp" else "",
        "memory planned (MB)": found["bytes"] / 1e6,
        "device": found["device"],
    }


def main() -> int:
    """Measures, prints and writes; asserts nothing."""
    flags = parse()
    cases = {name: case for name, case in (QUICK if flags.quick else CASES).items() if name in flags.cases}
    if jax.default_backend() == "gpu" and not flags.quick:
        cases |= ON_GPU
    ours: dict[str, Row] = {}
    rows = []
    for name, case in cases.items():
        ours[name] = measured(case)
        rows.append(row(name, case, ours[name]))
        print(rows[-1], flush=True)
    tables = {"dmft": rows}
    if "scaling" in flags.cases:
        tables["dmft_scaling"] = scaling(flags.quick)
    if flags.peer:
        theirs = {name: case for name, case in cases.items() if name not in ON_GPU}
        tables["dmft_peer"] = beside(flags.peer, flags.peer_seconds, theirs, ours, flags.quick)
    for name, made in tables.items():
        if made:
            report(name, made, flags.output / f"{name}.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
