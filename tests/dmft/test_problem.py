"""What is solved: how weights remember, shares of batches, errors of losses, and refusals in a sentence."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from widelimit import dmft, models

RNG = np.random.default_rng(0)
INPUTS = RNG.standard_normal((4, 3))
BASE = {"targets": [1.0, -1.0, 0.5], "inputs": INPUTS[:3], "steps": 7, "learning_rate": 0.2}
RATES = np.linspace(0.3, 0.1, 7)


def problem(kind=dmft.Problem, **settings):
    """Three samples, seven steps."""
    return kind(**{**BASE, **settings})


def test_numbers_are_stored_as_such():
    """Whole floats, NumPy's numbers and arrays without axes become int and float: solvers and files take
    them."""
    given = problem(
        steps=np.float64(7.0), depth=2.0, gamma0=np.float32(0.5), momentum=0, weight_decay=np.array(0)
    )
    kept = [given.steps, given.depth, given.gamma0, given.momentum, given.weight_decay]
    assert kept == [7, 2, 0.5, 0, 0] and [type(x) for x in kept] == [int, int, float, float, float]
    shape = dmft.ProportionalProblem(nu=np.float32(1), steps=3.0, eta0=0.1, depth=np.int32(2), branch_scale=1)
    assert [type(x) for x in (shape.nu, shape.steps, shape.depth, shape.branch_scale)] == [
        float,
        int,
        int,
        float,
    ]
    assert dmft.proportional(shape).loss.values.shape == (4,)
    for wrong in ({"nu": "1"}, {"steps": np.nan}, {"g": [1.0]}, {"depth": None}):
        with pytest.raises((ValueError, TypeError), match=f"{next(iter(wrong))} must be"):
            dmft.ProportionalProblem(**{"nu": 1.0, "steps": 3, "eta0": 0.1, **wrong})


def test_targets_that_a_loss_can_take():
    """Soft labels in single precision, one-hot ones, signs of several outputs, and an own loss of vectors."""
    soft = np.asarray(jax.nn.softmax(jnp.asarray(RNG.standard_normal((3, 40)), jnp.float32)))
    for loss, targets in (
        ("cross_entropy", soft),
        ("cross_entropy", np.eye(2, dtype=int)[[0, 1, 1]]),
        ("logistic", np.array([[1, -1], [1, 1], [-1, -1]])),
        (lambda f, y: jnp.max(jnp.abs(f - y)), np.eye(3)),
    ):
        assert problem(loss=loss, targets=targets).outputs == targets.shape[1]


def test_other_things_than_problems_are_refused():
    """Solvers say what they solve."""
    for solve in (dmft.lazy, dmft.linear):
        with pytest.raises(TypeError, match=f"dmft.{solve.__name__} solves a dmft.Problem or .* got dict"):
            solve({})
    with pytest.raises(TypeError, match="solves a dmft.ProportionalProblem; got Problem"):
        dmft.proportional(problem())


@pytest.mark.parametrize("momentum", [0.0, 0.8])
@pytest.mark.parametrize("decay", [0.0, 0.7])
@pytest.mark.parametrize("rate", [0.2, RATES])
def test_memory_is_the_heavy_ball_recursion(momentum, decay, rate):
    """theta(t) = keep(t) theta(0) - sum_s drive(t, s) gradient(s) is what the recursion with a buffer gives,
    for gradients that have nothing to do with one another."""
    given = problem(momentum=momentum, weight_decay=decay, learning_rate=rate)
    keep, drive = given.memory()
    theta0, gradients = RNG.standard_normal(5), RNG.standard_normal((7, 5))
    theta, buffer = theta0.copy(), np.zeros(5)
    for t, eta in enumerate(np.broadcast_to(rate, 7)):
        np.testing.assert_allclose(keep[t] * theta0 - drive[t] @ gradients, theta, atol=1e-14)
        buffer = momentum * buffer + gradients[t]
        theta = (1 - eta * decay) * theta - eta * buffer
    np.testing.assert_allclose(keep[7] * theta0 - drive[7] @ gradients, theta, atol=1e-14)
    assert (np.triu(drive[:7]) == 0).all()


def test_memory_of_plain_descent():
    """Gradient descent forgets nothing and adds every gradient once: keep = 1, drive = eta for s < t."""
    keep, drive = problem(learning_rate=RATES).memory()
    np.testing.assert_array_equal(keep, np.ones(8))
    np.testing.assert_allclose(drive, np.tril(np.ones((8, 7)), -1) * RATES, rtol=1e-15)


def test_shares_are_counts():
    """Each training point's weight is how often it is in the batch; all points alike without batches."""
    np.testing.assert_array_equal(problem().shares(), np.full((7, 3), 1 / 3))
    batches = np.array([[0, 0], [0, 1], [2, 1]] + [[1, 1]] * 4)
    shares = problem(batches=batches).shares()
    np.testing.assert_array_equal(shares[:4], [[1, 0, 0], [0.5, 0.5, 0], [0, 0.5, 0.5], [0, 1, 0]])
    np.testing.assert_allclose(shares.sum(1), 1)


