"""Leaving out the responses (gradient independence, A = B = 0): what is right of it, by which rule for f."""

from __future__ import annotations

import numpy as np
import pytest

from widelimit import dmft

GAMMA0 = 0.05  # features add of order gamma0^2 = 0.0025 to the lazy loss
FEATURES = 0.3 * GAMMA0**2  # room for them: the loss starts at 0.5 and all of training is to be lazy


@pytest.fixture(scope="module", params=[2, 3])
def problem(request):
    """Two labels that contradict their similarity, nearly lazy."""
    return dmft.Problem(
        targets=[1.0, -1.0],
        kernel=[[1.0, 0.3], [0.3, 1.0]],
        steps=8,
        learning_rate=0.3,
        depth=request.param,
        gamma0=GAMMA0,
        activation="tanh",
    )


def without_responses(problem, rule):
    """Solved with A = B = 0."""
    return dmft.mlp(problem, samples=400, replicas=4, response="none", output_rule=rule)


def kernel_descent(theta, problem):
    """Loss of full-batch gradient descent on a fixed kernel, before and after every step."""
    targets = np.asarray(problem.targets)
    f, losses = np.zeros(len(targets)), []
    for _ in range(problem.steps + 1):
        losses.append(np.mean((f - targets) ** 2) / 2)
        f = f + float(problem.learning_rate) / len(targets) * theta @ (targets - f)
    return np.array(losses)


def last_layers(problem):
    """Of the tangent kernel, the readout's and the last hidden layer's part: Phi^L + G^L Phi^{L-1}."""
    lazy = dmft.lazy(problem)
    features, gradients = (kernel.values[:, 0, :, 0] for kernel in (lazy.features, lazy.gradients))
    return features[-1] + gradients[-1] * features[-2]


def test_with_the_kernels_own_dynamics_it_has_the_right_lazy_limit(problem):
    """``f(t+1) = f(t) + NTK Delta`` needs no responses where features do not move."""
    found, lazy = without_responses(problem, "ntk_euler"), dmft.lazy(problem)
    assert (np.abs(found.loss.values - lazy.loss.values) < FEATURES + 4 * found.loss.stderr).all()


def test_with_the_readouts_rule_even_its_lazy_limit_is_wrong(problem):
    """What lower layers learn reaches ``<z phi> / gamma0`` through A alone; the last two layers remain."""
    found, lazy = without_responses(problem, "exact"), dmft.lazy(problem)
    expected = kernel_descent(last_layers(problem), problem)
    assert (np.abs(found.loss.values - expected) < FEATURES + 4 * found.loss.stderr).all()
    missed = np.abs(found.loss.values - lazy.loss.values)
    assert missed.max() > 20 * (FEATURES + found.loss.stderr.max())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("response", "rule", "expected"),
    [
        ("stein", "exact", (0.602, 0.197, 0.0081)),
        ("none", "ntk_euler", (0.656, 0.297, 0.0185)),
        ("none", "exact", (0.797, 0.417, 0.0260)),
    ],
)
def test_in_the_rich_regime_it_errs_with_either_rule(response, rule, expected):
    """The sheet's tanh-4, L = 3, gamma0 = 2: mean squared error after 5, 10, 20 steps, as on the page."""
    problem = dmft.Problem(
        targets=[1.0, 1.0, -1.0, -1.0],
        inputs=np.random.default_rng(5).standard_normal((20, 4)).T,
        steps=20,
        learning_rate=0.2,
        depth=3,
        gamma0=2.0,
    )
    found = dmft.mlp(problem, samples=4000, replicas=8, response=response, output_rule=rule)
    values, error = (2 * part[[5, 10, 20]] for part in (found.loss.values, found.loss.stderr))
    assert (np.abs(values - expected) < 0.02 * np.array(expected) + 4 * error).all()
