"""Our decoder's training step and sweep beside nanoGPT-mup in PyTorch on the same CPU: tokens per second.

    python -m benchmarks.decoder --peer CLONE --python PATH        (7 minutes on 2 idle cores)

CLONE is a clone of EleutherAI/nanoGPT-mup, bare or not; PATH the interpreter of an environment with torch
and numpy. Without them only our side is measured. Aims, on two cores: 0.8 of PyTorch's tokens per second in a
step, 1.2 times in a sweep of 8 runs at width 64, and a compile time that does not grow with depth when blocks
are scanned.

Both sides train the same decoder in float32 (4 blocks, 4 heads, layer norms with gains, biases, learned
positions, exact GELU, tied table, AdamW in muP groups) on the same 16 windows of 128 bytes a step. Each side
is a process of its own; they take turns in random order, and the median of the ratios of neighbours counts.
Our steps run many to a program, as a sweep runs them, or one to a call, as ``training.scale`` does; the
latter also with large pages of memory for both processes (see docs/decoder_speed.md). PyTorch's
steps are eager, with the threads and the optimizer (loop or fused) that prove fastest here. The sweep is
compared with PyTorch's 8 runs one after another, and in one single-threaded process per core, side by side.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.common import Row, Worker, median, report

SIZES = {"batch": 16, "context": 128, "vocabulary": 256, "depth": 4, "heads": 4}
CORES = os.cpu_count() or 1
AIM_STEP, AIM_SWEEP = 0.8, 1.2
RUNS, RUN_STEPS = 8, 10
STARTED = time.perf_counter()
# Asks glibc for large pages: clearing a program's scratch memory, new in each call, then costs a tenth.
LARGE = ("env", "GLIBC_TUNABLES=glibc.malloc.hugetlb=1")
Side = Callable[[], Row]


def ask(worker: Worker, request: Row) -> Row:
    """One question, one answer."""
    worker.ask(request)
    return worker.answer()


def together(workers: Sequence[Worker], request: Row) -> Row:
    """The same work in several processes at once."""
    for worker in workers:
        worker.ask(request)
    answers = [worker.answer() for worker in workers]
    slowest = min(answer["speed"] for answer in answers)
    return answers[0] | {"speed": slowest * len(workers)}


def compare(head: Row, ours: Side, theirs: Side, repeats: int, aim: float | str) -> Row:
    """Times both sides in turn, in random order, after one pass each that counts for nothing."""
    sides, order = {"ours": ours, "theirs": theirs}, random.Random(0)
    answers: dict[str, list[Row]] = {side: [] for side in sides}
    ours(), theirs()
    for _ in range(repeats):
        for side in order.sample(["ours", "theirs"], 2):
            answers[side].append(sides[side]())

    def of(side: str, field: str) -> list[float]:
        return [answer[field] for answer in answers[side]]

    ratio, low, high = median(
        [a / b for a, b in zip(of("ours", "speed"), of("theirs", "speed"), strict=True)]
    )
    return said(
        head
        | {
            "torch (tokens/s)": round(median(of("theirs", "speed"))[0]),
            "widelimit (tokens/s)": round(median(of("ours", "speed"))[0]),
            "ratio": round(ratio, 3),
            "95% interval": f"{low:.2f} to {high:.2f}",
            "aim": aim,
            "torch (cpu ms/step)": 1e3 * min(of("theirs", "cpu")),
            "widelimit (cpu ms/step)": 1e3 * min(of("ours", "cpu")),
            "losses": "{:.3f}, {:.3f}".format(*(answers[side][-1]["loss"] for side in ("theirs", "ours"))),
        }
    )


def said(row: Row) -> Row:
    """Prints a row as soon as it is measured; the tables come at the end."""
    values = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()]
    print(f"{time.perf_counter() - STARTED:5.0f} s  " + ", ".join(values), flush=True)
    return row


@functools.cache
def fastest(torch: Worker, width: int) -> Row:
    """Returns the way of running PyTorch that is fastest here."""
    ways = [
        {"threads": threads, "fused": fused}
        for threads, fused in itertools.product(sorted({1, CORES}), (False, True))
    ]
    request = {"do": "steps", "width": width, "steps": 2}
    return max(ways, key=lambda way: max(ask(torch, request | way)["speed"] for _ in range(2)))


def describe(way: Row) -> str:
    """Names a way of running PyTorch."""
    return f"{'fused' if way['fused'] else 'loop'}, {way['threads']} thread{'s' * (way['threads'] > 1)}"


def steps(ours: Worker, torch: Worker, name: str, inside: bool, flags: argparse.Namespace) -> list[Row]:
    """A training step, for each width."""
    rows = []
    for width in flags.widths:
        way = fastest(torch, width)
        request = {"do": "steps", "width": width, "steps": flags.steps}
        head = {"work": f"step, width {width}", "ours": name, "torch runs": describe(way)}
        mine = lambda: ask(ours, request | {"inside": inside})  # noqa: B023, E731
        theirs = lambda: ask(torch, request | way)  # noqa: B023, E731
        rows.append(compare(head, mine, theirs, flags.repeats, AIM_STEP))
    return rows


def sweeps(ours: Worker, torch: Worker, several: Sequence[Worker], flags: argparse.Namespace) -> list[Row]:
    """Eight runs of equal shapes at width 64."""
    way = fastest(torch, 64)
    request = {"do": "runs", "width": 64, "runs": RUNS, "steps": RUN_STEPS}
    share = request | {"runs": RUNS // len(several), "threads": 1, "fused": way["fused"]}
    mode = {"group": 1, "in_flight": CORES}
    mine = lambda: ask(ours, request | mode)  # noqa: E731
    head = {"work": f"{RUNS} runs, width 64", "ours": f"sweep, {CORES} in flight"}
    side_by_side = describe(share) + f", {len(several)} processes"
    return [
        compare(
            head | {"torch runs": describe(way) + ", in turn"},
            mine,
            lambda: ask(torch, request | way),
            flags.sweep_repeats,
            AIM_SWEEP,
        ),
        compare(
            head | {"torch runs": side_by_side},
            mine,
            lambda: together(several, share),
            flags.sweep_repeats,
            "",
        ),
    ]


def compiling(ours: Worker, flags: argparse.Namespace) -> list[Row]:
    """What a step's program costs to trace and compile, over depth."""
    rows = []
    for scan, depths in ((True, flags.depths), (False, flags.depths[:2])):
        for depth in depths:
            answer = ask(ours, {"do": "compiling", "width": 64, "depth": depth, "scan": scan})
            blocks = "scanned" if scan else "unrolled"
            rows.append(said({"compile": f"{depth} blocks, {blocks}", **answer}))
    return rows


