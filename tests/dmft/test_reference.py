"""The sheet's reference values, and solvers against finite networks; full statistics where marked slow."""

from __future__ import annotations

import numpy as np
import pytest

from tests.dmft.reference_settings import PROBLEMS, claims, networks, solve
from widelimit import compare, dmft
from widelimit.dmft import Problem

# Columns are samples in the sheet.
TANH_4 = {
    "inputs": np.random.default_rng(5).standard_normal((20, 4)).T,
    "targets": [1.0, 1.0, -1.0, -1.0],
    "learning_rate": 0.2,
    "gamma0": 2.0,
}
# Mean Delta^2 at t = 1..6, and standard errors: T9.
T9 = {
    "stein": [
        (0.92772, 0.85736, 0.78067, 0.69479, 0.60142, 0.50551),
        (0.00022, 0.00040, 0.00057, 0.00071, 0.00080, 0.00083),
    ],
    "pathwise": [
        (0.92783, 0.85755, 0.78092, 0.69504, 0.6016, 0.5056),
        (0.00031, 0.00055, 0.00075, 0.00093, 0.0011, 0.0011),
    ],
}
T9_NETS = {
    256: [
        (0.92860, 0.85896, 0.7831, 0.6980, 0.6054, 0.5101),
        (0.00071, 0.00096, 0.0013, 0.0016, 0.0018, 0.0018),
    ],
    1024: [
        (0.92901, 0.8588, 0.7825, 0.6970, 0.6041, 0.5085),
        (0.00092, 0.0013, 0.0017, 0.0021, 0.0024, 0.0025),
    ],
}


def apart(found, stderr, reference):
    """Largest distance in joint standard errors."""
    values, errors = (np.asarray(part) for part in reference)
    return np.abs((found - values) / np.hypot(stderr, errors)).max()


def t9(depth=3, steps=6):
    """The problem of T9."""
    return Problem(depth=depth, steps=steps, **TANH_4)


def test_the_kernel_is_the_sheets():
    """tanh-4 is reproduced from its seed: the diagonal and the six entries beside it."""
    kernel = t9().kernel
    np.testing.assert_allclose(np.diag(kernel), [0.7946949, 0.8403232, 0.9749726, 0.7887979], atol=5e-8)
    beside = [0.2429124, -0.0343545, 0.2261486, -0.0932304, -0.0307580, -0.0445599]
    np.testing.assert_allclose(kernel[np.triu_indices(4, 1)], beside, atol=5e-8)


@pytest.mark.slow
@pytest.mark.parametrize(("width", "seeds"), [(256, 2000), (1024, 120)])
def test_t9_networks(width, seeds):
    """Our networks are the sheet's: mean Delta^2 within chance (six times, family-wise)."""
    found = compare.finite_ensemble(t9(), [width], seeds, measures=(), seed=1).solution(width).loss
    assert apart(2 * found.values[1:], 2 * found.stderr[1:], T9_NETS[width]) < compare.family_quantile(6)


@pytest.mark.slow
@pytest.mark.parametrize("response", ["stein", "pathwise"])
def test_t9_at_full_statistics(response):
    """DMFT within 3 joint standard errors of both of the sheet's runs, by either response."""
    loss = dmft.mlp(t9(), samples=20000, replicas=16, response=response, response_samples=500).loss
    for reference in T9.values():
        assert apart(2 * loss.values[1:], 2 * loss.stderr[1:], reference) < 3


def test_t9():
    """DMFT in seconds, against the sheet's: 3 joint standard errors at six times."""
    loss = dmft.mlp(t9(), samples=4000, replicas=8).loss
    for reference in T9.values():
        assert apart(2 * loss.values[1:], 2 * loss.stderr[1:], reference) < 3


@pytest.mark.slow
def test_t9_by_extrapolated_networks():
    """Networks alone, extrapolated to infinite width, give the sheet's DMFT, without any of its theory."""
    found = compare.finite_ensemble(t9(), [64, 128, 256], [8000, 8000, 4000], measures=())
    loss = compare.richardson(found).loss
    for reference in T9.values():
        assert apart(2 * loss.values[1:], 2 * loss.stderr[1:], reference) < 3


