"""The optimum finder on curves whose minimum is known: parabolas, cliffs, edges, divergence."""

from __future__ import annotations

import numpy as np
import pytest

from widelimit.compare import find_optimum, regret, transfer, widen

RATES = np.arange(-12.0, 0.0)


def parabola(
    optimum: float, curvature: float = 0.1, seeds: int = 4, noise: float = 0.0, rng=None
) -> np.ndarray:
    """Losses [R, S] whose log2 is a parabola in log2 of the rate, with noise of seed and cell."""
    rng = rng or np.random.default_rng(0)
    log_loss = curvature * (RATES[:, None] - optimum) ** 2 - 1.0
    return np.exp2(log_loss + noise * (rng.normal(size=(RATES.size, seeds)) + 5.0 * rng.normal(size=seeds)))


@pytest.mark.parametrize("optimum", [-7.0, -6.6, -6.5, -6.2])
def test_vertex_is_exact_wherever_it_lies_between_cells(optimum):
    """A parabola is its own local fit: place, height, and error bars of zero."""
    best = find_optimum(RATES, parabola(optimum))
    assert best.flag == "interior"
    np.testing.assert_allclose([best.log2_lr, best.loss], [optimum, 0.5], rtol=1e-9)
    assert best.stderr < 1e-9 and best.loss_stderr < 1e-9 and best.resolution == 0.0


def test_uneven_grid():
    """Rates need not be evenly spaced."""
    rates = np.array([-9.0, -7.0, -6.0, -5.5, -5.0, -3.0])
    best = find_optimum(rates, np.exp2(0.2 * (rates + 5.7) ** 2))
    np.testing.assert_allclose(best.log2_lr, -5.7, rtol=1e-9)


@pytest.mark.parametrize(("seeds", "quantile"), [(3, 2.920), (6, 2.015)])
def test_error_bars_cover(seeds, quantile):
    """Over 300 noisy curves |z| stays below Student's 90% point for 90% of them, within binomial bounds.

    The bound below is the sharp one: error bars that are too small fail. Slightly wide ones are tolerated.
    """
    rng, z = np.random.default_rng(seeds), []
    for _ in range(300):
        optimum = rng.uniform(-7.0, -6.0)
        best = find_optimum(RATES, parabola(optimum, 0.1, seeds, 0.04, rng), resamples=200)
        z.append((best.log2_lr - optimum) / best.stderr)
    share = np.mean(np.abs(z) < quantile)
    sigma = np.sqrt(0.9 * 0.1 / 300)
    assert 0.9 - 3.0 * sigma < share < 0.9 + 4.5 * sigma, share
    assert abs(np.mean(np.sign(z))) < 3.5 / np.sqrt(300)  # no bias to either side


def test_linear_fit_uses_the_loss_itself():
    """With log=False a parabola of the loss, which may be negative, is recovered exactly."""
    best = find_optimum(RATES, 0.3 * (RATES + 6.3) ** 2 - 2.0, log=False, cliff=10.0)
    np.testing.assert_allclose([best.log2_lr, best.loss], [-6.3, -2.0], rtol=1e-9)


def test_cliff_is_fitted_on_its_finite_side():
    """Divergence right behind the best cell: the left cells decide, and nothing is extrapolated."""
    losses = parabola(-4.2)
    losses[RATES > -5.5] = np.nan  # best measured cell -6, true vertex behind the cliff
    best = find_optimum(RATES, losses)
    assert best.flag == "cliff" and best.log2_lr == -6.0
    np.testing.assert_allclose(best.loss, losses[RATES == -6.0][0, 0])
    np.testing.assert_allclose(
        best.stderr, 1 / np.sqrt(12)
    )  # the seeds agree: only the grid's resolution is left
    assert np.isnan(best.curve[-1]) and np.isfinite(best.curve[0])


def test_vertex_before_the_cliff_is_found():
    """A minimum just before the last finite cell is still located between cells."""
    losses = parabola(-6.3)
    losses[RATES > -6.0] = np.inf
    best = find_optimum(RATES, losses)
    assert best.flag == "cliff"
    np.testing.assert_allclose(best.log2_lr, -6.3, rtol=1e-9)


@pytest.mark.parametrize("kind", ["ratio", "ceiling"])
def test_finite_cliff_does_not_bend_the_fit(kind):
    """Cells that blew up without overflow are past the cliff."""
    losses = parabola(-6.3)
    losses[RATES > -6.0] = 25.0 if kind == "ratio" else 1.9
    best = find_optimum(RATES, losses, ceiling=1.8 if kind == "ceiling" else None)
    assert best.flag == "cliff"
    np.testing.assert_allclose(best.log2_lr, -6.3, rtol=1e-9)


