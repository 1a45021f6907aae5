"""neural-tangents' predictions through the door; its conventions differ, and each test names the map.

Its squared loss averages over outputs as well, so its time is ours times the number of outputs. Its momentum
is a second-order differential equation, the limit of our steps for small rates.
"""

from __future__ import annotations

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.kernels.dynamics.problems import probabilities
from widelimit import kernels
from widelimit.kernels.dynamics import ensemble, gp_inference, gradient_descent, gradient_flow

OUTPUTS = 3


@pytest.fixture(scope="module")
def nt():
    """The package behind the door; `make install` brings it, so its absence is a failure."""
    return kernels.neural_tangents()


@pytest.fixture(scope="module")
def points():
    """Kernels of 6 training and 4 test points, NNGP and NTK, targets and a start."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 10, 14)) / 14**0.5
    y, f, star = rng.normal(size=(6, OUTPUTS)), rng.normal(size=(6, OUTPUTS)), rng.normal(size=(4, OUTPUTS))
    return a @ a.T, b @ b.T, y, f, star


def test_gradient_flow_on_mse(nt, points):
    """gradient_descent_mse at t is ours at t / O: its loss is the mean over outputs, ours their sum."""
    _, ntk, y, f, star = points
    with jax.enable_x64(True):
        predict = nt.predict.gradient_descent_mse(jnp.asarray(ntk[:6, :6]), jnp.asarray(y))
        for time in (0.0, 1.0, 30.0, None):
            theirs = predict(time, jnp.asarray(f), jnp.asarray(star), jnp.asarray(ntk[6:, :6]))
            ours = gradient_flow(
                ntk[:6, :6],
                y,
                np.inf if time is None else time / OUTPUTS,
                initial=f,
                test=ntk[6:, :6],
                initial_test=star,
            )
            np.testing.assert_allclose(theirs[0], ours.train[0], atol=1e-10)
            np.testing.assert_allclose(theirs[1], ours.test[0], atol=1e-10)


def test_gradient_flow_on_cross_entropy(nt, points):
    """Its ODE solver, with our loss written out: same time, to its tolerance of 1.4e-8 a step."""
    _, ntk, _, f, star = points
    y = probabilities()
    with jax.enable_x64(True):

        def loss(f, y):
            return -jnp.mean(jnp.sum(y * jax.nn.log_softmax(f), axis=1))

        predict = nt.predict.gradient_descent(loss, jnp.asarray(ntk[:6, :6]), jnp.asarray(y))
        theirs = predict(jnp.array([1.0, 20.0]), jnp.asarray(f), jnp.asarray(star), jnp.asarray(ntk[6:, :6]))
    ours = gradient_flow(
        ntk[:6, :6], y, [1.0, 20.0], loss="cross_entropy", initial=f, test=ntk[6:, :6], initial_test=star
    )
    np.testing.assert_allclose(theirs[0], ours.train, atol=1e-6)
    np.testing.assert_allclose(theirs[1], ours.test, atol=1e-6)


def test_its_momentum_is_the_limit_of_our_steps(nt, points):
    """Fixed sqrt(rate) * steps and (1 - momentum) / sqrt(rate): the gap falls with sqrt(rate), slope 1."""
    _, ntk, y, f, star = points
    roots = 0.4 / 2.0 ** np.arange(4, 7)
    gaps = []
    for root in roots:
        momentum, steps = 1.0 - 0.5 * root, round(4.0 / root)
        with jax.enable_x64(True):
            predict = nt.predict.gradient_descent(
                lambda f, y: 0.5 * jnp.mean(jnp.sum((f - y) ** 2, axis=1)),
                jnp.asarray(ntk[:6, :6]),
                jnp.asarray(y),
                float(root**2),
                momentum,
            )
            theirs = predict(float(steps), jnp.asarray(f), jnp.asarray(star), jnp.asarray(ntk[6:, :6]))
        ours = gradient_descent(
            ntk[:6, :6],
            y,
            root**2,
            steps,
            momentum=momentum,
            initial=f,
            test=ntk[6:, :6],
            initial_test=star,
        )
        gaps.append(np.abs(np.asarray(theirs[1]) - ours.test[0]).max())
    slopes = np.diff(np.log2(gaps)) / np.diff(np.log2(roots))
    np.testing.assert_allclose(slopes, 1.0, atol=0.02)  # the next order is sqrt(rate) = 0.01 again


@pytest.mark.parametrize("time", [2.0, None])
def test_ensembles_and_posteriors(nt, points, time):
    """gradient_descent_mse_ensemble at t is ensemble at t / O; its NNGP prediction ends at gp_inference."""
    nngp, ntk, y, _, _ = points
    with jax.enable_x64(True):
        kernels = {"nngp": jnp.asarray(nngp), "ntk": jnp.asarray(ntk)}

        def kernel_fn(x1, x2, get, **_):
            rows = np.asarray(x1)[:, 0].astype(int)
            columns = rows if x2 is None else np.asarray(x2)[:, 0].astype(int)
            names = (get,) if isinstance(get, str) else get
            found = [kernels[name][np.ix_(rows, columns)] for name in names]
            return found[0] if isinstance(get, str) else collections.namedtuple("Kernels", names)(*found)

        index = jnp.arange(10.0)[:, None]
        predict = nt.predict.gradient_descent_mse_ensemble(kernel_fn, index[:6], jnp.asarray(y))
        theirs = predict(t=time, x_test=index[6:], get=("ntk", "nngp"), compute_cov=True)
    for found, tangent in ((theirs.ntk, ntk), (theirs.nngp, nngp)):  # "nngp" trains the readout only
        ours = ensemble(nngp, tangent, y, np.inf if time is None else time / OUTPUTS)
        np.testing.assert_allclose(found.mean, ours.mean[0, 6:], atol=1e-9)
        np.testing.assert_allclose(found.covariance, ours.covariance[0, 6:, 6:], atol=1e-9)
    if time is None:
        posterior = gp_inference(nngp, y)
        np.testing.assert_allclose(theirs.nngp.mean, posterior.mean, atol=1e-9)
        np.testing.assert_allclose(theirs.nngp.covariance, posterior.covariance, atol=1e-9)