def own(f, y):
    """A loss of one's own, of scalars."""
    return jnp.log(jnp.cosh(f - y))


@pytest.mark.parametrize(
    ("loss", "targets", "expected"),
    [
        ("mse", [1.0, -1.0, 0.5], lambda f, y: y - f),
        ("mse", RNG.standard_normal((3, 2)), lambda f, y: y - f),
        ("logistic", [1.0, -1.0, 1.0], lambda f, y: y / (1 + np.exp(y * f))),
        ("cross_entropy", np.eye(3), lambda f, y: y - np.exp(f) / np.exp(f).sum(1, keepdims=True)),
        (own, [1.0, -1.0, 0.5], lambda f, y: -np.tanh(f - y)),
    ],
)
def test_errors_are_minus_the_derivative(loss, targets, expected):
    """Delta = -d loss / d f, by formula, in float64 and under jit; losses at their minimum have none."""
    given = problem(loss=loss, targets=targets)
    y = np.asarray(given.targets).reshape(3, given.outputs)
    f = RNG.standard_normal(y.shape)
    with jax.enable_x64(True):
        found = jax.jit(given.errors)(jnp.asarray(f))
        assert found.dtype == np.float64
        step = 1e-6 * RNG.standard_normal(y.shape)
        values = [np.asarray(given.losses(jnp.asarray(f + sign * step))) for sign in (1, -1)]
    np.testing.assert_allclose(found, expected(f, y), atol=1e-12)
    np.testing.assert_allclose(
        values[0] - values[1], -2 * (np.asarray(found) * step).sum(1), rtol=1e-5, atol=1e-14
    )


def test_a_kernel_stands_for_inputs():
    """Inputs made from a kernel have that kernel, singular ones too; test points come last."""
    kernel = INPUTS @ INPUTS.T / 3  # rank 3, four points
    given = problem(inputs=None, kernel=kernel)
    x = given.all_inputs
    np.testing.assert_allclose(x @ x.T / x.shape[1], kernel, atol=1e-12)
    assert (given.samples, given.points, given.outputs) == (3, 4, 1)
    with_inputs = problem(test_inputs=INPUTS[3:])
    np.testing.assert_allclose(with_inputs.kernel, kernel, atol=1e-15)
    np.testing.assert_array_equal(with_inputs.all_inputs, INPUTS)


