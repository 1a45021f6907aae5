"""Leading 1/N bias and variance of two-layer networks: closed forms, other methods, and real networks."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from widelimit import compare, dmft
from widelimit.dmft.fluctuations import has_kink

PARTS = ("bias", "variance", "ntk_bias", "ntk_variance")
TWO = np.array([[1.0, 0.3], [0.3, 0.8]])


def one_point(gamma0, steps, learning_rate, **changes):
    """One training point, K = y = 1, no activation."""
    given = {"targets": [1.0], "kernel": [[1.0]], "activation": "identity"}
    return dmft.Problem(**given | changes, gamma0=gamma0, steps=steps, learning_rate=learning_rate)


def two_points(**changes):
    """Two training points and one test point."""
    kernel = np.array([[1.0, 0.3, 0.5], [0.3, 0.8, -0.2], [0.5, -0.2, 0.9]])
    kernel = kernel[:, :2] @ np.linalg.inv(TWO) @ kernel[:2]  # rank 2, for quadrature
    given = {
        "targets": [1.0, -1.0],
        "kernel": (kernel + kernel.T) / 2,
        "steps": 10,
        "learning_rate": 0.3,
        "gamma0": 1.5,
    }
    return dmft.Problem(**given | changes)


def scalars(start, gamma0, eta, steps, centred):
    """Final (f, NTK) of a one-point linear network of any width from its (H, G, <w h>) at the start."""
    h, g, c = start
    first = c / gamma0 if centred else 0.0
    for _ in range(steps):
        d = 1.0 - (c / gamma0 - first)
        e = eta * gamma0 * d
        h, g, c = h + 2 * e * c + e**2 * g, g + 2 * e * c + e**2 * h, c + e * (h + g) + e**2 * c
    return np.array([c / gamma0 - first, h + g])


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("gamma0", [0.5, 1.0])
def test_one_linear_point_is_a_function_of_three_averages(gamma0, centred):
    """At any width (H, G, <w h>) close, so the moments are the delta method's on three numbers: to 1e-6.

    H and G average N squares (mean 1, N Var 2), <w h> N products (mean 0, N Var 1), uncorrelated.
    """
    steps, eta, spread = 30, 0.05, np.array([2.0, 2.0, 1.0])
    found = dmft.finite_width(one_point(gamma0, steps, eta), method="quadrature", centred=centred)
    start, step = np.array([1.0, 1.0, 0.0]), 1e-4
    at = [scalars(start, gamma0, eta, steps, centred)]
    up, down = (
        np.stack([scalars(start + sign * step * unit, gamma0, eta, steps, centred) for unit in np.eye(3)])
        for sign in (1, -1)
    )
    variance = spread @ ((up - down) / (2 * step)) ** 2
    bias = spread @ ((up + down - 2 * at[0]) / step**2) / 2
    values = (found.variance.values[-1, 0], found.ntk_variance.values[0, 0])
    shifts = (found.bias.values[-1, 0], found.ntk_bias.values[0, 0])
    np.testing.assert_allclose(values, variance, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(shifts, bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gamma0", [0.5, 1.0])
def test_final_kernel_of_the_flow(gamma0):
    """T17: N Var = 4 / s^2 and N bias = -1 / s^3 for s^2 = 1 + gamma0^2 y^2, from two rates extrapolated."""
    s = np.sqrt(1 + gamma0**2)
    coarse, fine = (
        dmft.finite_width(one_point(gamma0, steps, 4 / steps), method="quadrature", centred=False)
        for steps in (80, 160)
    )
    variance = 2 * fine.ntk_variance.values - coarse.ntk_variance.values
    bias = 2 * fine.ntk_bias.values - coarse.ntk_bias.values
    assert variance[0, 0] == pytest.approx(4 / s**2, rel=3e-3)
    assert bias[0, 0] == pytest.approx(-1 / s**3, rel=1e-2)


def test_lazy_limit():
    """T18: N Var f = 4 (eta t)^2 (1 - 2 eta)^(2 t - 2), plus (1 - 2 eta)^(2 t) / gamma0^2 uncentred."""
    t, eta, gamma0 = np.arange(21), 0.05, 1e-3
    problem = one_point(gamma0, 20, eta)
    lazy = 4 * (eta * t) ** 2 * (1 - 2 * eta) ** (2 * t - 2.0)
    centred = dmft.finite_width(problem, method="quadrature")
    np.testing.assert_allclose(centred.variance.values[:, 0], lazy, atol=1e-6)
    raw = dmft.finite_width(problem, method="quadrature", centred=False)
    np.testing.assert_allclose(raw.variance.values[:, 0] * gamma0**2, (1 - 2 * eta) ** (2.0 * t), rtol=1e-5)


@pytest.mark.slow
def test_particles_agree_with_quadrature():
    """The propagator over particles scatters about that over nodes as error bars say; t = 0 is fixed."""
    problem = two_points(steps=6, gamma0=1.0)
    exact = dmft.finite_width(problem, method="quadrature", nodes=24)
    assert exact.diagnostics["quadrature_error"] < 0.06  # of 17 nodes from 24
    found = dmft.finite_width(problem, samples=1024, replicas=16)
    assert not exact.variance.values[0].any() and not exact.bias.values[0].any()
    for name in PARTS:
        value, error = getattr(found, name).values, getattr(found, name).stderr
        z = (value - getattr(exact, name).values)[error > 0] / error[error > 0]
        assert np.mean(z**2) < 4, name
        assert np.abs(error).max() < 0.15 * np.abs(value).max(), name


def agree(found, networks):
    """Whether moments agree within joint errors, on average over times and samples."""
    for name in PARTS:
        a, b = getattr(found, name), getattr(networks, name)
        error = np.hypot(b.stderr, 0 if a.stderr is None else a.stderr)
        z = (a.values - b.values)[error > 0] / error[error > 0]
        assert np.mean(z**2) < 4, name


@pytest.mark.slow
@pytest.mark.parametrize("centred", [True, False])
def test_trained_networks_have_these_moments(centred):
    """Networks of widths 32 and 64, extrapolated, have the propagator's moments without derivatives."""
    problem = two_points()
    found = dmft.finite_width(problem, samples=1024, centred=centred)
    networks = dmft.finite_width(problem, method="networks", networks=8192, centred=centred)
    agree(found, networks)
    assert networks.variance.stderr.max() < 0.05 * networks.variance.values.max()
    assert networks.bias.stderr.max() < 0.3 * np.abs(found.bias.values).max()


