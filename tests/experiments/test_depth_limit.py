"""The depth experiment: contract, resuming, estimators without bias, and what its cells must be."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from experiments import depth_limit, depth_limit_cells, depth_limit_figures, depth_limit_tables
from experiments.depth_limit import PRESETS, run
from experiments.depth_limit_tables import jackknife
from tests.experiments.support import killed, stored
from widelimit import dmft
from widelimit.compare import fit_exponent

needs_run = pytest.mark.slow  # half a minute: the smoke preset compiles dozens of programs

SMOKE = dataclasses.replace(PRESETS["smoke"], widths=(8, 16, 24), least=64, networks_per_unit=4, repeats=3)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that is smaller still than the smoke preset, run once."""
    directory = tmp_path_factory.mktemp("depth_limit") / "run"
    return run(SMOKE, directory), directory


@needs_run
def test_contract(finished):
    """A row per cell, a claim each with its reason, tables over the whole grid, the figure."""
    summary, directory = finished
    rows, written = stored(directory)
    assert len(rows) == 2 * len(SMOKE.exact_depths) + SMOKE.repeats + 9
    assert len(written["claims"]) == 2 * 3 + 4 and all(claim.why for claim in summary.claims)
    assert len(written["tables"]["errors"]) == 9 and len(written["tables"]["depths"]) == 3
    assert (directory / "depth_limit.png").stat().st_size > 50_000 and "depth_limit.png" in summary.figures


@needs_run
def test_what_chance_has_no_part_in_holds(finished):
    """Claims from exact solutions hold in the smallest run; predictions are the same in every run."""
    summary, _ = finished
    exact = [claim for claim in summary.claims if claim.name.startswith("linear")]
    assert len(exact) == 2 and all(claim.holds is True for claim in exact)
    assert [claim.predicted for claim in summary.claims] == [-1.0] * 3 + [-0.5] * 3 + [-1.0, -1.0, 0.0, 0.0]


@needs_run
@pytest.mark.parametrize("share", [0.3, 0.97])
def test_killed_anywhere_it_ends_with_the_same_numbers(finished, tmp_path, monkeypatch, share):
    """What a kill leaves of the rows, the last of them half-written, leads to the same rows and summary."""
    monkeypatch.setattr(depth_limit_figures, "save_all", lambda results, found: summary.figures)
    summary, directory = finished
    whole = (directory / "rows.jsonl").read_bytes()
    again = killed(directory, tmp_path / "again", whole[: int(share * len(whole))])
    run(SMOKE, again)
    assert stored(again) == stored(directory)


def made(bias, rng, widths=(8, 16, 32), blocks=32, repeats=400):
    """Rows of a world in which a network's f is limit + bias / N + noise / sqrt(N), of 40 numbers."""
    limit = rng.normal(size=40)
    mean, square = {}, {}
    for n in widths:
        f = limit + bias / n + rng.normal(size=(blocks, 4 * n, 40)) / np.sqrt(n)
        mean[4, n], square[4, n] = f.mean(axis=1), (f**2).mean(axis=1)
    limits = {4: limit + 0.01 * rng.normal(size=(repeats, 40)), 0: limit + np.zeros((repeats, 40))}
    config = dataclasses.replace(SMOKE, widths=widths)
    empty = dict.fromkeys(("rule", "without", "exact", "losses"), {})
    return depth_limit_tables.Found(config, None, mean=mean, square=square, limits=limits, **empty)


def test_estimators_find_a_known_law():
    """Sizes 1/N and sqrt(1/N + 1/N^2), and their slopes, come back within their own error bars."""
    found, n = made(np.ones(40), np.random.default_rng(0)), np.array([8, 16, 32])
    for single, values in ((False, 1 / n), (True, np.sqrt(1 / n + 1 / n**2))):
        law = found.width_law(4, single)
        assert abs(law.value - fit_exponent(n, values).exponent) < 4 * law.stderr < 0.8
    for n in (8, 16, 32):
        bias, scatter = found.bias(4, n), found.scatter(4, n)
        assert abs(bias.value - 1 / n) < 4 * bias.stderr
        assert abs(scatter.value - np.sqrt(1 / n + 1 / n**2)) < 4 * scatter.stderr


def test_no_bias_is_not_taken_for_one():
    """Without a bias the mean square is zero on average: noise is taken off, and NaN is said, not a law."""
    rng = np.random.default_rng(1)
    values = []
    for _ in range(40):
        found = made(np.zeros(40), rng, widths=(8, 16, 24), repeats=8)
        values.append(jackknife(depth_limit_tables._distance, [found.mean[4, 8], found.limits[4]]))
    z = np.mean([v.value for v in values]) / (np.std([v.value for v in values]) / np.sqrt(40))
    assert abs(z) < 4
    assert np.isnan(depth_limit_tables._slope([1, 2], [1.0, -1.0]))


def test_jackknife_of_a_mean_is_its_standard_error():
    """The textbook case, and variances of independent groups add up."""
    x, y = np.random.default_rng(2).normal(size=(2, 50))
    found = jackknife(lambda a, b: float(a.mean() - b.mean()), [x, y])
    assert found.stderr == pytest.approx(np.sqrt((x.var(ddof=1) + y.var(ddof=1)) / 50))


@pytest.mark.slow
def test_limits_share_their_noise():
    """Differences between depths have less noise than the depths: at least three times less."""
    config = dataclasses.replace(SMOKE, depths=(2, 4, 8), limit_depths=(4, 8))
    problem = depth_limit.make_problem(config, depth_limit.load(config))
    rows = [depth_limit_cells._limits(config, problem, repeat) for repeat in range(6)]
    f = np.array([row["f"] for row in rows])[:, :, 1:]
    assert 3 * np.std(f[:, 1] - f[:, 2], axis=0).mean() < np.std(f[:, 0], axis=0).mean()
    exact = dmft.lazy(dataclasses.replace(problem, depth=2, kernel=None))
    assert problem.kernel.diagonal() == pytest.approx(np.ones(3))
    assert np.abs(f.mean(0)[0] - exact.predictions.values[1:]).max() > 0.001  # features do something


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widths": (8, 16)}, "widths must be 3 or more"),
        ({"depths": (1, 2, 3)}, "must double from one"),
        ({"depths": (4, 8, 16)}, "must divide the last"),
        ({"limit_depths": (16,)}, "limit_depths must be two or more"),
        ({"limit_depths": (8, 12)}, "limit_depths must be two or more"),
        ({"exact_depths": (4, 8, 12)}, "must double"),
        ({"sites": 102}, "multiple of 4"),
        ({"branch_exponent": 0.75}, "0.5 or 1"),
        ({"networks_per_unit": 2}, "networks_per_unit must be 3"),
        ({"gamma0": 0.0}, "positive and finite"),
    ],
)
def test_what_cannot_run_is_said_before_anything_is(change, message):
    """One sentence: what was expected, what came."""
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMOKE, **change)