@pytest.mark.parametrize("kind", [dmft.Problem, dmft.ResidualProblem])
def test_the_network_has_the_limit_s_numbers(kind):
    """The problem's network learns at gamma0^2 N in every layer, with multipliers 1/sqrt(fan-in) and
    1/(gamma0 N); a residual one scales its branches by b L^-alpha and their rates by L^(2 alpha - 1)."""
    settings = {"branch_scale": 1.5, "branch_exponent": 0.75} if kind is dmft.ResidualProblem else {}
    given = problem(kind, gamma0=0.5, depth=4, targets=np.eye(3), **settings)
    config = given.network(64)
    rules = models.rules(config, "sgd")
    assert (config.depth, config.outputs, config.inputs, config.bias) == (4, 3, 3, False)
    for name, rate in rules.learning_rate.items():
        first, last = name == "Dense_0", name == list(config.layers())[-1]
        inside = bool(settings) and not (first or last)
        np.testing.assert_allclose(rate["kernel"], 0.25 * 64 * (2.0 if inside else 1.0))
        multiplier = 3**-0.5 if first else 1 / 32 if last else 64**-0.5 * (4**-0.75 if inside else 1.0)
        np.testing.assert_allclose(
            rules.multiplier[name]["kernel"] * rules.init_std[name]["kernel"], multiplier
        )
    if settings:
        assert (config.branch_scale, given.branch_rate) == (1.5, 2.0)


def test_a_problem_can_be_changed():
    """dataclasses.replace makes a problem with another number, inputs or kernel kept."""
    for given in (problem(test_inputs=INPUTS[3:]), problem(inputs=None, kernel=np.eye(3))):
        changed = dataclasses.replace(given, gamma0=3.0)
        assert changed.gamma0 == 3.0
        np.testing.assert_array_equal(changed.kernel, given.kernel)
    given = problem(test_inputs=INPUTS[3:])
    with pytest.raises(ValueError, match="with dataclasses.replace, new inputs need kernel=None"):
        dataclasses.replace(given, inputs=INPUTS[:3] + 1)
    changed = dataclasses.replace(given, inputs=INPUTS[:3] + 1, kernel=None)
    np.testing.assert_allclose(changed.kernel[:3, :3], (INPUTS[:3] + 1) @ (INPUTS[:3] + 1).T / 3)
    assert dataclasses.replace(given, kernel=np.eye(4), inputs=None, test_inputs=None).points == 4


