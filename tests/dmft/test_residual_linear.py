"""Deep linear residual networks: exact against dense algebra, closed forms of the lazy end, and depth."""

from __future__ import annotations

import numpy as np
import pytest

from tests.dmft.linear_oracle import dense_residual
from widelimit import dmft

RNG = np.random.default_rng(4)
INPUTS = RNG.standard_normal((4, 4))
TARGETS = RNG.standard_normal((3, 2))
FORMS = {
    "plain": {"targets": TARGETS[:, 0]},
    "one branch": {"targets": TARGETS[:, 0], "depth": 1},
    "exponent one": {"targets": TARGETS[:, 0], "branch_exponent": 1.0, "branch_scale": 2.0},
    "everything": {
        "targets": TARGETS,
        "momentum": 0.6,
        "weight_decay": 0.3,
        "batches": RNG.integers(0, 3, (4, 2)),
        "learning_rate": np.linspace(0.1, 0.15, 4),
        "depth": 2,
    },
}


def problem(**settings):
    """Three training points and a test point, three branches."""
    base = {
        "inputs": INPUTS[:3],
        "test_inputs": INPUTS[3:],
        "steps": 4,
        "learning_rate": 0.1,
        "depth": 3,
        "activation": "identity",
        "gamma0": 1.3,
    }
    return dmft.ResidualProblem(**{**base, **settings})


@pytest.mark.parametrize("form", FORMS)
def test_the_causal_pass_is_the_dense_fixed_point(form):
    """One pass solves the coupled equations of all layers as dense sweeps do, which need a sweep for every
    layer and time."""
    given = problem(**FORMS[form])
    solution = dmft.linear(given)
    f, h, g = dense_residual(given, sweeps=(given.depth + 2) * (given.steps + 2) + 10)
    for name, expected in {"predictions": f, "features": np.stack(h), "gradients": np.stack(g)}.items():
        got = getattr(solution, name).values
        np.testing.assert_allclose(got.ravel(), expected.ravel(), rtol=0, atol=1e-12, err_msg=name)
    assert solution.features.first_layer == solution.gradients.first_layer == 0


@pytest.mark.parametrize(("depth", "ntk"), [(4, 6.835938), (16, 7.758613), (64, 8.050537), (256, 8.128418)])
def test_tangent_kernel_at_the_start(depth, ntk):
    """T13: NTK(L) = 2 (1 + 1/L)^L + (1 + 1/L)^{L-1}, with an error of 5e / (2L) against 3e."""
    one = {"targets": [1.0], "kernel": [[1.0]], "activation": "identity", "steps": 1, "learning_rate": 0.1}
    given = dmft.ResidualProblem(**one, depth=depth)
    found = dmft.lazy(given).ntk.values[0, 0, 0]
    np.testing.assert_allclose(found, ntk, atol=6e-7)
    np.testing.assert_allclose(
        found, 2 * (1 + 1 / depth) ** depth + (1 + 1 / depth) ** (depth - 1), rtol=1e-12
    )
    if depth < 100:
        np.testing.assert_allclose(dmft.linear(given).ntk.values[0, 0, 0], found, rtol=1e-12)
    if depth == 256:
        assert abs((3 * np.e - found) * depth / (2.5 * np.e) - 1) < 0.02


def test_the_stream_at_the_start():
    """H(tau) = exp(b^2 tau) K in the limit of depth, with an error of order 1/L."""
    given = problem(targets=TARGETS[:, 0], branch_scale=0.7, depth=40)
    diagonal = dmft.linear(given).features.values[:, 0, 0, 0, 0]
    tau = np.arange(41) / 40
    np.testing.assert_allclose(diagonal, np.exp(0.49 * tau) * given.kernel[0, 0], rtol=0.49**2 / 40)


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_depth_has_a_limit_at_rate_one(exponent):
    """Predictions while features are learned approach their limit of depth as 1/L: successive differences
    at L = 4, 8, 16, 32 halve, within the next order's 2/L."""
    f = [
        dmft.linear(
            problem(targets=TARGETS[:, 0], depth=depth, branch_exponent=exponent, steps=8)
        ).predictions
        for depth in (4, 8, 16, 32)
    ]
    gaps = [np.abs(a.values - b.values).max() for a, b in zip(f[:-1], f[1:], strict=True)]
    ratios = np.array(gaps[:-1]) / gaps[1:]
    np.testing.assert_allclose(ratios, 2.0, rtol=0.25)
    assert abs(ratios[1] - 2) < abs(ratios[0] - 2)


def test_small_gamma0_joins_the_lazy_limit():
    """The distance to the lazy limit falls as gamma0^2, with weight decay and momentum."""
    lazy = dmft.lazy(problem(**FORMS["everything"]))
    gammas = np.array([0.05, 0.1, 0.2])
    distances = []
    for gamma0 in gammas:
        solution = dmft.linear(problem(**FORMS["everything"], gamma0=gamma0))
        pairs = [(solution.predictions, lazy.predictions), (solution.ntk, lazy.ntk)]
        pairs += [
            (solution.features, lazy.features),
            (solution.gradients, lazy.gradients.at(sample=0, sample_=0)),
        ]
        distances.append([np.abs(one.values - two.values).max() for one, two in pairs])
    np.testing.assert_allclose(np.polyfit(np.log(gammas), np.log(distances), 1)[0], 2.0, atol=0.1)


def test_what_comes_later_changes_nothing_before():
    """T10: orders of batches that part at step 2 give the same numbers, to the last bit, until then."""
    batches = np.array([[0, 1], [1, 2], [0, 0], [2, 1]])
    other = np.concatenate([batches[:2], [[1, 1], [0, 2]]])
    one, two = (dmft.linear(problem(targets=TARGETS, batches=order)) for order in (batches, other))
    np.testing.assert_array_equal(one.predictions.values[:3], two.predictions.values[:3])
    np.testing.assert_array_equal(one.features.values[:, :3, :, :3], two.features.values[:, :3, :, :3])
    np.testing.assert_array_equal(one.gradients.values[:, :3, :, :3], two.gradients.values[:, :3, :, :3])
    assert (one.predictions.values[3] != two.predictions.values[3]).any()
