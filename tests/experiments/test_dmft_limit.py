"""The DMFT experiment: the contract, resuming, and that its distances are what they say."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest

from experiments import dmft_limit, dmft_limit_report
from experiments.dmft_limit import PRESETS, load, make_problem, run
from experiments.dmft_limit_regimes import QUANTITIES, Regime
from tests.experiments.support import stored
from widelimit import dmft
from widelimit.compare import finite_ensemble
from widelimit.dmft import Labelled

SMOKE = PRESETS["smoke"]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The smoke preset, run once."""
    directory = tmp_path_factory.mktemp("dmft_limit") / "run"
    return run(SMOKE, directory), directory


def test_contract(smoke):
    """A directory with everything in it, a row per stage, claims judged, those that need least hold."""
    summary, directory = smoke
    rows, written = stored(directory)
    stages = [(row["regime"], row["stage"]) for row in rows]
    assert stages == [(r, s) for r in ("lazy", "rich") for s in ("dmft", "none", "euler", "networks")]
    assert len(written["claims"]) == dmft_limit_report.CLAIMS
    assert {path.name for path in directory.glob("*.png")} == {"limit.png"}
    verdicts = {claim.name: claim.holds for claim in summary.claims}
    single = [holds for name, holds in verdicts.items() if "a network misses DMFT" in name]
    assert single == [True] * 8
    assert len(written["tables"]["distances"]) == 2 * len(QUANTITIES) * len(SMOKE.widths)


def test_claims_fail_for_another_theory(smoke, tmp_path, monkeypatch):
    """With the solution without responses in the place of the full one."""
    _, directory = smoke
    place, kept = tmp_path / "again", []
    shutil.copytree(directory, place)
    (place / "summary.json").unlink()
    judge = dmft_limit_report.summarise
    monkeypatch.setattr(
        dmft_limit_report, "summarise", lambda found, *rest: kept.append(found) or judge(found, *rest)
    )
    run(SMOKE, place)
    (found,) = kept
    wrong = dataclasses.replace(found, rich=dataclasses.replace(found.rich, full=found.rich.none))
    true, false = ({c.name: c.holds for c in judge(one, {}, 0.0).claims} for one in (found, wrong))
    changed = {name for name in true if true[name] and false[name] is not True}
    assert {
        "rich: networks extrapolated to infinite width are where DMFT is",
        "rich: the responses explain what is missed",
        "rich: the mean over networks misses DMFT by width^-1, predictions",
    } <= changed


def test_killed_between_stages_it_ends_with_the_same_numbers(smoke, tmp_path):
    """Cut within a row, and with a stage's file gone that no row speaks of."""
    _, directory = smoke
    place = tmp_path / "killed"
    shutil.copytree(directory, place)
    for name in ("summary.json", "report.md", "limit.png", "rich-dmft.npz", "rich-euler.npz"):
        (place / name).unlink()
    lines = (directory / "rows.jsonl").read_bytes().splitlines(keepends=True)
    (place / "rows.jsonl").write_bytes(b"".join(lines[:4]) + lines[4][:20])
    shutil.rmtree(place / "rich-networks")
    run(SMOKE, place)
    assert stored(place) == stored(directory)


def test_bad_input_is_said_in_a_sentence():
    """Too few networks, sites that are not pairs, regimes in the wrong order."""
    for wrong, word in (
        ({"seeds_per_unit": 2}, "three networks"),
        ({"sites": 7}, "even"),
        ({"lazy_gamma0": 3.0}, "below rich_gamma0"),
        ({"widths": (8, 16)}, "three or more"),
        ({"classes": (3,)}, "two digits"),
    ):
        with pytest.raises(ValueError, match=word):
            dataclasses.replace(SMOKE, **wrong)


def test_three_classes_are_one_hot():
    """More than two digits give a problem of several outputs."""
    config = dataclasses.replace(SMOKE, classes=(3, 5, 8), samples=6)
    problem = make_problem(config, load(config), 1.0)
    assert problem.outputs == 3 and np.allclose(np.diag(problem.kernel), 1.0)


@pytest.mark.slow
def test_distances_have_no_noise_on_average():
    """Held against the mean of 16000 of the same networks, the mean of others misses it by noise only."""
    config = dataclasses.replace(SMOKE, depth=1)
    problem = make_problem(config, load(config), 1.0)
    many = finite_ensemble(problem, [2], 16000, seed=1, measures=(), times=()).solution(2)
    others = finite_ensemble(problem, [2, 16], 8000, seed=2, measures=(), times=())
    lazy = dmft.lazy(problem)
    one = Regime("rich", problem, many, lazy, lazy, lazy, others)
    found = one.rates["predictions"]
    assert abs(found.mean[0]) < 4 * found.mean_stderr[0]
    assert found.mean[1] > 4 * found.mean_stderr[1]  # another width is another mean


def test_off_takes_the_noise_off():
    """A prediction at a known distance from the extrapolated networks, both noisy, is found there."""
    config = dataclasses.replace(SMOKE, depth=1)
    problem = make_problem(config, load(config), 1.0)
    networks = finite_ensemble(problem, [16, 32], 400, seed=3, measures=(), times=())
    lazy = dmft.lazy(problem)
    one = Regime("rich", problem, lazy, lazy, lazy, lazy, networks)
    limit = one.extrapolated.predictions
    rng = np.random.default_rng(0)
    error = 0.01 * np.ones_like(limit.values)
    shifted = Labelled(limit.values + 0.1 + error * rng.normal(size=error.shape), limit.axes, error)
    found = one.off(dataclasses.replace(lazy, predictions=shifted))
    size = np.sqrt(np.mean(limit.values**2))
    assert found.value * size == pytest.approx(0.1, abs=0.02)
    assert dmft_limit.kernel_times(config)[0] == 0
