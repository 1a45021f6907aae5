"""Laziness: the split into linear and nonlinear change, slopes by hand, the smoke preset, a false null."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments import depth_check_data, depth_check_network, laziness_report
from experiments.depth_check_network import stacked
from experiments.depth_check_theory import CASES
from experiments.laziness import PRESETS, run
from experiments.laziness_network import PARTS, masks, program, split
from tests.experiments.support import killed, stored
from widelimit.models import leaves
from widelimit.training import main

SMOKE = PRESETS["smoke"]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The smoke preset, run once."""
    directory = tmp_path_factory.mktemp("laziness") / "run"
    return run(SMOKE, directory), directory


@pytest.mark.slow
def test_contract(smoke):
    """Every claim holds; depth-muP's blocks become lazy and CompleteP's do not, by ten standard errors."""
    summary, directory = smoke
    claims = {claim.name: claim for claim in summary.claims}
    assert [name for name, claim in claims.items() if claim.holds is not True] == []
    assert len(claims) == 2 * len(CASES) + 2
    lazy, not_lazy = (claims[f"tanh/{case}/adam/2: first layer"] for case in ("depth_mup", "completep"))
    assert not_lazy.measured - lazy.measured > 10 * np.hypot(lazy.stderr, not_lazy.stderr)
    assert {path.name for path in directory.glob("*.png")} == set(summary.figures) == {"laziness_adam.png"}
    rows, _ = stored(directory)
    assert len(rows) == len(SMOKE.depths) * len(CASES) * SMOKE.seeds


@pytest.mark.slow
def test_all_rules_are_one_at_the_base_depth(smoke):
    """There is nothing to scale at m_L = 1: the same networks make the same step."""
    rows, _ = stored(smoke[1])
    first = [row for row in rows if row["depth"] == SMOKE.base_depth and row["seed"] == 3]
    kept = [{key: value for key, value in row.items() if key != "parametrization"} for row in first]
    assert len(kept) == len(CASES) and all(row == kept[0] for row in kept)


@pytest.mark.slow
def test_a_killed_run_ends_alike(smoke, tmp_path):
    """Cut within a cell and within a line, it goes on to the same rows and the same summary."""
    _, directory = smoke
    lines = (directory / "rows.jsonl").read_bytes().splitlines(keepends=True)
    kept = len(lines) - len(CASES) * SMOKE.seeds - 3
    again = killed(directory, tmp_path / "again", b"".join(lines[:kept]) + lines[kept][:40])
    run(SMOKE, again)
    (ours, summary), (theirs, expected) = stored(again), stored(directory)
    assert sorted(ours, key=json.dumps) == sorted(theirs, key=json.dumps) and summary == expected


@pytest.mark.slow
def test_without_the_rate_factor_nothing_is_seen(smoke, tmp_path, monkeypatch):
    """The trap: depth-muP at plain muP's rate looks as non-linear as CompleteP, and its claims fail."""
    correct = depth_check_network.stacked

    def wrong(chosen, shape, optimizer):
        numbers = correct(chosen, shape, optimizer)
        rates, plain = numbers["learning_rate"], correct(["mup"] * len(chosen), shape, optimizer)
        return numbers | {"learning_rate": jax.tree.map(lambda _, rate: rate, rates, plain["learning_rate"])}

    monkeypatch.setattr(depth_check_network, "stacked", wrong)
    monkeypatch.setattr(laziness_report, "drawn", lambda *_: None)
    monkeypatch.setattr("widelimit.training.Results.save_figure", lambda *_: None)
    summary = run(SMOKE, tmp_path / "run")
    verdicts = {claim.name: claim.holds for claim in summary.claims}
    assert verdicts["tanh/depth_mup/adam/2: own"] is verdicts["tanh/depth_mup/adam/2: first layer"] is False
    assert verdicts["tanh/completep/adam/2: own"] is True


def test_slopes_by_hand():
    """Adam: alpha - 1 for two smooth layers, half of it with kinks, nothing for one layer."""
    table = {case: laziness_report.predicted(("tanh", "adam", 2, case), "own") for case in CASES}
    assert table == {"mup": 0.0, "branches_only": 0.0, "depth_mup": -0.5, "completep": 0.0}
    assert laziness_report.predicted(("relu", "adam", 2, "depth_mup"), "first layer") == -0.25
    assert laziness_report.predicted(("tanh", "adam", 1, "completep"), "own") is None
    assert laziness_report.predicted(("tanh", "sgd", 2, "mup"), "own") == -0.5
    below = {case: laziness_report.predicted(("tanh", "adam", 1, case), "below") for case in CASES}
    assert below == {"mup": None, "branches_only": None, "depth_mup": 0.0, "completep": 0.0}