@pytest.mark.slow
def test_every_kind_of_training_has_these_moments():
    """Classes by cross-entropy, momentum, decay, batches: propagator and networks agree."""
    problem = dmft.Problem(
        targets=np.eye(2)[[0, 1, 1]],
        inputs=np.random.default_rng(1).standard_normal((3, 6)),
        steps=8,
        learning_rate=0.3,
        activation="gelu",
        loss="cross_entropy",
        momentum=0.5,
        weight_decay=0.1,
        batches=np.arange(16).reshape(8, 2) % 3,
    )
    found = dmft.finite_width(problem)
    agree(found, dmft.finite_width(problem, method="networks", networks=8192))


@pytest.mark.slow
def test_real_ensembles_scale_so():
    """T19 on `compare.finite_ensemble`, real networks and optimizer: N Var is constant over widths and ours.

    At widths 32 and 64 the O(1/N) rest of N Var is within its error of 2048 networks (3% each).
    """
    problem = two_points(kernel=TWO)
    found = dmft.finite_width(problem, method="quadrature", nodes=20)
    ensembles = compare.finite_ensemble(problem, widths=(32, 64), seeds=2048, measures=())
    scaled = np.stack([n * ensembles.members[n].predictions.var(0, ddof=1)[1:] for n in (32, 64)])
    np.testing.assert_allclose(scaled[0], scaled[1], rtol=0.2)
    ratio = scaled / found.variance.values[1:]
    assert np.abs(np.log(ratio.mean((1, 2)))).max() < 0.1


