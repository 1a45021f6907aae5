"""The benchmark of the mean-field solvers: what it measures, and how it runs code that is not ours."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest

from benchmarks.dmft_cases import CASES, QUICK, Case, measure
from benchmarks.dmft_flops import Counting, flops
from benchmarks.dmft_peer import beside_ours, definitions, listen, settled

ROOT = Path(__file__).parents[1]
NOTEBOOK = """
import a_module_that_nobody_has
from numpy import asarray
wide_open = undefined_outside_functions

def get_Delta(all_H, all_G, Kx, y, eta):
    return 0.5 ** all_H * asarray(y)[None] * asarray(range(T))[:, None] ** 0

def solve_kernels_full(Kx, y, depth, eta, gamma, sigma=1.0, T=100, num_steps=10):
    import time
    for round in range(num_steps):
        print("what a notebook prints")
        get_Delta(round, None, Kx, y, eta)
        time.sleep(SECONDS)
    return num_steps, None
"""


@pytest.fixture
def clone(tmp_path):
    """A folder with a notebook of our own in the place of the published one."""

    def make(seconds):
        cell = nbformat.v4.new_code_cell(NOTEBOOK.replace("SECONDS", str(seconds)))
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# text"), cell])
        nbformat.write(notebook, tmp_path / "Linear_DMFT.ipynb")
        return tmp_path

    return make


def test_cases_have_the_published_sizes():
    """(points, times, layers), learning rate and gamma0 of the three notebooks."""
    sizes = {name: (case.P, case.T, case.L, case.eta, case.gamma0) for name, case in CASES.items()}
    assert sizes["tanh"] == (10, 100, 3, 0.1, 1.0)
    assert sizes["relu"] == (25, 200, 1, 0.075, 3.0)
    assert sizes["linear"] == (20, 100, 5, 0.025, 1.5)
    assert CASES["tanh"].targets().tolist() == [-1.0] * 5 + [1.0] * 5


def test_what_is_measured_is_the_solver():
    """T counts times; an exact solver has no error, and its loss starts at 1/2."""
    found = measure(QUICK["linear"])
    assert len(found["loss"]) == QUICK["linear"].T and found["loss"][0] == 0.5
    assert found["error"] == 0 and found["cold"] > 0 and found["warm"] > 0


def test_only_imports_and_functions_of_a_notebook_are_run(clone):
    """Statements between functions would start its computations, and imports may be missing."""
    names = {}
    definitions(clone(0), "linear", names)
    assert "asarray" in names and "wide_open" not in names
    with pytest.raises(FileNotFoundError):
        definitions(clone(0), "mlp", {})


@pytest.mark.slow
def test_a_run_of_theirs_is_watched_and_stopped(clone):
    """Each finished round is one line; what is stopped has shown its rounds, and is said to be stopped."""
    said, ended = listen(clone(0), QUICK["linear"], 3, 60.0)
    assert ended == "finished" and [row["rounds"] for row in said] == [0, 1, 2, 3]
    assert [row["loss"][0] for row in said] == [0.5 / 4**n for n in range(4)]
    said, ended = listen(clone(1000), QUICK["linear"], 3, 6.0)
    assert ended == "stopped after 6 s" and [row["rounds"] for row in said] in ([0], [])


def test_seconds_of_a_stopped_run_are_scaled_and_said_to_be_a_bound():
    """One round of twenty with a twentieth of the samples; no round at all; error from the run above."""
    own = {"cold": 2.0, "error": 0.004}
    case = dataclasses.replace(QUICK["tanh"], S=50)
    above = {"_distance": 0.02}
    one = [{"rounds": 0, "seconds": 1.0, "loss": [0.5]}, {"rounds": 1, "seconds": 7.0, "loss": [0.5]}]
    row = beside_ours("tanh", case, 1, 400.0, one, "finished", own, above)
    assert row["ratio of times"] == 7 * 400 / 2 and row["at equal error"] == pytest.approx(1400 * 25)
    assert row["with the error of"] == "the run above" and row["rounds"] == "1 of 1"
    row = beside_ours("tanh", case, 1, 400.0, one[:1], "stopped after 600 s", own, above)
    assert row["for the published rounds and samples"] == "more than 1.2e+04" and row["rounds"] == "0 of 1"
    assert row["ratio of times"] == 600 * 20 / 2


def test_a_fixed_point_has_settled_when_its_curve_stays():
    """Half a percent of the initial loss; a curve that comes near and leaves again has not settled."""
    losses = ([1.0, 0.5], [1.0, 0.304], [1.0, 0.4], [1.0, 0.302], [1.0, 0.3])
    rounds = [{"seconds": float(n), "loss": loss} for n, loss in enumerate(losses)]
    assert settled(rounds) == 3.0


@pytest.mark.slow
def test_the_quick_run_writes_its_tables(tmp_path):
    """From the command line, small sizes, to the end."""
    command = [sys.executable, "-m", "benchmarks.dmft", "--quick", "--output", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, env=os.environ | {"XLA_FLAGS": ""})
    rows = json.loads((tmp_path / "dmft.json").read_text())["rows"]
    assert {row["case"] for row in rows} == set(QUICK)
    assert all(row["error"] == "exact" or 0 < row["error"] < 0.02 for row in rows)
    fits = json.loads((tmp_path / "dmft_scaling.json").read_text())["rows"]
    assert {row["solver"] for row in fits} == {"mlp", "two_layer", "linear"}
    assert all(np.isfinite(row["exponent"]) for row in fits)


def test_a_case_is_what_the_problem_says():
    """The kernel that the peer gets is the problem's own."""
    case = Case("linear", 3, 5, 4, 2, 0.1, 1.0)
    x = case.inputs()
    np.testing.assert_allclose(case.problem().kernel, x @ x.T / 4)
    assert case.problem().steps == 4


def test_flops_of_numpy_are_counted_through_views():
    """A product of a transposed slice, one into an array, and none of a sum or an element-wise product."""
    a, b, out = np.ones((4, 3)).view(Counting), np.ones((2, 5)), np.zeros((3, 5))
    Counting.total = 0.0
    product = a[:2].T @ b
    assert Counting.total == 2 * 3 * 2 * 5 and isinstance(product, Counting)
    assert np.matmul(a[:2].T, b, out=out) is out and out[0, 0] == 2
    assert Counting.total == 2 * (2 * 3 * 2 * 5)
    _ = product * 2.0 + a[:3, :1]
    assert Counting.total == 2 * (2 * 3 * 2 * 5)


@pytest.mark.parametrize(
    ("case", "axis", "order"),
    [
        (Case("mlp", 4, 10, 5, 3, 0.05, 0.5, 10_000, 2), "S", 1),
        (Case("mlp", 4, 10, 5, 3, 0.05, 0.5, 10_000, 2), "P", 2),
        (Case("mlp", 40, 8, 80, 3, 0.05, 0.5, 2, 2), "P", 3),
        (Case("two_layer", 16, 10, 20, 1, 0.05, 0.5, 600, 2), "P", 2),
        (Case("two_layer", 16, 10, 20, 1, 0.05, 0.5, 600, 2), "S", 1),
        (Case("linear", 30, 8, 60, 2, 0.05, 0.5), "P", 2),
        (Case("linear", 10, 16, 20, 2, 0.05, 0.5), "T", 3),
    ],
)
def test_flops_grow_by_the_stated_orders(case, axis, order):
    """From a size to twice that; what is missing or too much is of lower order."""
    twice = dataclasses.replace(case, **{axis: 2 * getattr(case, axis)})
    assert np.log2(flops(twice) / flops(case)) == pytest.approx(order, abs=0.12)