def test_lucky_cells_beyond_the_cliff_do_not_enter():
    """Behind a blown-up or diverged cell, or one missing on the low side, even good losses are not local."""
    for blown in (25.0, np.nan):
        losses = parabola(-6.3)
        losses[RATES > -6.0] = blown
        losses[RATES == -4.0] = 0.51
        best = find_optimum(RATES, losses)
        assert best.flag == "cliff"
        np.testing.assert_allclose(best.log2_lr, -6.3, rtol=1e-9)
    losses = parabola(-6.3)
    losses[RATES == -7.0], losses[RATES == -8.0] = np.nan, 0.51
    best = find_optimum(RATES, losses)
    assert best.flag == "interior" and best.log2_lr >= -6.3 - 1e-9


def test_steep_symmetric_minimum_is_not_a_cliff():
    """Both neighbours far above the best is a coarse grid, not a divergence: three cells are fitted."""
    best = find_optimum(RATES, parabola(-6.1, curvature=3.0))
    assert best.flag == "interior"
    np.testing.assert_allclose(best.log2_lr, -6.1, rtol=1e-9)


def test_one_diverged_seed_rules_out_a_rate():
    """A rate that loses one seed in four is no usable rate; resamples without that seed may still use it."""
    losses = parabola(-6.0)
    losses[RATES == -6.0, 2] = np.nan
    best = find_optimum(RATES, losses)
    assert best.log2_lr <= -6.9 and best.flag == "cliff"
    assert (np.abs(best.draws + 6.0) < 0.1).any() and best.stderr > 0.3


@pytest.mark.parametrize(
    ("optimum", "flag", "at", "extra"),
    [(-20.0, "edge_low", -12.0, [-14.0, -13.0]), (5.0, "edge_high", -1.0, [0.0, 1.0])],
)
def test_minimum_at_the_edge_asks_for_a_wider_grid(optimum, flag, at, extra):
    """The cell at the edge is reported, never an extrapolation, and the rates to add follow."""
    best = find_optimum(RATES, parabola(optimum, 0.01))
    assert best.flag == flag and best.log2_lr == at and best.stderr >= 1 / np.sqrt(12)
    np.testing.assert_allclose(widen(best, cells=2), extra)


def test_minimum_that_often_falls_on_the_edge_is_flagged():
    """One cell from the edge, with noise: enough resamples sit at the edge to ask for a wider grid."""
    losses = parabola(-11.4, 0.05)
    losses[0] *= np.exp2([0.4, -0.3, -0.3, 0.3])
    assert find_optimum(RATES, losses).flag == "edge_low"
    assert widen(find_optimum(RATES, parabola(-6.0))).size == 0


def test_transfer_slope_is_recovered_with_a_joint_error_bar():
    """Slopes -1 and 0.06 are found; noise that shifts a seed's optimum at all widths alike does not count."""
    widths, shift = np.array([64, 128, 256, 512]), np.array([-0.4, 0.1, 0.3])
    for slope in (-1.0, 0.06):
        place = -5.0 + slope * (np.log2(widths) - 7.0)
        optima = [
            find_optimum(RATES, np.exp2(0.1 * (RATES[:, None] - p - shift) ** 2), resamples=300)
            for p in place
        ]
        law = transfer(widths, optima)
        np.testing.assert_allclose(law.exponent, slope, atol=1e-6)
        assert law.stderr < 1e-6 < 0.2 < optima[0].stderr
        np.testing.assert_allclose(np.log2(law.predict(widths)), place, atol=1e-6)
        assert (law.widths, law.seeds, law.degrees) == (4, 3, 2)


def test_transfer_error_bar_covers():
    """Slopes of independent noisy curves scatter as their error bars say."""
    rng, z = np.random.default_rng(5), []
    for _ in range(150):
        optima = [find_optimum(RATES, parabola(-6.3, 0.1, 5, 0.04, rng), resamples=200) for _ in range(3)]
        law = transfer([64, 128, 256], optima)
        z.append(law.exponent / law.stderr)
    share = np.mean(np.abs(z) < 2.132)
    assert abs(share - 0.9) < 3.5 * np.sqrt(0.09 / 150), share


