"""Bad input through the doors that users come in by.

Each case gives one sentence and exit code 2, and leaves every file as it was, byte for byte. What can be
recovered is.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import lr_transfer, one_step_rate
from widelimit.models import MLPConfig, initialise, rescale, rules
from widelimit.optim import adam, sgd
from widelimit.scaling import from_json, make_rules, mean_field, mup, probe, to_json
from widelimit.training import Checkpoint, main, open_results

ROOT = Path(__file__).parents[1]
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


def snapshot(place: Path) -> dict[str, bytes | None]:
    """Every file below a place with its bytes, every directory, every link."""
    return {
        str(path.relative_to(place)): path.read_bytes() if path.is_file() else None
        for path in place.rglob("*")
    }


@pytest.fixture
def refused(tmp_path, capsys, monkeypatch):
    """Runs a command that must be refused, and returns its sentence."""
    monkeypatch.chdir(tmp_path)  # where a default directory would show up

    def check(command: Callable[[], int], match: str) -> None:
        before = snapshot(tmp_path)
        assert command() == 2
        *progress, sentence = capsys.readouterr().err.splitlines()
        assert all(re.match(r"\w+: width +\d+", line) for line in progress)
        assert re.match(r"(lr_transfer|one_step_rate|mine): ", sentence) and sentence.endswith(".")
        assert re.search(match, sentence), sentence
        assert snapshot(tmp_path) == before

    return check


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


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A data set and two runs that are through: directories `transfer` and `one_step` beside `mine.npz`."""
    place = tmp_path_factory.mktemp("finished")
    assert transfer(place / "transfer", *saved(place)) == 0
    assert one_step(place / "one_step") == 0
    return place


