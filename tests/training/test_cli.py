"""The command line of an experiment: presets, overrides, help, exit codes, errors."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import pytest

from widelimit.training import main


@dataclass(frozen=True)
class Config:
    """What is asked.

    Args:
        preset: preset to start from.
        seed: seed of everything random.
        widths: hidden widths, in units.
        optimizer: update rule.
        decay: weight decay per step, or None for none.
    """

    preset: Literal["smoke", "default", "full"] = "default"
    seed: int = 0
    widths: tuple[int, ...] = (64, 128)
    optimizer: Literal["sgd", "adam"] = "adam"
    decay: float | None = None


PRESETS = {
    "smoke": Config("smoke", widths=(8,)),
    "default": Config(),
    "full": Config("full", widths=(1024, 2048), decay=0.1),
}


class Summary:
    """What `main` needs, with a claim that fails."""

    def to_text(self) -> str:
        """A line."""
        return "FAILS claim"

    def exit_code(self, strict: bool) -> int:
        """It fails."""
        return int(strict)


def called(argv: list[str], run=None) -> tuple[int, list]:
    """Exit code, and what the experiment was called with."""
    calls: list = []

    def record(config, directory):
        """The experiment."""
        calls.append((config, directory))
        if run:
            run()
        return Summary()

    return main("demo", PRESETS, record, argv), calls


@pytest.mark.parametrize("preset", ["smoke", "default", "full"])
def test_preset_sets_config_and_directory(preset):
    """The preset's config arrives unchanged, and the results go where the architecture says."""
    code, calls = called(["--preset", preset])
    assert code == 0 and calls == [(PRESETS[preset], Path("runs/demo") / preset)]


def test_flags_override_the_preset():
    """A flag wins over its preset's value, in any order, and leaves the others."""
    _, [(config, directory)] = called(
        ["--widths", "3", "5", "--preset=full", "--seed", "7", "--directory", "a/b"]
    )
    assert config == Config("full", 7, (3, 5), "adam", 0.1) and directory == Path("a/b")
    assert called(["--decay", "None", "--preset", "full"])[1][0][0].decay is None


def test_strict_decides_the_exit_code(capsys):
    """A claim that fails is shown either way, and fails the process only if strict."""
    assert called([])[0] == 0 and called(["--strict"])[0] == 1
    shown = capsys.readouterr().out.splitlines()
    assert shown == ["FAILS claim", f"Results: {Path('runs/demo/default')}"] * 2


def test_help_prints_every_flag_with_meaning_and_default(capsys):
    """Name, meaning and the default of the chosen preset; nothing is run."""
    with pytest.raises(SystemExit) as caught:
        called(["--preset", "full", "--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert caught.value.code == 0
    for field in fields(Config):
        assert f"--{field.name} " in text
    for meaning in ("hidden widths, in units. (default: 1024 2048)", "update rule. (default: adam)"):
        assert meaning in text
    assert "--directory PATH" in text and "runs/demo/<preset>" in text and "--strict" in text
    assert text.startswith("usage: python -m") and "The command line of an experiment: presets" in text


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--preset", "huge"], "huge"),
        (["--preset"], "--preset"),
        (["--widths", "many"], "many"),
        (["--optimizer", "lion"], "lion"),
        (["--learning-rate", "1"], "--learning-rate"),
    ],
)
def test_wrong_flags_exit_with_two(argv, named, capsys):
    """The flag or value is named and the experiment is not run."""
    with pytest.raises(SystemExit) as caught:
        called(argv)
    assert caught.value.code == 2 and named in capsys.readouterr().err


@pytest.mark.parametrize("error", [ValueError, TypeError, KeyError, FileNotFoundError, ArithmeticError])
def test_what_our_code_raises_is_one_sentence(error, capsys):
    """No traceback, one line on standard error, exit code 2; also for a KeyError, which Python quotes."""

    def run():
        """A deliberate error over two lines."""
        raise error("Expected a\n  width, got none; pass --widths.")

    assert called([], run)[0] == 2
    assert capsys.readouterr().err == "demo: Expected a width, got none; pass --widths.\n"


def test_a_defect_keeps_its_traceback(capsys):
    """An error that no `raise` of ours made is not dressed up as the user's mistake."""
    with pytest.raises(ValueError, match="invalid literal"):
        called([], lambda: int("abc"))
    with pytest.raises(KeyError):
        called([], lambda: {}["missing"])
    with pytest.raises(ZeroDivisionError):
        called([], lambda: 1 / 0)
    with pytest.raises(RuntimeError):
        called([], lambda: (_ for _ in ()).throw(RuntimeError("unexpected")))
    assert capsys.readouterr().err == ""


def test_system_errors_are_always_the_users(capsys):
    """A file that is missing needs no traceback, wherever it was opened."""
    assert called([], lambda: open("/nonexistent/file"))[0] == 2
    assert "demo: [Errno 2] No such file or directory" in capsys.readouterr().err


def test_interrupt_says_how_to_go_on(capsys):
    """Control-C is no crash."""

    def interrupt():
        """As the terminal does."""
        raise KeyboardInterrupt

    assert called([], interrupt)[0] == 130
    assert capsys.readouterr().err == "demo: interrupted; the same command goes on where it stopped.\n"


def test_traceback_on_request(capsys, monkeypatch):
    """A developer sees where a sentence comes from."""
    monkeypatch.setenv("WIDELIMIT_TRACEBACK", "1")

    def run():
        """A deliberate error."""
        raise ValueError("no")

    assert called([], run)[0] == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "presets",
    [
        {"smoke": Config("smoke")},
        {"default": Config("smoke")},
        {"default": Config(), "smoke": object()},
        {"default": Config(seed=None)},
    ],
)
def test_presets_that_break_the_contract_are_a_defect(presets):
    """The author is told, before a user can meet it."""
    with pytest.raises(TypeError, match=r"^(Expected presets|Preset)"):
        main("demo", presets, lambda config, directory: Summary(), [])


CACHED = """
import sys, jax
from dataclasses import dataclass
from widelimit.training import main
assert jax.config.jax_compilation_cache_dir == (sys.argv[1] or None)

@dataclass(frozen=True)
class Config:
    preset: str = "default"
    seed: int = 0

class Summary:
    def to_text(self): return jax.config.jax_compilation_cache_dir
    def exit_code(self, strict): return 0

sys.exit(main("demo", {"default": Config()}, lambda config, directory: Summary(), []))
"""


@pytest.mark.parametrize("own", [False, True])
def test_compiled_programs_are_kept(tmp_path, own):
    """The experiment's process uses JAX's cache: the user's if set, else one below XDG_CACHE_HOME."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    expected = tmp_path / "widelimit" / "xla"
    if own:
        expected = tmp_path / "mine"
        environment["JAX_COMPILATION_CACHE_DIR"] = str(expected)
    command = [sys.executable, "-c", CACHED, str(expected) if own else ""]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[0] == str(expected)


def test_helpers_of_an_experiment_speak_to_the_user_too(tmp_path):
    """Under ``python -m package.experiment`` an error raised in package.helper is a sentence as well."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "helper.py").write_text("def check():\n    raise ValueError('Expected data, got none.')\n")
    asking = (
        "def run(config, directory):\n    from package import helper\n\n    helper.check()\n\n\nclass Summary"
    )
    code = CACHED.replace("lambda config, directory: Summary()", "run").replace("class Summary", asking)
    code = "\n".join(line for line in code.splitlines() if not line.startswith("assert"))
    (package / "experiment.py").write_text(code)
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "package.experiment"]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (2, "demo: Expected data, got none.\n")
