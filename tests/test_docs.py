"""The documentation's Python examples run, page by page, in the order in which they are read."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [path for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if path.exists()]
# Ten seconds or more each, and close to the docstrings of what they explain.
LONG = {
    f"docs/{name}.md"
    for name in (
        "compare",
        "dmft",
        "dmft_discrepancies",
        "dmft_mlp",
        "dmft_two_layer",
        "empirical_ntk",
        "empirical_scale",
        "kernel_dynamics",
        "spectra",
    )
}
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def blocks(text: str) -> list[tuple[int, str]]:
    """Returns (line number, code) of each fenced block that is marked as Python."""
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [(text.count("\n", 0, match.start(1)), match.group(1)) for match in found]


def run(page: str, text: str) -> None:
    """Runs a page's blocks one after the other in one namespace; prompts (>>>) are checked as doctests."""
    names: dict[str, object] = {}
    for line, code in blocks(text):
        if ">>>" in code:
            example = doctest.DocTestParser().get_doctest(code, names, page, page, line)
            doctest.DebugRunner(optionflags=OPTIONS).run(example, clear_globs=False)
            names = example.globs
        else:
            exec(compile("\n" * line + code, page, "exec", dont_inherit=True), names)


def marked(page: Path) -> object:
    """The page as a parameter, marked slow if it is."""
    name = str(page.relative_to(ROOT))
    return pytest.param(page, marks=pytest.mark.slow if name in LONG else (), id=name)


@pytest.mark.parametrize("page", [marked(page) for page in PAGES])
def test_examples_run(page, tmp_path, monkeypatch):
    """What a page shows is what happens."""
    monkeypatch.chdir(tmp_path)
    run(str(page), page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    """Every relative link names a file of the repository."""
    targets = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", page.read_text())
    assert not [target for target in targets if not (page.parent / target).exists()]


def test_a_wrong_example_is_found():
    """The runner above fails on a wrong output, and lets later blocks use the names of earlier ones."""
    run("right.md", "```python\nx = 2\n```\ntext\n```python\n>>> x + 1\n3\n```\n")
    with pytest.raises(doctest.DocTestFailure):
        run("wrong.md", "```python\n>>> 1 + 1\n3\n```\n")
