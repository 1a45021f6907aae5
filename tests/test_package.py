"""The house rules that users may rely on: what is public, what imports what, and what importing costs."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jaxtyping
import numpy as np
import pytest

import widelimit
from tests.shapes import check_shapes

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "widelimit"
ROOMS = sorted(path.parent.name for path in SOURCE.glob("*/__init__.py"))
# Every package inside a room too: training.data, kernels.empirical, ...
PACKAGES = sorted(".".join(path.parent.relative_to(SOURCE).parts) for path in SOURCE.glob("*/**/__init__.py"))
# A room imports rooms of lower levels only; kernels and dmft know models, and dmft its lazy end, the kernels.
LEVEL = {
    "scaling": 0,
    "optim": 1,
    "models": 1,
    "kernels": 1,
    "dmft": 1,
    "training": 2,
    "compare": 2,
    "figures": 2,
}
SIDEWAYS = {("kernels", "models"), ("dmft", "models"), ("dmft", "kernels")}
# The one arrow up: a solution draws itself, with what is loaded when it is asked to.
UPWARD = {("dmft/solution.py", "widelimit.figures"), ("dmft/solution.py", "widelimit.figures.dmft_overview")}
# Loaded where they are used, never by `import widelimit`.
HEAVY = {
    "matplotlib",
    "orbax",
    "sklearn",
    "sentencepiece",
    "neural_tangents",
    "matfree",
    "tyro",
    "scipy",
    "tqdm",
    "pandas",
    "torch",
    "tensorflow",
}


def tracked(*suffixes: str) -> list[Path]:
    """Returns the files under version control (in an unpacked archive: all) with one of the suffixes."""
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    names = listing.stdout.splitlines() or [str(path.relative_to(ROOT)) for path in ROOT.glob("[!.]*/**/*")]
    paths = [ROOT / name for name in names if not suffixes or name.endswith(suffixes)]
    return [path for path in paths if path.is_file()]


def imports(path: Path) -> set[str]:
    """Returns the dotted names of all modules that a file imports, those inside functions included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:  # from . import x, inside src/widelimit
                package = path.relative_to(SOURCE.parent).parent.parts
                module = ".".join([*package[: len(package) - node.level + 1], *([module] if module else [])])
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def python(code: str) -> str:
    """Runs code as a user would, in a fresh interpreter without the strictness of these tests."""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    return run.stdout


def code_in_docs() -> str:
    """Returns every code span and code block of the documentation, one a line."""
    text = "\n".join(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))
    return "\n".join(re.findall(r"```.*?```", text, re.DOTALL) + re.findall(r"`[^`\n]+`", text))


def test_every_room_is_exported():
    """`widelimit.__all__` is the list of rooms that exist, so that tab completion shows the house."""
    assert sorted(widelimit.__all__) == ROOMS
    assert set(ROOMS) <= set(dir(widelimit)) and set(ROOMS) <= set(LEVEL)


def test_an_unknown_room_is_named_in_the_error():
    """Rooms load lazily, so a misspelt one must still fail as an attribute does, and say what exists."""
    with pytest.raises(AttributeError, match="'kernel'; its rooms are .*scaling"):
        widelimit.kernel  # noqa: B018


@pytest.mark.parametrize("package", PACKAGES)
def test_exports_are_exactly_what_init_imports(package):
    """A room's __init__ is its table of contents: `__all__` names what it imports, and nothing private."""
    exported = importlib.import_module(f"widelimit.{package}").__all__
    tree = ast.parse((SOURCE.joinpath(*package.split(".")) / "__init__.py").read_text())
    imported = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted(set(exported)) == sorted(exported)
    assert set(exported) == {name for name in imported if name != "annotations"}
    assert not [name for name in exported if name.startswith("_")]


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_are_documented(package):
    """Each public name says in one line what it is, and is shown on a page of the documentation."""
    module, pages = importlib.import_module(f"widelimit.{package}"), code_in_docs()
    undocumented, unlisted = [], []
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isroutine(value):
            summary = (inspect.getdoc(value) or "").split("\n")[0]
            generated = summary.startswith(f"{name}(")  # what dataclasses and NamedTuple write by themselves
            if generated or not summary.endswith((".", ":")):
                undocumented.append(name)
        if not re.search(rf"\b{re.escape(name)}\b", pages):
            unlisted.append(name)
    assert not undocumented, f"these need a docstring whose first line is a sentence: {undocumented}"
    assert not unlisted, f"no page of docs/ shows these as code: {unlisted}"


