"""Residual networks of infinite width: closed forms, exact closures, symmetries, and finite networks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from widelimit import dmft
from widelimit.compare import finite_ensemble, fit_exponent
from widelimit.dmft import ResidualProblem, Solution

INPUTS = np.random.default_rng(5).standard_normal((5, 12))
KERNEL = [[1.0, 0.3, 0.2], [0.3, 0.8, 0.1], [0.2, 0.1, 1.1]]


def linear(**changes):
    """A linear problem of two training points and one test point, with anything changed."""
    start = {"targets": [1.0, -1.0], "kernel": KERNEL, "steps": 6, "learning_rate": 0.05, "depth": 3}
    return ResidualProblem(**{**start, "activation": "identity", "gamma0": 1.3, **changes})


def tanh(**changes):
    """A nonlinear problem of four training points and one test point, with anything changed."""
    start = {"targets": [1.0, 1.0, -1.0, -0.5], "inputs": INPUTS[:4], "test_inputs": INPUTS[4:], "steps": 6}
    return ResidualProblem(**{**start, "learning_rate": 0.15, "depth": 3, "gamma0": 1.5, **changes})


def gap(one, other):
    """The largest difference over the largest value."""
    return np.abs(one.values - other.values).max() / np.abs(other.values).max()


@pytest.mark.parametrize(("depth", "value"), [(4, 6.835938), (16, 7.758613), (64, 8.050537)])
def test_the_lazy_tangent_kernel_of_a_linear_network(depth, value):
    """T13: NTK(L) = 2 (1 + 1/L)^L + (1 + 1/L)^(L-1): readout, first layer and branches in their places."""
    problem = linear(targets=[1.0], kernel=[[1.0]], depth=depth, steps=1)
    ntk = dmft.residual(problem, samples=None).ntk.values[0, 0, 0]
    assert ntk == pytest.approx(2 * (1 + 1 / depth) ** depth + (1 + 1 / depth) ** (depth - 1), rel=1e-12)
    assert ntk == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"branch_exponent": 1.0, "momentum": 0.5},
        {"weight_decay": 0.5, "branch_scale": 1.5},
        {"batches": np.array([[0], [1], [0], [1], [1], [0]]), "branch_exponent": 0.75},
        {"targets": [[1.0, 0.5], [-1.0, 0.3]]},
        {"targets": [[1.0, 0.0], [0.0, 1.0]], "loss": "cross_entropy", "learning_rate": 0.2, "depth": 1},
    ],
    ids=["plain", "1/depth and momentum", "decay", "batches", "two outputs", "cross-entropy"],
)
def test_without_samples_a_linear_network_is_solved_exactly(changes):
    """Two unlike methods: functions of orthogonal noise here, covariances in dmft.linear. Same numbers."""
    problem = linear(**changes)
    ours, exact = dmft.residual(problem, samples=None), dmft.linear(problem)
    for name in ("predictions", "loss", "features", "ntk"):
        assert gap(getattr(ours, name), getattr(exact, name)) < 1e-8, name
    gradients = ours.gradients.at(sample=0, sample_=1)  # without phi' all samples have the same
    assert gap(gradients, exact.gradients) < 1e-6
    assert ours.diagnostics["pairing_residual"] < 1e-10


def test_sampling_agrees_with_the_exact_closure_within_its_error():
    """Every prediction and kernel entry within 4.5 standard errors, and errors small enough to matter."""
    problem = linear(depth=4)
    sampled, exact = dmft.residual(problem, samples=1000, replicas=16), dmft.linear(problem)
    for name, most in (("predictions", 2e-3), ("features", 0.05), ("ntk", 0.1)):
        ours, other = getattr(sampled, name), getattr(exact, name)
        error = np.maximum(ours.stderr, 1e-9)
        assert np.abs((ours.values - other.values) / error).max() < 4.5, name
        assert ours.stderr.max() < most


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_small_gamma0_is_the_lazy_limit(exponent):
    """T6: a linear network's curve tends to the kernel's with slope 2 in gamma0, and gamma0 = 0 is it."""
    lazy = dmft.residual(linear(gamma0=0.0, branch_exponent=exponent))
    scales = [0.025, 0.05, 0.1, 0.2]
    problems = [linear(gamma0=scale, branch_exponent=exponent) for scale in scales]
    away = [gap(dmft.residual(p, samples=None).predictions, lazy.predictions) for p in problems]
    assert fit_exponent(scales, away).exponent == pytest.approx(2, abs=0.03)
    assert lazy.solver == "lazy"


@pytest.mark.parametrize("final", [False, True])
def test_kernels_of_the_start_are_those_of_the_lazy_limit(final):
    """At t = 0 features, gradients and NTK of a nonlinear network are the NTK's, each entry within errors."""
    problem = tanh(steps=1, final_activation=final)
    ours, exact = dmft.residual(problem, samples=2000, replicas=12), dmft.lazy(problem)
    for name in ("features", "gradients"):
        start = [getattr(part, name).at(time=0, time_=0) for part in (ours, exact)]
        error = np.maximum(start[0].stderr, 1e-6)
        assert np.abs((start[0].values - start[1].values) / error).max() < 4.5, name
    assert np.abs((ours.ntk.values - exact.ntk.values)[0] / ours.ntk.stderr[0]).max() < 4.5