@pytest.mark.slow
def test_t19():
    """N Var is constant in N within a tenth, and the mean's bias falls as 1/N, of all that resolves it."""
    widths, seeds = (32, 64, 128, 256), (4000, 4000, 4000, 3000)
    problem = t9(steps=12)
    found = compare.finite_ensemble(problem, widths, seeds, times=(0, 6, 12))
    for name in found.measures:
        scaled = [
            width * count * np.sum(np.square(getattr(found.solution(width), name).stderr))
            for width, count in zip(widths[2:], seeds[2:], strict=True)
        ]
        assert abs(scaled[0] / scaled[1] - 1) < 0.1, name
    rates = compare.convergence(found, dmft.mlp(problem, samples=8000, replicas=16), correction=True)
    for name, rate in rates.items():
        assert rate.single_rate.stderr < 0.1 and abs(rate.single_rate.z(-0.5)) < 3, name
        if np.isfinite(rate.mean_rate.value):
            assert abs(rate.mean_rate.z(-1.0)) < 3, name
    assert np.isfinite(rates["loss"].mean_rate.value)  # kernels' bias drowns in 4000 networks' noise


def test_gradient_independence_is_the_sheets_other_answer():
    """Without responses tanh-4 gives .807 .433 .0272, where .611 .202 .0083 is right; single runs, 2%."""
    loss = dmft.mlp(t9(steps=20), samples=4000, replicas=4, response="none").loss
    np.testing.assert_allclose(2 * loss.values[[5, 10, 20]], [0.807, 0.433, 0.0272], rtol=0.06)


T4 = {  # P=1, K=1, y=1, eta=.01, 600 steps: (depth, gamma0) -> H^l and the tangent kernel
    (2, 1.0): ((1.24470, 1.80281), 5.15489),
    (2, 2.0): ((1.65251, 3.42795), 9.58668),
    (3, 1.0): ((1.16755, 1.53707, 2.17550), 7.94022),
}


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "gamma0"), T4)
def test_t4_by_networks(depth, gamma0):
    """Deep linear networks, extrapolated, end with the sheet's kernels, within chance."""
    problem = Problem(
        targets=[1.0], kernel=[[1.0]], steps=600, learning_rate=0.01, depth=depth, gamma0=gamma0,
        activation="identity",
    )  # fmt: skip
    features, ntk = T4[depth, gamma0]
    found = compare.finite_ensemble(problem, [32, 64, 128], 1500, times=[600], measures=["features", "ntk"])
    limit = compare.richardson(found)
    at = limit.features.at(time=-1, sample=0, sample_=0)
    bound = compare.family_quantile(depth + 1)
    assert np.abs((at.values - features) / at.stderr).max() < bound
    end = limit.ntk.at(time=-1, sample=0, sample_=0)
    assert abs(end.values - ntk) / end.stderr < bound


def test_test_points_do_not_take_part_in_responses():
    """A linear network's fields are the same at all points: its responses are right with test points too."""
    problem = PROBLEMS["linear, L=3"]
    found, exact = dmft.mlp(problem, samples=1000, replicas=2), dmft.linear(problem)
    np.testing.assert_allclose(found.predictions.values, exact.predictions.values, atol=2e-4)
    assert found.diagnostics["pairing_residual"] < 1e-3


QUICK = ("two outputs, momentum, batches, decay", "residual tanh, momentum, decay, final")


@pytest.mark.parametrize("name", [pytest.param(QUICK[0], marks=pytest.mark.slow), QUICK[1]])
def test_solvers_agree_with_networks(name):
    """A few settings in seconds: the fixed entries within chance, as a family."""
    limit = networks(PROBLEMS[name], [600, 600], widths=(32, 64))
    for solution in solve(PROBLEMS[name], samples=1000, replicas=8):
        found = claims(limit, solution)
        assert max(map(abs, found.values())) < compare.family_quantile(len(found) * len(QUICK), degrees=20)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBLEMS)
def test_solvers_agree_with_networks_at_full_statistics(name):
    """Every setting: the fixed entries within chance over all settings."""
    limit = networks(PROBLEMS[name], [2000, 2000, 1000])
    for solution in solve(PROBLEMS[name], samples=4000, replicas=16):
        found = claims(limit, solution)
        assert max(map(abs, found.values())) < compare.family_quantile(30 * len(PROBLEMS), degrees=30)
