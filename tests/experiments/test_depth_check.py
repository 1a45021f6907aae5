"""The depth check: theory by hand, the smoke preset, and claims that fail when a rule is wrong."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import (
    depth_check,
    depth_check_data,
    depth_check_figures,
    depth_check_network,
    depth_check_report,
)
from experiments.depth_check import PRESETS, Config, run
from experiments.depth_check_theory import CASES, asked, cases, contributions, shares, trial_names, trials
from tests.experiments.support import killed, stored
from widelimit.compare import Summary
from widelimit.models import DecoderConfig, ResidualMLPConfig, initialise, leaves, rules
from widelimit.scaling import completep
from widelimit.training import main
from widelimit.training.data import text

SMOKE = PRESETS["smoke"]
NAMES = ["Dense_0/bias", "Dense_0/kernel", "Dense_1/bias", "Dense_1/kernel"]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The smoke preset, run once."""
    directory = tmp_path_factory.mktemp("depth") / "run"
    return run(SMOKE, directory), directory


def test_contract(smoke):
    """Every claim holds, and the directory has what a reader expects."""
    summary, directory = smoke
    assert [claim.name for claim in summary.claims if claim.holds is not True] == []
    names = {"exponents_depth.png", "changes_depth_adam_2.png", "contributions_depth_adam_2.png"}
    assert {path.name for path in directory.glob("*.png")} == set(summary.figures) == names
    rows, written = stored(directory)
    assert len(rows) == len(SMOKE.depths) * len(SMOKE.parametrizations) * SMOKE.seeds
    # At first, in the upper half and the middle, from the input and all blocks, two steps, small steps.
    assert len(written["claims"]) == len(summary.claims) == 3 * 4 + 3 * 15 + 2 * 5 + 2 * 2 * 3 + 3
    assert "depth: completep/adam/2: all blocks -> the stream" in (directory / "report.md").read_text()


def test_parts_of_a_step_leave_what_is_below_as_it_was(smoke):
    """The upper half moves its lowest branch only by that branch's own weights, so each by 1/L exactly."""
    rows, _ = stored(smoke[1])
    own = [row for row in rows if row["parametrization"] == "completep"]
    sizes = {(row["depth"], row["seed"]): row["upper Dense_1/bias -> branch"] for row in own}
    # Adam moves a bias by the rate itself: 0.25 2^-8, times b / L.
    np.testing.assert_allclose(
        list(sizes.values()), [0.25 * 2**-8 * 2 / depth for depth, _ in sizes], rtol=1e-3
    )


@pytest.mark.slow
def test_a_killed_run_ends_alike(smoke, tmp_path, monkeypatch):
    """Cut within a cell and within a line, it goes on to the same rows and the same summary."""
    _, directory = smoke
    lines = (directory / "rows.jsonl").read_bytes().splitlines(keepends=True)
    kept = len(lines) // 2 - 3
    monkeypatch.setattr(depth_check_figures, "save_all", lambda *_: {})
    again = killed(directory, tmp_path / "again", b"".join(lines[:kept]) + lines[kept][:40])
    run(SMOKE, again)
    (ours, summary), (theirs, expected) = stored(again), stored(directory)
    assert sorted(ours, key=json.dumps) == sorted(theirs, key=json.dumps) and summary == expected


