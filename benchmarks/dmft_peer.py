"""The published notebooks beside our solvers: their own cells, in a process of their own, at the same sizes.

    python -m benchmarks.dmft_peer FOLDER '{"solver": "linear", ...}' 10     (the child process)

FOLDER is a clone of github.com/Pehlevan-Group/dmft_wide_networks. Of its first cells the imports and
functions are run, unmodified; an import that fails is left out (plotting, names that JAX has removed). The
functions that iterate to the fixed point compute the error curve in every round; that call is watched, so
that a run that is stopped has shown how far it came. A line of JSON goes out for each finished round.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import Row, Worker
from benchmarks.dmft_cases import Case
from widelimit import dmft

NOTEBOOKS = {"mlp": "deep_nonlinear_DMFT", "two_layer": "two_layer_nonlinear_DMFT", "linear": "Linear_DMFT"}
SOLVERS = {"mlp": "DMFT_Theory_Cross_Term", "two_layer": "DMFT_Theory", "linear": "solve_kernels_full"}
CURVES = {"mlp": "solve_Delta", "two_layer": "solve_Delta", "linear": "get_Delta"}
ROUNDS = {"mlp": 20, "two_layer": 12, "linear": 10}  # of the fixed point, as published
SAMPLES = {"mlp": 1000, "two_layer": 1000, "linear": 0}
BATCH = 50  # samples whose derivatives the deep notebook takes at a time


def definitions(folder: Path, solver: str, names: dict[str, Any]) -> None:
    """Runs imports and functions of the notebook's first cells, up to those that define the solver."""
    notebook = json.loads((folder / f"{NOTEBOOKS[solver]}.ipynb").read_text())
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        for node in ast.parse("".join(cell["source"])).body:
            code = compile(ast.Module([node], []), NOTEBOOKS[solver], "exec")
            if isinstance(node, ast.FunctionDef):
                exec(code, names)
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                with contextlib.suppress(ImportError):
                    exec(code, names)
        if SOLVERS[solver] in names:
            return
    raise ValueError(f"{folder} has no {SOLVERS[solver]} in {NOTEBOOKS[solver]}.ipynb.")


def watched(curve: Callable[..., Any], skip: int, say: Callable[[Row], None]) -> Callable[..., Any]:
    """The function that computes errors, saying after each call how many rounds are finished."""
    begin, calls = time.perf_counter(), 0

    def watch(*args: Any) -> Any:
        nonlocal calls
        delta = curve(*args)
        calls += 1
        if calls >= skip:
            loss = np.mean(np.asarray(delta) ** 2, axis=1) / 2
            say({"rounds": calls - skip, "seconds": time.perf_counter() - begin, "loss": loss.tolist()})
        return delta

    return watch


def child(folder: Path, case: Case, rounds: int) -> None:
    """Solves in this process; everything the notebook prints goes to the error stream."""
    import jax.numpy as jnp
    import matplotlib.pyplot as plt

    out = sys.stdout

    def say(row: Row) -> None:
        print(json.dumps(row), file=out, flush=True)

    plt.show = lambda *args, **kwargs: plt.close("all")
    names: dict[str, Any] = {"T": case.T, "P": case.P}  # which the functions take from around them
    with contextlib.redirect_stdout(sys.stderr):
        definitions(folder, case.solver, names)
        curve = CURVES[case.solver]
        # The nonlinear ones compute the lazy curve first, and all of them one before the first round.
        names[curve] = watched(names[curve], 1 if case.solver == "linear" else 2, say)
        x = case.inputs()
        kernel, y = jnp.asarray(x @ x.T / case.D, jnp.float32), jnp.asarray(case.targets(), jnp.float32)
        settings: dict[str, Any] = {"depth": case.L, "eta": case.eta, "gamma": case.gamma0, "T": case.T}
        if case.solver == "linear":
            found = names[SOLVERS["linear"]](kernel, y, **settings, num_steps=rounds)
            names[curve](found[0], found[1], kernel, y, case.eta)
            return
        if case.solver == "mlp":
            settings |= {"nonlin": "tanh", "beta": 0.8, "alpha": 0.7}
        found = names[SOLVERS[case.solver]](kernel, y, **settings, samples=case.S, num_iter=rounds)
        names[curve](kernel, y, found[0], found[1], case.eta)


