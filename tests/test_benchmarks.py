"""The benchmark of the empirical NTK: its sides compute the same kernel, and it runs from end to end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.ntk_cases import Case
from benchmarks.ntk_flops import count
from benchmarks.ntk_scaling import slope
from benchmarks.ntk_worker import OURS, SIDES

ROOT = Path(__file__).parents[1]


@pytest.mark.filterwarnings("ignore:size requires ndarray:DeprecationWarning")  # of neural-tangents
@pytest.mark.slow
@pytest.mark.parametrize("form", ["full", "trace"])
def test_all_sides_compute_the_same_kernel(form):
    """A peer that is slower because it computes something else would be no comparison."""
    network = Case("mlp", form, 3, 8, 2).build()
    kernels = {side: make(network, form)(*network[1:]) for side, make in SIDES.items() if side != "matmul"}
    for side, kernel in kernels.items():
        np.testing.assert_allclose(kernel, kernels[OURS], rtol=1e-4, atol=1e-3, err_msg=side)


def test_flops_are_counted_by_hand():
    """A product, a loop of five of them, and a convolution."""
    a, b = jnp.ones((2, 3)), jnp.ones((3, 4))
    assert count(lambda a, b: a @ b, a, b) == 2 * 2 * 3 * 4
    looped = lambda a, b: jax.lax.scan(lambda c, _: (c, c @ b), a, None, length=5)  # noqa: E731
    assert count(looped, a, b) == 5 * 2 * 2 * 3 * 4
    image, kernel = jnp.ones((1, 6, 6, 3)), jnp.ones((3, 3, 3, 7))
    convolved = lambda x, k: jax.lax.conv_general_dilated(  # noqa: E731
        x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    assert count(convolved, image, kernel) == 2 * 36 * 7 * 27


def test_the_fitted_exponent_is_that_of_a_power_law():
    """Exact data give the exponent and no error."""
    sizes = (2, 4, 8, 16)
    assert slope(sizes, [3.0 * size**1.5 for size in sizes]) == pytest.approx((1.5, 0.0), abs=1e-9)


@pytest.mark.slow
def test_the_quick_run_writes_its_tables(tmp_path):
    """From the command line, small sizes, to the end."""
    command = [sys.executable, "-m", "benchmarks.empirical_ntk", "--quick", "--output", str(tmp_path)]
    cases = ["--cases", "mlp-full", "big"]
    subprocess.run([*command, *cases], cwd=ROOT, check=True, env=os.environ | {"XLA_FLAGS": ""})
    rows = json.loads((tmp_path / "empirical_ntk.json").read_text())["rows"]
    assert {row["side"] for row in rows} == set(SIDES) - {"matmul"}
    assert all(row["difference"] < 1e-4 for row in rows)
    big = json.loads((tmp_path / "empirical_ntk_big.json").read_text())["rows"]
    assert all(row["difference in a corner"] < 1e-4 for row in big)