def test_branches_of_no_size_leave_a_two_layer_network():
    """One branch with b -> 0 and phi before the readout is w . phi(W x): what dmft.two_layer solves."""
    problem = tanh(depth=1, branch_scale=1e-4, final_activation=True, learning_rate=0.4)
    names = ("targets", "inputs", "test_inputs", "steps", "gamma0", "learning_rate")
    plain = dmft.Problem(**{name: getattr(problem, name) for name in names}, depth=1)
    two = dmft.two_layer(plain, samples=4000, replicas=8)
    ours = dmft.residual(problem, samples=2000)
    error = np.hypot(two.predictions.stderr, ours.predictions.stderr)[1:]
    assert np.abs((two.predictions.values - ours.predictions.values)[1:] / error).max() < 4
    assert np.abs(ours.predictions.values[-1]).max() > 50 * error.max()


@pytest.mark.parametrize("activation", ["relu", "identity"])
def test_homogeneous_streams_carry_the_output_in_every_layer(activation):
    """T8: with relu or no activation f is homogeneous in h^k, so <g^k h^k> = gamma0 f at every k and t."""
    problem = tanh(activation=activation, learning_rate=0.05)
    solution = dmft.residual(problem, samples=4000, replicas=2, fields=4000)
    h, g = (solution.fields[name].values for name in ("h", "g"))
    products = h * g
    error = products.std(-1) / np.sqrt(products.shape[-1])
    measured, predicted = products.mean(-1), 1.5 * solution.predictions.values
    joint = np.sqrt(error**2 + (1.5 * solution.predictions.stderr) ** 2)
    assert np.abs((measured - predicted) / joint)[:, 1:].max() < 4.5
    assert np.abs(predicted).max() > 5 * joint.max()


def test_output_rules_meet_at_small_steps():
    """The readout's rule and Euler's on the tangent kernel differ by O(eta): slope 1."""
    rates = [0.02, 0.01, 0.005]
    apart = []
    for rate in rates:
        problem = linear(learning_rate=rate, steps=round(0.12 / rate))
        exact, euler = (
            dmft.residual(problem, samples=None, output_rule=rule) for rule in ("exact", "ntk_euler")
        )
        apart.append(abs(exact.train.values[-1, 0] - euler.train.values[-1, 0]))
    assert fit_exponent(rates, apart).exponent == pytest.approx(1, abs=0.1)


def test_the_past_does_not_know_the_future():
    """T10: a step size that changes at step 3 leaves all up to time 3 as it was, bit for bit.

    A longer run changes it by rounding only: products of longer matrices are summed in another order.
    """
    rates = np.full(6, 0.15)
    later = rates.copy()
    later[3:] = 0.3
    one, other = (dmft.residual(tanh(learning_rate=r), samples=200, replicas=2) for r in (rates, later))
    short = dmft.residual(tanh(steps=3), samples=200, replicas=2)
    for name in ("predictions", "features", "gradients", "feature_response", "gradient_response", "ntk"):
        a, b, c = (getattr(s, name) for s in (one, other, short))
        part = tuple(slice(0, 4) if axis.startswith("time") else slice(None) for axis in a.axes)
        np.testing.assert_array_equal(a.values[part], b.values[part])
        np.testing.assert_allclose(a.values[part], c.values, rtol=1e-6, atol=1e-8)
    assert gap(one.predictions, other.predictions) > 0.01


