"""From lazy to rich: contract, resuming, estimators with known answers, claims that can fail."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from experiments import gamma_sweep_cells, gamma_sweep_figures, gamma_sweep_report
from experiments.gamma_sweep import PRESETS, load, make_problem, run
from experiments.gamma_sweep_measures import (
    DEVIATION,
    HELD_OUT,
    LOSS,
    NTK,
    TO_FIT,
    aligned,
    features,
    jackknife,
    lazy_quantities,
    lazy_slope,
    moved,
    steps_to_fit,
)
from tests.experiments.support import killed, stored
from widelimit import dmft

needs_run = pytest.mark.slow  # half a minute: the smoke preset compiles dozens of programs

SMOKE = dataclasses.replace(PRESETS["smoke"], steps=8, units=32768)
CELLS = 2 * len(SMOKE.gamma0s)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that is smaller still than the smoke preset, run once."""
    directory = tmp_path_factory.mktemp("gamma_sweep") / "run"
    return run(SMOKE, directory), directory


def gathered(config, rows):
    """What a run found, from its rows."""
    data = load(config)
    lazy = dmft.lazy(make_problem(config, data, config.gamma0s[0]))
    return gamma_sweep_report.gather(config, lazy, data.test_targets[:, 0], rows)


@needs_run
def test_contract(finished):
    """Rows of DMFT and of each width, claims with reasons, tables, the figure, nothing left over."""
    summary, directory = finished
    rows, written = stored(directory)
    assert len(rows) == len(SMOKE.gamma0s) * (1 + len(SMOKE.widths))
    assert len(written["claims"]) == gamma_sweep_report.count(SMOKE)
    assert all(claim.why for claim in summary.claims)
    assert len(written["tables"]["sweep"]) == 8 * len(SMOKE.gamma0s)
    assert (directory / "gamma_sweep.png").stat().st_size > 50_000
    assert not list(directory.glob("unfinished-*"))
    assert not [claim.name for claim in summary.claims if claim.holds is False]


@needs_run
def test_exponents_of_the_lazy_end_hold(finished):
    """They need no statistics to speak of: kernels and f leave the NTK's by gamma0^2."""
    summary, _ = finished
    slopes = [claim for claim in summary.claims if "gamma0^2" in claim.name]
    assert len(slopes) == 2 * (SMOKE.depth + 1) + 1
    assert [claim.holds for claim in slopes] == [True] * len(slopes)


@needs_run
@pytest.mark.parametrize("share", [0.7, 0.97])
def test_killed_anywhere_it_ends_with_the_same_numbers(finished, tmp_path, monkeypatch, share):
    """What a kill leaves of the rows, the last of them half-written, leads to the same rows and summary."""
    summary, directory = finished
    monkeypatch.setattr(gamma_sweep_figures, "save_all", lambda results, found: summary.figures)
    whole = (directory / "rows.jsonl").read_bytes()
    again = killed(directory, tmp_path / "again", whole[: int(share * len(whole))])
    solved = []
    solve = gamma_sweep_cells.solve
    monkeypatch.setattr(gamma_sweep_cells, "solve", lambda *args: solved.append(args[3]) or solve(*args))
    run(SMOKE, again)
    assert stored(again) == stored(directory)
    assert 0 < len(solved) < CELLS


def test_a_cell_goes_on_from_finished_replicas(tmp_path):
    """A cell that was killed between replicas ends with the numbers of one that was not."""
    config = dataclasses.replace(SMOKE, depth=1, replicas=4, sites=200, steps=4)
    data = load(config)
    problem, held_out = make_problem(config, data, 1.0), data.test_targets[:, 0]

    def solved():
        (row,) = gamma_sweep_cells.solve(config, problem, held_out, "DMFT", tmp_path / "cell")
        return {**row, "seconds": 0.0}

    whole, kept = solved(), sorted((tmp_path / "cell").glob("replica-*.npz"))
    assert len(kept) == 4 and len(whole[LOSS]) == 5
    times = kept[0].stat().st_mtime_ns
    kept[-1].unlink()
    assert solved() == whole and kept[0].stat().st_mtime_ns == times


@needs_run
def test_claims_fail_for_another_theory(finished):
    """With DMFT's numbers of another gamma0, or the NTK's in their place, networks refute it."""
    _, directory = finished
    rows = [json.loads(line) for line in (directory / "rows.jsonl").read_text().splitlines()]

    def failures(changed):
        found = gathered(SMOKE, changed)
        claims = [gamma_sweep_report._agreement(found, name) for name in found.names]
        return sum(claim.measured > claim.tolerance for claim in claims)

    theory = [row["gamma0"] for row in rows if row["width"] == 0]
    other = dict(zip(theory, theory[1:] + theory[:1], strict=True))
    shifted = [{**row, "gamma0": other[row["gamma0"]]} if row["width"] == 0 else row for row in rows]
    assert failures(rows) == 0 and failures(shifted) == 8
    found = gathered(SMOKE, rows)
    lazy = [{**row, **{name: [found.lazy[name]] * len(row[name]) for name in found.names}} for row in rows]
    ntk = [one if row["width"] == 0 else row for one, row in zip(lazy, rows, strict=True)]
    scores = {name: max(abs(one.z()) for one in gathered(SMOKE, ntk).apart(name)) for name in found.names}
    assert sum(score > 4.2 for score in scores.values()) >= 7  # held-out loss needs more networks


