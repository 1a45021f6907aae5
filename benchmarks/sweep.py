"""Our in-jit sweep beside PyTorch + microsoft/mup on the same network, data and grid: steps per second.

    python -m benchmarks.sweep --torch-python PATH        (minutes; wants an idle machine)

PATH is the interpreter of an environment with torch and mup 1.0.0 (tests/reference/mup_reference.py says
how to make one); without it only our side is measured. Aim, on two cores and once compiled: 8 times mup's
steps per second at width 128, 1.3 times at width 512.

Both sides train a tanh MLP with two hidden layers and biases on scikit-learn's digits, for every
(learning rate, seed) of a grid, from the same rows of data at every step. Each side is a process of its
own; they take turns in random order, so that a busy machine slows both, and the median of the ratios of
neighbours is reported. PyTorch runs eagerly, one cell after another, in the way (loop, foreach or fused
optimizer; one thread or all) that proves fastest here; a further row gives it one single-threaded process
per core, each with its share of the grid. In the last rows every pass is the first of a fresh process:
with an empty compilation cache, and with a warm one.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import Row, Worker, median, report
from widelimit.training.data import batch_table, digits

BASE_WIDTH = 64
AIMS = {128: 8.0, 512: 1.3}
OURS = [sys.executable, "-m", "benchmarks.jax_sweep"]
TORCH = str(Path(__file__).with_name("torch_sweep.py"))
CORES = os.cpu_count() or 1
Answer = dict[str, Any]


def together(workers: list[Worker], request: Row) -> Answer:
    """One pass over a grid that is shared out among workers, all at once."""
    for worker in workers:
        worker.ask(request)
    answers = [worker.answer() for worker in workers]
    steps, seconds = sum(a["cell_steps"] for a in answers), max(a["seconds"] for a in answers)
    losses = [loss for a in answers for loss in a["final_loss"]]
    return {"speed": steps / seconds, "seconds": seconds, "final_loss": float(np.median(losses))}


def write_problem(path: Path, width: int, flags: argparse.Namespace, share: slice = slice(None)) -> Path:
    """Writes the data and a share of the grid for both sides."""
    data = digits(seed=0)
    order = [batch_table(seed, 0, flags.steps, flags.batch, data.samples) for seed in range(flags.seeds)]
    np.savez(
        path,
        x=data.train_inputs,
        y=data.train_targets.astype(np.int64),
        order=np.stack(order).astype(np.int64),
        rates=2.0 ** np.linspace(-11, -5, flags.rates)[share],
        width=width,
        base_width=BASE_WIDTH,
        outputs=data.outputs,
    )
    return path


def compare(ours: Callable[[], Answer], torch: Callable[[], Answer], repeats: int) -> Row:
    """Times both sides in turn, in random order."""
    sides, order = {"ours": ours, "torch": torch}, random.Random(0)
    answers: dict[str, list[Answer]] = {"ours": [], "torch": []}
    for _ in range(repeats):
        for side in order.sample(["ours", "torch"], 2):
            answers[side].append(sides[side]())
    speeds = {side: [answer["speed"] for answer in several] for side, several in answers.items()}
    ratio, low, high = median([a / b for a, b in zip(speeds["ours"], speeds["torch"], strict=True)])
    return {
        "torch + mup (steps/s)": median(speeds["torch"])[0],
        "widelimit (steps/s)": median(speeds["ours"])[0],
        "ratio": ratio,
        "95% interval": f"{low:.2f} to {high:.2f}",
        "median final loss": "{:.3f}, {:.3f}".format(
            *(answers[s][-1]["final_loss"] for s in ("torch", "ours"))
        ),
    }


def fastest(torch: Worker, optimizer: str) -> Row:
    """Returns the way of running PyTorch that is fastest here, warmed up."""
    ways = [
        {"optimizer": optimizer, "impl": impl, "threads": threads}
        for impl, threads in itertools.product(("loop", "foreach", "fused"), sorted({1, CORES}))
    ]
    return max(ways, key=lambda way: max(together([torch], way | {"cells": 3})["speed"] for _ in range(5)))


def describe(way: Row) -> str:
    """Names a way of running PyTorch."""
    return f"{way['impl']}, {way['threads']} thread{'s' * (way['threads'] > 1)}"


def measure(width: int, directory: Path, flags: argparse.Namespace) -> list[Row]:
    """Returns the rows of one width."""
    problem = write_problem(directory / f"{width}.npz", width, flags)
    request = {"optimizer": flags.optimizer}
    head = {"width": width, "batch": flags.batch}
    with ExitStack() as stack:
        start = stack.enter_context
        ours = start(Worker(*OURS, problem))
        together([ours], request)
        if not flags.torch_python:
            speeds = [together([ours], request)["speed"] for _ in range(flags.repeats)]
            return [head | {"compiling": "excluded", "widelimit (steps/s)": median(speeds)[0]}]

        torch = start(Worker(flags.torch_python, TORCH, problem))
        head |= torch.first
        way = fastest(torch, flags.optimizer)
        run = lambda: together([ours], request)  # noqa: E731
        row = compare(run, lambda: together([torch], way), flags.repeats)
        setting = {"compiling": "excluded", "torch runs": describe(way)}
        rows = [head | setting | row | {"aim": AIMS.get(width, "")}]

        shares = [
            write_problem(directory / f"{width}-{i}.npz", width, flags, slice(i, None, CORES))
            for i in range(CORES)
        ]
        several = [start(Worker(flags.torch_python, TORCH, share)) for share in shares]
        single = way | {"threads": 1}
        together(several, single)
        row = compare(run, lambda: together(several, single), flags.repeats)
        setting |= {"torch runs": f"{describe(single)}, {CORES} processes"}
        rows.append(head | setting | row | {"aim": ""})
    return rows + [head | row for row in first_passes(problem, way, directory / f"cache-{width}", flags)]


def first_passes(problem: Path, way: Row, cache: Path, flags: argparse.Namespace) -> list[Row]:
    """Compares first passes of fresh processes, imports aside, with an empty and a warm compilation cache."""

    def ours(folder: str) -> Answer:
        with Worker(*OURS, problem, folder) as worker:
            return together([worker], {"optimizer": flags.optimizer})

    def torch() -> Answer:
        with Worker(flags.torch_python, TORCH, problem) as worker:
            return together([worker], way)

    empty, warm = (f"{cache}-{number}" for number in itertools.count(1)), f"{cache}-0"
    ours(warm)
    cold_row = compare(lambda: ours(next(empty)), torch, flags.first_repeats)
    warm_row = compare(lambda: ours(warm), torch, flags.first_repeats)
    return [
        {"compiling": "included, empty cache", "torch runs": describe(way)} | cold_row | {"aim": ""},
        {"compiling": "included, warm cache", "torch runs": describe(way)} | warm_row | {"aim": ""},
    ]


def main() -> int:
    """Measures, prints and writes; asserts nothing."""
    parser = argparse.ArgumentParser(
        description="Our sweep beside PyTorch + mup, in turn, median of several."
    )
    parser.add_argument("--torch-python", help="interpreter with torch and mup (default: our side only)")
    parser.add_argument("--widths", type=int, nargs="+", default=[128, 512], help="default 128 512")
    parser.add_argument("--optimizer", choices=("adam", "sgd"), default="adam", help="default adam")
    parser.add_argument("--batch", type=int, default=64, help="samples per step (default 64)")
    parser.add_argument("--steps", type=int, default=50, help="steps per cell (default 50)")
    parser.add_argument("--rates", type=int, default=12, help="learning rates (default 12)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds (default 3)")
    parser.add_argument("--repeats", type=int, default=15, help="timed pairs (default 15)")
    parser.add_argument("--first-repeats", type=int, default=3, help="timed pairs that compile (default 3)")
    flags = parser.parse_args()
    if not flags.torch_python:
        print("No --torch-python, so PyTorch + mup is skipped: these are the speeds of our side alone.\n")
    with tempfile.TemporaryDirectory() as directory:
        rows = [row for width in flags.widths for row in measure(width, Path(directory), flags)]
    report("sweep", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