@pytest.mark.parametrize(
    ("field", "layer", "name", "power", "failing", "standing"),
    [
        # Depth-muP without its factor on Adam's rate: all that moves moves by L^1/2 too much.
        (
            "learning_rate",
            None,
            None,
            0.5,
            ("depth_mup/adam/2: all blocks -> the stream", "depth_mup/adam/2: the stream after step 1"),
            ("depth_mup/adam/2: stream at first", "depth_mup/adam/2: input -> the stream"),
        ),
        # A bias that was forgotten: no total shows it.
        pytest.param(
            "learning_rate",
            "Dense_0",
            "bias",
            0.5,
            ("depth_mup/adam/2: upper Dense_0/bias -> the stream",),
            ("depth_mup/adam/2: the stream after step 2", "depth_mup/adam/2: all blocks -> the stream"),
            marks=pytest.mark.slow,
        ),
        # CompleteP with the branches of depth-muP: flat in size at first, and everything moves by L^1/2.
        pytest.param(
            "multiplier",
            "Dense_1",
            None,
            0.5,
            ("completep/adam/2: sum of branches at first", "completep/adam/2: all blocks -> the stream"),
            ("completep/adam/2: stream at first",),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_wrong_rule_makes_claims_fail(
    smoke, tmp_path, monkeypatch, field, layer, name, power, failing, standing
):
    """A check that could not fail would prove nothing."""
    correct = depth_check_network.stacked

    def wrong(chosen, shape, optimizer):
        numbers = correct(chosen, shape, optimizer)
        for own, arrays in numbers[field]["blocks"].items():
            for kind in arrays:
                if layer in (None, own) and name in (None, kind):
                    arrays[kind] = arrays[kind] * np.float32(shape.depth**power)
        return numbers

    monkeypatch.setattr(depth_check_network, "stacked", wrong)
    monkeypatch.setattr(depth_check_figures, "save_all", lambda *_: {})
    summary = run(SMOKE, tmp_path / "run")
    verdicts = {claim.name: claim.holds for claim in summary.claims}
    assert [verdicts[f"depth: {one}"] for one in failing] == [False] * len(failing)
    assert [verdicts[f"depth: {one}"] for one in standing] == [True] * len(standing)


def test_predictions_by_hand():
    """Adam: a block moves by L^-(alpha + c), half of all blocks by L times that, logits relative to h."""
    found = {case: contributions(case, "adam", NAMES, 2) for case in CASES}
    by_hand = {"mup": (0.0, 1.0, 0.5), "branches_only": (-0.5, 0.5, 0.5)}
    by_hand |= {"depth_mup": (-1.0, 0.0, 0.0), "completep": (-1.0, 0.0, 0.0)}
    for case, (one, half, logits) in by_hand.items():
        upper = [found[case]["upper Dense_0/kernel", field] for field in ("branch", "stream", "logits")]
        assert upper == [one, half, logits]
        assert found[case]["middle block", "stream"] == one
    assert found["mup"]["input", "stream"] is None and found["completep"]["input", "branch"] == -1
    # SGD without a rule: the gradient behind a stream of size L^1/2 is L^-1/2, and so is every step.
    plain = contributions("mup", "sgd", NAMES, 1)
    assert [plain["middle block", field] for field in ("stream", "logits")] == [-0.5, -1.0]
    assert cases(tuple(CASES), "sgd") == ["mup", "depth_mup", "completep"]


def test_what_is_asked_of_a_growing_network():
    """Where the stream grows no later step is predicted along depth, and all are along width."""
    fields = {
        axis: {one.field for one in asked(axis, "mup", "adam", NAMES, 2, 3)} for axis in ("depth", "width")
    }
    assert "step 3 stream" not in fields["depth"] and "step 3 stream" in fields["width"]
    powers = {one.field: one.predicted for one in asked("depth", "depth_mup", "sgd", NAMES, 2, 3)}
    assert [powers[f"step 1 {field}"] for field in ("stream", "branch", "logits")] == [0.0, -0.5, 0.0]
    assert all(one.predicted in (0.0, -0.5) for one in asked("width", "completep", "adam", NAMES, 2, 2))


def test_each_trial_moves_what_its_name_says():
    """One array of the upper half, the middle block, all blocks, the input layer; then half of each."""
    config = depth_check_data.shape(SMOKE, 2, depth=6, width=32)
    moved, names = shares(leaves(config), 6), trial_names(NAMES)
    assert depth_check_network.block_parameters(config) == NAMES
    kernel, bias = moved["blocks"]["Dense_1"]["kernel"], moved["blocks"]["Dense_0"]["bias"]
    assert kernel.shape == (len(names), 6, 1, 1) and bias.shape == (len(names), 6, 1)
    by_name = dict(zip(names, kernel[..., 0, 0].tolist(), strict=True))
    assert by_name["upper Dense_1/kernel"] == [0, 0, 0, 1, 1, 1]
    assert by_name["middle block"] == [0, 0, 0, 1, 0, 0] and by_name["half all blocks"] == [0.5] * 6
    assert by_name["upper Dense_0/bias"] == by_name["input"] == [0] * 6
    assert moved["Dense_0"]["kernel"][:, 0, 0].nonzero()[0].tolist() == [0, len(names) // 2]
    assert not moved["readout"]["kernel"].any()
    assert trials("mup", "adam", NAMES, 2, 16.0) == pytest.approx(np.full(14, 0.25 / 16))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["residual_mlp", "decoder"])
def test_the_stream_is_what_the_readout_sees(model):
    """Logits computed from the observed stream alone are the network's own, for the MLP and the decoder."""
    config = dataclasses.replace(SMOKE, model=model, context=5, base_width=8)
    shape = dataclasses.replace(
        depth_check_data.shape(config, 2, depth=3, width=16), parametrization=completep()
    )
    own = rules(shape, "adam")
    params = initialise(jax.random.key(0), own)
    inputs = (
        jax.random.normal(jax.random.key(1), (2, 64)) if model == "residual_mlp" else jnp.ones((2, 5), int)
    )
    observe = jax.jit(
        depth_check_network.observer(shape), compiler_options={"xla_backend_optimization_level": 0}
    )
    logits, fields = observe(params, own.multiplier, inputs)
    stream = np.asarray(fields["stream"])
    seen = stream / np.sqrt((stream**2).mean(axis=-1, keepdims=True))
    if isinstance(shape, ResidualMLPConfig):
        seen = np.tanh(seen)
    kernel = own.multiplier["readout"]["kernel"] * params["readout"]["kernel"]
    np.testing.assert_allclose(seen @ kernel, logits, rtol=2e-4, atol=1e-5)
    assert fields["branches"].shape == fields["branch"].shape == stream.shape
    assert isinstance(shape, DecoderConfig) == (model == "decoder")


def test_the_decoder_knows_every_token_of_its_text():
    """Bytes and the separator between files: a token beyond the vocabulary would make all sizes NaN."""
    config = dataclasses.replace(SMOKE, model="decoder")
    assert depth_check_data.shape(config, 2, depth=4, width=32).vocabulary == text().vocabulary == 257


def test_documented_commands_are_accepted():
    """What the experiment's own description says to run is a config that it takes."""
    taken = []

    def accept(config, directory):
        taken.append((config.preset, config.model))
        return Summary("depth_check", config.preset, seconds=0.0, claims=[], tables={})

    lines = [line.split("#")[0].split() for line in depth_check.__doc__.splitlines() if "python -m" in line]
    assert [main("depth_check", PRESETS, accept, line[3:]) for line in lines] == [0, 0, 0]
    assert taken == [("default", "residual_mlp"), ("smoke", "residual_mlp"), ("full", "decoder")]


def test_the_tolerance_is_less_than_half_a_step_of_theory():
    """Exponents that theory knows are 1/2 apart; both presets can tell them apart along depth."""
    for preset, claims in (("smoke", 107), ("default", 700), ("full", 1500)):
        assert depth_check_report.tolerance(PRESETS[preset], "depth", claims) < 0.25
    assert depth_check_report.tolerance(PRESETS["default"], "width", 700) < 0.25


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--depths", "8", "16"), "three or more increasing depths"),
        (("--depths", "1", "2", "4"), "three or more increasing depths from 2 on"),
        (("--widths", "64", "32", "128"), "three or more increasing widths"),
        (("--parametrizations", "sp"), "parametrizations must be among"),
        (("--model", "decoder"), "branch_depths must be among 2"),
        (("--at-depth", "1"), "at_depth must be 2 or more"),
        (("--stderr", "0"), "must be positive"),
        (("--steps", "100"), "lower steps or batch_size"),
    ],
)
def test_bad_input_is_one_sentence(flags, sentence, tmp_path, capsys):
    """What cannot be run is said, and nothing is written."""
    directory = tmp_path / "run"
    code = main("depth_check", PRESETS, run, [*flags, "--directory", str(directory)])
    error = capsys.readouterr().err
    assert code == 2 and sentence in error and error.count("\n") == 1
    assert not directory.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"widths": (32, 64, 128, 256), "optimizers": ("sgd", "muon"), "branch_depths": (1,), "networks": 4},
        {"model": "decoder", "batch_size": 4, "networks": 1, "depths": (8, 32, 128)},
    ],
)
def test_other_networks_and_optimizers(tmp_path, changes):
    """SGD and Muon, one layer in a branch, the width; and a decoder on text."""
    summary = run(dataclasses.replace(SMOKE, **changes), tmp_path / "run")
    assert [claim.name for claim in summary.claims if claim.holds is False] == []


def test_presets_are_what_they_say():
    """Where it counts: five depths, five widths, both kinds of branches, and every rule."""
    for name in ("default", "full"):
        config: Config = PRESETS[name]
        assert min(len(config.depths), len(config.widths)) >= 5 and config.branch_depths == (1, 2)
        assert set(config.parametrizations) == set(CASES) and {"sgd", "adam"} <= {*config.optimizers}
