"""Extrapolation in 1/N and rates of convergence: on synthetic ensembles whose limit and noise are known."""

from __future__ import annotations

import numpy as np
import pytest

from widelimit.compare import Ensembles, agreement, convergence, family_quantile, richardson
from widelimit.compare.convergence import fit_squares
from widelimit.compare.members import Members, Moments
from widelimit.dmft import Labelled, Problem, Solution

STEPS, ENTRIES = 3, 4
LIMIT = np.array([1.0, 0.8, 0.5, 0.3])
SLOPE, BEND = np.array([0.0, 3.0, 5.0, 4.0]), np.array([0.0, 40.0, -30.0, 60.0])
PROBLEM = Problem(targets=[1.0], kernel=[[1.0]], steps=STEPS, learning_rate=0.1)


def members(width, seeds, rng, slope=1.0, bend=0.0, noise=1.0, blocks=32):
    """Losses of networks: on average off by slope SLOPE / N + bend BEND / N^2, each by noise / sqrt(N)."""
    mean = LIMIT + slope * SLOPE / width + bend * BEND / width**2
    loss = mean + noise * rng.standard_normal((seeds, ENTRIES)) / np.sqrt(width)
    parts = np.array_split(loss, blocks)
    moments = Moments(
        np.stack([part.mean(axis=0) for part in parts]),
        np.stack([(part**2).mean(axis=0) for part in parts]),
        np.array([len(part) for part in parts]),
        ("time",),
    )
    predictions = Moments(
        moments.means[..., None], moments.squares[..., None], moments.sizes, ("time", "sample")
    )
    return Members(width, loss[..., None], loss, {"predictions": predictions, "loss": moments}, {})


def ensembles(widths, seeds, seed=0, **settings):
    """Synthetic networks."""
    rng = np.random.default_rng(seed)
    own = {width: members(width, count, rng, **settings) for width, count in zip(widths, seeds, strict=True)}
    return Ensembles(problem=PROBLEM, members=own, times=tuple(range(STEPS + 1)), seconds=0.0, centred=True)


def limit(stderr=None, values=LIMIT):
    """The limit as a solver would return it."""
    error = None if stderr is None else np.full(ENTRIES, stderr)
    both = [Labelled(values, ("time",), error)]
    both += [Labelled(values[:, None], ("time", "sample"), None if error is None else error[:, None])]
    return Solution(problem=PROBLEM, solver="known", loss=both[0], predictions=both[1])