@pytest.fixture
def copies(finished, tmp_path, monkeypatch) -> Path:
    """The same again, to be damaged."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path


def again(place: Path, *flags: str) -> int:
    """Resumes the copied run on the data it began with."""
    config = json.loads((place / "transfer" / "config.json").read_text())["config"]
    return transfer(place / "transfer", "--data", "npz", "--data-path", config["data_path"], *flags)


def timeless(directory: Path) -> tuple[list, dict]:
    """Rows and summary without times."""
    rows = [json.loads(line) for line in (directory / "rows.jsonl").read_text().splitlines()]
    summary = json.loads((directory / "summary.json").read_text())
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows], {**summary, "seconds": 0}


def spoilt(value: float) -> np.ndarray:
    """Inputs with one number that is none."""
    x = arrays()["x"]
    x[3, 1] = value
    return x


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"y": np.arange(40) % 2 + 0.0}, "must hold whole-number labels y, .*; got floats"),
        ({"x": np.ones((40, 3)) * 1j}, "inputs must be real numbers; got complex128"),
        ({"x": np.full((40, 3), "1.0")}, "inputs must be real numbers; got <U3"),
        ({"x": np.full((40, 3), None)}, "cannot be read as an .npz of plain arrays"),
        ({"x": spoilt(np.nan)}, "finite; got 1 NaN or infinite values"),
        ({"x": spoilt(1e39)}, "must fit float32"),
        ({"x": np.ones((40, 3))}, "training inputs are the same, so there is nothing to learn"),
        ({"y": np.zeros(40, int)}, "training targets are the same, so there is nothing to learn"),
        ({"y": np.arange(39) % 2}, r"one row per sample each; got shapes \(40, 3\) and \(39,\)"),
        ({"y": np.eye(2, dtype=int)[np.arange(40) % 2]}, r"labels must have shape \[P\]; got \(32, 2\)"),
        ({"y": np.arange(40) % 2 - 1}, r"labels must lie in 0..0; got -1 to 0"),
        ({"y": np.arange(40) + 10_000}, "more classes than samples: renumber them"),
        ({"y": None}, "y missing: rename the arrays"),
        ({"samples": 1}, "must leave at least one sample on either side"),
        ({"samples": 0}, "must leave at least one sample on either side"),
    ],
)  # fmt: skip
def test_data_of_ones_own_that_are_not_usable(tmp_path, refused, changes, match):
    flags = saved(tmp_path, **changes)
    refused(lambda: transfer(tmp_path / "runs", *flags), match)


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:500]), "cannot be read as an .npz"),
        (lambda path: path.write_text("1,2,3\n"), "cannot be read as an .npz"),
        (lambda path: path.write_bytes(b""), "cannot be read as an .npz"),
        (lambda path: path.unlink(), "there is no such file"),
        (lambda path: (path.unlink(), path.mkdir()), "it is a directory"),
    ],
)
def test_a_file_that_is_no_npz(tmp_path, refused, spoil, match):
    flags = saved(tmp_path)
    spoil(tmp_path / "mine.npz")
    refused(lambda: transfer(tmp_path / "runs", *flags), match)


def cifar(place: Path, records: int = 2) -> None:
    """CIFAR-10's binary version with few images."""
    place.mkdir()
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        images = np.random.default_rng(0).integers(0, 256, (records, 3073), dtype=np.uint8)
        images[:, 0] = np.arange(records)
        (place / f"{name}.bin").write_bytes(images.tobytes())


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda place: place.mkdir(), "holds no CIFAR-10 batches"),
        (lambda place: place.write_text("x"), "must be the directory of the CIFAR-10 batches; it is a file"),
        (lambda place: None, "it does not exist"),
        (
            lambda place: (place.mkdir(), (place / "cifar-10-python.tar.gz").write_bytes(b"")),
            "unpack cifar-10-python.tar.gz there",
        ),
        (
            lambda place: (cifar(place), (place / "data_batch_2.bin").unlink()),
            "not a whole CIFAR-10 directory: data_batch_2.bin missing",
        ),
        (
            lambda place: (cifar(place), os.truncate(place / "data_batch_3.bin", 4000)),
            "data_batch_3.bin must hold records of 3073 bytes; got 4000",
        ),
        (
            lambda place: (cifar(place), os.truncate(place / "data_batch_3.bin", 3073)),
            "data_batch_3.bin is truncated",
        ),
    ],
)
def test_a_directory_that_is_not_cifar(tmp_path, refused, spoil, match):
    spoil(tmp_path / "images")
    refused(
        lambda: transfer(tmp_path / "runs", "--data", "cifar10", "--data-path", str(tmp_path / "images")),
        match,
    )


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        ("--widths 16 8", r"increasing positive numbers; got \(16, 8\)"),
        ("--widths 0 8", "increasing positive numbers"),
        ("--widths -8 8", "increasing positive numbers"),
        ("--widths 8", "at least two"),
        ("--widths", r"at least two increasing positive numbers; got \(\)"),
        ("--optimizers", "optimizers must be among sgd, adam; got none"),
        ("--optimizers lion", "optimizers must be among sgd, adam; got lion"),
        ("--parametrizations mup spectral", "parametrizations must be among standard, .*'spectral'"),
        ("--seeds 1", "an error bar needs seeds >= 2"),
        ("--rates 0", "rates >= 5"),
        ("--spacing 0", "spacing > 0"),
        ("--spacing nan", "spacing > 0"),
        ("--center-sgd inf", "window of learning rates must lie within"),
        ("--steps 0", "steps >= 1"),
        ("--batch-size 0", "batch_size must be a whole number of at least 1"),
        ("--batch-size 100000", "batch_size must be at most the 1438 training samples"),
        ("--depth -1", "depth must be a positive integer"),
        ("--activation swish", "activation must be a function or one of"),
        ("--seed -1", "seed must be a whole number of at least 0"),
        ("--data-path here", "data_path goes with data 'cifar10' or 'npz'"),
        ("--data npz", "data_path goes with data 'cifar10' or 'npz'"),
    ],
)
def test_settings_that_make_no_sense(tmp_path, refused, flags, match):
    refused(lambda: transfer(tmp_path / "runs", *flags.split()), match)


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        ("--base-width 0", "base_width and hidden_layers must be at least 1"),
        ("--widths 8 16", "at least three increasing"),
        ("--seed -3", "seed must not be negative"),
        ("--data digits --samples 5000", "samples must be at most the"),
        ("--data digits --classes 3 3", "at least two different classes"),
        ("--dimension 0", "dimension must be a whole number of at least 1"),
    ],
)
def test_settings_of_the_linear_network(tmp_path, refused, flags, match):
    refused(lambda: one_step(tmp_path / "runs", *flags.split()), match)


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        ("--steps 3", r"another config \(steps is 2 there and 3 here\)"),
        (
            "--widths 8 32 --seed 1",
            r"seed is 0 there and 1 here; widths is \[8, 16\] there and \[8, 32\] here",
        ),
    ],
)
def test_a_directory_of_another_config(copies, refused, flags, match):
    refused(lambda: again(copies, *flags.split()), match)


