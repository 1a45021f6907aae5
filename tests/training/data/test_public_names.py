"""What the data package exports is documented, and loads nothing heavy."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from widelimit.training import data

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "data.md").read_text()


@pytest.mark.parametrize("name", data.__all__)
def test_public_names_are_documented(name):
    """Each has a place on the page, and each class or function a docstring whose first line is a sentence."""
    value = getattr(data, name)
    assert f"`{name}" in PAGE or f"{name}(" in PAGE
    if inspect.isclass(value) or inspect.isroutine(value):
        assert (inspect.getdoc(value) or "").split("\n")[0].endswith((".", ":"))


def test_importing_loads_no_scikit_learn():
    """It is an optional dependency, and slow to import."""
    code = "import sys, widelimit.training.data; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
