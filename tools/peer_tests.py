"""Runs neural-tangents' own tests, unmodified, through our door, and holds the failures against a named list.

    python tools/peer_tests.py                      # the tests that its wheel installed
    python tools/peer_tests.py --tests CHECKOUT     # those of a checkout of its repository, at the tag v0.6.5
    python tools/peer_tests.py --files predict_test.py

Expected: every test passes but those in EXPECTED, each with its reason; the last line says so and the exit
status is 0. It is 1, and the last line says why, if another test fails, if a file passes no test, if a name
that selects tests selects none, or if a test in EXPECTED does not fail any more. The tests are copied to a
throw-away directory and run one file after the other, each in a process of its own, with the package's own
default of four generated cases for each test (NT_NUM_GENERATED_CASES changes it). Subtests count as tests,
as in absl's reports. Needs absl-py.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

#: The files that are run, and which of their tests (None: all).
FILES: dict[str, tuple[str, ...] | None] = {
    "predict_test.py": None,
    "monte_carlo_test.py": None,
    "elementwise_numerical_test.py": None,
    "stax/elementwise_test.py": None,
    # Of the layers: convergence of fully connected networks, and both parametrizations.
    "stax/stax_test.py": ("test_exact", "test_linear", "test_nonlinear", "test_composition_dense"),
}

#: Tests that cannot pass, "file::start of a test's name", and why.
EXPECTED: dict[str, str] = {
    "predict_test.py::PredictTest.testMaxLearningRate": "asks SciPy for an argument that it has removed",
    "predict_test.py::PredictTest.testNTKMeanCovPrediction": "makes a solver outside of vmap, within it",
}

#: Opens the door first, then runs a file as if it were called. Two things are for the tests themselves: they
#: ask for structured derivatives by a constant of the package, which cannot work here, and get Jacobian
#: contraction; and their helpers call jax.tree_map, which JAX has moved.
RUNNER = """
import runpy, sys, jax
from widelimit.kernels import neural_tangents
neural_tangents()
from neural_tangents._src import empirical
empirical._DEFAULT_TESTING_NTK_IMPLEMENTATION = empirical.NtkImplementation.JACOBIAN_CONTRACTION
jax.tree_map = jax.tree.map
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def installed() -> Path:
    """Returns the directory that holds the ``tests`` of the installed wheel."""
    for path in importlib.metadata.files("neural-tangents") or ():
        if str(path) == "tests/predict_test.py":
            return Path(str(path.locate())).parent.parent
    raise SystemExit(
        "The installed neural-tangents brings no tests; pass --tests with a checkout of its repository."
    )


def run(directory: Path, file: str, only: tuple[str, ...] | None) -> Path:
    """Runs one file of the tests in a directory and returns the report that absl writes."""
    report = directory / f"{file.replace('/', '_')}.xml"
    command = [sys.executable, "-c", RUNNER, f"tests/{file}", f"--xml_output_file={report}"]
    # Only the tests are copied: the package under test is the installed one.
    path = os.pathsep.join([str(ROOT / "src"), str(directory)])
    log = report.with_suffix(".log")
    with log.open("w") as output:
        environment = os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}
        # The tolerances of sampled kernels were set for the random numbers that JAX had then.
        environment |= {"JAX_THREEFRY_PARTITIONABLE": "false"}
        environment |= {"TESTBRIDGE_TEST_ONLY": " ".join(only)} if only else {}
        subprocess.run(command, cwd=directory, env=environment, stdout=output, stderr=output, check=False)
    if not report.exists():
        raise SystemExit(f"{file} did not finish:\n{log.read_text()[-2000:]}")
    return report


def outcomes(report: Path) -> Iterable[tuple[str, str, str]]:
    """Yields name, outcome and message of each test in a report."""
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname', '').rpartition('.')[2]}.{case.get('name')}"
        problem = next((child for child in case if child.tag in ("failure", "error")), None)
        skipped = case.get("status") == "notrun" or case.get("result") == "suppressed"
        if problem is not None:
            yield name, "failed", (problem.get("message") or problem.text or "").strip().splitlines()[-1:][0]
        else:
            yield name, "skipped" if skipped or case.find("skipped") is not None else "passed", ""


def entry(name: str) -> str | None:
    """Returns the entry of EXPECTED that a test, "file::name", falls under."""
    return next((start for start in EXPECTED if name.startswith(start)), None)


def complaints(file: str, only: tuple[str, ...] | None, results: list[tuple[str, str, str]]) -> list[str]:
    """Returns what is wrong with the results of a file, a phrase each: surprises, and what did not happen."""
    failed = [f"{file}::{name}" for name, outcome, _ in results if outcome == "failed"]
    found = [f"{name} failed and is not on the list" for name in failed if entry(name) is None]
    if not any(outcome == "passed" for _, outcome, _ in results):
        found.append(f"{file} passed no test")
    idle = (start for start in only or () if not any(start in name for name, _, _ in results))
    found += [f"{start} selects no test of {file}" for start in idle]
    met = {entry(name) for name in failed}
    stale = (start for start in EXPECTED if start.startswith(f"{file}::") and start not in met)
    return found + [f"{start} is on the list and did not fail" for start in stale]


def main() -> None:
    """Runs the files and compares."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tests", type=Path, help="a checkout of neural-tangents; None is the wheel's own")
    parser.add_argument("--files", nargs="+", default=list(FILES), help="some of the files")
    options = parser.parse_args()
    source = (options.tests or installed()) / "tests"
    total, wrong, known = {"passed": 0, "failed": 0, "skipped": 0}, [], 0
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        shutil.copytree(source, directory / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        for file in options.files:
            count = {"passed": 0, "failed": 0, "skipped": 0}
            results = list(outcomes(run(directory, file, FILES.get(file))))
            for name, outcome, message in results:
                count[outcome] += 1
                if outcome == "failed":
                    start = entry(f"{file}::{name}")
                    print(f"    {file}::{name}: {EXPECTED[start] if start else message}", flush=True)
            wrong += complaints(file, FILES.get(file), results)
            known += sum(start.startswith(f"{file}::") for start in EXPECTED)
            print(file, ", ".join(f"{number} {what}" for what, number in count.items()), flush=True)
            total = {what: total[what] + number for what, number in count.items()}
    print("together", ", ".join(f"{number} {what}" for what, number in total.items()))
    if wrong:
        raise SystemExit("; ".join(wrong) + ".")
    print(f"every failure is on the list, and each of its {known} entries for these files failed")


if __name__ == "__main__":
    main()
