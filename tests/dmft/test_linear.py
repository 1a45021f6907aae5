"""Deep linear networks: exact against dense algebra, closed forms, and the reference values."""

from __future__ import annotations

import numpy as np
import pytest

from tests.dmft.linear_oracle import dense
from widelimit import dmft

RNG = np.random.default_rng(0)
INPUTS = RNG.standard_normal((5, 4))
TARGETS = RNG.standard_normal((3, 2))
FORMS = {
    "plain": {"targets": TARGETS[:, 0], "learning_rate": 0.05},
    "two outputs": {"targets": TARGETS},
    "everything": {
        "targets": TARGETS,
        "momentum": 0.6,
        "weight_decay": 0.3,
        "batches": RNG.integers(0, 3, (9, 2)),
        "learning_rate": np.linspace(0.1, 0.15, 9),
    },
    "cross-entropy": {"targets": np.eye(3), "loss": "cross_entropy", "momentum": 0.3, "weight_decay": 0.1},
}


def problem(**settings):
    """Three training and two test points, three hidden layers."""
    base = {
        "inputs": INPUTS[:3],
        "test_inputs": INPUTS[3:],
        "steps": 9,
        "learning_rate": 0.15,
        "depth": 3,
        "activation": "identity",
        "gamma0": 1.3,
    }
    return dmft.Problem(**{**base, **settings})


def one_sample(**settings):
    """The problem of the reference values: one sample, K = y = 1."""
    base = {"targets": [1.0], "kernel": [[1.0]], "steps": 600, "learning_rate": 0.01}
    return dmft.Problem(**{**base, "activation": "identity", **settings})


def at_time(solution, t=-1):
    """H^l(t, t) of one sample, by layer."""
    return solution.features.values[:, t, 0, t, 0]


@pytest.mark.parametrize("form", FORMS)
def test_the_causal_pass_is_the_dense_fixed_point(form):
    """Forward substitution, with covariances from the weights' updates, solves the equations as written:
    order parameters and responses agree to rounding, for all layers and pairs of times."""
    given = problem(**FORMS[form])
    solution, (f, h, g, a, b, _) = dmft.linear(given), dense(given)
    times, n, c = given.steps + 1, given.points, given.outputs
    b = np.stack(b[1:]).reshape(2, times, c, times, n)[..., : given.samples]
    found = {
        "predictions": f,
        "features": np.stack(h),
        "gradients": np.stack(g),
        "feature_response": np.stack(a[:-1]) / given.gamma0,
        "gradient_response": b / given.gamma0,
    }
    for name, expected in found.items():
        got = getattr(solution, name)
        assert len(got.axes) == got.values.ndim
        np.testing.assert_allclose(got.values.ravel(), expected.ravel(), rtol=0, atol=1e-12, err_msg=name)


def test_axes_say_where_outputs_are():
    """With targets [P, C] results have an axis of outputs, with [P] none; the NTK is symmetric in both."""
    plain, many = (dmft.linear(problem(**FORMS[name])) for name in ("plain", "two outputs"))
    assert plain.gradients.axes == ("layer", "time", "time'")
    assert plain.feature_response.axes == ("layer", "time", "sample", "time'")
    assert many.gradients.axes == ("layer", "time", "output", "time'", "output'")
    assert many.gradient_response.axes == ("layer", "time", "output", "time'", "sample'")
    assert many.ntk.values.shape == (10, 5, 2, 5, 2)
    np.testing.assert_allclose(many.ntk.values, many.ntk.values.transpose(0, 3, 4, 1, 2), atol=1e-13)
    one = dmft.linear(problem(**{**FORMS["plain"], "targets": TARGETS[:, :1]}))
    np.testing.assert_array_equal(one.predictions.values[..., 0], plain.predictions.values)


def test_layers_share_the_output_as_overlap():
    """T8: <g^l h^l> = gamma0 f in every layer at every time, because f is linear in each layer's field."""
    given = problem(**FORMS["everything"])
    solution = dmft.linear(given)
    for cross in dense(given)[-1]:
        cross = cross.reshape(10, 2, 10, 5)
        equal = np.einsum("tctm->tmc", cross)
        np.testing.assert_allclose(equal, given.gamma0 * solution.predictions.values, atol=1e-12)


