"""The doors that users come in by, small data to bring along, and what is compared afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from experiments import coordinate_check, lr_transfer, one_step_rate
from widelimit.training import main

ROOT = Path(__file__).parents[2]
TINY = (
    "--preset smoke --widths 8 16 --seeds 2 --rates 5 --steps 2 --batch-size 8 --optimizers sgd "
    "--parametrizations mup --checkpoint-seconds 1000"
).split()
LINEAR = "--preset smoke --widths 4 8 16 --base-width 4 --samples 8 --seeds 2 --data gaussian".split()


def transfer(directory: Path, *flags: str) -> int:
    """The main experiment; later flags win."""
    return main(
        "lr_transfer", lr_transfer.PRESETS, lr_transfer.run, [*TINY, *flags, "--directory", str(directory)]
    )


def one_step(directory: Path, *flags: str) -> int:
    """The cheapest experiment."""
    arguments = [*LINEAR, *flags, "--directory", str(directory)]
    return main("one_step_rate", one_step_rate.PRESETS, one_step_rate.run, arguments)


def coordinates(directory: Path, *flags: str) -> int:
    """The coordinate check."""
    arguments = ["--preset", "smoke", *flags, "--directory", str(directory)]
    return main("coordinate_check", coordinate_check.PRESETS, coordinate_check.run, arguments)


def snapshot(place: Path) -> dict[str, bytes | None]:
    """Every file below a place with its bytes, every directory, every link."""
    return {
        str(path.relative_to(place)): path.read_bytes() if path.is_file() else None
        for path in place.rglob("*")
    }


def arrays(samples: int = 40, **changes) -> dict[str, np.ndarray]:
    """A small labelled data set that is in order."""
    x = np.random.default_rng(0).normal(size=(samples, 3))
    return {"x": x, "y": np.arange(samples) % 2, **changes}


def saved(place: Path, **changes) -> tuple[str, ...]:
    """Flags for a small data set of one's own."""
    np.savez(
        place / "mine.npz", **{key: value for key, value in arrays(**changes).items() if value is not None}
    )
    return ("--data", "npz", "--data-path", str(place / "mine.npz"))


def again(place: Path, *flags: str) -> int:
    """Resumes the copied run on the data it began with."""
    config = json.loads((place / "transfer" / "config.json").read_text())["config"]
    return transfer(place / "transfer", "--data", "npz", "--data-path", config["data_path"], *flags)
