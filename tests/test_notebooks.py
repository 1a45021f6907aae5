"""The notebooks run from top to bottom, and what they tell the reader is what comes out."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))


def execute(path: Path) -> nbformat.NotebookNode:
    """Runs a notebook in a fresh kernel, in its own directory; a failing cell raises."""
    notebook = nbformat.read(path, as_version=4)
    settings = {"metadata": {"path": str(path.parent)}}
    return nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=settings).execute()


def text(notebook: nbformat.NotebookNode) -> str:
    """Everything that the cells printed or returned."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(
        output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_stay_small(path):
    """What is kept of their outputs is for the reader; a diff must stay readable."""
    assert path.stat().st_size < 150_000


@pytest.mark.slow
def test_parametrizations_notebook():
    """Measured exponents meet the printed predictions, and the best rate stays where it says it stays."""
    [path] = [path for path in NOTEBOOKS if path.stem == "01_parametrizations"]
    printed = text(execute(path))
    pairs = re.findall(r"predicted s = +(-?[\d.]+), measured +(-?[\d.]+)", printed)
    assert len(pairs) == 6
    for predicted, measured in pairs:
        assert abs(float(predicted) - float(measured)) < 0.2, (predicted, measured)
    best = ast.literal_eval(re.search(r"\{\('optax.*?\}", printed, re.DOTALL).group())
    assert best["optim.adamw", 512] == best["optim.adamw", 64] == best["optax.adamw", 64]
    assert best["optax.adamw", 512] <= best["optax.adamw", 64] - 2


@pytest.mark.slow
def test_kernels_notebook():
    """The finite kernel nears the infinite one at the printed rate, and prediction and verdicts hold."""
    [path] = [path for path in NOTEBOOKS if path.stem == "02_kernels"]
    printed = text(execute(path))
    [slope, error] = re.search(r"measured (-[\d.]+) \+- ([\d.]+)", printed).groups()
    assert abs(float(slope) + 0.5) < 3 * float(error) + 0.05
    assert float(re.search(r"plain Jacobian: (\S+)", printed).group(1)) < 1e-5
    assert 0.5 < float(re.search(r"rms ([\d.]+)", printed).group(1)) < 1.6
    assert re.findall(r"^(Lazy|Rich): on these", printed, re.MULTILINE) == ["Lazy", "Rich"]


@pytest.mark.slow
def test_dmft_notebook():
    """Networks near the limit at the printed rate, agree with it when extrapolated, and features move."""
    [path] = [path for path in NOTEBOOKS if path.stem == "03_dmft"]
    printed = text(execute(path))
    slopes = re.findall(r"predicted s = -0.5, measured (-[\d.]+) \+- ([\d.]+)", printed)
    assert len(slopes) == 3
    for slope, error in slopes:
        assert abs(float(slope) + 0.5) < 3 * float(error) + 0.05  # 0.05: the smallest width has 16 units
    rms, largest = re.search(r"rms z ([\d.]+), largest ([\d.]+)", printed).groups()
    assert float(rms) < 2.5 and float(largest) < 4
    assert 0.1 < float(re.search(r"off by up to (\d+)%", printed).group(1)) / 100 < 0.6
    aligned = re.findall(r"DMFT ([\d.]+), width 128 ([\d.]+)", printed)
    assert [float(limit) > 0.9 for limit, _ in aligned] == [False, False, True, True]
    assert all(abs(float(limit) - float(wide)) < 0.02 for limit, wide in aligned)
    assert abs(float(re.search(r"predicted s = 2, measured ([\d.]+)", printed).group(1)) - 2) < 0.2


@pytest.mark.slow
def test_transformers_notebook():
    """Rules are neutral at the base and keep stream and step over depth as they say; a decoder learns."""
    [path] = [path for path in NOTEBOOKS if path.stem == "04_transformers"]
    printed = text(execute(path))
    assert "{1.0}" in printed
    slopes = re.findall(r"blocks: stream ([+-][\d.]+), change ([+-][\d.]+)", printed)
    assert [float(value) > 0.5 for value in slopes[0]] == [True, True]
    # 64 units and 8 to 64 blocks are finite; the bound is that of depth_check's sheet for changes of a step
    assert all(abs(float(value)) < 0.15 for pair in slopes[1:] for value in pair), slopes
    losses = [float(value) for value in re.findall(r"^\d+ ([\d.]+)$", printed, re.MULTILINE)]
    assert len(losses) == 6 and losses[-1] < 3 < losses[0]