def test_each_part_moves_what_its_name_says():
    """The middle block, its first layer, or everything below it; never what lies above."""
    shape = SMOKE.shape("tanh", 2, 4)
    moved = masks(shape)
    kernel = {part: moved[part]["blocks"]["Dense_1"]["kernel"].ravel().tolist() for part in PARTS}
    assert kernel == {"own": [0, 0, 1, 0], "first layer": [0, 0, 0, 0], "below": [1, 1, 0, 0]}
    assert moved["first layer"]["blocks"]["Dense_0"]["bias"].ravel().tolist() == [0, 0, 1, 0]
    assert [moved[part]["Dense_0"]["kernel"].item() for part in PARTS] == [0, 0, 1]
    assert not any(moved[part]["readout"]["kernel"].any() for part in PARTS)


def test_the_split_of_a_product():
    """The change of x U V is x (dU V + U dV), linear in the step, and x dU dV, which is the rest."""
    x, u, v, du, dv = (
        np.asarray(jax.random.normal(key, (5, 5))) for key in jax.random.split(jax.random.key(0), 5)
    )
    found = split(lambda w: x @ w["u"] @ w["v"], {"u": u, "v": v}, {"u": du, "v": dv})
    expected = [x @ (du @ v + u @ dv), x @ du @ dv]
    assert [float(size) for size in found] == pytest.approx(
        [np.sqrt((a**2).mean()) for a in expected], rel=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize(("activation", "power"), [("tanh", 1.0), ("relu", 0.5)])
def test_order_in_the_step(activation, power):
    """A smooth block's nonlinear share is proportional to the step, a kinked one's to its root.

    Rates from 2^-6 to 2^-10 at one depth: no rule of depth has a part in it. The next orders are below a
    tenth there, and 32 networks give 0.03.
    """
    shape = dataclasses.replace(SMOKE.shape(activation, 2, 4), width=256)
    images, labels = depth_check_data.images(0, 1, 16)
    measure, numbers = program(shape, "adam"), stacked(["mup"], shape, "adam")
    keys, rates = jax.random.split(jax.random.key(1), 32), 2.0 ** -np.arange(6, 11)
    found = [measure(keys, (images[0], labels[0]), np.float32(rate), numbers) for rate in rates]
    part = PARTS.index("first layer")
    shares = [np.mean((one["nonlinear"] / one["linear"])[:, 0, part] ** 2) ** 0.5 for one in found]
    slope = np.polyfit(np.log(rates), np.log(shares), 1)[0]
    assert slope == pytest.approx(power, abs=0.1)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--depths", "16", "32"), "three or more increasing depths"),
        (("--activations", "swishy"), "activation must be a function or one of"),
        (("--branch-depths", "3"), "branch_depths must be among"),
        (("--optimizers", "lion"), "optimizers must be among"),
        (("--seeds", "1"), "seeds must be 2 or more"),
        (("--rate-adam", "0"), "must be positive"),
        (("--batch-size", "100000"), "lower steps or batch_size"),
    ],
)
def test_bad_input_is_one_sentence(flags, sentence, tmp_path, capsys):
    """What cannot be run is said, and nothing is written."""
    directory = tmp_path / "run"
    code = main("laziness", PRESETS, run, [*flags, "--directory", str(directory)])
    error = capsys.readouterr().err
    assert code == 2 and sentence in error and error.count("\n") == 1
    assert not directory.exists()


def test_presets_are_what_they_say():
    """A factor of 32 in depth, three seeds or more, smooth and kinked; tolerances that tell 0 from -1/4."""
    for name in ("default", "full"):
        config = PRESETS[name]
        assert config.depths[-1] >= 32 * config.depths[0] and config.seeds >= 3
        assert {"tanh", "relu"} <= {*config.activations} and set(config.parametrizations) == set(CASES)
        assert laziness_report.tolerance(config, 40) < 0.125
    assert laziness_report.tolerance(SMOKE, 10) < 0.25
    assert leaves(SMOKE.shape("tanh", 2, 8))["blocks"]["Dense_1"]["kernel"].ends_branch
