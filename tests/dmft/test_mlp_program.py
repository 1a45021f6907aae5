"""The compiled step of the causal solver: what it computes, as planned, and what it must not do."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.ntk_flops import count
from widelimit import dmft
from widelimit.dmft.causal.noise import draw
from widelimit.dmft.causal.planner import window_flops
from widelimit.dmft.causal.replica import Runner
from widelimit.dmft.causal.settings import DEFAULTS, settings
from widelimit.dmft.causal.state import start

POINTS, TIMES, SAMPLES = 6, 16, 400


def program(**options):
    """The program of one window, what it takes, and the settings; no two axes have the same length."""
    problem = dmft.Problem(
        targets=np.arange(POINTS) - 2.5, kernel=np.eye(POINTS), learning_rate=0.1, steps=TIMES - 1, depth=3
    )
    s = settings(problem, **(DEFAULTS | {"samples": SAMPLES} | options))
    runner = Runner(problem, s, [TIMES])
    return runner._program(TIMES), (*runner._arguments(draw(s, 0), TIMES), start(s, TIMES), jnp.int32(0)), s


@pytest.mark.parametrize(("samples", "weight"), [(20_000, 1), (2, 2)])
@pytest.mark.parametrize("options", [{}, {"response": "none"}])
def test_flops_are_planned_as_the_traced_step_has_them(samples, weight, options):
    """Many samples: products of fields, in float32. Few: factors, in float64, which count twice.

    What is not planned (the pairing, blocks of factors) has no axis of times, so 2 / TIMES is allowed.
    """
    with jax.enable_x64(True):
        steps, arguments, s = program(samples=samples, **options)
        traced = count(steps, *arguments)  # the body of its loop once
    assert traced * weight == pytest.approx(window_flops(s, TIMES), rel=2 / TIMES)


def test_histories_are_written_in_place_and_read_along_their_rows():
    """No copy of a history [T P, S] or of a factor, and no product [P, T P] of few rows with a long one."""
    with jax.enable_x64(True):
        steps, arguments, s = program()
        text = steps.lower(*arguments).compile().as_text()
    n = TIMES * POINTS
    written = re.findall(rf"f32\[{n},{SAMPLES}\]\S* (?:fusion|dynamic-update-slice)\(", text)
    assert len(written) >= 2 * s.depth  # the text says what is looked for
    copied = re.findall(r"= (\S+) copy\(", text)
    assert not [shape for shape in copied if re.match(rf"f\d+\[({n},|{TIMES},\d+,){SAMPLES}\]", shape)]
    assert not [shape for shape in copied if shape.startswith(f"f64[{n},{n}]")]
    by_samples = [line for line in text.splitlines() if re.search(rf"= f32\[{POINTS},{n}\]\S* dot\(", line)]
    assert not by_samples