def listen(folder: Path, case: Case, rounds: int, limit: float) -> tuple[list[Row], str]:
    """Starts the child, and returns what it said and how it ended, at the latest after so many seconds."""
    own = dataclasses.replace(case, S=SAMPLES[case.solver] if case.S == 0 else case.S)
    command = [sys.executable, "-m", "benchmarks.dmft_peer", str(folder), json.dumps(dataclasses.asdict(own))]
    process = subprocess.Popen(
        [*command, str(rounds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"MPLBACKEND": "Agg", "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    timer = threading.Timer(limit, process.kill)
    timer.start()
    said, errors = process.communicate()
    late = not timer.is_alive()
    timer.cancel()
    rows = [dict(json.loads(line)) for line in said.splitlines() if line.startswith("{")]
    if late:
        return rows, f"stopped after {limit:.0f} s"
    if process.returncode:
        return rows, f"failed: {errors.strip().splitlines()[-1] if errors.strip() else process.returncode}"
    return rows, "finished"


def reference(case: Case) -> np.ndarray:
    """Our loss by the notebooks' rule for f, that of the kernel; of linear networks by the exact one."""
    if case.solver == "linear":
        return case.solve(0).loss.values
    samples, replicas = (1000, 4) if case.solver == "two_layer" else (2000, 8)
    rule = {"output_rule": "ntk_euler", "samples": samples, "replicas": replicas}
    return dmft.mlp(case.problem(), **rule).loss.values  # type: ignore[arg-type]


def beside(
    folder: Path, limit: float, cases: dict[str, Case], ours: dict[str, Row], quick: bool
) -> list[Row]:
    """Returns a row for each run of a notebook's solver: smaller sizes that finish, then the published one.

    Args:
        folder: of the notebooks.
        limit: seconds of each run.
        cases: what we solve, by name.
        ours: what ``measure`` found for them.
        quick: only a small size, few samples and rounds.
    """
    rows: list[Row] = []
    for name, case in cases.items():
        complete: Row | None = None
        for run, rounds, times_as_much in runs(name, case, quick):
            own = ours[name] if run.T == case.T else measured(dataclasses.replace(case, T=run.T))
            said, ended = listen(folder, run, rounds, limit)
            complete = beside_ours(name, run, rounds, times_as_much, said, ended, own, complete)
            rows.append({key: value for key, value in complete.items() if not key.startswith("_")})
            print(rows[-1], flush=True)
    return rows


def runs(name: str, case: Case, quick: bool) -> list[tuple[Case, int, float]]:
    """Sizes, rounds, and how many times as long the published run takes as these rounds do, by its loops."""
    rounds, samples = ROUNDS[case.solver], SAMPLES[case.solver]
    published = dataclasses.replace(case, S=samples)
    if quick:
        return [(dataclasses.replace(case, S=2 * BATCH if samples else 0), 3, 1.0)]
    if name == "tanh":
        few = dataclasses.replace(published, S=BATCH)
        return [(dataclasses.replace(published, T=10), rounds, 1.0), (few, 1, rounds * samples / BATCH)]
    if name == "relu":
        return [(dataclasses.replace(published, T=50), rounds, 1.0), (published, rounds, 1.0)]
    return [(published, rounds, 1.0)]


def measured(case: Case) -> Row:
    """Ours, in a process of its own."""
    with Worker(
        sys.executable, "-m", "benchmarks.dmft_cases", json.dumps(dataclasses.asdict(case))
    ) as worker:
        return worker.first


def beside_ours(
    name: str,
    case: Case,
    rounds: int,
    times_as_much: float,
    said: list[Row],
    ended: str,
    own: Row,
    complete: Row | None,
) -> Row:
    """One row. Its distance from our loss is one draw of its error, that of ours a standard error."""
    finished = [row for row in said if row["rounds"] > 0]
    last = finished[-1] if finished else None
    done = last["rounds"] if last else 0
    distance = float("nan")
    if last and case.S != BATCH:
        theirs, truth = np.asarray(last["loss"]), reference(case)
        distance = float(np.abs(theirs - truth).max() / truth[0])
    whole = ended == "finished" and done == rounds
    bound = last is None and ended.startswith("stopped")
    spent = last["seconds"] if last else float(ended.split()[2]) if bound else float("nan")
    # Without one finished round nothing is known but that each takes longer than the limit.
    seconds = spent * (ROUNDS[case.solver] if bound else times_as_much * rounds / max(done, 1))
    ratio = seconds / own["cold"]
    known = distance if np.isfinite(distance) and whole else (complete or {}).get("_distance", distance)
    if case.solver == "linear":
        equal = settled(finished) / own["cold"] if finished else float("nan")
    else:
        equal = ratio * (known / own["error"]) ** 2
    return {
        "case": name,
        "T": case.T,
        "their samples": case.S,
        "rounds": f"{done} of {rounds}",
        "ended": ended,
        "their seconds": spent,
        "for the published rounds and samples": f"{'more than ' if bound else ''}{seconds:.4g}",
        "their distance from us": distance,
        "our seconds (cold)": own["cold"],
        "our error": own["error"],
        "ratio of times": ratio,
        "at equal error": equal,
        "with the error of": "this run" if known == distance else "the run above",
        "_distance": known,
    }


def settled(finished: list[Row]) -> float:
    """Seconds until the curve stays within 0.5% of the initial loss of its last round."""
    end = np.asarray(finished[-1]["loss"])
    for row in reversed(finished):
        if np.abs(np.asarray(row["loss"]) - end).max() > 0.005 * end[0]:
            break
        first = row
    return float(first["seconds"])


if __name__ == "__main__":
    child(Path(sys.argv[1]), Case(**json.loads(sys.argv[2])), int(sys.argv[3]))