@pytest.mark.slow
def test_mean_of_real_ensembles_leaves_as_one_over_width():
    """T19: the mean's distance from the limit has slope -1 in N, and this bias in front."""
    problem = two_points(kernel=TWO)
    limit = dmft.two_layer(problem, method="quadrature").predictions.values
    bias = dmft.finite_width(problem, method="quadrature", nodes=20).bias.values
    widths = np.array([8, 16, 32])
    ensembles = compare.finite_ensemble(problem, widths=widths.tolist(), seeds=40_000, measures=())
    direction = bias / np.sum(bias**2)
    away = np.array([np.sum((ensembles.members[n].predictions.mean(0) - limit) * direction) for n in widths])
    spread = [np.sum(ensembles.members[n].predictions * direction, axis=(1, 2)).std() for n in widths]
    error = np.asarray(spread) / 200
    fit = np.polyfit(1 / widths, away * widths, 1, w=1 / (error * widths), cov="unscaled")
    assert abs(fit[0][1] - 1) < 3 * np.sqrt(fit[1][1, 1]), (fit, away * widths, error * widths)
    assert np.sqrt(fit[1][1, 1]) < 0.3
    slope = np.polyfit(np.log(widths), np.log(np.abs(away)), 1)[0]
    assert abs(slope + 1) < 0.3


def test_kinks_are_left_to_networks():
    """ReLU's second derivative sits at 0: derivatives are refused, networks have moments."""
    problem = two_points(targets=[1.0], kernel=[[1.0]], activation="relu", steps=3)
    with pytest.raises(ValueError, match="kink"):
        dmft.finite_width(problem)
    found = dmft.finite_width(problem, method="networks", networks=256, widths=(16, 32))
    assert (found.variance.values[1:] > 0).all() and found.diagnostics["widths"] == [16, 32]
    kinks = {"relu": True, "softplus": False, "gelu": False, "erf": False, "silu": False, jnp.abs: True}
    for activation, kink in (kinks | {lambda x: jnp.maximum(x - 0.7, 0.1 * x): True}).items():
        assert has_kink(dataclasses.replace(problem, activation=activation)) is kink


def test_networks_know_kinks_that_kernels_do_not():
    """ReLU written by hand, whose kernel has no closed form, is ReLU: spread to rounding, means by errors."""
    named, written = (
        dmft.finite_width(
            two_points(activation=phi, steps=4), method="networks", networks=256, widths=(16, 32)
        )
        for phi in ("relu", lambda x: jnp.maximum(x, 0.0))
    )
    np.testing.assert_allclose(written.variance.values, named.variance.values, rtol=1e-4, atol=1e-7)
    for part in ("bias", "ntk_bias"):
        one, two = getattr(named, part), getattr(written, part)
        away = np.abs(one.values - two.values)
        assert (away <= 4 * np.hypot(one.stderr, two.stderr) + 1e-9).all()


@pytest.mark.parametrize(
    ("changes", "options", "sentence"),
    [
        ({"depth": 2}, {}, "depth 1"),
        ({"gamma0": 0.0}, {}, "gamma0 > 0"),
        ({}, {"method": "guess"}, "method must be"),
        ({}, {"samples": 67}, "multiple of 2"),
        ({}, {"replicas": 1}, "replicas must be"),
        ({}, {"method": "quadrature", "nodes": 2}, "nodes must be"),
        ({"steps": 5000}, {}, "fewer steps"),
        ({}, {"method": "networks", "widths": (32,)}, "widths must be"),
        ({}, {"method": "networks", "networks": 3}, "networks must be"),
        ({}, {"method": "networks", "networks": 10**7}, "GiB"),
    ],
)
def test_bad_input_gets_one_sentence(changes, options, sentence):
    """What cannot be done is refused before it is tried, in words."""
    with pytest.raises(ValueError, match=sentence):
        dmft.finite_width(two_points(**changes), **options)


def test_a_limit_that_diverges_has_no_corrections():
    """Said with the step, by the same bounds as the limit itself."""
    problem = dmft.Problem(
        targets=[1.0, -1.0], kernel=np.eye(2), steps=5, learning_rate=1e4, activation="tanh"
    )
    with pytest.raises(dmft.Diverged) as limit:
        dmft.two_layer(problem, samples=100, replicas=2)
    with pytest.raises(dmft.Diverged) as corrections:
        dmft.finite_width(problem, samples=100, replicas=2)
    assert corrections.value.step == limit.value.step