def test_transfer_with_widths_apart():
    """Independent error bars add in quadrature and bring degrees of freedom; a common shift counts."""
    shift = np.array([-0.4, 0.1, 0.3])
    best = find_optimum(RATES, np.exp2(0.1 * (RATES[:, None] + 6.3 - shift) ** 2))
    law = transfer([64, 128, 256], [best] * 3, paired=False)
    np.testing.assert_allclose(law.stderr, best.stderr / np.sqrt(2))
    np.testing.assert_allclose(law.degrees, 2 * 2)  # the middle width has no leverage


def test_resolution_of_the_grid_enters_the_slope():
    """Minima on cliffs are known to a cell only; the slope's error bar says so even if all seeds agree."""
    losses = parabola(-4.0)
    losses[RATES > -5.5] = np.nan
    law = transfer([64, 128, 256], [find_optimum(RATES, losses)] * 3)
    np.testing.assert_allclose(law.stderr, 1 / np.sqrt(12) / np.sqrt(2))


def test_regret_of_a_parabola():
    """Off by d octaves costs loss * (2**(c d^2) - 1); at the optimum nothing."""
    target = find_optimum(RATES, parabola(-6.3, 0.1))
    base = find_optimum(RATES, parabola(-7.8, 0.1))
    price = regret(target, base)
    np.testing.assert_allclose(price.value, 0.5 * (2 ** (0.1 * 1.5**2) - 1), rtol=1e-6)
    assert price.stderr < 1e-9
    np.testing.assert_allclose(regret(target, -6.3).value, 0.0, atol=1e-9)
    np.testing.assert_allclose(regret(target, -4.3).value, 0.5 * (2**0.4 - 1), rtol=1e-6)


def test_regret_has_an_error_bar_from_seeds():
    """The standard error of the regret matches its scatter over repetitions."""
    rng, values, errors = np.random.default_rng(7), [], []
    for _ in range(80):
        target = find_optimum(RATES, parabola(-6.2, 0.1, 6, 0.03, rng), resamples=100)
        estimate = regret(target, -4.2)
        values.append(estimate.value)
        errors.append(estimate.stderr)
    np.testing.assert_allclose(np.mean(errors), np.std(values), rtol=0.35)


def test_transfer_into_divergence_costs_everything():
    """A transferred rate at which the target diverges has infinite regret."""
    losses = parabola(-7.0)
    losses[RATES > -5.5] = np.nan
    target = find_optimum(RATES, losses)
    assert regret(target, -5.2).value == np.inf and np.isnan(regret(target, -5.2).stderr)
    assert 0 < regret(target, -6.0).value < 1


def test_regret_that_may_be_infinite_has_no_error_bar():
    """Where a good share of the resamples diverges at the transferred rate, no finite error bar is honest."""
    losses = parabola(-7.0)
    losses[RATES == -5.0, 0] = np.nan
    losses[RATES > -5.0] = np.nan
    target = find_optimum(RATES, losses)
    assert np.isnan(regret(target, -5.0).stderr) and np.isfinite(regret(target, -6.0).value)
    wide = find_optimum(
        RATES, np.where(RATES[:, None] > -6.0, np.where(np.arange(4) < 2, np.nan, losses), losses)
    )
    assert np.isfinite(regret(wide, -6.0).stderr)


def test_bad_input_is_one_sentence():
    """Each misuse says what was expected."""
    losses = parabola(-6.0)
    with pytest.raises(ValueError, match="diverged at each of the 12 learning rates from 2\\^-12 to 2\\^-1"):
        find_optimum(RATES, np.full((12, 3), np.nan))
    with pytest.raises(ValueError, match=r"got shapes \(12,\) and \(4, 12\)"):
        find_optimum(RATES, losses.T)
    with pytest.raises(ValueError, match="at least three rates"):
        find_optimum(RATES[:2], losses[:2])
    with pytest.raises(ValueError, match="increasing order"):
        find_optimum(RATES[::-1], losses)
    with pytest.raises(ValueError, match="log=False"):
        find_optimum(RATES, losses - 1.0)
    with pytest.raises(ValueError, match="window >= 1"):
        find_optimum(RATES, losses, window=0)
    best = find_optimum(RATES, losses)
    with pytest.raises(ValueError, match="two or more different widths"):
        transfer([64], [best])
    with pytest.raises(ValueError, match=r"\[4, 3\] seeds"):
        transfer([64, 128], [best, find_optimum(RATES, losses[:, :3])])
    with pytest.raises(ValueError, match="outside the target's grid"):
        regret(best, -13.0)
