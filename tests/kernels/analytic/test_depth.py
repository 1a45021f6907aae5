"""Rules of depth in the kernels: a branch's multiplier, and what depth does to SGD's rates."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels.analytic.support import THEORY, residual, samples
from widelimit import models, scaling
from widelimit.kernels import analytic

ALPHAS = {"1/2": 0.5, "1": 1.0}


@pytest.mark.parametrize("width", [scaling.mup(table=8), scaling.ntk()], ids=["mup", "ntk"])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_a_rule_of_depth_is_a_scale_and_a_rate(alpha, width):
    """Branches times m_L^-alpha and their rates times m_L^(2 alpha - 1), said by hand, m_L = 6/4."""
    settings = {"depth": 6, "branch_depth": 2, "activation": "tanh", "bias_std": 0.4}
    ruled = residual(scaling.with_depth(width, alpha), base_depth=4, branch_scale=0.8, **settings)
    plain = residual(width, branch_scale=0.8 * 1.5 ** -ALPHAS[alpha], **settings)
    rates = models.rules(plain, "sgd").learning_rate
    inside = {name for branch in plain.branches() for name in branch}
    for name in inside:
        rates[name] = {leaf: 1.5 ** (2 * ALPHAS[alpha] - 1) * rate for leaf, rate in rates[name].items()}
    x = samples(4, 3)
    found, expected = analytic.kernel(ruled, x), analytic.kernel(plain, x, rates=rates)
    np.testing.assert_allclose(found.nngp, expected.nngp, rtol=1e-12)
    np.testing.assert_allclose(found.ntk, expected.ntk, rtol=1e-12)


@pytest.mark.parametrize("base_depth", [2, 32])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_a_linear_residual_network_relative_to_a_base_depth(alpha, base_depth):
    """``Theta = K0 (1+b^2)^(L-1) (2 (1+b^2) + L r b^2)``, b = m_L^-alpha and r = m_L^(2 alpha - 1): L = 8."""
    deep = 8 / base_depth
    share, rate = deep ** (-2 * ALPHAS[alpha]), deep ** (2 * ALPHAS[alpha] - 1)
    config = residual(
        scaling.with_depth(THEORY, alpha),
        activation="identity",
        bias=False,
        depth=8,
        base_depth=base_depth,
        branch_scale=1.0,
    )
    found = analytic.kernel(config, np.ones((1, 3)), get="ntk").item()
    assert found == pytest.approx((1 + share) ** 7 * (2 * (1 + share) + 8 * rate * share), rel=1e-12)
