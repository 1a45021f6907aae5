"""Each case gives one sentence and exit code 2, and leaves every file as it was, byte for byte."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bad_input.doors import one_step, saved, snapshot, transfer


@pytest.fixture
def refused(tmp_path, capsys, monkeypatch):
    """Runs a command that must be refused, and returns its sentence."""
    monkeypatch.chdir(tmp_path)  # where a default directory would show up

    def check(command: Callable[[], int], match: str) -> None:
        before = snapshot(tmp_path)
        assert command() == 2
        *progress, sentence = capsys.readouterr().err.splitlines()
        assert all(re.match(r"\w+: width +\d+", line) for line in progress)
        assert re.match(
            r"(lr_transfer|one_step_rate|coordinate_check|mine): ", sentence
        ) and sentence.endswith(".")
        assert re.search(match, sentence), sentence
        assert snapshot(tmp_path) == before

    return check


@pytest.fixture(scope="session")
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