def test_the_mean_over_blocks_is_the_mean_over_seeds():
    """Means and standard errors from unequal blocks are those of all networks."""
    found = ensembles([16], [101], blocks=7).members[16]
    mean = found.moments["loss"].mean()
    np.testing.assert_allclose(mean.values, found.loss.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(mean.stderr, found.loss.std(axis=0, ddof=1) / np.sqrt(101), rtol=1e-10)


def test_two_widths_give_richardsons_rule():
    """With N and 2N, whatever the seeds: 2 mean(2N) - mean(N), and its standard error."""
    found = ensembles([32, 64], [500, 90])
    extrapolated = richardson(found)
    small, large = found.solution(32).loss, found.solution(64).loss
    np.testing.assert_allclose(extrapolated.loss.values, 2 * large.values - small.values, rtol=1e-10)
    error = np.sqrt(4 * large.stderr**2 + small.stderr**2)
    np.testing.assert_allclose(extrapolated.loss.stderr, error, rtol=1e-10)


@pytest.mark.parametrize(("bend", "order"), [(0.0, 1), (1.0, 2)])
def test_extrapolation_is_calibrated_and_sees_a_bend(bend, order):
    """A line is taken for a line and a curve for a curve, and then z-scores of the limit are standard."""
    z, orders = [], []
    for seed in range(60):
        found = richardson(ensembles([16, 32, 64, 128], [2000, 2000, 2000, 1000], seed=seed, bend=bend))
        z.append((found.loss.values - LIMIT) / found.loss.stderr)
        orders.append(found.diagnostics["order"]["loss"])
        assert sum(found.diagnostics["weights"]["loss"]) == pytest.approx(1)
    assert np.mean(np.array(orders) == order) > 0.9
    z = np.array(z)[np.array(orders) == order]
    assert np.abs(z.mean(axis=0)).max() < family_quantile(8) / np.sqrt(len(z))
    assert np.abs(z.std(axis=0) - 1).max() < family_quantile(8) / np.sqrt(2 * len(z))


def test_extrapolation_needs_enough():
    """One width, one seed, or two widths for a parabola are refused."""
    with pytest.raises(ValueError, match="needs 2 widths"):
        richardson(ensembles([16], [40]))
    with pytest.raises(ValueError, match="needs 3 widths"):
        richardson(ensembles([16, 32], [40, 40]), order=2)
    with pytest.raises(ValueError, match="order must be"):
        richardson(ensembles([16, 32], [40, 40]), order=3)


@pytest.mark.parametrize("stderr", [None, 0.002])
def test_rates_are_calibrated(stderr):
    """Exponents -1/2 and -1 within their error bars, with and without noise of the limit."""
    single, mean = [], []
    for seed in range(60):
        rng = np.random.default_rng(1000 + seed)
        shift = 0.0 if stderr is None else stderr * rng.standard_normal(ENTRIES)
        goal = limit(stderr, LIMIT + shift)
        found = convergence(ensembles([16, 32, 64, 128], [1000] * 4, seed=seed), goal)["loss"]
        mean.append(found.mean_rate.z(-1.0))
        assert found.resolved[0]
        assert found.floor == pytest.approx((stderr or 0.0) * 2 / np.linalg.norm(LIMIT), rel=0.02)
        small = ensembles([16, 32, 64, 128], [1000] * 4, seed=seed, slope=0.05)
        single.append(convergence(small, goal)["loss"].single_rate.z(-0.5))
    for z in (np.array(single), np.array(mean)):
        assert abs(z.mean()) < 4 / np.sqrt(60)
        assert 0.4 < z.std() < 1.4
    expected = np.sum(SLOPE**2) / 16**2 / np.sum(LIMIT**2)
    assert found.mean[0] == pytest.approx(expected, rel=0.3)


def test_one_networks_distance_holds_its_bias():
    """A bias of |b| / N adds |b|^2 / N^2 to the variance / N: steeper than -1/2, unless that is corrected."""
    plain, corrected = (
        convergence(ensembles([16, 32, 64, 128], [4000] * 4), limit(), correction=correction)["loss"]
        for correction in (False, True)
    )
    assert plain.single_rate.value < -0.55 and plain.single_rate.z(-0.5) < -4
    assert abs(corrected.single_rate.value + 0.5) < 0.04


def test_a_bias_that_is_not_there_has_no_rate():
    """Where no width resolves the mean's distance the exponent is NaN, not a slope of noise."""
    found = convergence(ensembles([16, 32, 64], [40, 40, 40], noise=30.0), limit())["loss"]
    assert np.isnan(found.mean_rate.value) and not found.resolved.any()


def test_a_wrong_limit_is_seen():
    """The mean's distance to a wrong limit does not fall: its exponent is far from -1."""
    found = convergence(ensembles([16, 32, 64, 128], [2000] * 4), limit(None, LIMIT + 0.5))["loss"]
    assert found.mean_rate.value > -0.6 and found.mean_rate.z(-1.0) > 5


def test_exact_laws_are_fitted_exactly():
    """Squares that follow c N^s exp(k / N) without error give s; the correction is needed for k."""
    widths = np.array([16.0, 32.0, 64.0, 128.0])
    squares = (3 * widths**-1.0 * np.exp(4 / widths)) ** 2
    errors, none = 0.01 * squares, np.zeros(4)
    assert fit_squares(widths, squares, errors, none, True).value == pytest.approx(-1, abs=1e-6)
    assert fit_squares(widths, squares, errors, none, False).value < -1.02


def test_agreement_is_in_joint_standard_errors():
    """z = difference over the joint error; what is exact on both sides must be equal."""
    first, second = limit(0.03), limit(0.04, LIMIT + np.array([0.05, 0.0, -0.1, 0.0]))
    np.testing.assert_allclose(agreement(first, second)["loss"].values, [-1, 0, 2, 0], atol=1e-12)
    exact = agreement(limit(), limit(None, LIMIT + np.array([0.0, 0.1, 0.0, -0.1])))["loss"].values
    assert exact.tolist() == [0.0, -np.inf, 0.0, np.inf]


def test_agreement_matches_layers_times_and_axes():
    """Two-time against equal-time kernels, at common times and layers; axes that one side leaves out."""
    rng = np.random.default_rng(0)
    whole = rng.standard_normal((3, 4, 2, 4, 2))  # layers 0..2, times 0..3
    axes = ("layer", "time", "sample", "time'", "sample'")
    one = Solution(
        problem=PROBLEM, solver="a", loss=limit().loss, predictions=limit().predictions,
        features=Labelled(whole, axes, np.full(whole.shape, 0.6), first_layer=0),
    )  # fmt: skip
    equal = np.einsum("ltptq->ltpq", whole)[1:, [1, 3]] + 1.0  # layers 1..2, times 1 and 3
    two = Solution(
        problem=PROBLEM, solver="b", loss=limit().loss, predictions=limit().predictions,
        features=Labelled(equal, ("layer", "time", "sample", "sample'"), np.full(equal.shape, 0.8)),
        diagnostics={"times": [1, 3]},
    )  # fmt: skip
    z = agreement(one, two, ["features"])["features"]
    assert z.values.shape == (2, 2, 2, 2) and z.first_layer == 1
    np.testing.assert_allclose(z.values, -1.0)
    linear = Solution(
        problem=PROBLEM, solver="c", loss=limit().loss, predictions=limit().predictions,
        features=Labelled(rng.standard_normal((2, 4, 4)), ("layer", "time", "time'")),
    )  # fmt: skip
    assert agreement(linear, two, ["features"])["features"].values.shape == (2, 2, 2, 2)
    other = Solution(
        problem=PROBLEM, solver="d", loss=limit().loss, predictions=limit().predictions,
        features=Labelled(equal[..., :1], ("layer", "time", "sample", "sample'")),
        diagnostics={"times": [1, 3]},
    )  # fmt: skip
    with pytest.raises(ValueError, match="differ in shape"):
        agreement(two, other, ["features"])
