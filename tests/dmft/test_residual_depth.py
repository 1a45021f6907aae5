"""Infinite depth: closed forms, the rate 1/L, one limit for all exponents above 1/2, and responses there."""

from __future__ import annotations

import math

import numpy as np
import pytest

from widelimit import dmft
from widelimit.compare import fit_exponent
from widelimit.dmft import ResidualProblem
from widelimit.dmft.residual import variables
from widelimit.dmft.residual_depth import extrapolation
from widelimit.dmft.residual_noise import UnitNoise
from widelimit.dmft.residual_step import Run, Settings

INPUTS = np.random.default_rng(5).standard_normal((4, 12))


def linear(**changes):
    """One linear sample, P = 1, K = 1, with anything changed."""
    start = {"targets": [1.0], "kernel": [[1.0]], "steps": 6, "learning_rate": 0.04, "gamma0": 1.0}
    return ResidualProblem(**{**start, "activation": "identity", **changes})


def tanh(**changes):
    """Three training points and a test point, with anything changed."""
    start = {"targets": [1.0, -1.0, 0.5], "inputs": INPUTS[:3], "test_inputs": INPUTS[3:], "steps": 5}
    return ResidualProblem(**{**start, "learning_rate": 0.15, "gamma0": 1.5, **changes})


def rms(values):
    """Root of the mean square."""
    return np.sqrt(np.mean(np.asarray(values) ** 2))


def test_weights_reproduce_polynomials_in_one_over_depth():
    """Three depths take 1, 1/L and 1/L^2 to their values at L = infinity, exactly."""
    depths = [4, 12, 24]
    values = [[weight * depth**-power for weight, depth in zip(extrapolation(depths), depths, strict=True)]
              for power in (0, 1, 2)]  # fmt: skip
    np.testing.assert_allclose([sum(row) for row in values], [1, 0, 0], atol=1e-12)


@pytest.mark.parametrize("branch", [0.5, 1.0])
def test_the_linear_limit_in_closed_form(branch):
    """T13: at the start NTK = (2 + b^2) e^(b^2) (3e at b = 1), Phi = e^(b^2 tau), G = e^(b^2 (1 - tau))."""
    found = dmft.infinite_depth(linear(steps=1, branch_scale=branch), depths=(8, 16, 32, 64), samples=None)
    square = branch**2
    assert found.ntk.values[0, 0, 0] == pytest.approx((2 + square) * math.exp(square), rel=2e-5)
    tau = np.arange(9) / 8
    for kernel, where in ((found.features, tau), (found.gradients, 1 - tau)):
        start = kernel.at(time=0, time_=0, sample=0, sample_=0).values
        np.testing.assert_allclose(start, np.exp(square * where), rtol=2e-5)


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_errors_fall_as_one_over_depth(exponent):
    """|f_L - f_inf| has slope -1 in L over all of training (exact solver).

    Local slopes differ from -1 by the next power's correction, O(1/L), which two of them cancel.
    """
    limit = dmft.infinite_depth(linear(branch_exponent=exponent), depths=(8, 16, 32, 64), samples=None)
    problems = [linear(branch_exponent=exponent, depth=depth) for depth in (8, 16, 32)]
    curves = [dmft.linear(problem).predictions.values for problem in problems]
    errors = [rms(curve - limit.predictions.values) for curve in curves]
    assert slope(errors) == pytest.approx(-1, abs=0.01)
    known = [
        dmft.infinite_depth(linear(branch_exponent=exponent), depths=depths, samples=None).diagnostics
        for depths in ((8, 16, 32), (16, 32, 64))
    ]
    assert 2 * known[1]["depth_slope"] - known[0]["depth_slope"] == pytest.approx(-1, abs=0.01)
    assert known[1]["depth_error"] < errors[-1] / 50


def slope(values):
    """Exponent in L of values at L, 2L and 4L, less the 1/L correction of the local ones."""
    first, second = np.log2(np.array(values[1:]) / np.array(values[:-1]))
    return 2 * second - first


def test_all_exponents_above_one_half_have_one_limit():
    """Branches' start vanishes, their learning does not: L = 256 at alpha = 1 and 3/4 approach one flow."""
    flow = dmft.infinite_depth(linear(branch_exponent=1.0), samples=None).predictions.values
    other = dmft.infinite_depth(linear(branch_exponent=0.75), samples=None).predictions.values
    np.testing.assert_array_equal(flow, other)
    near = [
        rms(dmft.linear(linear(branch_exponent=0.75, depth=depth)).predictions.values - flow)
        for depth in (16, 64)
    ]
    assert near[1] == pytest.approx(near[0] / 2, rel=0.15)  # L^(1 - 2 alpha)


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_sampled_depths_converge_to_the_limit(exponent):
    """A nonlinear network: (f_L - f_inf) L is the same at L = 4 and 8, within errors and the next power."""
    limit = dmft.infinite_depth(tanh(branch_exponent=exponent), depths=(4, 8, 16), samples=500)
    scaled, errors = [], []
    for depth in (4, 8):
        one = dmft.residual(tanh(branch_exponent=exponent, depth=depth), samples=500, seed=1)
        scaled.append(depth * (one.loss.values[-1] - limit.loss.values[-1]))
        errors.append(depth * np.hypot(one.loss.stderr[-1], limit.loss.stderr[-1]))
    assert abs(scaled[0]) > 4 * errors[0] or exponent == 0.5
    assert abs(scaled[1] - scaled[0]) < 4 * np.hypot(*errors) + 0.3 * abs(scaled[0])


