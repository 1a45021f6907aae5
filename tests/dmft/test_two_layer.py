"""Two-layer networks in the limit, held against closed forms, each other, and real networks."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.dmft.two_layer_networks import trained
from widelimit import dmft, models
from widelimit.dmft.two_layer_noise import is_homogeneous
from widelimit.dmft.two_layer_particles import form, setting, simulate

RNG = np.random.default_rng(3)
INPUTS, TEST = RNG.standard_normal((5, 7)), RNG.standard_normal((2, 7))
CLASSES = np.eye(3)[[0, 2, 1, 0, 1]]
BATCHES = RNG.integers(0, 5, (6, 2))
SIGNS = np.array([1.0, -1.0, 1.0, 1.0, -1.0])
TWO = np.array([[1.0, 0.3], [0.3, 0.8]])


def make(**changes):
    """A small problem with two inputs."""
    given = {
        "targets": [1.0, -1.0],
        "kernel": TWO,
        "steps": 12,
        "learning_rate": 0.2,
        "gamma0": 1.5,
        "activation": "tanh",
    }
    return dmft.Problem(**given | changes)


def softly(x):
    """An activation of one's own, neither odd nor positive."""
    return jnp.sin(x) + x**2 / 4


KINDS = {
    "tanh": {"targets": SIGNS, "activation": "tanh"},
    "relu-momentum-decay": {"targets": SIGNS, "activation": "relu", "momentum": 0.8, "weight_decay": 0.1},
    "classes-batches": {
        "targets": CLASSES,
        "activation": "gelu",
        "loss": "cross_entropy",
        "batches": BATCHES,
    },
    "own-logistic-rates": {
        "targets": SIGNS,
        "activation": softly,
        "loss": "logistic",
        "learning_rate": [0.5, 0.4, 0.3, 0.2, 0.1, 0.1],
    },
    "everything": {
        "targets": RNG.standard_normal((5, 2)),
        "activation": "erf",
        "batches": BATCHES,
        "momentum": 0.5,
        "weight_decay": 0.3,
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_particles_are_the_network_of_their_number(kind):
    """S particles started where a network's S neurons start have its outputs, step by step, to rounding.

    The network is trained by automatic differentiation with the optimizer itself, so this checks the limit's
    equations with momentum, weight decay, batches, several outputs and any loss, without statistics.
    """
    given = {"inputs": INPUTS, "test_inputs": TEST, "steps": 6, "learning_rate": 0.3, "gamma0": 1.3} | KINDS[
        kind
    ]
    problem = dmft.Problem(**given)
    with jax.enable_x64(True):
        start, outputs = trained(problem, 16, jax.random.key(1))
        weights = start["Dense_0"]["kernel"], start["Dense_1"]["kernel"]
        u = problem.all_inputs @ np.asarray(weights[0]) / np.sqrt(7)
        numbers = setting(problem, np.float64)
        average = jnp.full((1, 1), 1 / 16)
        path = simulate(form(problem), numbers, jnp.asarray(u), weights[1].T, average, ntk=False)
    assert np.abs(outputs[-1]).max() > 0.05
    np.testing.assert_allclose(path.predictions, outputs, rtol=0, atol=1e-12)


def test_one_point_linear_is_the_scalar_recursion():
    """T2: for P = 1 and no activation, H, G and f close among themselves; H_inf is the sheet's 1.41254."""
    problem = dmft.Problem(
        targets=[1.0], kernel=[[1.0]], steps=600, learning_rate=0.01, activation="identity"
    )
    solution = dmft.two_layer(problem, method="closed", two_time=True)
    eta, h, g, f = 0.01, 1.0, 1.0, 0.0
    expected = [(f, h, g)]
    for _ in range(600):
        d = 1.0 - f
        h, g, f = (
            h + 2 * eta * d * f + eta**2 * d**2 * g,
            g + 2 * eta * d * f + eta**2 * d**2 * h,
            f + eta * d * (h + g) + eta**2 * d**2 * f,
        )
        expected.append((f, h, g))
    found = np.stack(
        [
            solution.train.values[:, 0],
            np.einsum("tt->t", solution.features.values[0, :, 0, :, 0]),
            np.einsum("tt->t", solution.gradients.values[0, :, 0, :, 0]),
        ],
        axis=1,
    )
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found[-1, 1] == pytest.approx(1.41254, abs=5e-6)


def test_linear_is_the_equal_time_closure():
    """T3: for no activation H, G and <z h> close for any data, and the closed method gives them."""
    problem = dmft.Problem(
        targets=SIGNS, inputs=INPUTS, steps=20, learning_rate=0.3, gamma0=2.0, activation="identity"
    )
    k, e = np.asarray(problem.kernel), 0.3 * 2.0 / 5
    h, g, c = k, 1.0, np.zeros(5)
    for t in range(20):
        d = SIGNS - c / 2.0
        v = k @ d
        before = h, g, c
        h = before[0] + e * (np.outer(v, c) + np.outer(c, v)) + e**2 * g * np.outer(v, v)
        g = before[1] + 2 * e * d @ c + e**2 * d @ before[0] @ d
        c = before[2] + e * (v * before[1] + before[0] @ d) + e**2 * v * (d @ before[2])
        if t == 0:
            continue
    solution = dmft.two_layer(problem, method="closed")
    np.testing.assert_allclose(solution.train.values[-1], c / 2.0, atol=1e-12)
    np.testing.assert_allclose(solution.ntk.values[-1], h + g * k, atol=1e-12)


@pytest.mark.parametrize("kind", ["classes-batches", "everything"])
def test_linear_agrees_with_the_deep_solver(kind):
    """Without an activation the closed method and `dmft.linear`, which has T x T matrices, are one answer."""
    given = {"inputs": INPUTS, "test_inputs": TEST, "steps": 6, "learning_rate": 0.3, "gamma0": 1.3} | KINDS[
        kind
    ]
    problem = dmft.Problem(**given | {"activation": "identity"})
    closed, deep = dmft.two_layer(problem, method="closed"), dmft.linear(problem)
    np.testing.assert_allclose(closed.predictions.values, deep.predictions.values, atol=1e-11)
    np.testing.assert_allclose(closed.ntk.values, deep.ntk.values, atol=1e-11)


def chi(solution, exact):
    """Squared deviations from exact predictions over their standard errors, averaged; t = 0 left out."""
    return np.mean(((solution.predictions.values - exact)[1:] / solution.predictions.stderr[1:]) ** 2)


@pytest.mark.parametrize(
    ("activation", "noise"),
    [("tanh", "matched"), ("tanh", "antithetic"), ("tanh", "plain"), ("relu", "matched")],
)
def test_particles_agree_with_quadrature(activation, noise):
    """Every noise scatters about the quadrature's answer as its error bars say, at all times and samples."""
    problem = make(activation=activation)
    exact = dmft.two_layer(problem, method="quadrature", nodes=40 if activation == "tanh" else 256)
    assert exact.diagnostics["quadrature_error"] < 2e-4
    found = dmft.two_layer(problem, samples=1024, replicas=32, noise=noise, seed=5)
    assert chi(found, exact.predictions.values) < 4
    z = (found.ntk.values - exact.ntk.values)[1:] / found.ntk.stderr[1:]
    assert np.mean(z**2) < 4


def test_quadrature_of_no_activation_is_exact():
    """On the sphere two directions a dimension integrate a quadratic form, so the closed answer returns."""
    problem = dmft.Problem(
        targets=[1.0, 0.5], kernel=TWO, steps=30, learning_rate=0.2, activation="identity", gamma0=2.0
    )
    closed = dmft.two_layer(problem, method="closed")
    found = dmft.two_layer(problem, method="quadrature", nodes=8)
    np.testing.assert_allclose(found.predictions.values, closed.predictions.values, atol=1e-12)
    phi = models.ACTIVATIONS["identity"]
    same = dmft.two_layer(dataclasses.replace(problem, activation=phi), method="closed")
    np.testing.assert_array_equal(same.predictions.values, closed.predictions.values)


def clipped(x):
    """The identity on [-3, 3] only."""
    return jnp.clip(x, -3.0, 3.0)


@pytest.mark.parametrize("phi", [clipped, jax.nn.relu6], ids=["clip", "relu6"])
def test_what_saturates_far_out_is_neither_linear_nor_homogeneous(phi):
    """Inputs of size 5 reach the flat parts: quadrature is the particles' answer, and closed is refused."""
    problem = dmft.Problem(
        targets=[3.0, -3.0],
        kernel=[[25.0, 5.0], [5.0, 25.0]],
        steps=6,
        learning_rate=0.02,
        gamma0=0.5,
        activation=phi,
    )
    with pytest.raises(ValueError, match='for activation="identity"'):
        dmft.two_layer(problem, method="closed")
    exact = dmft.two_layer(problem, method="quadrature", nodes=60)
    found = dmft.two_layer(problem, replicas=16, control_variate=False)
    assert exact.diagnostics["quadrature_error"] < 0.02
    away = np.abs(found.predictions.values - exact.predictions.values)
    assert (away < 4 * found.predictions.stderr + exact.diagnostics["quadrature_error"]).all()


@pytest.mark.parametrize(
    ("phi", "homogeneous"),
    [
        ("identity", True),
        ("relu", True),
        (jax.nn.leaky_relu, True),
        (jnp.abs, True),
        (lambda x: x, True),
        (jax.nn.relu6, False),
        (clipped, False),
        (jax.nn.elu, False),
        (jax.nn.softplus, False),
        ("tanh", False),
        (lambda x: jnp.where(jnp.abs(x) < 0.01, 0.0, x), False),
    ],
)
def test_homogeneity_holds_at_all_sizes_or_not_at_all(phi, homogeneous):
    """phi(c x) = c phi(x) decides whether the radius is integrated exactly: small and large x count."""
    assert is_homogeneous(make(activation=phi)) is homogeneous


def test_sheet_of_reference_networks():
    """Problem tanh-4 of the sheet at depth 1, against its networks of width 1024, within 3 joint errors."""
    x = np.random.default_rng(5).standard_normal((20, 4)).T
    problem = dmft.Problem(
        targets=[1.0, 1.0, -1.0, -1.0], inputs=x, steps=39, learning_rate=0.2, gamma0=2.0, activation="tanh"
    )
    solution = dmft.two_layer(problem)
    squared, error = 2 * solution.loss.values, 2 * solution.loss.stderr
    networks = {5: (0.633, 0.008), 10: (0.323, 0.007), 20: (0.0450, 0.0011), 39: (0.00186, 0.00007)}
    for step, (mean, sem) in networks.items():
        assert abs(squared[step] - mean) < 3 * np.hypot(sem, error[step]), step


def test_kernels_are_consistent():
    """T11: NTK = Phi + K o G at equal times, all kernels positive semi-definite, f(0) = 0 to the last bit."""
    for options in ({"samples": 256}, {"method": "quadrature", "nodes": 24}):
        solution = dmft.two_layer(make(), two_time=True, **options)
        phi, g = solution.features.values[0], solution.gradients.values[0]
        equal = np.einsum("tmtn->tmn", phi) + TWO * np.einsum("tmtn->tmn", g)
        np.testing.assert_allclose(solution.ntk.values, equal, rtol=2e-5)
        for kernel in (phi.reshape(26, 26), g.reshape(26, 26), *solution.ntk.values):
            values = np.linalg.eigvalsh(kernel)
            assert values[0] > -1e-5 * values[-1]
        assert not solution.predictions.values[0].any()


@pytest.mark.parametrize("gamma0", [0.5, 3.0])
def test_gradient_pairs_with_preactivation(gamma0):
    """T8: for ReLU <g h> = gamma0 f, for the draws kept with their weights, which rebuild f."""
    problem = make(activation="relu", gamma0=gamma0)
    solution = dmft.two_layer(problem, method="quadrature", nodes=64, fields=True)
    h, z, w = (solution.fields[name].values for name in ("h", "z", "weights"))
    paired = np.einsum("i,itm,it->tm", w, h * (h > 0), z)
    np.testing.assert_allclose(paired, gamma0 * solution.predictions.values, atol=1e-10)
    sampled = dmft.two_layer(problem, samples=512, fields=True)
    assert sampled.fields["h"].values.shape == (512, 13, 2)
    assert sampled.fields["z"].axes == ("draw", "time")


def test_a_step_changes_nothing_before_it():
    """T10: another batch at step 7 leaves predictions up to time 7 as they were, bitwise."""
    first = np.tile([[0, 1]], (12, 1))
    second = np.where(np.arange(12)[:, None] == 7, [[0, 0]], first)
    a, b = (
        dmft.two_layer(make(batches=batches), samples=256).predictions.values for batches in (first, second)
    )
    np.testing.assert_array_equal(a[:8], b[:8])
    assert (a[8:] != b[8:]).all()


def test_test_points_do_not_drive():
    """Training predictions do not know of test points, and a copy of a training point is predicted alike."""
    problem = dmft.Problem(targets=SIGNS, inputs=INPUTS, steps=8, learning_rate=0.3, activation="identity")
    watched = dataclasses.replace(problem, kernel=None, test_inputs=np.concatenate([TEST, INPUTS[:1]]))
    alone, both = (dmft.two_layer(p, method="closed") for p in (problem, watched))
    np.testing.assert_allclose(alone.train.values, both.train.values, atol=1e-12)
    np.testing.assert_allclose(both.test.values[:, 2], both.train.values[:, 0], atol=1e-12)


def test_small_gamma0_joins_the_lazy_limit():
    """T6: predictions leave the NTK's as gamma0^2; gamma0 = 0 is the NTK itself."""
    gammas = np.array([0.05, 0.1, 0.2, 0.4])
    lazy = dmft.two_layer(make(gamma0=0.0)).predictions.values
    np.testing.assert_array_equal(lazy, dmft.lazy(make()).predictions.values)
    away = [
        np.abs(dmft.two_layer(make(gamma0=g), method="quadrature", nodes=40).predictions.values - lazy).max()
        for g in gammas
    ]
    slope = np.polyfit(np.log(gammas), np.log(away), 1)[0]
    assert abs(slope - 2) < 0.05


def test_tiny_gamma0_is_not_made_of_rounding():
    """Particles, too, leave the NTK as gamma0^2 down to 1e-4, where float32 would leave 1e-4 of noise."""
    lazy = dmft.lazy(make()).predictions.values
    away = [
        np.abs(dmft.two_layer(make(gamma0=g), samples=256).predictions.values - lazy).max()
        for g in (1e-3, 1e-4)
    ]
    assert away[0] / away[1] == pytest.approx(100, rel=0.01)


def test_control_variate_helps_and_does_not_move_the_mean():
    """Near the lazy limit it takes most of the error away; both estimates are of the same predictions."""
    problem = make(gamma0=0.2)
    plain = dmft.two_layer(problem, replicas=16, control_variate=False)
    less = dmft.two_layer(problem, replicas=16)
    assert less.diagnostics["control_variate_ratio"] < 0.35
    assert np.all(less.predictions.stderr[1:].mean() < 0.4 * plain.predictions.stderr[1:].mean())
    exact = dmft.two_layer(problem, method="quadrature", nodes=48).predictions.values
    assert chi(less, exact) < 4 and chi(plain, exact) < 4


@pytest.mark.parametrize("phi", [jax.nn.leaky_relu, jnp.abs], ids=["leaky_relu", "abs"])
def test_without_a_lazy_answer_there_is_no_control_variate(phi):
    """Kinks that analytic kernels do not know: the default goes on without, says so, and is right."""
    problem = make(activation=phi, learning_rate=0.05)
    found = dmft.two_layer(problem, replicas=16)
    exact = dmft.two_layer(problem, method="quadrature", nodes=256)
    assert found.diagnostics["control_variate"] is False
    assert dmft.two_layer(make(), samples=64).diagnostics["control_variate"] is True
    assert chi(found, exact.predictions.values) < 4
    with pytest.raises(ValueError, match="control_variate=True needs"):
        dmft.two_layer(problem, control_variate=True)


def test_speed_problem_meets_its_error():
    """ReLU, P = 25, T = 200 by default: an error below 0.2% of the initial loss at every step."""
    rng = np.random.default_rng(0)
    problem = dmft.Problem(
        targets=np.sign(rng.standard_normal(25)),
        inputs=rng.standard_normal((25, 40)),
        steps=200,
        learning_rate=0.075,
        activation="relu",
    )
    solution = dmft.two_layer(problem)
    assert (solution.loss.stderr < 0.002 * solution.loss.values[0]).all()
    assert solution.features is None and solution.ntk.values.shape == (201, 25, 25)


def test_two_equal_points_are_one():
    """A duplicate makes the kernel singular and changes nothing; opposite labels there leave f = 0."""
    one = dmft.Problem(targets=[0.7], kernel=[[1.3]], steps=10, learning_rate=0.2)
    two = dataclasses.replace(one, targets=[0.7, 0.7], kernel=np.full((2, 2), 1.3))
    a, b = (dmft.two_layer(p, method="quadrature", nodes=40) for p in (one, two))
    np.testing.assert_allclose(b.predictions.values, np.repeat(a.predictions.values, 2, 1), atol=1e-12)
    torn = dmft.two_layer(dataclasses.replace(two, targets=[1.0, -1.0]), samples=256)
    np.testing.assert_allclose(torn.predictions.values, 0.0, atol=1e-5)
    np.testing.assert_allclose(torn.loss.values, 0.5, atol=1e-5)


def test_the_smallest_problem():
    """P = 1, T = 1, ReLU: with theta = eta gamma0 sqrt(K) y, gamma0 f / sqrt(K) is
    [theta^2 / 2 + theta (pi - arctan theta)] / pi, which is integrated by hand; at any gamma0.
    """
    for gamma0 in (0.5, 100.0):
        problem = dmft.Problem(
            targets=[1.0], kernel=[[2.0]], steps=1, learning_rate=1e-2, activation="relu", gamma0=gamma0
        )
        solution = dmft.two_layer(problem, method="quadrature", nodes=8192)
        theta = 1e-2 * gamma0 * np.sqrt(2.0)
        moment = (theta**2 / 2 + theta * (np.pi - np.arctan(theta))) / np.pi
        assert solution.train.values[1, 0] == pytest.approx(np.sqrt(2.0) * moment / gamma0, rel=5e-6)


@pytest.mark.parametrize(
    ("method", "options"), [("particles", {"samples": 256}), ("quadrature", {"nodes": 24})]
)
def test_divergence_is_said(method, options):
    """A learning rate beyond stability raises and names a step; a huge gamma0 with a small rate trains."""
    with pytest.raises(dmft.Diverged, match="learning_rate") as caught:
        dmft.two_layer(make(learning_rate=20.0, activation="relu", steps=200), method=method, **options)
    assert 0 < caught.value.step <= 60
    problem = make(gamma0=50.0, learning_rate=2e-3, steps=200, activation="relu")
    assert dmft.two_layer(problem, method=method, **options).loss.values[-1] < 1e-3


def test_a_solution_survives_its_file(tmp_path):
    """Everything that two_layer returns is written and read again."""
    solution = dmft.two_layer(make(targets=CLASSES[:2]), samples=64, replicas=2, fields=True)
    solution.save(tmp_path / "solution.npz")
    read = dmft.Solution.load(tmp_path / "solution.npz")
    for name in ("predictions", "loss", "ntk", "features", "gradients"):
        np.testing.assert_array_equal(getattr(read, name).values, getattr(solution, name).values)
        assert getattr(read, name).axes == getattr(solution, name).axes
    np.testing.assert_array_equal(read.fields["z"].values, solution.fields["z"].values)


def test_gamma0_zero_has_both_times():
    """Order parameters of the lazy limit are there between all pairs of times, wished for or not."""
    for two_time in (None, True):
        found = dmft.two_layer(make(gamma0=0.0), two_time=two_time)
        assert found.features.axes == ("layer", "time", "sample", "time'", "sample'")
        assert found.features.values.shape == (1, 13, 2, 13, 2)


@pytest.mark.parametrize(
    ("changes", "options", "sentence"),
    [
        ({"depth": 2}, {}, "depth 1 and no branches"),
        ({}, {"method": "exact"}, "method must be"),
        ({}, {"method": "closed"}, 'for activation="identity"'),
        ({}, {"samples": 1022}, "multiple of 4"),
        ({}, {"samples": 8}, "at least 16 samples"),
        ({}, {"noise": "quiet"}, "noise must be"),
        ({}, {"replicas": 1}, "replicas must be"),
        ({}, {"samples": 10**8}, "GiB"),
        ({}, {"method": "quadrature", "nodes": 2000}, "GiB"),
        ({"weight_decay": 0.1}, {"control_variate": True}, "weight_decay = 0"),
        ({}, {"samples": "many"}, "samples must be"),
        ({}, {"samples": 64.0}, "samples must be"),
        ({}, {"seed": -1}, "seed must be"),
        ({}, {"nodes": -4}, 'nodes is for method="quadrature"'),
        ({}, {"method": "quadrature", "nodes": -4}, "nodes must be"),
        ({}, {"method": "quadrature", "noise": "plain"}, 'noise is for method="particles"'),
        ({}, {"method": "quadrature", "control_variate": True}, 'control_variate is for method="particles"'),
        ({"activation": "identity"}, {"method": "closed", "noise": "foo"}, 'noise is for method="particles"'),
        (
            {"activation": "identity"},
            {"method": "closed", "samples": -3},
            'samples is for method="particles"',
        ),
        (
            {"activation": "identity"},
            {"method": "closed", "replicas": 0},
            'replicas is for method="particles"',
        ),
        ({"activation": "identity"}, {"method": "closed", "nodes": 8}, 'nodes is for method="quadrature"'),
        ({}, {"fields": 3}, "fields True or False"),
        ({}, {"two_time": "yes"}, "two_time is None, True or False"),
        ({"gamma0": 0.0}, {"fields": True}, "fields=True needs gamma0 > 0"),
        ({"gamma0": 0.0}, {"samples": 8}, "at least 16 samples"),
        ({"targets": np.eye(8)[:2]}, {"method": "quadrature"}, "too few"),
    ],
)
def test_bad_input_gets_one_sentence(changes, options, sentence):
    """What cannot be done is refused before it is tried, in words."""
    with pytest.raises(ValueError, match=sentence):
        dmft.two_layer(make(**changes), **options)