def alone(ours: Worker, flags: argparse.Namespace) -> list[Row]:
    """Our side without a peer."""
    rows = []
    for width, inside in itertools.product(flags.widths, (True, False)):
        request = {"do": "steps", "width": width, "steps": flags.steps, "inside": inside}
        speeds = [ask(ours, request)["speed"] for _ in range(1 + flags.repeats)][1:]
        row = {"work": f"step, width {width}", "inside": inside, "tokens/s": median(speeds)[0]}
        rows.append(said(row))
    return rows


def main() -> int:
    """Measures, prints and writes; asserts nothing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", help="clone of EleutherAI/nanoGPT-mup (default: our side only)")
    parser.add_argument("--python", help="interpreter with torch and numpy (default: our side only)")
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256], help="default 64 128 256")
    parser.add_argument("--depths", type=int, nargs="+", default=[4, 16, 32], help="default 4 16 32")
    parser.add_argument("--steps", type=int, default=5, help="steps per timed pass (default 5)")
    parser.add_argument("--repeats", type=int, default=7, help="timed pairs (default 7)")
    parser.add_argument("--sweep-repeats", type=int, default=6, help="timed pairs of sweeps (default 6)")
    flags = parser.parse_args()
    if (flags.peer is None) != (flags.python is None):
        parser.error("--peer and --python go together: the peer's model runs in that interpreter.")
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        sizes = Path(directory) / "sizes.json"
        sizes.write_text(json.dumps(SIZES))
        start = stack.enter_context
        mine = (sys.executable, "-m", "benchmarks.decoder_jax", sizes)
        ours = start(Worker(*mine))
        if flags.peer is None:
            print("No --peer and --python: these are the speeds of our side alone.\n")
            rows = alone(ours, flags)
        else:
            theirs = (flags.python, Path(__file__).with_name("decoder_torch.py"), sizes, flags.peer)
            torch, *several = (start(Worker(*theirs)) for _ in range(1 + min(CORES, RUNS)))
            rows = steps(ours, torch, "in one program", True, flags)
            rows += steps(ours, torch, "a call each", False, flags)
            large = start(Worker(*LARGE, *mine)), start(Worker(*LARGE, *theirs))
            rows += steps(*large, "a call each, large pages", False, flags)
            rows += sweeps(ours, torch, several, flags)
        compiled = compiling(ours, flags)
    report("decoder_compile", compiled)
    report("decoder", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
