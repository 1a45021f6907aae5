"""The experiment's directory: refused, resumed, locked, killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace

import numpy as np
import pytest

from widelimit.training import Results, describe_environment, open_results


@dataclass(frozen=True)
class Config:
    """A small config."""

    preset: str = "smoke"
    seed: int = 0
    widths: tuple[int, ...] = (8, 16)


class Summary:
    """What `finish` needs."""

    def to_json(self) -> dict:
        """With a number that JSON lacks."""
        return {"experiment": "demo", "loss": float("nan")}

    def to_markdown(self) -> str:
        """A page."""
        return "# demo\n"


def snapshot(directory) -> dict[str, bytes]:
    """All files of a directory."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_run_writes_what_the_contract_lists(tmp_path):
    """Config, environment, rows, figure, report and summary, each valid, and nothing else but the lock."""
    from matplotlib.figure import Figure

    place = tmp_path / "runs" / "demo"
    with open_results(place, "demo", Config(), plan=lambda: {"chunk": np.int64(4)}) as results:
        assert isinstance(results, Results) and results.plan == {"chunk": 4} and results.rows == []
        results.append({"width": 8, "loss": np.float32(np.nan), "seconds": 2.0}, {"width": 16, "loss": 0.5})
        results.save_figure("figure.png", Figure())
        results.finish(Summary())
        assert 0 <= results.seconds < 60
    assert sorted(path.name for path in place.iterdir()) == [
        ".lock", "config.json", "environment.json", "figure.png", "report.md", "rows.jsonl", "summary.json",
    ]  # fmt: skip
    stored = json.loads((place / "config.json").read_text())
    assert stored["config"] == {"preset": "smoke", "seed": 0, "widths": [8, 16]}
    assert stored["experiment"] == "demo" and stored["plan"] == {"chunk": 4}
    assert json.loads((place / "summary.json").read_text()) == {"experiment": "demo", "loss": None}
    assert (place / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_resuming_keeps_plan_rows_and_time(tmp_path):
    """The plan is made once, finished cells are found by their keys, and their time counts."""
    with open_results(tmp_path, "demo", Config(), plan=lambda: {"mode": "vmap"}) as results:
        results.append({"width": 8, "loss": 0.1, "seconds": 100.0})

    def unexpected():
        """Making the choice anew would change the rounding."""
        raise AssertionError("the plan was made again")

    with open_results(tmp_path, "demo", Config(), plan=unexpected) as results:
        assert results.plan == {"mode": "vmap"} and results.find(width=8)[0]["loss"] == 0.1
        assert results.find(width=16) == [] and results.find(width=8, loss=0.2) == []
        assert 100.0 <= results.seconds < 160.0


@pytest.mark.parametrize(
    ("experiment", "config", "named"),
    [
        ("demo", replace(Config(), seed=1), r"\(seed is 0 there and 1 here\)"),
        (
            "demo",
            replace(Config(), widths=(8,), seed=2),
            r"seed is 0 .*; widths is \[8, 16\] there and \[8\] here",
        ),
        ("other", Config(), "experiment is demo there and other here"),
        ("demo", {"preset": "smoke", "seed": 0}, r"widths is \[8, 16\] there and absent here"),
        ("demo", {"a": {"b": 1}, **dict.fromkeys("cdefg", 0)}, "a.b is absent there and 1 here.*and 4 more"),
    ],
)
def test_another_config_is_refused_and_nothing_touched(tmp_path, experiment, config, named):
    """The differing fields are named in one sentence; not a byte changes."""
    with open_results(tmp_path, "demo", Config()) as results:
        results.append({"width": 8})
    before = snapshot(tmp_path)
    with pytest.raises(ValueError, match=named) as caught, open_results(tmp_path, experiment, config):
        pass
    assert "\n" not in str(caught.value) and snapshot(tmp_path) == before


def test_other_conditions_are_refused_and_nothing_touched(tmp_path, monkeypatch):
    """What no config names but numbers depend on is compared before anything is written."""
    with open_results(
        tmp_path, "demo", Config(), lambda: {"chunk": 4}, fixed={"data": "aa", "devices": 2}
    ) as one:
        assert one.plan == {"chunk": 4, "data": "aa", "devices": 2}
    before = snapshot(tmp_path)
    monkeypatch.setattr("widelimit.training.results.describe_environment", lambda: {"cpus": -1})
    for fixed, named in (
        ({"data": "aa", "devices": 8}, "begun with devices 2, and now it is 8"),
        ({"data": "aa", "devices": 2, "more": 1}, "begun with more absent, and now it is 1"),
    ):
        with pytest.raises(ValueError, match=named), open_results(tmp_path, "demo", Config(), fixed=fixed):
            pass
    assert snapshot(tmp_path) == before


def test_foreign_files_are_refused_and_nothing_touched(tmp_path):
    """A directory with someone's files and no config is not ours to fill."""
    for name in "abcd":
        (tmp_path / name).write_text("precious")
    with pytest.raises(ValueError, match=r"files of something else \(a, b, c, \.\.\.\)"):
        with open_results(tmp_path, "demo", Config()):
            pass
    assert sorted(snapshot(tmp_path)) == ["a", "b", "c", "d"]
    (tmp_path / "config.json").write_text('{"other": 1}')
    with pytest.raises(ValueError, match="not one of widelimit"), open_results(tmp_path, "demo", Config()):
        pass
    (tmp_path / "config.json").write_text("{")
    with (
        pytest.raises(ValueError, match=r"config\.json is damaged"),
        open_results(tmp_path, "demo", Config()),
    ):
        pass
    assert ".lock" not in snapshot(tmp_path)


def test_a_file_in_place_of_the_directory(tmp_path):
    """One sentence, and the file stays."""
    (tmp_path / "a").write_text("x")
    for place in (tmp_path / "a", tmp_path / "a" / "b"):
        with pytest.raises(OSError, match="not a directory; choose another path"):
            with open_results(place, "demo", Config()):
                pass
    assert (tmp_path / "a").read_text() == "x"


def test_failing_plan_writes_nothing(tmp_path):
    """What is wrong with the input is found before the directory is made."""

    def plan():
        """A choice that cannot be made."""
        raise ValueError("no device")

    with pytest.raises(ValueError, match="no device"), open_results(tmp_path / "new", "demo", Config(), plan):
        pass
    assert not (tmp_path / "new").exists()


def test_leftovers_of_a_kill_are_no_obstacle(tmp_path):
    """Killed before the config was whole: a lock and a temporary file are ours, and are cleaned up."""
    (tmp_path / ".lock").write_text("pid 1")
    (tmp_path / ".tmp-config.json-77").write_text('{"exp')
    with open_results(tmp_path, "demo", Config()):
        assert sorted(snapshot(tmp_path)) == [".lock", "config.json", "environment.json"]


def test_second_process_is_refused_until_the_first_is_gone(tmp_path):
    """The lock names its holder, and a SIGKILL releases it: nothing is stale."""
    code = (
        "import sys, time\nfrom widelimit.training import open_results\n"
        "with open_results(sys.argv[1], 'demo', {'a': 1}):\n"
        "    print('open', flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "open\n"
        with pytest.raises(BlockingIOError, match=f"written by another process \\(pid {process.pid}\\)"):
            with open_results(tmp_path, "demo", {"a": 1}):
                pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    with open_results(tmp_path, "demo", {"a": 1}):
        pass


def test_lock_is_released_after_an_error(tmp_path):
    """A run that failed can be started again in the same process."""
    with pytest.raises(RuntimeError), open_results(tmp_path, "demo", Config()):
        raise RuntimeError
    with open_results(tmp_path, "demo", Config()):
        pass


def test_environment_says_what_a_run_depended_on(tmp_path, monkeypatch):
    """Versions, devices and commit at the start; another one on resume is added, an equal one is not."""
    environment = describe_environment()
    assert {"widelimit", "jax", "jaxlib", "flax", "optax", "numpy"} <= environment["versions"].keys()
    assert environment["devices"][0].startswith("cpu") and environment["python"] == sys.version.split()[0]
    for _ in range(2):
        with open_results(tmp_path, "demo", Config()):
            pass
    stored = json.loads((tmp_path / "environment.json").read_text())
    assert stored == environment
    monkeypatch.setattr(
        "widelimit.training.results.describe_environment", lambda: {**environment, "cpus": -1}
    )
    for _ in range(2):
        with open_results(tmp_path, "demo", Config()):
            pass
    stored = json.loads((tmp_path / "environment.json").read_text())
    assert stored == {**environment, "resumed_under": [{**environment, "cpus": -1}]}


KILLED = """
import sys, time
from widelimit.training import open_results

class Summary:
    def __init__(self, rows): self.rows = rows
    def to_json(self): return {"total": sum(row["value"] for row in self.rows), "rows": self.rows}
    def to_markdown(self): return str(self.to_json())

with open_results(sys.argv[1], "demo", {"cells": 40}, plan=lambda: {"mode": "loop"}) as results:
    print("open", flush=True)
    for cell in range(40):
        if not results.find(cell=cell):
            time.sleep(0.005)
            results.append({"cell": cell, "value": (cell * 0.1) ** 0.5, "pad": "x" * 5000})
    results.finish(Summary(results.rows))
"""


def test_killed_at_any_moment_ends_with_the_same_bytes(tmp_path):
    """SIGKILL at random moments, start again: rows, summary and config equal those of an undisturbed run."""
    quiet, killed = tmp_path / "quiet", tmp_path / "killed"
    subprocess.run([sys.executable, "-c", KILLED, str(quiet)], check=True, capture_output=True)
    rng, kills = np.random.default_rng(0), 0
    for attempt in range(12):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(killed)], stdout=subprocess.PIPE)
        if attempt < 4:
            process.stdout.readline()
            time.sleep(rng.uniform(0.0, 0.1))
            os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
        if process.returncode == 0:
            break
    assert kills >= 3
    for name in ("rows.jsonl", "summary.json", "report.md", "config.json"):
        assert (killed / name).read_bytes() == (quiet / name).read_bytes(), name


LIMITED = """
import resource, sys
from widelimit.training import open_results
with open_results(sys.argv[1], "demo", {"a": 1}) as results:
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
    for cell in range(50):
        results.append({"cell": cell, "pad": "x" * 40})
"""


def test_real_full_file_keeps_every_finished_row(tmp_path):
    """The system's own limit on a file's size, hit within a row: a sentence, and whole rows only."""
    run = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True)
    assert run.returncode == 1 and "file too large; free some space" in run.stderr
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert len(lines) >= 4 and [json.loads(line)["cell"] for line in lines] == list(range(len(lines)))
