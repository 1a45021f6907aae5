"""Random projections: right on average, with the variance that theory gives, hence the rate -1/2."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from widelimit import models
from widelimit.compare import fit_exponent
from widelimit.kernels import empirical
from widelimit.scaling import ntk as ntk_parametrization

RATES = {"inner": 0.5, "outer": 2.0}


def apply(params, x):
    """A two-layer network with 3 outputs."""
    return jnp.tanh(x @ params["inner"]) @ params["outer"]


def network(seed, n=4):
    """Returns parameters and n inputs."""
    keys = jax.random.split(jax.random.key(seed), 3)
    params = {
        "inner": jax.random.normal(keys[0], (5, 12)) / 5**0.5,
        "outer": jax.random.normal(keys[1], (12, 3)) / 12**0.5,
    }
    return params, jax.random.normal(keys[2], (n, 5))


def gradients(params, x, rates, per):
    """Returns sqrt(rates) times the Jacobian, [N O, P] or [N, P], in float64."""
    jacobian = jax.tree.map(
        lambda j, rate: rate**0.5 * np.asarray(j, np.float64).reshape(*j.shape[:2], -1),
        jax.jacrev(apply)(params, x),
        rates,
    )
    rows = np.concatenate(jax.tree.leaves(jacobian), -1)
    return rows.reshape(-1, rows.shape[-1]) if per == "output" else rows.sum(1) / rows.shape[1] ** 0.5


def sign_variance(g):
    """Returns the variance of <a, r><b, r> for random signs r, over all pairs of rows of g."""
    square = (g**2).sum(1)
    return square[:, None] * square + (g @ g.T) ** 2 - 2 * (g**2) @ (g**2).T


@pytest.mark.parametrize("per", ["output", "sum"])
def test_sketches_are_right_on_average(per):
    """The mean over 20,000 projections is the kernel within noise, entry by entry; so is the variance."""
    params, x = network(0)
    draws, size = 5000, 4
    keys = jax.random.split(jax.random.key(1), draws)

    @jax.jit
    def estimate(key):
        s = empirical.sketch(apply, params, x, size=size, key=key, rates=RATES, per=per)
        s = s.reshape(-1, size)
        return s @ s.T

    products = np.asarray(jax.lax.map(estimate, keys, batch_size=500), np.float64)
    g = gradients(params, x, RATES, per)
    form = "full" if per == "output" else "sum"
    theta = empirical.ntk(apply, params, x, form=form, rates=RATES)
    theta = theta.transpose(0, 2, 1, 3).reshape(len(g), -1) if form == "full" else theta
    np.testing.assert_allclose(g @ g.T, theta, rtol=1e-4, atol=1e-5)
    variance = sign_variance(g) / size
    z = (products.mean(0) - g @ g.T) / np.sqrt(variance / draws)
    assert np.abs(z).max() < 4.5 and 0.5 < np.sqrt((z**2).mean()) < 1.5
    # The products are not Gaussian, but 5,000 of them give the variance to a few percent.
    np.testing.assert_allclose(products.var(0), variance, rtol=0.25)


@pytest.mark.slow
def test_the_error_of_a_sketch_falls_as_the_root_of_its_size():
    """Slope -1/2 over k = 64..4096, and the rms error is the one that the variance predicts."""
    params, x = network(2)
    g = gradients(params, x, {"inner": 1.0, "outer": 1.0}, "output")
    theta, sizes, seeds = g @ g.T, [64, 256, 1024, 4096], 64

    def errors(size):
        def sketch(key):
            return empirical.sketch(apply, params, x, size=size, key=key, chunk=64).reshape(-1, size)

        draws = jax.jit(lambda keys: jax.lax.map(sketch, keys))(jax.random.split(jax.random.key(size), seeds))
        products = [s @ s.T for s in np.asarray(draws, np.float64)]
        return [np.linalg.norm(product - theta) / np.linalg.norm(theta) for product in products]

    errors = np.array([errors(size) for size in sizes]).T
    law = fit_exponent(sizes, errors, mean="rms", paired=False)
    assert law.stderr < 0.01 and abs(law.exponent + 0.5) < 4 * law.stderr
    squares = errors**2 / (sign_variance(g).sum() / np.linalg.norm(theta) ** 2 / np.array(sizes))
    assert abs(squares.mean() - 1) < 4 * squares.std() / squares.size**0.5 < 0.1


def test_sketches_with_one_key_fit_together():
    """Inputs sketched in blocks, or in chunks of any size, have the same features."""
    params, x = network(4, 6)
    key = jax.random.key(5)
    whole = empirical.sketch(apply, params, x, size=10, key=key)
    parts = [empirical.sketch(apply, params, part, size=10, key=key, chunk=3) for part in (x[:4], x[4:])]
    assert whole.shape == (6, 3, 10)
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-5, atol=1e-6)


def test_a_sketch_never_holds_the_jacobian_or_the_projection():
    """Working memory stays far below N O P and P k: the compiled program says how much it takes."""
    n, o, width, size = 64, 10, 256, 512
    params = {"inner": jnp.zeros((64, width)), "outer": jnp.zeros((width, o))}
    x = jnp.zeros((n, 64))

    def sketch(params, x, key):
        return empirical.sketch(apply, params, x, size=size, key=key, chunk=1)

    used = jax.jit(sketch).lower(params, x, jax.random.key(0)).compile().memory_analysis().temp_size_in_bytes
    floats = sum(leaf.size for leaf in params.values())
    assert used < 4 * (n * o * size * 2 + 8 * floats)  # the result, twice, and a few vectors of parameters
    assert used < 0.1 * 4 * min(n * o * floats, 2 * floats * size)


@pytest.mark.slow
def test_hutchinson_is_exact_over_all_signs():
    """The mean over all 2^O sign vectors is the trace: checked through the form "sum" it is made of."""
    params, x = network(6)
    total = np.zeros((4, 4))
    for signs in itertools.product([-1.0, 1.0], repeat=3):
        v = jnp.asarray(signs)
        total += 3 * np.asarray(
            empirical.ntk(lambda p, x, v=v: apply(p, x) * v[None], params, x, form="sum", rates=RATES)
        )
    np.testing.assert_allclose(
        total / 8, empirical.ntk(apply, params, x, form="trace", rates=RATES), rtol=1e-5, atol=1e-5
    )


def test_hutchinson_and_its_error_bar():
    """z-scores against the trace; error bars are those of the known variance; rectangular kernels too."""
    params, x = network(7, 6)
    mean, error = empirical.ntk_hutchinson(
        apply, params, x[:4], x[4:], probes=4000, key=jax.random.key(8), rates=RATES
    )
    full = np.asarray(empirical.ntk(apply, params, x[:4], x[4:], rates=RATES), np.float64)
    z = (np.asarray(mean) - np.einsum("ijoo->ij", full)) / np.asarray(error)
    assert np.abs(z).max() < 4 and np.sqrt((z**2).mean()) > 0.2
    off = full * (1 - np.eye(3))
    variance = (off**2).sum((2, 3)) + (off * off.swapaxes(2, 3)).sum((2, 3))
    np.testing.assert_allclose(np.asarray(error) ** 2 * 4000, variance, rtol=0.15)


def test_the_error_of_hutchinson_falls_as_the_root_of_the_probes():
    """Slope -1/2 over 16..1024 probes."""
    params, x = network(9)
    exact = empirical.ntk(apply, params, x, form="trace")
    counts, seeds = [16, 128, 1024], 64

    def errors(probes):
        def one(key):
            mean, _ = empirical.ntk_hutchinson(apply, params, x, probes=probes, key=key)
            return jnp.linalg.norm(mean - exact) / jnp.linalg.norm(exact)

        return jax.jit(lambda keys: jax.lax.map(one, keys))(jax.random.split(jax.random.key(probes), seeds))

    law = fit_exponent(counts, np.array([errors(probes) for probes in counts]).T, mean="rms", paired=False)
    assert law.stderr < 0.03 and abs(law.exponent + 0.5) < 4 * law.stderr


def test_one_output_leaves_nothing_to_estimate():
    """With one output the signs cancel: exact, and the error bar is zero."""
    params, x = network(11)
    one = lambda p, x: apply(p, x)[:, :1]  # noqa: E731
    mean, error = empirical.ntk_hutchinson(one, params, x, probes=3, key=jax.random.key(12))
    np.testing.assert_allclose(mean, empirical.ntk(one, params, x, form="trace"), rtol=1e-5, atol=1e-6)
    assert float(jnp.abs(error).max()) < 1e-6


@pytest.mark.slow
def test_the_single_logit_kernel_approaches_the_trace_kernel():
    """pNTK - K_tr / O falls as width^(-1/2) at initialisation in the NTK parametrization (sheet 4.4)."""
    widths, seeds, x = [32, 64, 128, 256, 512], 16, jax.random.normal(jax.random.key(13), (8, 8))

    def gaps(width):
        config = models.MLPConfig(
            inputs=8,
            outputs=10,
            width=width,
            base_width=width,
            parametrization=ntk_parametrization(),
            activation="relu",
        )
        rules, model = models.rules(config, "sgd"), models.MLP(config)

        def f(params, x):
            return model.apply({"params": params, "multipliers": rules.multiplier}, x)

        @jax.jit
        def gap(params):
            single, trace = (empirical.ntk(f, params, x, form=form, rates=rules) for form in ("sum", "trace"))
            return jnp.linalg.norm(single - trace / 10) / jnp.linalg.norm(trace / 10)

        keys = [jax.random.key(1000 * seed + width) for seed in range(seeds)]
        return [gap(models.initialise(key, rules)) for key in keys]

    errors = np.array([gaps(width) for width in widths]).T
    law = fit_exponent(widths, errors, mean="rms", paired=False)
    assert law.stderr < 0.05 and abs(law.exponent + 0.5) < 3 * law.stderr


def test_bad_requests_meet_a_sentence():
    """No features, an unknown kind, a negative rate, one probe."""
    params, x = network(14)
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="size to be a positive whole number, got 2.5"):
        empirical.sketch(apply, params, x, size=2.5, key=key)
    with pytest.raises(ValueError, match="got 'trace'"):
        empirical.sketch(apply, params, x, size=2, key=key, per="trace")
    with pytest.raises(ValueError, match="a negative one"):
        empirical.sketch(apply, params, x, size=2, key=key, rates={"inner": -1.0, "outer": 1.0})
    with pytest.raises(ValueError, match="2 or more probes"):
        empirical.ntk_hutchinson(apply, params, x, probes=1, key=key)