@pytest.mark.parametrize("room", ROOMS)
def test_arrows_point_down(room):
    """A room knows only rooms below it, and the package knows neither experiments nor tests."""
    wrong = []
    for path in (SOURCE / room).rglob("*.py"):
        for module in imports(path):
            top, _, rest = module.partition(".")
            other = rest.split(".")[0]
            upward = (
                other in LEVEL
                and other != room
                and LEVEL[other] >= LEVEL[room]
                and (room, other) not in SIDEWAYS
                and (path.relative_to(SOURCE).as_posix(), module) not in UPWARD
            )
            if top in ("experiments", "benchmarks", "tests") or (top == "widelimit" and upward):
                wrong.append(f"{path.relative_to(ROOT)} imports {module}")
    assert not wrong


def test_only_public_jax_is_used():
    """Private JAX modules change without notice: the reason why neural-tangents no longer imports.

    The one exception is the door to neural-tangents, which restores what JAX removed from them.
    """
    private = ("jax._src", "jax.core", "jax.interpreters", "optax._src")
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in tracked(".py")
        if path != SOURCE / "kernels" / "neural_tangents.py"
        for module in imports(path)
        if any(module == name or module.startswith(f"{name}.") for name in private)
    ]
    assert not wrong


def test_files_stay_readable():
    """Past 500 lines a file does more than one thing; split it."""
    long = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in tracked(".py")}
    assert not {name: lines for name, lines in long.items() if lines >= 500}


def test_files_name_no_machine_and_no_registry():
    """The project installs from whatever registry a user's pip is set up for, and runs from any directory."""
    local = re.compile(
        r"(?<![\w.\-])/(?:work|farm|root)/|https?://\S*/simple\b|--(?:extra-)?index-url|--find-links"
    )
    wrong = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked()
        if path != Path(__file__).resolve() and b"\0" not in path.read_bytes()  # pictures and archives
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if local.search(line)
    ]
    assert not wrong


def test_core_dependencies_are_few():
    """A user of the transforms needs JAX, Flax and Optax, and never TensorFlow, whatever extra they pick."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    name = re.compile(r"[\w-]+")
    assert {name.match(line).group() for line in project["dependencies"]} == {
        "jax",
        "flax",
        "optax",
        "numpy",
        "jaxtyping",
    }
    assert {"experiments", "kernels", "cuda12", "cuda13", "dev"} <= set(project["optional-dependencies"])
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.match(r"[\w.-]+==[\w.]+( ; python_version == '3\.1[12]')?$", pin) for pin in pins)
    assert not [pin for pin in pins if pin.startswith(("tensorflow", "tf2jax"))]


def test_versions_agree():
    """The version a paper cites is the version that is installed."""
    assert f"version: {widelimit.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_import_changes_no_global_configuration():
    """Importing every room leaves JAX's configuration and the environment as it found them."""
    code = """
import os, jax, flax, optax
before, environment = dict(jax.config.values), dict(os.environ)
import widelimit
for room in widelimit.__all__:
    getattr(widelimit, room)
after = dict(jax.config.values)
changed = {name for name in after if name in before and after[name] != before[name]}
changed |= {name for name in os.environ if environment.get(name) != os.environ[name]}
print(sorted(changed))
"""
    assert python(code).strip() == "[]"


def test_import_is_cheap():
    """Nothing heavy loads with a room (benchmarks/import_time.py measures what that saves).

    SciPy comes with JAX; the statistics of `compare` need it, `import widelimit` alone does not.
    """
    code = """
import sys, jax, flax, optax
before = set(sys.modules)
import widelimit
print(*{name.split(".")[0] for name in set(sys.modules) - before})
for room in widelimit.__all__:
    getattr(widelimit, room)
print(*{name.split(".")[0] for name in set(sys.modules) - before})
"""
    package, rooms = (set(line.split()) for line in python(code).splitlines())
    assert not HEAVY & package
    assert not (HEAVY - {"scipy"}) & rooms


def test_declared_shapes_are_checked_while_testing():
    """The import hook is at work, and leaves arguments that are no arrays to the package's own errors."""

    labelled = importlib.import_module("widelimit.training.data.labelled")

    @jaxtyping.jaxtyped(typechecker=check_shapes)
    def trace(matrix: jaxtyping.Float64[np.ndarray, "n n"], name: str) -> str:
        return f"{name}: {np.trace(matrix)}"

    assert trace(np.eye(2), 3) == "3: 2.0"
    with pytest.raises(jaxtyping.TypeCheckError, match="matrix"):
        trace(np.ones((2, 3)), "wide")
    with pytest.raises(jaxtyping.TypeCheckError, match="labels"):
        labelled.encode_targets(np.zeros((2, 2), int), "labels", 2)