@needs_run
def test_lazy_quantities_are_the_solutions_own(finished):
    """Kernels stand still, f is its own limit, and DMFT at the smallest gamma0 is near."""
    data = load(SMOKE)
    lazy = dmft.lazy(make_problem(SMOKE, data, 1.0))
    found = lazy_quantities(lazy, data.test_targets[:, 0], SMOKE.fitted)
    assert found[moved(NTK)] == found[moved(features(1))] == found[DEVIATION] == 0.0
    assert found[LOSS] == pytest.approx(lazy.loss.values[-1])
    rows = stored(finished[1])[0]
    for name in (LOSS, HELD_OUT, TO_FIT, aligned(NTK)):
        first, last = rows[0][name][0], rows[-3][name][0]
        assert abs(first - found[name]) < 0.2 * abs(last - found[name])


def test_steps_to_fit_of_an_exponential_are_exact():
    """Its logarithm is linear; a loss that stays above has no such time."""
    loss = 3.0 * np.exp(-0.3 * np.arange(30))
    assert steps_to_fit(loss, 0.1) == pytest.approx(math.log(10) / 0.3)
    assert math.isnan(steps_to_fit(loss[:5], 0.1))


def test_jackknife_takes_off_the_bias_of_a_norm():
    """The squared norm of a mean is too large by its variance; errors of independent groups add up."""
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(2000, 20, 8)) + 0.5
    values, errors = [], []
    for one in draws:
        leaves = np.stack([one.mean(0), *(np.delete(one, i, axis=0).mean(0) for i in range(20))])
        found = jackknife(lambda v: float(v @ v), [leaves])
        values.append(found.value)
        errors.append(found.stderr)
    spread = np.std(values)
    assert abs(np.mean(values) - 2.0) < 4 * spread / np.sqrt(2000)  # 2.4 without the correction
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(spread, rel=0.1)
    leaves = np.stack([rng.normal(size=21), rng.normal(size=21)])
    both = jackknife(lambda a, b: float(a[0] - b[0]), [leaves[0][:, None], leaves[1][:, None]])
    apart = [jackknife(lambda a: float(a[0]), [one[:, None]]).stderr for one in leaves]
    assert both.stderr == pytest.approx(np.hypot(*apart))


def test_lazy_slope_knows_its_first_correction():
    """Exact for a power with a factor exp(k gamma0^2); NaN where a size is not positive."""
    x = np.array([0.1, 0.25, 0.4])
    assert lazy_slope(x, 3 * x**2 * np.exp(-2 * x**2)) == pytest.approx(2.0)
    assert math.isnan(lazy_slope(x, np.array([1.0, -1.0, 1.0])))


@needs_run
def test_extrapolation_is_exact_for_a_polynomial_in_one_over_the_width(finished):
    """Weights sum to one and remove as many powers of 1/n as there are widths but one."""
    rows = stored(finished[1])[0]
    for widths in ((16, 32), (32, 64, 128)):
        found = dataclasses.replace(
            gathered(SMOKE, rows), config=dataclasses.replace(SMOKE, widths=widths, units=131072)
        )
        powers = [np.dot(found.weights, np.array(widths, float) ** -k) for k in range(len(widths))]
        np.testing.assert_allclose(powers, [1.0] + [0.0] * (len(widths) - 1), atol=1e-14)


@needs_run
def test_too_few_networks_are_inconclusive(finished):
    """Error bars as wide as the effect never pass."""
    rows = stored(finished[1])[0]
    wide = [dict(row) for row in rows]
    for row in wide:
        if row["width"]:
            whole = row[TO_FIT][0]
            row[TO_FIT] = [whole + 20 * (value - whole) for value in row[TO_FIT]]
    claims = [gamma_sweep_report._agreement(gathered(SMOKE, one), TO_FIT) for one in (rows, wide)]
    assert [claim.holds for claim in claims] == [True, "inconclusive"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gamma0s": (0.1, 0.2, 0.4)}, "gamma0s must be four or more"),
        ({"gamma0s": (0.0, 0.1, 0.2, 0.4)}, "increasing positive"),
        ({"widths": (16,)}, "widths must be two or three"),
        ({"widths": (16, 24)}, "multiple of 32 times every width"),
        ({"test_samples": 0}, "at least 1"),
        ({"sites": 101}, "sites must be even"),
        ({"replicas": 3}, "replicas 4 or more"),
        ({"fitted": 1.0}, r"fitted must lie in \(0, 1\)"),
        ({"rate": math.inf}, "rate be positive"),
    ],
)
def test_what_cannot_run_is_said_before_anything_is(change, message):
    """One sentence: what was expected, what came."""
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMOKE, **change)