def test_weights_answer_to_themselves_alike_in_both_directions():
    """T7: <(W^T g) phi> = <g (W phi)> for the initial weights; without responses that fails by far."""
    full, without = (
        dmft.residual(tanh(), samples=2000, replicas=2, response=response).diagnostics["pairing_residual"]
        for response in ("stein", "none")
    )
    assert full < 0.02 and without > 10 * full


def test_responses_come_later_than_their_cause():
    """A is strictly causal; B has an equal-time block, which is zero at the start, or without curvature."""
    curved, flat = dmft.residual(tanh(), samples=400, replicas=2), dmft.residual(linear(), samples=None)
    for time in range(7):
        assert not curved.feature_response.at(layer=1, time=time).values[:, time:].any()
        assert not curved.gradient_response.at(layer=1, time=time).values[:, time + 1 :].any()
        same = flat.gradient_response.at(layer=1, time=time, time_=time)
        assert np.abs(same.values).max() < 1e-8
    start = curved.gradient_response.at(layer=1, time=0, time_=0)
    assert np.abs(start.values).max() < 1e-8


def test_the_response_at_equal_times_is_the_mean_curvature():
    """Stein's B^{L-1}(t, t) is <psi''(h) z> / gamma0, taken from draws of h and g = psi'(h) z directly."""
    problem = ResidualProblem(
        targets=[3.0], kernel=[[1.0]], steps=1, learning_rate=0.5, gamma0=2.0, final_activation=True
    )
    solution = dmft.residual(problem, samples=8000, replicas=8, fields=8000)
    h, g = (solution.fields[name].at(layer=1, time=1, sample=0).values for name in ("h", "g"))
    curvature = -2 * np.tanh(h) * g / 2  # tanh'' / tanh' = -2 tanh
    response = solution.gradient_response.at(layer=0, time=1, time_=1, sample=0, sample_=0)
    joint = np.hypot(response.stderr, curvature.std() / np.sqrt(curvature.size))
    assert abs(response.values - curvature.mean()) < 4 * joint
    assert abs(curvature.mean()) > 8 * joint


def test_the_start_is_zero_and_kernels_are_kernels():
    """T11: f(0) = 0 to rounding, since noise comes in pairs; features and gradients are positive."""
    solution = dmft.residual(tanh(), samples=400, replicas=2)
    assert np.abs(solution.predictions.values[0]).max() < 1e-12
    for kernel in (solution.features, solution.gradients):
        for layer in kernel.values:
            side = round(np.sqrt(layer.size))
            assert np.linalg.eigvalsh(layer.reshape(side, side)).min() > -1e-10


def test_the_same_seed_gives_the_same_numbers_and_files_keep_them(tmp_path):
    """Reproducible bit for bit; a saved solution comes back whole, its problem a residual one."""
    one, other = (dmft.residual(tanh(), samples=100, replicas=2, seed=7, fields=3) for _ in range(2))
    np.testing.assert_array_equal(one.predictions.values, other.predictions.values)
    one.save(tmp_path / "solution.npz")
    loaded = Solution.load(tmp_path / "solution.npz")
    np.testing.assert_array_equal(loaded.features.values, one.features.values)
    assert loaded.features.first_layer == 0 and loaded.fields["h"].values.shape == (4, 7, 5, 3)
    assert isinstance(loaded.problem, ResidualProblem) and loaded.problem.depth == 3


def test_degenerate_data_are_solved():
    """Twice the same sample with the same label is that sample once; contradictory labels give their mean."""
    once = linear(targets=[1.0], kernel=[[1.0]], steps=30)
    twice = linear(targets=[1.0, 1.0], kernel=np.ones((2, 2)), steps=30)
    torn = linear(targets=[1.0, 0.0], kernel=np.ones((2, 2)), steps=30)
    one, two, half = (dmft.residual(p, samples=None).train.values for p in (once, twice, torn))
    np.testing.assert_allclose(two, np.repeat(one, 2, axis=1), rtol=1e-9)
    np.testing.assert_allclose(half[:, 0], half[:, 1], rtol=1e-9)
    assert half[-1, 0] == pytest.approx(0.5, abs=2e-3)
    problem = tanh(targets=[1.0, -1.0], kernel=np.ones((2, 2)), inputs=None, test_inputs=None)
    curved = dmft.residual(problem, samples=100, replicas=2)
    assert np.abs(curved.train.values).max() < 1e-10


