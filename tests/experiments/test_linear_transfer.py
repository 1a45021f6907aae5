"""The best rate against width: the contract, resuming, limits of the theory, and claims that can fail."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from experiments import linear_transfer_report as report
from experiments import linear_transfer_theory as theory
from experiments.linear_transfer import CHUNK, PRESETS, run
from tests.experiments.support import killed, stored
from widelimit.training import open_results

SMOKE = PRESETS["smoke"]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The smoke preset, run once."""
    directory = tmp_path_factory.mktemp("linear_transfer") / "run"
    return run(SMOKE, directory), directory


def test_contract(smoke):
    """A directory with everything in it, a row per network, and every claim holds."""
    summary, directory = smoke
    rows, written = stored(directory)
    assert len(rows) == 3 * SMOKE.seeds * len(SMOKE.ratios) * len(SMOKE.depths)
    assert len(written["claims"]) == report.count(SMOKE)
    assert {path.name for path in directory.glob("*.png")} == {"curves.png", "optimum.png"}
    cells = 2 * len(SMOKE.ratios) * len(SMOKE.depths)
    assert {name: len(table) for name, table in written["tables"].items()} == {
        "optimum": cells,
        "loss at half the best rate": cells,
        "price of transfer": 2 * len(SMOKE.depths),
        "slope in theory": 10,
    }
    assert [claim.holds for claim in summary.claims] == [True] * report.count(SMOKE)


def test_both_parametrizations_are_one_network_at_the_first_width(smoke):
    """The same losses there, and other ones at the next width."""
    _, directory = smoke
    rows, _ = stored(directory)
    first = [row for row in rows if row["ratio"] == SMOKE.ratios[0]]
    for row in first[:10]:  # the same up to the order of sums, which chaos at large rates amplifies
        np.testing.assert_allclose(row["mup"][:8], row["ntk"][:8], rtol=1e-10)
    assert first and all(row["mup"] != row["ntk"] for row in rows if row["ratio"] > SMOKE.ratios[0])


@pytest.mark.slow
def test_killed_anywhere_it_ends_with_the_same_numbers(smoke, tmp_path):
    """Cut within a line after some chunks, it goes on to the same rows and the same summary."""
    _, directory = smoke
    lines = (directory / "rows.jsonl").read_bytes().splitlines(keepends=True)
    place = killed(directory, tmp_path / "killed", b"".join(lines[: 5 * CHUNK]) + lines[5 * CHUNK][:40])
    run(SMOKE, place)
    assert stored(place) == stored(directory)


@pytest.mark.slow
def test_claims_fail_for_another_theory(smoke):
    """Held against a theory with other batches or another richness, the same networks refute it."""
    _, directory = smoke
    lines = (directory / "rows.jsonl").read_text().splitlines()

    def failures(place, **wrong):
        other = dataclasses.replace(SMOKE, **wrong)
        with open_results(place, "linear_transfer", other) as results:
            results.append(*map(json.loads, lines))
            return [claim.name for claim in report.summarise(other, results).claims if claim.holds is False]

    base = directory.parent
    assert len(failures(base / "batch", batch=1.0)) >= 3
    rich = failures(base / "rich", richness=5.0)
    assert any("have the loss" in name for name in rich) and any("are theory's" in name for name in rich)


@pytest.mark.parametrize("depth", [1, 3])
def test_the_ntk_parametrization_ends_at_the_lazy_rate(depth):
    """Theory's best rate and loss at a huge ratio are the closed form's; muP's are those of width alone."""
    config = PRESETS["default"]
    for name in theory.PARAMETRIZATIONS:
        far = theory.best_rate(config, depth, 1e7, name)
        np.testing.assert_allclose(far, theory.best_rate(config, depth, math.inf, name), atol=2e-4)
    assert theory.best_rate(config, depth, math.inf, "ntk")[0] == theory.lazy_rate(config, depth)


def test_both_slopes_vanish_like_one_over_the_width():
    """Doubling a large ratio halves the distance of either best rate from its limit."""
    config = PRESETS["default"]
    for name in theory.PARAMETRIZATIONS:
        limit = theory.best_rate(config, 1, math.inf, name)[0]
        far = [theory.best_rate(config, 1, ratio, name)[0] - limit for ratio in (64, 128)]
        np.testing.assert_allclose(far[0] / far[1], 2.0, rtol=0.1)


@pytest.mark.slow
def test_rates_that_diverge_are_results(tmp_path):
    """Rates far beyond stability: rows say how many diverged, and the rest is judged."""
    config = dataclasses.replace(SMOKE, seeds=4, size=8, highest=200.0, spacing=0.5)
    summary = run(config, tmp_path / "run")
    rows, _ = stored(tmp_path / "run")
    assert min(row["diverged"] for row in rows) > 0
    assert all(None in row["mup"] for row in rows)
    assert len(summary.claims) == report.count(config)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ratios": (1, 2, 4)}, "ratios must be four or more"),
        ({"ratios": (1, 4, 2, 8)}, "increasing"),
        ({"depths": (1, 1)}, "depths must be different"),
        ({"seeds": 3}, "seeds must be at least 4"),
        ({"size": 31}, "size even"),
        ({"batch": 0.0}, "batch, richness and spacing"),
        ({"richness": math.inf}, "batch, richness and spacing"),
        ({"highest": -2.0}, "at least five spacings"),
        ({"ratios": (0.3, 1, 2, 4)}, "nu times size must be whole"),
    ],
)
def test_what_cannot_be_run_is_refused(wrong, message):
    """One sentence, before anything is written."""
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMOKE, **wrong)
