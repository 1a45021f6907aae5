"""The coordinate check: theory by hand, the smoke preset, and claims that fail when a rule is wrong."""

from __future__ import annotations

import dataclasses
import json
import math

import jax
import numpy as np
import pytest
from scipy import stats

from experiments import coordinate_check, coordinate_figures, coordinate_network, coordinate_report
from experiments.coordinate_check import PRESETS, run
from experiments.coordinate_theory import CASES, asked, predict, sources, trial_names, trials
from tests.experiments.support import killed, stored
from widelimit.training import main

needs_run = pytest.mark.slow  # half a minute: the smoke preset compiles dozens of programs

SMOKE = PRESETS["smoke"]
FIGURES = {"exponents", "changes_sgd", "changes_adam", "contributions_sgd", "contributions_adam"}


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The smoke preset, run once."""
    directory = tmp_path_factory.mktemp("coordinates") / "run"
    return run(SMOKE, directory), directory


@needs_run
def test_contract(smoke):
    """Every claim holds, and the directory has what a reader expects."""
    summary, directory = smoke
    assert [claim.name for claim in summary.claims if claim.holds is not True] == []
    assert {path.name for path in directory.glob("*.png")} == {f"{name}.png" for name in FIGURES}
    assert set(summary.figures) == {path.name for path in directory.glob("*.png")}
    rows, written = stored(directory)
    cells = len(SMOKE.widths) * len(SMOKE.optimizers) * len(SMOKE.parametrizations) * SMOKE.seeds
    assert len(rows) == cells
    assert len(written["claims"]) == len(summary.claims) == 111
    assert "standard/adam: weight 2 moves logits" in (directory / "report.md").read_text()


@needs_run
def test_contributions_add_up_to_the_first_step(smoke):
    """What all parameters change together lies below the sum of what each does alone, step by step."""
    _, directory = smoke
    rows, _ = stored(directory)
    for row in rows:
        case, optimizer = row["parametrization"], row["optimizer"]
        spread = SMOKE.widths[-1] / SMOKE.widths[0]
        share = trials(case, optimizer, SMOKE.depth, spread)
        scale = dict(zip(sources(SMOKE.depth), share[-1] / share.max(axis=0), strict=True))
        together = sum(scale[source] * row[f"{source} -> logits"] for source in scale)
        assert 0.3 * together < row["all -> logits"] <= 1.02 * together


@needs_run
def test_what_lies_below_a_weight_does_not_move(smoke):
    """The part of a step made in one weight leaves the layers below it as they were."""
    rows, _ = stored(smoke[1])
    assert max(row["weight 3 -> layer 2"] / row["weight 3 -> logits"] for row in rows) < 1e-3
    assert max(row["weight 2 -> layer 1"] / row["weight 2 -> layer 2"] for row in rows) < 1e-3


@needs_run
def test_a_killed_run_ends_alike(smoke, tmp_path):
    """Cut in the middle of a seed's rows and of a line, it goes on to the same rows and the same summary."""
    _, directory = smoke
    whole = (directory / "rows.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    kept = len(lines) - len(SMOKE.parametrizations) * 3 - 1
    again = killed(directory, tmp_path / "again", b"".join(lines[:kept]) + lines[kept][:40])
    run(SMOKE, again)
    assert stored(again) == stored(directory)


def mutated(monkeypatch, field, path, power):
    """Makes the experiment run with rules of which one number is off by a power of width / base width."""
    correct = coordinate_network.stacked

    def wrong(cases, shape, optimizer):
        numbers = correct(cases, shape, optimizer)
        layer, name = path.split("/")
        numbers[field][layer][name] = numbers[field][layer][name] * np.float32(
            (shape.width / shape.base_width) ** power
        )
        return numbers

    monkeypatch.setattr(coordinate_network, "stacked", wrong)
    monkeypatch.setattr(coordinate_figures, "save_all", lambda *_: {})


@needs_run
@pytest.mark.parametrize(
    ("field", "path", "power", "failing", "standing"),
    [
        # The readout's rate is not scaled: its contribution grows, and the logits with it, but no feature.
        (
            "learning_rate",
            "Dense_2/kernel",
            1.0,
            ("mup_3/adam: weight 3 moves logits", "mup_3/adam: logits after step 1"),
            ("mup_3/adam: weight 2 moves layer 2", "mup_3/adam: layer 2 after step 1"),
        ),
        # A bias whose rate is taken for a hidden weight's: nothing is seen of it in any total.
        (
            "learning_rate",
            "Dense_1/bias",
            -1.0,
            ("mup_3/adam: bias 2 moves layer 2", "mup_3/adam: bias 2 moves logits"),
            ("mup_3/adam: layer 2 after step 2", "mup_3/adam: logits after step 2"),
        ),
        # The readout is drawn as the standard parametrization does: the logits do not vanish at first.
        (
            "init_std",
            "Dense_2/kernel",
            0.5,
            ("mup_3: logits at first", "mup_3/adam: weight 1 moves logits"),
            ("mup_3: layer 2 at first", "mup_3/adam: weight 3 moves logits"),
        ),
    ],
)
def test_a_wrong_rule_makes_claims_fail(smoke, tmp_path, monkeypatch, field, path, power, failing, standing):
    """A check that could not fail would prove nothing."""
    mutated(monkeypatch, field, path, power)
    summary = run(dataclasses.replace(SMOKE, optimizers=("adam",)), tmp_path / "run")
    verdicts = {claim.name: claim.holds for claim in summary.claims}
    assert [verdicts[name] for name in failing] == [False, False]
    assert [verdicts[name] for name in standing] == [True, True]
    assert summary.exit_code(strict=True) == 1


@needs_run
def test_divergence_is_a_result(smoke, tmp_path):
    """A rate beyond all bounds: nothing crashes, and nothing that was not measured is claimed to hold."""
    wild = dataclasses.replace(SMOKE, optimizers=("adam",), rate_adam=1e37)
    summary = run(wild, tmp_path / "run")
    verdicts = {claim.name: claim.holds for claim in summary.claims}
    assert verdicts["ntk/adam: logits after step 2"] in (False, "inconclusive")
    assert verdicts["ntk: layer 1 at first"] is True
    json.loads((tmp_path / "run" / "summary.json").read_text(), parse_constant=pytest.fail)


def test_predictions_by_hand():
    """Standard parametrization, one rate, SGD: gradients n^-1/2, hidden fan-in n."""
    theory = predict("standard", "sgd", 3)
    assert theory.initial == {"layer 1": 0.0, "layer 2": 0.0, "layer 3": 0.0, "logits": 0.0}
    found = theory.contributions
    assert [found["weight 1", layer] for layer in ("layer 1", "layer 3", "logits")] == [-0.5, -0.5, 0.0]
    assert [found["weight 2", layer] for layer in ("layer 2", "layer 3", "logits")] == [0.5, 0.5, 1.0]
    assert found["bias 2", "layer 2"] == -0.5 and found["bias 4", "logits"] == 0.0
    assert found["weight 4", "logits"] == 1.0 and ("weight 4", "layer 3") not in found
    assert set(theory.totals.values()) == {None}  # something grows, so that everything bends
    assert predict("ntk", "adam", 2).totals == {"layer 1": -0.5, "layer 2": -0.5, "logits": 0.0}
    assert predict("mup_8", "sgd", 2).totals == {"layer 1": 0.0, "layer 2": 0.0, "logits": 0.0}
    assert predict("mup_9", "sgd", 2).initial["logits"] == -0.5
    assert predict("standard_full", "adam", 2).totals["layer 1"] is None  # its logits grow like n^1/2
    assert math.copysign(1.0, predict("mup_3", "adam", 1).totals["logits"]) == 1.0  # no minus zero in reports


def test_trials_move_one_parameter_at_a_time():
    """Alone, alone at half the rate, all together; smaller where the widest network would move more."""
    shares, names = trials("standard", "adam", 2, 16.0), trial_names(2)
    assert shares.shape == (len(names), 6) == (13, 6)
    np.testing.assert_array_equal(np.count_nonzero(shares, axis=1), [1] * 12 + [6])
    np.testing.assert_allclose(shares[6:12], shares[:6] / 2)
    np.testing.assert_allclose(np.diag(shares), [1 / 16, 1 / 16, 1 / 16, 1 / 256, 1 / 4, 1 / 64])
    np.testing.assert_allclose(shares[-1], 1 / 256)


def test_every_cell_is_asked_about():
    """All parametrizations, optimizers, parameters and layers; each name once."""
    names = [one.name for one in asked(tuple(CASES), ("sgd", "adam"), 3, 4)]
    assert len(names) == len(set(names)) == 7 * 4 + 14 * 20 + 10 * 4 * 4


def test_the_tolerance_is_that_of_the_family():
    """Student's quantile at 1% for the family, and the bias a term (k/n)^2 leaves in the fitted exponent."""
    config, n = PRESETS["default"], np.array(PRESETS["default"].widths, float)
    single = 1 - 0.99 ** (1 / 482)
    chance = stats.t.ppf(1 - single / 2, config.seeds - 1) * config.stderr
    logs = (13 / n) ** 2 / np.log(2)
    design = np.stack([np.ones_like(n), np.log2(n), 1 / n], 1)
    bias = np.linalg.lstsq(design, logs, rcond=None)[0][1]
    assert coordinate_report.exponent_tolerance(config, 482) == pytest.approx(chance + abs(bias))
    smoke = coordinate_report.exponent_tolerance(SMOKE, 111)
    assert smoke < 0.25  # less than half the distance between two exponents that theory knows


def test_presets_are_what_they_say():
    """At least five widths and three hidden layers where it counts."""
    for name in ("default", "full"):
        assert len(PRESETS[name].widths) >= 5 and PRESETS[name].depth == 3
        assert set(PRESETS[name].parametrizations) == set(CASES)
        assert coordinate_check._networks(PRESETS[name], PRESETS[name].widths[-1]) == 1


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--widths", "64", "128"), "three or more increasing widths"),
        (("--widths", "64", "64", "128"), "three or more increasing widths"),
        (("--parametrizations", "mup"), "parametrizations must be among"),
        (("--seeds", "1"), "seeds >= 2"),
        (("--stderr", "0"), "must be positive"),
        (("--steps", "100"), "lower steps or batch_size"),
    ],
)
def test_bad_input_is_one_sentence(flags, sentence, tmp_path, capsys):
    """What cannot be run is said, and nothing is written."""
    directory = tmp_path / "run"
    code = main("coordinate_check", PRESETS, run, [*flags, "--directory", str(directory)])
    error = capsys.readouterr().err
    assert code == 2 and sentence in error and error.count("\n") == 1
    assert not directory.exists()


def test_equivalent_forms_measure_alike():
    """Tables 3, 8 and 9 are one network: one program, three sets of numbers, the same sizes."""
    shape = coordinate_network.MLPConfig(
        inputs=64, outputs=10, width=24, base_width=8, parametrization=CASES["ntk"][0], depth=2
    )
    inputs = np.random.default_rng(0).normal(size=(2, 4, 64)).astype(np.float32)
    batches = (inputs, np.arange(8, dtype=np.int32).reshape(2, 4))
    cases = ("mup_3", "mup_8", "mup_9", "mean_field")
    shares = np.stack([trials(case, "sgd", 2, 1.0) for case in cases]).astype(np.float32)
    sizes = coordinate_network.program(shape, "sgd")(
        coordinate_network.drawing(shape)(jax.random.split(jax.random.key(0), 2)),
        batches,
        np.float32(0.1),
        coordinate_network.stacked(cases, shape, "sgd"),
        shares,
    )
    for kind, values in sizes.items():
        np.testing.assert_allclose(
            values, np.broadcast_to(values[:1], values.shape), rtol=1e-3, atol=1e-6, err_msg=kind
        )
