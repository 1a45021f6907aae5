"""Networks and an independent reference that the tests of analytic kernels share."""

from __future__ import annotations

import numpy as np

from widelimit import models, scaling

PARAMETRIZATIONS = {
    "standard": scaling.standard(),
    "ntk": scaling.ntk(),
    "mean_field": scaling.mean_field(gamma0=2.0),
    "mup 3": scaling.mup(table=3),
    "mup 8": scaling.mup(table=8),
    "mup 9": scaling.mup(table=9),
    "dmft": scaling.dmft(),
}

# Every weight ~ N(0, 1) behind 1/sqrt(fan_in), at every width: the parametrization of the kernel papers.
THEORY = scaling.ntk(unit_variance=True)


def mlp(parametrization=THEORY, **changes):
    """A small MLP."""
    fields = {"inputs": 3, "outputs": 2, "width": 64, "base_width": 16, "activation": "relu"}
    return models.MLPConfig(parametrization=parametrization, **{**fields, **changes})


def conv(parametrization=THEORY, **changes):
    """A small convolutional network."""
    fields = {"inputs": 2, "outputs": 2, "width": 64, "base_width": 16, "stride": 2}
    return models.ConvConfig(parametrization=parametrization, **{**fields, **changes})


def residual(parametrization=THEORY, **changes):
    """A small residual network."""
    fields = {"inputs": 3, "outputs": 2, "width": 64, "base_width": 16, "depth": 3, "branch_scale": 0.6}
    return models.ResidualMLPConfig(parametrization=parametrization, **{**fields, **changes})


def samples(*shape, seed=0):
    """Gaussian inputs."""
    return np.random.default_rng(seed).normal(size=shape)


def arc_cosine(covariance):
    """Kernels of relu and of its derivative from a covariance matrix, Cho & Saul (2009), orders 1 and 0."""
    norm = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    angle = np.arccos(np.clip(covariance / norm, -1, 1))
    np.fill_diagonal(angle, 0.0)
    value = norm * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)
    return value, (np.pi - angle) / (2 * np.pi)


def arcsine(covariance):
    """Kernels of erf and of its derivative, Williams (1997)."""
    one = 1 + 2 * np.diag(covariance)
    share = 2 * covariance / np.sqrt(np.outer(one, one))
    slope = 4 / np.pi / np.sqrt(np.outer(one, one) - 4 * covariance**2)
    return 2 / np.pi * np.arcsin(share), slope


def recursion(config, x, dual):
    """NNGP and NTK of an MLP, layer by layer, from the numbers of the finite network."""
    rules = models.rules(config, "sgd")
    value, ntk, width = x @ x.T / config.inputs, 0.0, config.inputs
    for index in range(config.depth + 1):
        name = f"Dense_{index}"
        m, s, rate = rules.multiplier[name], rules.init_std[name], rules.learning_rate[name]
        if index:
            value, slope = dual(value)
            ntk = ntk * slope
        gain = m["kernel"] ** 2 * width
        ntk = ntk * gain * s["kernel"] ** 2 + rate["kernel"] * gain * value
        value = gain * s["kernel"] ** 2 * value
        if config.bias:
            ntk = ntk + rate["bias"] * m["bias"] ** 2
            value = value + m["bias"] ** 2 * s["bias"] ** 2
        width = config.width
    return value, ntk
