"""Training from the command line: its contract, what a kill leaves of it, and flags that make no sense."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types

import numpy as np
import pytest

from experiments import train, train_report
from tests.experiments.support import stored
from widelimit.training import main
from widelimit.training.scale import make_mesh
from widelimit.training.scale.fit import checksum

TIMES = {"train_seconds", "warmup", "seconds"}
TEXT = ["".join(f"line {i * k % 97} of {k}\n" for i in range(200)) for k in range(3, 11)]


def start(directory, *flags):
    """The command, in this process."""
    arguments = ["--preset", "smoke", *flags, "--directory", str(directory)]
    return main("train", train.PRESETS, train.run, arguments)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Some text in eight files, and the flags that read it."""
    place = tmp_path_factory.mktemp("text")
    for i, content in enumerate(TEXT):
        (place / f"{i}.txt").write_text(content)
    return ["--source", str(place), "--checkpoint-seconds", "0"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, source):
    """A run to the end."""
    directory = tmp_path_factory.mktemp("runs") / "run"
    assert start(directory, *source) == 0
    return directory


def untimed(directory):
    """Rows, claims and the tables that hold no times."""
    rows, summary = stored(directory)
    rows = [{name: value for name, value in row.items() if name not in TIMES} for row in rows]
    return rows, summary["claims"], {name: summary["tables"][name] for name in ("loss", "validation")}


def test_contract(undisturbed):
    """The files of every experiment, the trained weights, claims that hold, and its own account of speed."""
    names = {path.name for path in undisturbed.iterdir()}
    assert names >= {"config.json", "environment.json", "rows.jsonl", "summary.json", "report.md"}
    assert {"training.png", "checkpoints"} <= names
    assert sorted(path.name for path in (undisturbed / "checkpoints").iterdir()) == ["12", "8"]
    summary = json.loads((undisturbed / "summary.json").read_text())
    assert [claim["holds"] for claim in summary["claims"]] == [True, True]
    (loss,), (speed,) = summary["tables"]["loss"], summary["tables"]["throughput"]
    assert loss["tokens"] == 12 * 4 * 16 and loss["final_validation_loss"] < loss["initial_validation_loss"]
    assert loss["ln_outputs"] == pytest.approx(math.log(257))
    # 16 wide, one block: 4 * 16^2 for attention, 8 * 16^2 for the MLP, 16 * 257 for the readout.
    assert speed["flops_per_token"] == 6 * (12 * 16**2 + 16 * 257) + 12 * 1 * 16 * 16
    assert speed["mfu"] == pytest.approx(
        speed["tokens_per_second"] * speed["flops_per_token"] / speed["peak_flops"]
    )


@pytest.mark.slow
def test_killed_and_started_again_it_ends_with_the_same_numbers(undisturbed, source, tmp_path, monkeypatch):
    """Stopped before its seventh batch, inside a stretch of four steps."""
    whole = train.make_job

    def cut(config, mesh):
        job = whole(config, mesh)

        def batches(step):
            if step == 6:
                raise KeyboardInterrupt
            return job.batches(step)

        return dataclasses.replace(job, batches=batches)

    monkeypatch.setattr(train, "make_job", cut)
    assert start(tmp_path / "run", *source) == 130
    assert not (tmp_path / "run" / "summary.json").exists()
    monkeypatch.setattr(train, "make_job", whole)
    assert start(tmp_path / "run", *source) == 0
    assert untimed(tmp_path / "run") == untimed(undisturbed)


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        ("--mesh-data 16", "a mesh of data 16 x model 1 needs 16 devices, and there are 8"),
        ("--mesh-data 3", "a batch of 4 rows in 1 part.* for 3 devices along 'data'"),
        ("--mesh-model 2 --kv-heads 1 --head-size None --heads 1", "got 1 heads for 2 devices along 'model'"),
        ("--micro-batches 3", "micro_batches must divide the batch; got a batch of 4 rows in 3 parts"),
        ("--width 20", "width must be a multiple of head_size = 8; got 20"),
        ("--context 9999999", r"context must be below the \d+ tokens of the sequence; got 9999999"),
        ("--parametrization best", "sp, mup, depth_mup, completep or a power of depth .*; got 'best'"),
        ("--model vit --tied", "tied does nothing with model 'vit'; leave it out, or take model decoder"),
        ("--patch 4", "patch does nothing with model 'decoder'"),
        ("--optimizer sgd --beta2 0.9", "beta2 does nothing with optimizer 'sgd'"),
        ("--token-file tokens.bin", "source does nothing with a token file; leave it out, or leave out"),
        ("--token-dtype uint32", "token_dtype does nothing without a raw token file; leave it out, or pass"),
        ("--decay coupled", "decay does nothing with weight_decay 0; leave it out, or pass weight_decay"),
        (
            "--attention-kernel cudnn",
            "needs an NVIDIA GPU; JAX's device is a cpu: pass --attention-kernel xla",
        ),
        ("--warmup 12", "the warm-up must end before the run does; got 12 of 12 steps"),
        ("--validate-every 6", "validate_every must be a multiple of log_every; got 6 and 4"),
        ("--steps 0", "must be at least 1; got 0"),
        ("--beta2 1", "beta1 and beta2 must be at least 0 and below 1; got 0.9 and 1.0"),
        ("--beta1 -0.1", "beta1 and beta2 must be at least 0 and below 1; got -0.1 and 0.95"),
        ("--clip -1", "clip, weight_decay and seed must be 0 or more"),
    ],
)
def test_flags_that_make_no_sense(flags, match, source, tmp_path, capsys):
    """One sentence, exit code 2, and nothing is written."""
    given = [] if "vit" in flags else source
    assert start(tmp_path / "run", *given, *flags.split()) == 2
    sentence = capsys.readouterr().err.strip()
    assert re.search(match, sentence) and sentence.endswith(".") and "\n" not in sentence, sentence
    assert not (tmp_path / "run").exists()


