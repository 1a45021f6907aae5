"""Transfer over depth: its contract, which networks it takes as one, its schedule, and how it judges."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import depth_transfer_report as report
from experiments.decoder_sweep import schedule
from experiments.depth_transfer import PRESETS, Config, check_flags, run
from experiments.depth_transfer_networks import TASKS, Digits, Shape, Text, same_network
from experiments.mlp_sweep import classifier, numbers_of
from tests.experiments.support import killed, stored
from widelimit.compare import find_optimum, transfer
from widelimit.models import rules
from widelimit.training import Checkpoint, Mode

TINY = dataclasses.replace(PRESETS["smoke"], depths=(2, 4), widths=(8, 16), corner=(16, 4), steps=4)
# d log2(best rate) / d log2(size), planted.
OVER_DEPTH = {"standard": -0.6, "mup": -0.6, "depth_mup": 0.1, "completep": 0.02}
OVER_WIDTH = {"standard": -1.1, "mup": 0.02, "depth_mup": 0.02, "completep": 0.02}


class Planted(Digits):
    """In place of training: a parabola in log2 of the rate with a known minimum, and noise by seed."""

    def train(self, shape, parametrization, rates, seeds, mode, store):
        """Returns the rows of a grid of log2 rates."""
        deeper, wider = np.log2(shape.depth / 2), np.log2(shape.width / 64)
        place = -5.2 + OVER_DEPTH[parametrization] * deeper + OVER_WIDTH[parametrization] * wider
        draws = {seed: np.random.default_rng([seed, *shape]).normal() for seed in seeds}
        case = {"parametrization": parametrization, "width": shape.width, "depth": shape.depth}
        return [
            {
                **case,
                "log2_lr": rate,
                "seed": seed,
                "train_loss": 2 ** (0.1 * (rate - place - 0.1 * draw) ** 2),
            }
            for rate in rates
            for seed, draw in draws.items()
        ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of the default preset on planted losses."""
    place = tmp_path_factory.mktemp("depth_transfer") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS, "mlp", Planted)
        return place, run(PRESETS["default"], place)


def test_contract(finished):
    """Every shape has a curve under every parametrization; summary, report and figures are there."""
    directory, summary = finished
    rows, kept = stored(directory)
    shapes = {(row["width"], row["depth"]) for row in rows}
    assert len(shapes) == 9 and shapes == {tuple(shape) for shape in PRESETS["default"].shapes()}
    assert len({(row["width"], row["depth"], row["parametrization"]) for row in rows}) == 36
    assert {path.name for path in directory.iterdir()} >= {
        *("config.json", "environment.json", "rows.jsonl", "summary.json", "report.md", "regret.png"),
        *(f"{kind}_over_{size}.png" for kind in ("loss", "optimum") for size in ("depth", "width")),
    }
    tables = kept["tables"]
    assert len(tables["optimum"]) == 36 and len(tables["slopes"]) == 8 and len(tables["regret"]) == 12
    assert [claim.holds for claim in summary.claims] == [True] * 8


def test_planted_optima_are_found(finished):
    """Slopes in both directions, the corner included, are the planted ones; so is the price of transfer."""
    tables = finished[1].tables
    planted = {"depth": OVER_DEPTH, "width": OVER_WIDTH}
    for row in tables["slopes"]:
        wanted = planted[row["over"]][row["parametrization"]]
        assert abs(row["slope"] - wanted) < 4 * row["stderr_seeds"] + 1e-3 < 0.2
    for row in tables["optimum"]:
        name = row["parametrization"]
        place = OVER_DEPTH[name] * np.log2(row["depth"] / 2) + OVER_WIDTH[name] * np.log2(row["width"] / 64)
        assert abs(row["log2_lr"] + 5.2 - place) < 0.25 and row["flag"] == "interior"
    costs = {(row["parametrization"], row["used_at"]): row["regret"] for row in tables["regret"]}
    deepest = costs["mup", "width 64, depth 32"]
    # The minimum moved by 4 * 0.6: loss 2^(0.1 * 2.4^2) in place of 1.
    assert abs(deepest - (2 ** (0.1 * 2.4**2) - 1)) < 0.15 > costs["completep", "width 64, depth 32"]


