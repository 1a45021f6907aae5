"""Transfer over the width of a decoder, on a small text: what it trains, resumes, claims and refuses."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import transformer_transfer_report
from experiments.decoder_sweep import check_source, load, schedule
from experiments.transformer_transfer import PRESETS, Config, run
from experiments.transformer_transfer_cases import ABLATIONS, CASES, MAIN, decoder
from experiments.transformer_transfer_grids import Grid, grids
from tests.experiments.support import killed, stored
from widelimit.compare import find_optimum
from widelimit.models import rules
from widelimit.training import open_results

VARIED = {"scales": (-1.0, 0.0, 1.0), "decays": (-2.0, 0.0, 2.0)}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """The smoke preset on a file of text, without ablations, checkpointed at every chunk."""
    path = tmp_path_factory.mktemp("text") / "song.txt"
    path.write_text("".join(f"{n} green bottles hanging on the wall\n" for n in range(400)))
    small = {"steps": 8, "warmup": 2, "validation_windows": 8, "spacing": 2.0, "center": -6.0}
    return dataclasses.replace(
        PRESETS["smoke"], source=str(path), checkpoint_seconds=0.0, ablations=(), **small
    )


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    """A run to the end."""
    directory = tmp_path_factory.mktemp("runs") / "run"
    return directory, run(config, directory)


def test_contract(finished, config):
    """Files, claims and tables are there, and every curve has each seed at each rate."""
    directory, summary = finished
    names = {path.name for path in directory.iterdir()}
    figures = {"loss_against_rate.png", "optimum_against_width.png"}
    assert names >= figures | {"config.json", "environment.json", "rows.jsonl", "summary.json", "report.md"}
    assert "checkpoints" not in names
    assert [claim.name.split(":")[0] for claim in summary.claims] == ["mup", "standard", "standard", "mup"]
    assert len(summary.tables["optimum"]) == len(grids(config)) == 4
    rows, _ = stored(directory)
    for grid in grids(config):
        cells = [row for row in rows if {**row, **grid.fields} == row]
        assert len(cells) == config.seeds * len({row["log2_lr"] for row in cells}) >= 5 * config.seeds
    assert "bottles" not in json.dumps(rows) and "song.txt, bytes" in (directory / "report.md").read_text()


def test_neutral_at_the_base_width(finished, config):
    """At the base width SP and muP give the same losses to the last bit, and heads do not grow."""
    rows, _ = stored(finished[0])
    losses = {
        name: [
            (row["log2_lr"], row["seed"], row["loss"])
            for row in rows
            if (row["width"], row["case"]) == (8, name)
        ]
        for name in MAIN
    }
    assert losses["standard"] == losses["mup"] and len(losses["mup"]) >= 10
    for name in ("growing_heads", "sqrt_attention"):
        assert decoder(config, name, 8, 257) == decoder(config, "mup", 8, 257)
        assert decoder(config, name, 16, 257) != decoder(config, "mup", 16, 257)


def planted(place):
    """The minimum of a parabola over twelve rates, at this place give or take what seeds differ by."""
    rates, seeds = np.arange(-12.0, 0.0), np.array([-0.1, 0.0, 0.1])
    return find_optimum(rates, 2.0 ** (0.1 * (rates[:, None] - place - seeds) ** 2))


@pytest.mark.parametrize(
    ("at_the_edge", "inconclusive"),
    [
        ((), set()),
        (
            (("mup", 8),),
            {"mup: the optimum", "standard: the optimum falls faster", "mup: transferring"},
        ),
        ((("mup", 32),), {"mup: the optimum", "standard: the optimum falls faster", "mup: transferring"}),
        ((("mup", 16),), {"standard: the optimum falls faster"}),
        ((("standard", 32),), {"standard: the optimum falls by", "standard: the optimum falls faster"}),
        ((("sqrt_attention", 32),), {"sqrt_attention"}),
    ],
)
def test_an_optimum_at_the_edge_is_not_judged(config, at_the_edge, inconclusive, monkeypatch, tmp_path):
    """Claims that a planted minimum at the lowest rate enters are inconclusive, and only those."""
    wide = dataclasses.replace(
        config, widths=(8, 16, 32), ablations=("sqrt_attention",), judge_ablations=True, spacing=0.5
    )
    places = {"mup": -4.5, "standard": -3.1, "sqrt_attention": -3.0}
    falls = {"mup": 0.0, "standard": -1.2, "sqrt_attention": -1.0}
    curves = {
        grid: planted(places[grid.case] + falls[grid.case] * np.log2(grid.width / 8)) for grid in grids(wide)
    }
    for case, width in at_the_edge:
        curves[Grid(width, case)] = planted(-20.0)
        assert curves[Grid(width, case)].flag == "edge_low"
    monkeypatch.setattr(transformer_transfer_report, "_figures", lambda *_: {})
    with open_results(tmp_path / "run", "edges", {}) as results:
        claims = transformer_transfer_report.summarise(wide, results, curves, load(wide)).claims
    verdicts = {claim.name: claim.holds for claim in claims}
    unresolved = {name for name, holds in verdicts.items() if holds == "inconclusive"}
    assert len(unresolved) == len(inconclusive) and len(verdicts) == 5
    assert all(any(name.startswith(start) for name in unresolved) for start in inconclusive)
    assert [holds for name, holds in verdicts.items() if name not in unresolved] == [True] * (
        5 - len(unresolved)
    )


@pytest.mark.slow
def test_other_hyperparameters_at_the_tuned_rate(config, tmp_path):
    """Ablations, initial scales and decays: a row for every value and seed, a figure and a claim each.

    At the base width SP and muP are one network there too, and each value trains another.
    """
    more = {"ablations": ("sqrt_attention",), "judge_ablations": True}
    summary = run(dataclasses.replace(config, **VARIED, **more), tmp_path / "run")
    rows, _ = stored(tmp_path / "run")
    for varied in ("init_scale", "weight_decay"):
        losses = {
            name: [
                row["loss"] for row in rows if (row["varied"], row["case"], row["width"]) == (varied, name, 8)
            ]
            for name in MAIN
        }
        assert losses["standard"] == losses["mup"] and len(set(losses["mup"])) == 3 * config.seeds
        assert (tmp_path / "run" / f"loss_against_{varied}.png").is_file()
    assert (tmp_path / "run" / "ablations.png").is_file()
    assert [claim.name for claim in summary.claims[3:]] == [
        "sqrt_attention: the rate does not transfer",
        "mup: transferring the learning rate costs little",
        "mup: transferring the init scale costs little",
        "mup: transferring the weight decay costs little",
    ]


def test_killed_it_ends_with_the_same_bits(finished, config, tmp_path):
    """A run cut off within a row goes on with the same command, and ends with the same rows and claims."""
    directory, _ = finished
    content = (directory / "rows.jsonl").read_bytes()
    place = killed(directory, tmp_path / "again", content[: len(content) // 2])
    run(config, place)
    assert stored(place) == stored(directory)


def test_the_rate_rises_and_falls():
    """Warmup and decay, written out: linear up to the rate, linear down to one step before zero."""
    values = schedule(jnp.float32(8.0), 10, 2)(jnp.arange(10))
    np.testing.assert_allclose(values, [4, 8, 8, 7, 6, 5, 4, 3, 2, 1])
    assert float(schedule(jnp.float32(8.0), 4, 0)(jnp.int32(0))) == 8.0


def numbers(name, width):
    """Rules of one case at one width of the default preset."""
    return rules(decoder(PRESETS["default"], name, width, 257), "adam", weight_decay="undone")


def test_cases_are_what_they_are_called():
    """One change each: the numbers at 8 times the base width, from the tables of the papers."""
    mup, readout = numbers("mup", 128), numbers("standard_readout", 128)
    assert (
        mup.learning_rate["block_1"]["mlp"]["up"]["kernel"] == 1 / 8 == mup.learning_rate["readout"]["kernel"]
    )
    assert mup.learning_rate["embedding"]["table"] == 1
    assert set(jax.tree.leaves(numbers("standard", 128).learning_rate)) == {1.0}
    assert mup.init_std["readout"]["kernel"] == 0 == mup.init_std["block_0"]["attention"]["query"]["kernel"]
    np.testing.assert_allclose(readout.init_std["readout"]["kernel"], 128**-0.5)
    assert readout.learning_rate == mup.learning_rate and readout.multiplier == mup.multiplier
    gains = numbers("gains", 128).learning_rate
    assert gains["norm"]["gain"] == 1 == gains["block_0"]["attention"]["norm"]["gain"]
    scale = {name: decoder(PRESETS["default"], name, 128, 257).temperature() for name in CASES}
    assert scale["mup"] == scale["standard"] == 1 / 4  # 1/sqrt(16) at every width
    assert scale["growing_heads"] == 4 / 128 and scale["sqrt_attention"] == 128**-0.5
    assert decoder(PRESETS["default"], "growing_heads", 128, 257).split().queries == 1


def test_decay_does_not_fade_with_width():
    """The learning rate times the decay of every layer is that of the base width."""
    for name in MAIN:
        tree = numbers(name, 128)
        products = jax.tree.map(lambda rate, decay: rate * decay, tree.learning_rate, tree.weight_decay)
        np.testing.assert_allclose(jax.tree.leaves(products), 1)


def test_presets_cover_what_is_claimed():
    """A factor 8 of width with four seeds by default; at least 16 and every ablation judged in full."""
    default, full = PRESETS["default"], PRESETS["full"]
    assert default.widths[-1] == 8 * default.widths[0] and default.seeds >= 3
    assert full.widths[-1] >= 16 * full.widths[0] and full.judge_ablations and full.scales and full.decays
    assert set(full.ablations) == set(default.ablations) == set(ABLATIONS)
    assert Grid(16, "gains") in grids(default) and Grid(32, "gains") not in grids(default)


def test_data_come_from_a_flag(tmp_path):
    """A directory with suffixes, or a file of tokens."""
    for number in range(20):
        (tmp_path / f"{number}.md").write_text(f"page {number}\n" * 20)
    assert load(Config(source=str(tmp_path), suffixes=(".md",))).vocabulary == 257
    np.arange(500, dtype=np.uint16).tofile(tmp_path / "train.bin")
    assert load(Config(token_file=tmp_path / "train.bin", vocabulary=600)).vocabulary == 600


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ablations": ("biases",)}, "ablations must be different ones of gains, growing_heads"),
        ({"widths": (16,)}, "widths must be at least two increasing"),
        ({"widths": (16, 40)}, "multiple of an even head_size; got head_size 16"),
        ({"warmup": 200}, "fewer steps of warmup than steps; got .*200 and 200"),
        ({"rates": 4}, "rates >= 5"),
        ({"center": -70.0}, "must lie within 2\\^-60"),
        ({"scales": (1.0, 0.0, 2.0)}, "scales must be at least three increasing"),
        ({"decays": (1.0,)}, "decays must be at least three increasing"),
    ],
)
def test_bad_settings_are_named(changes, message):
    """One sentence, before any data are read."""
    with pytest.raises(ValueError, match=message):
        Config(**changes)


@pytest.mark.parametrize(
    ("preset", "changes", "message"),
    [
        ("default", {"token_file": "a.bin", "tokenizer": "bpe"}, "leave tokenizer out, got 'bpe'"),
        ("full", {"token_file": "a.bin", "tokenizer": "bytes"}, "leave tokenizer out, got 'bytes'"),
        ("full", {"token_file": "a.bin", "suffixes": (".md",)}, "leave suffixes out, got .'.md',."),
        (
            "smoke",
            {"token_file": "a.bin", "source": "b", "suffixes": (".md",)},
            "leave source and suffixes out",
        ),
        ("default", {"vocabulary": 300}, "bytes have 257 tokens; leave vocabulary out, got 300"),
        ("full", {"vocabulary": 300, "tokenizer": "bytes"}, "bytes have 257 tokens; leave vocabulary out"),
    ],
)
def test_flags_of_another_text_are_named(preset, changes, message, tmp_path):
    """A flag that the source has no use for, in one sentence, before any data are read."""
    with pytest.raises(ValueError, match=message):
        run(dataclasses.replace(PRESETS[preset], **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("preset", PRESETS)
def test_a_token_file_goes_with_every_preset(preset, tmp_path):
    """The tokenizer that a preset sets is not the user's: a token file takes its place."""
    np.arange(500, dtype=np.uint16).tofile(tmp_path / "train.bin")
    config = dataclasses.replace(PRESETS[preset], token_file=tmp_path / "train.bin", vocabulary=600)
    check_source(config, PRESETS[preset])
    assert load(config).vocabulary == 600


def test_text_shorter_than_the_context_is_named(config, tmp_path):
    """Nothing is written for a run that cannot be: neither part may be too short."""
    for changes, message in (
        ({"context": 100000}, "context must be below the .* tokens of the sequence; got 100000"),
        ({"validation_windows": 5000}, r"at most the .* windows of 16 \+ 1 tokens in the data; got 5000"),
    ):
        with pytest.raises(ValueError, match=message):
            run(dataclasses.replace(config, **changes), tmp_path / "run")
        assert not (tmp_path / "run").exists()