WRONG = [
    ({"targets": []}, "targets must have shape"),
    ({"targets": np.zeros((3, 1, 1))}, "targets must have shape"),
    ({"targets": [1.0, np.nan, 0.0]}, "targets"),
    ({"targets": ["a", "b", "c"]}, "targets"),
    ({"steps": 0}, "steps must be a whole number, 1 or more; got 0"),
    ({"steps": 2.5}, "steps must be a whole number"),
    ({"depth": 0}, "depth must be a whole number"),
    ({"activation": "swishy"}, "activation must be a function or one of"),
    ({"loss": "hinge"}, "loss must be a function or one of"),
    ({"loss": 3}, "loss must be a function or the name of one"),
    ({"gamma0": -1.0}, "gamma0 must be a finite number, 0 .lazy. or more; got -1.0"),
    ({"gamma0": np.inf}, "gamma0 must be a finite number"),
    ({"momentum": 1.0}, "momentum must lie in .0, 1.; got 1.0"),
    ({"learning_rate": 0.0}, "learning_rate must be positive"),
    ({"learning_rate": [0.1, 0.2]}, "one for each of 7 steps"),
    ({"weight_decay": -0.1}, "weight_decay must be 0 or more"),
    ({"weight_decay": 5.0}, "learning_rate . weight_decay below 1"),
    ({"inputs": None}, "Give either inputs"),
    ({"kernel": np.eye(3)}, "Give either inputs"),
    ({"inputs": INPUTS}, r"inputs must have shape \[3, D\]; got \(4, 3\)"),
    ({"test_inputs": np.zeros((2, 5))}, r"test_inputs must have shape \[M, 3\]"),
    ({"inputs": None, "kernel": np.eye(2)}, r"kernel must have shape \[P . M, P . M\] with P = 3"),
    ({"inputs": None, "kernel": [[1, 0.5, 0], [0, 1, 0], [0, 0, 1]]}, "kernel must be symmetric"),
    ({"inputs": None, "kernel": np.diag([1.0, -1.0, 1.0])}, "kernel"),
    ({"inputs": None, "kernel": np.eye(4), "test_inputs": INPUTS}, "test_inputs go with inputs"),
    ({"batches": np.zeros((6, 2), int)}, r"batches must be whole numbers from 0 to 2, shape \[7, B\]"),
    ({"batches": np.full((7, 2), 3)}, "batches must be whole numbers"),
    ({"batches": np.zeros((7, 2))}, "batches must be whole numbers"),
    ({"steps": np.inf}, "steps must be a whole number, 1 or more; got inf"),
    ({"steps": np.nan}, "steps must be a whole number, 1 or more; got nan"),
    ({"steps": "3"}, "steps must be one real number; got '3'"),
    ({"depth": True}, "depth must be one real number; got True"),
    ({"gamma0": "1"}, "gamma0 must be one real number; got '1'"),
    ({"gamma0": np.ones(2)}, r"gamma0 must be one real number; got an array of shape \(2,\)"),
    ({"gamma0": 1j}, "gamma0 must be one real number"),
    ({"momentum": None}, "momentum must be one real number; got None"),
    ({"momentum": np.nan}, "momentum must lie in"),
    ({"weight_decay": [0.1]}, "weight_decay must be one real number; got an array"),
    ({"kind": dmft.ResidualProblem, "branch_scale": "1"}, "branch_scale must be one real number"),
    ({"loss": "logistic"}, "takes targets -1 and 1; got 0.5: labels y of 0 and 1 become 2 y - 1"),
    ({"loss": "logistic", "targets": [1.0, 0.0, 1.0]}, "takes targets -1 and 1; got 0"),
    ({"loss": "cross_entropy"}, r"shape \[P, C\], probabilities of C >= 2 classes; got shape \(3,\)"),
    ({"loss": "cross_entropy", "targets": np.ones((3, 1))}, r"C >= 2 classes; got shape \(3, 1\)"),
    ({"loss": "cross_entropy", "targets": [[0, 1], [1, 1], [1, 0]]}, "row 1 sums to 2"),
    ({"loss": "cross_entropy", "targets": [[0, 1], [1, 0], [2, -1]]}, "row 2 sums to 1 and its least is -1"),
    (
        {"loss": lambda f, y: f - y, "targets": np.eye(3)},
        r"give one real number .* \[3\]; got shape \[3\] of",
    ),
    ({"loss": lambda f, y: (f > y).sum()}, r"give one real number .*; got shape \[\] of int"),
    ({"loss": lambda f, y: (f, y)}, r"give one real number .*; got tuple"),
    ({"loss": lambda f, y: jnp.sum(f[0])}, "loss must be a function of one sample's .* it raised"),
    ({"loss": lambda f: f**2}, "that JAX can differentiate; it raised TypeError"),
    ({"loss": lambda f, y: math.hypot(f, y)}, "that JAX can differentiate; it raised"),
]


@pytest.mark.parametrize(
    ("settings", "sentence"), WRONG, ids=[f"{list(s)}-{i}" for i, (s, _) in enumerate(WRONG)]
)
def test_wrong_problems_are_refused(settings, sentence):
    """Each says in one sentence what was expected and what came."""
    with pytest.raises((ValueError, TypeError), match=sentence):
        problem(**settings)


@pytest.mark.parametrize(
    "settings", [{"branch_scale": 0.0}, {"branch_exponent": 0.4}, {"branch_exponent": 1.1}]
)
def test_wrong_branches_are_refused(settings):
    """Branches have a positive scale and an exponent with a limit of depth."""
    with pytest.raises(ValueError, match="branch_scale must be positive and branch_exponent lie in"):
        problem(dmft.ResidualProblem, **settings)