def test_killed_and_resumed_is_uninterrupted(finished, tmp_path, monkeypatch):
    """A run that was killed in the middle of its rows goes on from there, and ends with the same bits."""
    monkeypatch.setitem(TASKS, "mlp", Planted)
    directory, _ = finished
    rows = (directory / "rows.jsonl").read_bytes().splitlines(keepends=True)
    again = killed(directory, tmp_path / "again", b"".join(rows[: len(rows) // 2]) + b'{"width": 1')
    run(PRESETS["default"], again)
    assert stored(again) == stored(directory)


def test_which_parametrizations_are_one_network():
    """At the base width only depth tells them apart, at the base depth only width; at the corner both do."""
    config = PRESETS["default"]
    task = Digits(config)

    def groups(width, depth):
        found = []
        for name in config.parametrizations:
            known = [g for g in found if same_network(task, Shape(width, depth), g[0], name)]
            known[0].append(name) if known else found.append([name])
        return found

    assert groups(64, 2) == [["standard", "mup", "depth_mup", "completep"]]
    assert groups(64, 16) == [["standard", "mup"], ["depth_mup"], ["completep"]]
    assert groups(256, 2) == [["standard"], ["mup", "depth_mup", "completep"]]
    assert groups(256, 16) == [["standard"], ["mup"], ["depth_mup"], ["completep"]]


def test_one_network_trains_to_the_same_bits(tmp_path):
    """What is copied instead of trained again would have come out the same, to the last bit."""
    task = Digits(TINY)
    rows = [
        task.train(Shape(8, 4), name, [-4.0, -3.0], [0, 1], Mode(1), Checkpoint(tmp_path / name))
        for name in ("standard", "mup", "completep")
    ]
    standard, mup, other = ([row["train_loss"] for row in each] for each in rows)
    assert standard == mup and standard != other


def test_the_rate_falls_linearly_to_zero():
    """On a constant gradient Adam's steps are those of the schedule: ``rate (1 - t / T)`` without warmup."""
    template = rules(Digits(TINY).network(Shape(8, 2), "standard"), "adam")
    problem = classifier(None, template, functools.partial(schedule, steps=5, warmup=0))
    optimizer = problem.optimizer(jnp.float32(0.5), numbers_of(template))
    zeros = [jnp.zeros(leaf.shape) for leaf in template.leaves]
    tree = jax.tree.unflatten(jax.tree.structure(template.init_std), zeros)
    state, ones, steps = jax.jit(optimizer.init)(tree), jax.tree.map(jnp.ones_like, tree), []
    update = jax.jit(optimizer.update)
    for _ in range(5):
        updates, state = update(ones, state, tree)
        steps.append(-float(updates["readout"]["kernel"][0, 0]))
    np.testing.assert_allclose(steps, 0.5 * np.array([1.0, 0.8, 0.6, 0.4, 0.2]), rtol=1e-4)


def planted(slope, noise, seeds=8):
    """Fits of a parabola whose minimum moves by so much per doubling, with noise in each seed's minimum."""
    generator = np.random.default_rng(3)
    rates, depths = np.arange(-12.0, 0.0, 0.5), [2, 4, 8, 16, 32]
    curves = []
    for depth in depths:
        place = -5.0 + slope * np.log2(depth / 2) + noise * generator.normal(size=seeds)
        curves.append(2.0 ** (0.3 * (rates[:, None] - place) ** 2))
    return transfer(depths, [find_optimum(rates, curve) for curve in curves])


@pytest.mark.parametrize(
    ("still", "moving", "noise", "verdicts"),
    [
        (0.0, -0.6, 0.1, [True, True, True]),
        (-0.3, -0.6, 0.1, [False, True, True]),
        (0.0, 0.0, 0.1, [True, "inconclusive", True]),
        (0.0, 0.6, 0.1, [True, False, True]),
        (0.0, -0.6, 2.0, ["inconclusive", "inconclusive", False]),
    ],
)
def test_planted_slopes_are_judged(still, moving, noise, verdicts):
    """CompleteP must stay, muP must fall by three standard errors, and noise never passes."""
    slopes = {("completep", "depth"): planted(still, noise), ("mup", "depth"): planted(moving, noise)}
    claims = report.slope_claims(slopes)
    assert [claim.holds for claim in claims[:2]] == verdicts[:2]
    assert (claims[2].holds is True) == verdicts[2]


def test_an_optimum_at_the_edge_is_not_judged(tmp_path, monkeypatch):
    """Where CompleteP's deepest minimum stays at an edge, nothing about it holds, and the rest does."""

    class AtTheEdge(Planted):
        def train(self, shape, parametrization, rates, seeds, mode, store):
            rows = super().train(shape, parametrization, rates, seeds, mode, store)
            if (parametrization, shape) == ("completep", (64, 32)):
                rows = [{**row, "train_loss": 2.0 ** (0.1 * row["log2_lr"])} for row in rows]
            return rows

    monkeypatch.setitem(TASKS, "mlp", AtTheEdge)
    monkeypatch.setattr(report.figures, "save_all", lambda *_: {})
    verdicts = {claim.name: claim.holds for claim in run(PRESETS["default"], tmp_path / "run").claims}
    assert {name for name, holds in verdicts.items() if holds == "inconclusive"} == {
        "completep: optimum does not move with depth",
        "mup: optimum falls faster with depth than completep's",
        "every slope is known well enough",
        "completep: the rate tuned at width 64, depth 2 costs little at width 64, depth 32",
    }
    assert len(verdicts) == 8 and False not in verdicts.values()


def decoder(tmp_path, **changes):
    """A decoder of two blocks on a few sentences."""
    for name in "abcd":
        (tmp_path / f"{name}.txt").write_text(f"The quick brown fox {name} jumps over the lazy dog. " * 40)
    return dataclasses.replace(
        TINY,
        **{
            **{"model": "decoder", "source": str(tmp_path), "context": 8, "head_size": 8, "batch_size": 4},
            **{"validation_windows": 4, "warmup": 1, "rates": 5, "spacing": 1.0, **changes},
        },
    )


def test_the_decoder_trains_on_text(tmp_path):
    """The text task gives finite rows, and muP at the base width is the standard network there too."""
    config = decoder(tmp_path)
    task = TASKS[config.model](config)
    assert isinstance(task, Text)
    assert same_network(task, Shape(8, 4), "standard", "mup")
    assert not same_network(task, Shape(8, 4), "standard", "completep")
    rows = task.train(
        Shape(8, 4), "completep", [-5.0, -4.0], [0, 1], Mode(1), Checkpoint(tmp_path / "checkpoint")
    )
    assert len(rows) == 4 and all(np.isfinite(row[task.loss]) for row in rows)
    assert {(row["width"], row["depth"], row["parametrization"]) for row in rows} == {(8, 4, "completep")}
    with pytest.raises(ValueError, match="context"):
        Text(dataclasses.replace(config, context=10**6))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["mlp", "decoder"])
def test_runs_to_the_end(model, tmp_path):
    """The whole experiment at a tiny size, trained."""
    summary = run(TINY if model == "mlp" else decoder(tmp_path), tmp_path / "run")
    assert len(summary.tables["optimum"]) == 16


@pytest.mark.slow
def test_completep_transfers_over_depth_and_mup_does_not(tmp_path):
    """The claims of the default run hold over depth 2 to 32 with fewer seeds."""
    config = Config(
        seed=50,
        depths=(2, 8, 32),
        widths=(64, 128),
        corner=None,
        seeds=6,
        rates=9,
        parametrizations=("mup", "completep"),
    )
    claims = {claim.name: claim for claim in run(config, tmp_path / "run").claims}
    assert claims["completep: optimum does not move with depth"].holds is True
    assert claims["mup: optimum falls faster with depth than completep's"].holds is True


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"depths": (2,)}, "depths must be at least two increasing positive numbers; got"),
        ({"widths": (32, 16)}, "widths must be at least two increasing positive numbers; got"),
        ({"corner": (16, 5)}, "corner must be one of the widths and one of the depths"),
        ({"parametrizations": ("mup", "alpha")}, r"parametrizations must be among .*; got \['alpha'\]"),
        ({"warmup": 4}, "fewer steps of warmup than steps"),
        ({"center": -80.0}, "the window of learning rates must lie within"),
    ],
)
def test_what_is_wrong_is_said(changes, sentence):
    """What cannot be run is refused in one sentence before anything is."""
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(TINY, **changes)


@pytest.mark.parametrize(
    ("preset", "changes", "sentence"),
    [
        ("smoke", {"context": 8}, "context: the decoder's, and model is 'mlp'"),
        ("full", {"model": "mlp", "tokenizer": "bytes"}, "tokenizer: the decoder's, and model is 'mlp'"),
        (
            "full",
            {"token_file": "a.bin", "suffixes": (".md",)},
            "token_file is tokenised .* leave suffixes out",
        ),
    ],
)
def test_flags_without_use_are_said(preset, changes, sentence, tmp_path):
    """A flag that would do nothing is refused in one sentence before anything is read or written."""
    with pytest.raises(ValueError, match=sentence):
        run(dataclasses.replace(PRESETS[preset], **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("preset", PRESETS)
def test_what_a_preset_sets_is_no_flag(preset):
    """Every preset goes with either model, and with a file of tokens in place of its text."""
    check_flags(dataclasses.replace(PRESETS[preset], model="mlp"))
    check_flags(dataclasses.replace(PRESETS[preset], model="decoder", token_file="a.bin"))
