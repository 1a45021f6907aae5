"""Flags that can be read and make no sense."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.bad_input.doors import ROOT, coordinates, one_step, transfer


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        ("--widths 16 8", r"increasing positive numbers; got \(16, 8\)"),
        ("--widths 0 8", "increasing positive numbers"),
        ("--widths -8 8", "increasing positive numbers"),
        ("--widths 8", "at least two"),
        ("--widths", r"at least two increasing positive numbers; got \(\)"),
        ("--optimizers", "optimizers must be among sgd, adam; got none"),
        ("--optimizers lion", "optimizers must be among sgd, adam; got lion"),
        ("--parametrizations mup spectral", "parametrizations must be among standard, .*'spectral'"),
        ("--seeds 1", "an error bar needs seeds >= 2"),
        ("--rates 0", "rates >= 5"),
        ("--spacing 0", "spacing > 0"),
        ("--spacing nan", "spacing > 0"),
        ("--center-sgd inf", "window of learning rates must lie within"),
        ("--steps 0", "steps >= 1"),
        ("--batch-size 0", "batch_size must be a whole number of at least 1"),
        ("--batch-size 100000", "batch_size must be at most the 1438 training samples"),
        ("--depth -1", "depth must be a positive integer"),
        ("--activation swish", "activation must be a function or one of"),
        ("--seed -1", "seed must be a whole number of at least 0"),
        ("--data-path here", "data_path goes with data 'cifar10' or 'npz'"),
        ("--data npz", "data_path goes with data 'cifar10' or 'npz'"),
    ],
)
def test_settings_that_make_no_sense(tmp_path, refused, flags, match):
    refused(lambda: transfer(tmp_path / "runs", *flags.split()), match)


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        ("--base-width 0", "base_width and hidden_layers must be at least 1"),
        ("--widths 8 16", "at least three increasing"),
        ("--seed -3", "seed must not be negative"),
        ("--data digits --samples 5000", "samples must be at most the"),
        ("--data digits --classes 3 3", "at least two different classes"),
        ("--dimension 0", "dimension must be a whole number of at least 1"),
    ],
)
def test_settings_of_the_linear_network(tmp_path, refused, flags, match):
    refused(lambda: one_step(tmp_path / "runs", *flags.split()), match)


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        ("--widths 8 16", "three or more increasing widths"),
        ("--parametrizations mup", "parametrizations must be among .*mup_3"),
        ("--optimizers sgd sgd", "optimizers must be among sgd, adam, each once"),
        ("--base-width 0", "base_width, .* are at least 1"),
        ("--rate-sgd nan", "rate_sgd, rate_adam and stderr must be positive and finite"),
        ("--rate-adam inf", "rate_sgd, rate_adam and stderr must be positive and finite"),
        ("--steps 10000", "of the 1438 training images; lower steps or batch_size"),
    ],
)
def test_settings_of_the_coordinate_check(tmp_path, refused, flags, match):
    refused(lambda: coordinates(tmp_path / "runs", *flags.split()), match)


def test_a_process_of_its_own_exits_with_two(tmp_path):
    """What a shell sees: the exit code, one line, and no directory."""
    command = [
        sys.executable,
        "-m",
        "experiments.one_step_rate",
        "--widths",
        "8",
        "--directory",
        str(tmp_path / "a"),
    ]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 2 and process.stdout == "" and not list(tmp_path.iterdir())
    assert process.stderr == (
        "one_step_rate: widths must be at least three increasing positive numbers; got (8,).\n"
    )