def test_one_sample_and_one_step():
    """P = T = 1: f(1) = eta NTK y by hand, 2 + 3 b^2 for a linear network of one branch."""
    problem = linear(targets=[2.0], kernel=[[1.0]], steps=1, depth=1, branch_scale=0.7, learning_rate=0.01)
    solution = dmft.residual(problem, samples=None)
    assert solution.train.values[1, 0] == pytest.approx(0.01 * 2 * (2 + 3 * 0.49), rel=1e-12)


def test_a_rate_beyond_stability_is_said():
    """No NaN: an exception that names the step."""
    with pytest.raises(dmft.Diverged, match="after step .*smaller learning_rate") as caught:
        dmft.residual(tanh(learning_rate=50.0, activation="relu", steps=30), samples=100, replicas=2)
    assert 1 <= caught.value.step <= 30


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 101}, "even number"),
        ({"samples": None}, "give a number of samples"),
        ({"replicas": 1}, "replicas must be a whole number, 2 or more"),
        ({"response": "pathwise"}, "auto, stein, none"),
        ({"output_rule": "euler"}, "exact, ntk_euler"),
        ({"memory": 1000}, "MB and memory allows"),
        ({"fields": -1}, "fields must be"),
    ],
)
def test_bad_options_are_refused_in_a_sentence(options, message):
    """What was expected, what came."""
    with pytest.raises(ValueError, match=message):
        dmft.residual(tanh(), **{"samples": 100, **options})


def test_other_problems_are_refused():
    """A plain network has a solver of its own; decay has no Euler rule."""
    with pytest.raises(TypeError, match="ResidualProblem; got Problem"):
        dmft.residual(dmft.Problem(targets=[1.0], kernel=[[1.0]], steps=1, learning_rate=0.1))
    with pytest.raises(ValueError, match="knows no weight decay"):
        dmft.residual(tanh(weight_decay=0.1), output_rule="ntk_euler")


def agreement(problem, widths, seeds, samples, replicas):
    """z-scores of predictions after the start: DMFT less the extrapolated ensemble, in joint errors."""
    ensembles = finite_ensemble(problem, widths, seeds, measures=())
    small, large = (ensembles.solution(width).predictions for width in widths)
    assert widths[1] == 2 * widths[0]
    limit = 2 * large.values - small.values
    ours = dmft.residual(problem, samples=samples, replicas=replicas).predictions
    error = np.sqrt(4 * large.stderr**2 + small.stderr**2 + ours.stderr**2)
    return ((ours.values - limit) / np.where(error > 0, error, 1.0))[1:], error


def test_networks_agree_and_need_responses():
    """Networks extrapolated to infinite width, within 4 joint errors at every point and time; GIA is not."""
    problem = tanh(gamma0=3.0)
    z, error = agreement(problem, [32, 64], 300, 1000, 8)
    assert np.abs(z).max() < 4 and error.max() < 0.03
    full, without = (
        dmft.residual(problem, samples=1000, response=response).predictions.values
        for response in ("stein", "none")
    )
    assert np.abs((full - without)[1:] / error[1:]).max() > 8


CASES = {
    "tanh": {},
    "phi before the readout": {"final_activation": True},
    "1/depth": {"branch_exponent": 1.0},
    "relu, 1/depth^(3/4)": {"activation": "relu", "learning_rate": 0.08, "branch_exponent": 0.75},
    "gelu, momentum": {"activation": "gelu", "momentum": 0.5, "learning_rate": 0.05},
    "erf, decay": {"activation": "erf", "weight_decay": 0.3},
    "batches": {"batches": np.array([[0, 1], [2, 3]] * 4)},
    "two outputs": {
        "targets": [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]],
        "loss": "cross_entropy",
        "learning_rate": 0.4,
    },
    "one's own": {"activation": lambda x: x / (1 + x * x) + 0.3 * x, "depth": 5, "branch_scale": 1.4},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_networks_agree_in_every_setting(case):
    """As above at full statistics: chance alone takes the largest of forty numbers beyond 4 once in 400."""
    z, error = agreement(tanh(steps=8, **CASES[case]), [64, 128], 1000, 4000, 12)
    assert np.abs(z).max() < 4 and error.max() < 0.03
    assert np.sqrt(np.mean(z**2)) < 2


def test_a_problem_is_frozen_for_its_solver():
    """Solving changes nothing in the problem: solved again at another depth, it is itself again."""
    problem = tanh()
    before = {field.name: getattr(problem, field.name) for field in dataclasses.fields(problem)}
    dmft.residual(problem, samples=100, replicas=2)
    assert all(before[name] is getattr(problem, name) for name in before)