def test_two_layers_by_the_equal_time_closure():
    """T3: with one hidden layer H, G and <z h> at equal times close among themselves, with no time axis."""
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((6, 8)), rng.standard_normal(6)
    given = dmft.Problem(targets=y, inputs=x, steps=80, learning_rate=0.2, gamma0=1.7, activation="identity")
    solution = dmft.linear(given)
    kernel = x @ x.T / 8
    h, g, c = kernel.copy(), 1.0, np.zeros(6)
    e = 0.2 * 1.7 / 6
    for t in range(81):
        np.testing.assert_allclose(solution.predictions.values[t], c / 1.7, atol=1e-12)
        np.testing.assert_allclose(solution.features.values[0, t, :, t], h, atol=1e-12)
        np.testing.assert_allclose(solution.gradients.values[0, t, t], g, atol=1e-12)
        np.testing.assert_allclose(solution.ntk.values[t], g * kernel + h, atol=1e-12)
        d = y - c / 1.7
        k = kernel @ d
        h, g, c = (
            h + e * (np.outer(k, c) + np.outer(c, k)) + e**2 * g * np.outer(k, k),
            g + 2 * e * d @ c + e**2 * d @ h @ d,
            c + e * (k * g + h @ d) + e**2 * k * (d @ c),
        )


def test_one_sample_of_two_layers():
    """T2: H ends where the sheet's recursion ends, H = G, and H^2 - gamma0^2 f^2, which the flow conserves,
    stays within O(eta): half the step, half the drift."""
    drifts = []
    for rate in (0.02, 0.01):
        solution = dmft.linear(one_sample(learning_rate=rate, steps=int(7 / rate)))
        h = solution.features.values[0, :, 0, :, 0].diagonal()
        np.testing.assert_allclose(solution.gradients.values[0].diagonal(), h, atol=1e-12)
        drifts.append(np.abs(h**2 - solution.train.values[:, 0] ** 2 - 1).max())
    np.testing.assert_allclose(h[-1], 1.41254, atol=5e-6)
    assert 1.8 < drifts[0] / drifts[1] < 2.2


@pytest.mark.parametrize(
    ("depth", "gamma0", "h", "ntk"),
    [
        (2, 1.0, (1.24470, 1.80281), 5.15489),
        (2, 2.0, (1.65251, 3.42795), 9.58668),
        (3, 1.0, (1.16755, 1.53707, 2.17550), 7.94022),
    ],
)
def test_reference_values(depth, gamma0, h, ntk):
    """T4, and its symmetry: read from the other end, a linear network of one sample is the same network."""
    solution = dmft.linear(one_sample(depth=depth, gamma0=gamma0, steps=599))
    np.testing.assert_allclose(at_time(solution), h, atol=6e-6)
    np.testing.assert_allclose(solution.ntk.values[-1, 0, 0], ntk, atol=6e-6)
    features, gradients = solution.features.values[:, :, 0, :, 0], solution.gradients.values
    np.testing.assert_allclose(gradients, features[::-1], atol=1e-12)


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_small_feature_learning(depth):
    """T5: H^l = 1 + gamma0^2 f^2 l (l + 1) / (2 (L + 1)), NTK = L + 1 + gamma0^2 f^2 L (L + 2) / 3.

    The bound: finite steps change coefficients by about eta (L + 1), next orders by gamma0^2 L^2.
    """
    rate, gamma0, layer = 0.01, 0.02, np.arange(1, depth + 1)
    solution = dmft.linear(one_sample(depth=depth, gamma0=gamma0, steps=150, learning_rate=rate))
    f, bound = solution.train.values[-1, 0], rate * (depth + 1) + gamma0**2 * depth**2
    found = (at_time(solution) - 1) / (gamma0 * f) ** 2
    np.testing.assert_allclose(found, layer * (layer + 1) / (2 * (depth + 1)), rtol=bound)
    found = (solution.ntk.values[-1, 0, 0] - depth - 1) / (gamma0 * f) ** 2
    np.testing.assert_allclose(found, depth * (depth + 2) / 3, rtol=bound)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_published_perturbation_formula_leaves_out_responses(depth):
    """The authors' code has H^l = 1 + 2 l gamma0^2 f^2 / (L + 1)^2, that is 2 l (gamma0 q)^2 with q the sum
    of eta Delta and f = (L + 1) q. Dense algebra with A = B = 0 gives it; with A and B it gives
    l (l + 1) (L + 1) / 2 (gamma0 q)^2, that of T5. They agree at L = 1 alone, where A = B = 0."""
    rate, gamma0, layer = 0.02, 0.02, np.arange(1, depth + 1)
    given = one_sample(depth=depth, gamma0=gamma0, steps=30, learning_rate=rate)
    for responses, expected in ((False, 2 * layer), (True, layer * (layer + 1) * (depth + 1) / 2)):
        f, h, *_ = dense(given, responses=responses)
        push = rate * (1 - f[:-1, 0, 0]).sum()
        found = np.array([one[-1, -1] - 1 for one in h]) / (gamma0 * push) ** 2
        bound = rate * (depth + 1) + gamma0**2 * depth**2
        np.testing.assert_allclose(found, expected, rtol=bound)
        assert depth == 1 or responses or (found < 0.7 * layer * (layer + 1) * (depth + 1) / 2).all()