def test_a_directory_of_another_experiment(copies, refused):
    refused(lambda: one_step(copies / "transfer"), "experiment is lr_transfer there and one_step_rate here")


def test_a_directory_with_files_of_someone_else(tmp_path, refused):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("precious")
    refused(
        lambda: one_step(tmp_path / "thesis"), r"files of something else \(chapter.tex\) and no config.json"
    )


@pytest.mark.parametrize("below", ["", "runs"])
def test_a_file_in_place_of_the_directory(tmp_path, refused, below):
    (tmp_path / "notes").write_text("precious")
    refused(lambda: one_step(tmp_path / "notes" / below), "not a directory; choose another path")


def test_a_place_where_nothing_can_be_made(refused):
    refused(lambda: one_step(Path("/proc/widelimit")), "Could not make the directory /proc/widelimit")


@pytest.mark.parametrize(
    ("name", "spoil", "match"),
    [
        ("config.json", lambda text: text[: len(text) // 2], "config.json is damaged: it is not valid JSON"),
        ("config.json", lambda text: "", "config.json is damaged: it is not valid JSON"),
        ("config.json", lambda text: "[]", "config.json is not one of widelimit"),
        (
            "config.json",
            lambda text: '{"name": "package", "version": 1}',
            "config.json is not one of widelimit",
        ),
        ("config.json", lambda text: re.sub('"plan": {.*', '"plan": []}', text, flags=re.S), "is not one of"),
        ("environment.json", lambda text: "[]", "environment.json is damaged"),
        ("environment.json", lambda text: text[:9], "environment.json is damaged"),
        ("rows.jsonl", lambda text: text.replace('"mup"', '"mu', 1), "Line 1 of .*rows.jsonl is damaged"),
        ("rows.jsonl", lambda text: "7\n" + text, "Line 1 of .*rows.jsonl is damaged"),
        ("rows.jsonl", lambda text: text.replace("}", "\ufeff", 3), "Line 1 of .*rows.jsonl is damaged"),
    ],
)
def test_a_damaged_directory(copies, refused, name, spoil, match):
    path = copies / "one_step" / name
    path.write_text(spoil(path.read_text()))
    refused(lambda: one_step(copies / "one_step"), match)


def test_data_that_changed_since_the_first_run(copies, refused):
    config = json.loads((copies / "transfer" / "config.json").read_text())["config"]
    mine = Path(config["data_path"])
    original = mine.read_bytes()
    try:
        np.savez(mine, **arrays(x=arrays()["x"] + 1))
        refused(lambda: again(copies), "begun with data [0-9a-f]{16}, and now it is [0-9a-f]{16}")
    finally:
        mine.write_bytes(original)


def test_other_devices_than_in_the_first_run(copies, refused, monkeypatch):
    count = jax.device_count()
    monkeypatch.setattr(jax, "device_count", lambda: 3)
    refused(lambda: again(copies), f"begun with devices {count}, and now it is 3")


def test_a_directory_that_another_process_writes(copies, refused):
    stored = json.loads((copies / "one_step" / "config.json").read_text())
    with open_results(copies / "one_step", stored["experiment"], stored["config"]):
        refused(
            lambda: one_step(copies / "one_step"),
            r"being written by another process \(pid \d+\); wait for it",
        )


def unfinished(place: Path) -> Path:
    """Takes the last width from a finished run, and returns where its checkpoint would lie."""
    rows = (place / "transfer" / "rows.jsonl").read_text().splitlines(keepends=True)
    (place / "transfer" / "rows.jsonl").write_text("".join(row for row in rows if '"width": 8,' in row))
    return place / "transfer" / "checkpoints" / "16-mup-sgd"


@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_a_truncated_checkpoint(copies, refused, keep):
    checkpoint = unfinished(copies)
    Checkpoint(checkpoint).save(1, "0" * 64, {"losses": np.zeros((10, 2))})
    for path in [path for path in checkpoint.rglob("*") if path.is_file()]:
        os.truncate(path, int(keep * path.stat().st_size))
    refused(
        lambda: again(copies),
        "16-mup-sgd/1 cannot be read and seems truncated .*; delete .* to start this sweep",
    )


def test_a_checkpoint_of_another_sweep(copies, refused):
    Checkpoint(unfinished(copies)).save(1, "0" * 64, {"losses": np.zeros((10, 2))})
    refused(lambda: again(copies), "16-mup-sgd/1 belongs to a sweep with another grid, mode, data or rules")


@pytest.mark.parametrize("cut", [5, 300])
def test_half_written_rows_are_redone(finished, copies, cut):
    """A kill within the last rows: the run goes on, and ends as if nothing had happened."""
    rows = copies / "transfer" / "rows.jsonl"
    os.truncate(rows, rows.stat().st_size - cut)
    assert again(copies) == 0
    assert timeless(copies / "transfer") == timeless(finished / "transfer")


@pytest.mark.parametrize("name", ["summary.json", "report.md", "best_rate.png"])
def test_a_damaged_summary_is_written_anew(finished, copies, name):
    """All of it follows from the rows."""
    for spoil in (lambda path: path.write_text('{"claims": ['), lambda path: path.unlink()):
        spoil(copies / "one_step" / name)
        assert one_step(copies / "one_step") == 0
        assert timeless(copies / "one_step") == timeless(finished / "one_step")


def test_a_read_only_directory(copies, refused, monkeypatch):
    """Also for an administrator, whom no mode of a file keeps from writing: the system call fails."""
    opened = os.open

    def read_only(path, flags, *arguments, **options):
        if flags & (os.O_WRONLY | os.O_RDWR) and str(path).startswith(str(copies)):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return opened(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", read_only)
    refused(
        lambda: one_step(copies / "one_step"), "read-only file system; make it writable, or choose another"
    )


FULL = """
import resource, sys
from experiments.one_step_rate import PRESETS, run
from widelimit.training import main
resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))
sys.exit(main("one_step_rate", PRESETS, run, sys.argv[1:]))
"""


def test_a_full_directory(copies):
    """The system's own limit, hit among the rows: one sentence, whole rows only, and the run can go on."""
    full = copies / "full"
    command = [sys.executable, "-c", FULL, *LINEAR, "--directory", str(full)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    *_, sentence = process.stderr.splitlines()
    assert process.returncode == 2 and "Traceback" not in process.stderr
    assert re.match("one_step_rate: Could not append to .*file too large; free some space", sentence)
    kept = len((full / "rows.jsonl").read_text().splitlines())
    assert 4 <= kept < 24 and kept % 4 == 0  # what one draw of the weights gives
    assert one_step(full) == 0
    assert timeless(full) == timeless(copies / "one_step")


@dataclasses.dataclass(frozen=True)
class Mine:
    """An experiment of a user's own.

    Args:
        preset: the only one.
        seed: of everything random.
    """

    preset: Literal["default"] = "default"
    seed: int = 0


def network(width: int = 16, base_width: int = 8, parametrization=None) -> MLPConfig:
    """The model of that experiment."""
    return MLPConfig(
        inputs=3,
        outputs=2,
        width=width,
        base_width=base_width,
        parametrization=parametrization or mup(),
        depth=2,
    )


def weights(width: int = 16):
    """Its initial parameters."""
    return initialise(jax.random.key(0), rules(network(width), "adam"))


def foreign(width: int):
    """Parameters of a model that is not ours."""
    first, last = jax.random.split(jax.random.key(0))
    return {
        "first": jax.random.normal(first, (3, width)),
        "last": jax.random.normal(last, (width, 2)) / width**0.5,
    }


def forward(width: int, params, inputs):
    """Its forward pass."""
    return inputs @ params["first"] @ params["last"]


EXAMPLE = jnp.ones((1, 3))
RULES = rules(network(), "adam")
FOREIGN = make_rules(probe(foreign, forward, EXAMPLE, width=16, base_width=8), mup(), "adam")
BROKEN = {**foreign(16), "first": foreign(16)["first"].at[0, 0].set(jnp.nan)}


def uneven(width: int):
    """A layer that does not grow with the width."""
    return {"first": jnp.ones((3, width + 3)), "last": jnp.ones((width + 3, 2))}


@pytest.mark.parametrize(
    ("step", "match"),
    [
        (lambda: from_json(to_json(RULES), weights(32)), r"another model: 'Dense_0/bias' has shape \(32,\)"),
        (
            lambda: from_json(to_json(RULES), foreign(16)),
            "'Dense_0/bias' is in the rules but not in the model",
        ),
        (lambda: from_json(to_json(RULES)[:1000], weights()), "text that is not JSON"),
        (lambda: from_json('{"rules": []}', weights()), "JSON without that format field"),
        (
            lambda: from_json(to_json(RULES).replace('"epsilon": 0.5', '"epsilon": NaN'), weights()),
            "must be a finite number; got nan",
        ),
        (lambda: from_json(to_json(RULES).replace('"hidden"', '"inner"'), weights()), "is damaged"),
        (lambda: sgd(0.1, RULES).init(weights()), "optimizer 'sgd', but these rules were made for 'adam'"),
        (lambda: adam(0.1, RULES).init(weights(32)), r"shape \(16,\), but that parameter has shape \(32,\)"),
        (
            lambda: adam(0.1, RULES).init({**weights(), "gain": jnp.ones(3)}),
            "'gain' is in the parameters and not",
        ),
        (
            lambda: adam(0.1, RULES).init({"Dense_0": weights()["Dense_0"]}),
            "is in the rules and not in the param",
        ),
        (lambda: adam(0.1, None), "takes rules made by widelimit.scaling.make_rules; got NoneType"),
        (lambda: make_rules(FOREIGN.leaves, mup(), "lamb"), "learning rates for .*; got optimizer 'lamb'"),
        (lambda: make_rules(foreign(16), mup(), "adam"), "Leaf"),
        (lambda: rescale(BROKEN, FOREIGN, foreign, forward, EXAMPLE), "first must be finite to be rescaled"),
        (lambda: rescale(foreign(32), FOREIGN, foreign, forward, EXAMPLE), r"first of shape \(3, 16\); got"),
        (lambda: probe(foreign, forward, EXAMPLE, width=16), "base_width is missing: pass base_width="),
        (
            lambda: probe(foreign, forward, EXAMPLE, width=-16, base_width=8),
            "width must be a positive integer",
        ),
        (
            lambda: probe(foreign, forward, EXAMPLE, width=16, base_width=0),
            "base_width must be a positive integer",
        ),
        (lambda: probe(uneven, forward, EXAMPLE, width=16, base_width=8), "13.6% off proportional; make it"),
        (
            lambda: probe(foreign, forward, EXAMPLE, width=16, base_width=8, overrides={"frist": "input"}),
            "overrides",
        ),
        (
            lambda: mean_field(gamma0=-1.0),
            "gamma0, the feature-learning strength, must be positive; got -1.0",
        ),
        (lambda: network(width=0), "must be a positive integer; got 0"),
        (lambda: network(base_width=None), "base size of an axis must be a positive integer; got None"),
    ],
)
def test_rules_and_models_that_do_not_fit(tmp_path, refused, step, match):
    """In an experiment of a user's own, whose mistakes are told like ours."""

    def run(config: Mine, directory: Path):
        step()
        pytest.fail("went on as if nothing were wrong")

    refused(lambda: main("mine", {"default": Mine()}, run, ["--directory", str(tmp_path / "runs")]), match)


def test_a_process_of_its_own_exits_with_two(tmp_path):
    """What a shell sees: the exit code, one line, and no directory."""
    command = [
        sys.executable,
        "-m",
        "experiments.one_step_rate",
        "--widths",
        "8",
        "--directory",
        str(tmp_path / "a"),
    ]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 2 and process.stdout == "" and not list(tmp_path.iterdir())
    assert process.stderr == (
        "one_step_rate: widths must be at least three increasing positive numbers; got (8,).\n"
    )