def test_a_token_file_of_uint32_is_read_as_such(tmp_path, capsys):
    """Noticed where nothing is said, and trained on where its dtype is given."""
    path = tmp_path / "tokens.bin"
    np.random.default_rng(0).integers(0, 70_000, 4000).astype("<u4").tofile(path)
    assert start(tmp_path / "run", "--token-file", str(path), "--vocabulary", "70000") == 2
    assert "looks like a file of uint32" in capsys.readouterr().err
    config = dataclasses.replace(train.PRESETS["smoke"], token_file=path, token_dtype="uint32")
    job = train.make_job(config, make_mesh())
    assert job.outputs > 2**16 and job.batches(0).max() > 2**16


def test_batches_of_another_step_are_found():
    """Rows keep a checksum of what they were trained on, and only the last are drawn again."""
    job = types.SimpleNamespace(batches=lambda step: np.full(3, step))
    rows = [{"draw": 0}, {"step": 0, "validation_loss": 1.0}]
    for last in (100, 200, 300):
        seen = checksum([job.batches(step) for step in range(last - 100, last)])
        rows.append({"step": last, "steps": 100, "checksum": seen})
    assert train_report.misplaced(job, rows) == 0
    shifted = types.SimpleNamespace(batches=lambda step: np.full(3, step + 1))
    assert train_report.misplaced(shifted, rows) == 200
    repeated = [*rows[:-1], {**rows[-1], "checksum": rows[-2]["checksum"]}]
    assert train_report.misplaced(job, repeated) == 100


def test_a_run_on_other_text_is_refused(undisturbed, source, tmp_path, capsys, monkeypatch):
    """The directory knows the text that it was begun with."""
    whole = train.make_job
    monkeypatch.setattr(train, "make_job", lambda *a: dataclasses.replace(whole(*a), fingerprint="0" * 16))
    assert start(undisturbed, *source) == 2
    assert "begun with data" in capsys.readouterr().err


def test_a_run_from_another_kind_of_device_is_refused(undisturbed, source, tmp_path, capsys):
    """Its peak and its last bits are another's."""
    stored = json.loads((undisturbed / "config.json").read_text())
    stored["plan"]["device_kind"] = "abacus"
    (tmp_path / "config.json").write_text(json.dumps(stored))
    assert start(tmp_path, *source) == 2
    assert "begun with device_kind" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        "--model vit --parametrization 0.75 --optimizer muon --scan --remat",
        "--source python --mesh-data 2 --mesh-model 2 --micro-batches 2 --pad-vocabulary 8 --optimizer sgd "
        "--learning-rate 0.1 --precision bfloat16",
    ],
)
def test_other_networks_optimizers_and_meshes(flags, tmp_path):
    """They run to the end, and their claims hold."""
    assert start(tmp_path / "run", "--strict", *flags.split()) == 0