@pytest.mark.parametrize("depth", [2, 4])
def test_small_gamma0_joins_the_lazy_limit(depth):
    """T6: the distance to the lazy limit falls as gamma0^2 in predictions, kernels and gradients."""
    gammas = np.array([0.05, 0.1, 0.2, 0.4])
    lazy = dmft.lazy(problem(**FORMS["everything"], depth=depth))
    distances = []
    for gamma0 in gammas:
        solution = dmft.linear(problem(**FORMS["everything"], depth=depth, gamma0=gamma0))
        gradients = lazy.gradients.values[:, :, 0, :, :, 0]
        distances.append(
            [
                np.abs(solution.predictions.values - lazy.predictions.values).max(),
                np.abs(solution.features.values - lazy.features.values).max(),
                np.abs(solution.gradients.values - gradients).max(),
                np.abs(solution.ntk.values - lazy.ntk.values).max(),
            ]
        )
    slopes = np.polyfit(np.log(gammas[:3]), np.log(distances[:3]), 1)[0]
    np.testing.assert_allclose(slopes, 2.0, atol=0.1)


def test_the_lazy_limit_itself_keeps_the_axes():
    """At gamma0 = 0 the answer is lazy's, in the axes of every other gamma0."""
    for form in ("plain", "everything"):
        zero, small = (dmft.linear(problem(**FORMS[form], gamma0=gamma0)) for gamma0 in (0.0, 1e-4))
        for name in ("predictions", "features", "gradients", "ntk"):
            assert getattr(zero, name).axes == getattr(small, name).axes
            np.testing.assert_allclose(getattr(zero, name).values, getattr(small, name).values, atol=1e-6)


def test_what_comes_later_changes_nothing_before():
    """T10: two orders of batches that part at step 5 give the same numbers, to the last bit, until then."""
    batches = RNG.integers(0, 3, (9, 2))
    other = batches.copy()
    other[5:] = (other[5:] + 1) % 3
    one, two = (dmft.linear(problem(targets=TARGETS, batches=order)) for order in (batches, other))
    for name in ("predictions", "ntk"):
        np.testing.assert_array_equal(getattr(one, name).values[:6], getattr(two, name).values[:6])
        assert (getattr(one, name).values[6] != getattr(two, name).values[6]).any()
    np.testing.assert_array_equal(one.features.values[:, :6, :, :6], two.features.values[:, :6, :, :6])
    np.testing.assert_array_equal(one.gradients.values[:, :6, :, :6], two.gradients.values[:, :6, :, :6])


def test_test_points_are_only_watched():
    """They change nothing, and one that is a training point has that point's predictions and kernels."""
    with_test = dmft.linear(problem(targets=TARGETS, test_inputs=INPUTS[:2]))
    without = dmft.linear(problem(targets=TARGETS, test_inputs=None))
    np.testing.assert_allclose(with_test.train.values, without.train.values, atol=1e-13)
    np.testing.assert_allclose(with_test.test.values, without.train.values[:, :2], atol=1e-13)
    features = with_test.features.values
    np.testing.assert_allclose(features[:, :, 3:], features[:, :, :2], atol=1e-13)
    np.testing.assert_allclose(with_test.ntk.values[:, 3:], with_test.ntk.values[:, :2], atol=1e-13)