def test_shared_noise_shrinks_the_differences_between_depths():
    """Depths of one extrapolation share Brownian paths: the extrapolated spread stays that of one depth."""
    limit = dmft.infinite_depth(tanh(), depths=(2, 4, 8), samples=400, replicas=8)
    one = dmft.residual(tanh(depth=8), samples=400, replicas=8)
    assert rms(limit.predictions.stderr[1:]) < 2 * rms(one.predictions.stderr[1:])  # 3.3 times if unrelated


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_lazy_depth(exponent):
    """gamma0 = 0: kernels extrapolated; gamma0 small joins it."""
    lazy = dmft.infinite_depth(linear(gamma0=0.0, branch_exponent=exponent))
    small = dmft.infinite_depth(linear(gamma0=1e-3, branch_exponent=exponent), samples=None)
    np.testing.assert_allclose(small.predictions.values, lazy.predictions.values, atol=2e-4)
    start = 3 * math.e if exponent == 0.5 else 3.0
    assert lazy.ntk.values[0, 0, 0] == pytest.approx(start, rel=1e-3)
    assert lazy.features.values.shape == small.features.values.shape


def differences(exponent, depths, rule="ntk_euler", **changes):
    """What leaving out responses does to f, exactly, and what learning features does, at each depth."""
    gaps, effects = [], []
    for depth in depths:
        problem = linear(depth=depth, branch_exponent=exponent, **changes)
        lazy = linear(depth=depth, branch_exponent=exponent, **{**changes, "gamma0": 1e-3})
        full, without, static = (
            dmft.residual(p, samples=None, output_rule=rule, response=response).predictions.values
            for p, response in ((problem, "stein"), (problem, "none"), (lazy, "stein"))
        )
        gaps.append(rms(full - without))
        effects.append(rms(full - static))
    return np.array(gaps), np.array(effects)


@pytest.mark.parametrize("rule", ["ntk_euler", "exact"])
def test_gradient_independence_becomes_exact_with_depth_only_above_one_half(rule):
    """Sheet section 2: alpha = 1 has slope -1 in L; at alpha = 1/2 the gap tends to a constant.

    With Euler's rule f follows the tangent kernel, right in the lazy limit: the gap is of features only.
    """
    gaps, _ = differences(1.0, [16, 32, 64], rule)
    assert slope(gaps) == pytest.approx(-1, abs=0.03)
    depths = [4, 8, 16, 32]
    gaps, effects = differences(0.5, depths, rule)
    assert (np.diff(gaps) > 0).all()  # it even grows
    limit = np.dot(extrapolation(depths), gaps)
    assert limit == pytest.approx(gaps[-1], rel=0.06)
    assert limit > 0.4 * np.dot(extrapolation(depths), effects)


class BranchesOnly(Run):
    """As ``Run``, for one output and Euler's rule, with first layer and readout frozen."""

    def _driven(self, move, layer, t):
        return super()._driven(move, layer, t) * (layer > 0)

    def _read(self, t):
        super()._read(t)
        return self.readout

    def _tangent(self, t):
        forward, backward = self.feature_kernel[:, t, :, : t + 1], self.gradient_kernel[:, t, :, : t + 1]
        kernel = self.step_size * np.sum(forward[:-1] * backward[1:], axis=0)
        if t < self.times - 1:
            change = (self.drive[t + 1] - self.drive[t])[: t + 1, None] * self.delta[: t + 1, :, 0]
            now = self.predictions[t]
            self.predictions[t + 1] = now + np.einsum("psq,sq->p", kernel, change)[:, None]


def test_gradient_independence_fails_where_only_branches_learn():
    """No matter of first layer and readout: frozen, the gap has slope -1, or tends to a constant."""
    options = [Settings(responses, True, tolerance=1e-12) for responses in (True, False)]
    gaps = {}
    for exponent in (0.5, 1.0):
        gaps[exponent] = []
        for depth in (16, 32, 64):
            problem = linear(depth=depth, branch_exponent=exponent, learning_rate=0.1)
            noise = UnitNoise(variables(problem)), UnitNoise(variables(problem))
            runs = [BranchesOnly(problem, *both).run() for both in zip(noise, options, strict=True)]
            gaps[exponent].append(rms(runs[0].predictions - runs[1].predictions))
    assert slope(gaps[1.0]) == pytest.approx(-1, abs=0.05)
    first, second = np.diff(gaps[0.5])
    assert 0 < second / first == pytest.approx(0.5, abs=0.05)  # to a constant, as 1/L
    assert gaps[0.5][-1] > 0.01


def test_what_responses_do_is_of_second_order_in_gamma0():
    """With Euler's rule the gap at alpha = 1/2 is O(gamma0^2), like all that features do: slope 2."""
    scales = [0.05, 0.1, 0.2]
    gaps = [differences(0.5, [16], gamma0=scale)[0][0] for scale in scales]
    assert fit_exponent(scales, gaps).exponent == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize(
    ("depths", "message"), [((8,), "two or more"), ((8, 12, 16), "divisor"), ((16, 8), "increasing")]
)
def test_depths_that_do_not_nest_are_refused(depths, message):
    """Noise is shared between depths that divide the last."""
    with pytest.raises(ValueError, match=message):
        dmft.infinite_depth(linear(), depths=depths, samples=None)


def test_where_nothing_changes_with_depth_there_is_no_exponent():
    """Labels of zero: f stays zero at every depth."""
    problem = ResidualProblem(
        targets=[0.0], kernel=[[1.0]], steps=2, learning_rate=0.1, activation="identity"
    )
    found = dmft.infinite_depth(problem, depths=(2, 4, 8), samples=None)
    assert not found.predictions.values.any() and math.isnan(found.diagnostics["depth_slope"])
