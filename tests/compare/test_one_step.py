"""The best learning rate of one step on a deep linear network: exact at finite width, and its limit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from widelimit.compare import LinearProblem, LinearWeights, best_rate, limiting_rate, loss_polynomial
from widelimit.compare.one_step import _leaves
from widelimit.optim import sgd
from widelimit.scaling import make_rules, mean_field, mup, ntk, standard


def problem(trained=("input", "hidden", "output"), base_width=16, layers=2):
    generator = np.random.default_rng(7)
    inputs = generator.normal(size=(20, 5))
    targets = inputs @ generator.normal(size=5) + 0.3 * generator.normal(size=20)
    return LinearProblem(inputs, targets, layers, base_width, trained)


def draw(task, width, seed):
    return LinearWeights.draw(task, width, np.random.default_rng(seed))


def best_rates(parametrization, width, seeds, **options):
    task = problem(**options)
    return np.array(
        [best_rate(loss_polynomial(task, parametrization, draw(task, width, s))) for s in range(seeds)]
    )


@pytest.mark.parametrize("parametrization", [standard(), ntk(), mup(table=8), mean_field()])
@pytest.mark.parametrize("eta", [0.003, 0.1])
def test_polynomial_is_the_loss_after_a_real_step(parametrization, eta):
    """The same weights, one step of our sgd, the loss by autodiff: an independent route to the polynomial."""
    task, width = problem(), 32
    leaves = _leaves(task, width)
    del leaves["hidden"]
    leaves |= {f"hidden{layer}": _leaves(task, width)["hidden"] for layer in range(task.hidden_layers)}
    leaves = {name: dataclasses.replace(leaf, path=name) for name, leaf in leaves.items()}
    rules = make_rules(leaves, parametrization, "sgd")
    generator = np.random.default_rng(3)
    with jax.enable_x64(True):
        params = {}
        for name, shape in [("input", (width, 5)), *[(f"hidden{i}", (width, width)) for i in range(2)]]:
            params[name] = jnp.asarray(generator.normal(size=shape).T * rules.init_std[name])
        params["output"] = jnp.asarray(generator.normal(size=(width, 1)) * rules.init_std["output"])

        def loss(params):
            h = jnp.asarray(task.inputs)
            for name in ("input", "hidden0", "hidden1", "output"):
                h = h @ params[name] * rules.multiplier[name]
            return jnp.mean((h[:, 0] - jnp.asarray(task.targets)) ** 2) / 2

        optimizer = sgd(eta, rules)
        updates, _ = optimizer.update(jax.grad(loss)(params), optimizer.init(params), params)
        after = float(loss(jax.tree.map(jnp.add, params, updates)))
    polynomial = loss_polynomial(task, parametrization, draw(task, width, 3))
    assert np.polynomial.polynomial.polyval(eta, polynomial) == pytest.approx(after, rel=1e-9)


@pytest.mark.parametrize("trained", [("hidden",), ("input", "hidden", "output")])
def test_mup_optimum_converges_to_the_derived_constant_at_rate_one_half(trained):
    """Mean within 4 standard errors of the limit at the largest width; the spread falls as n^-1/2."""
    widths, seeds = np.array([64, 128, 256, 512]), 40
    limit = limiting_rate(problem(trained), mup())
    ratios = np.stack([best_rates(mup(), width, seeds, trained=trained) for width in widths]) / limit
    largest = ratios[-1]
    # The mean is biased by O(1/n); at n = 512 that is at most a few times 1/512 beside the standard error.
    assert abs(largest.mean() - 1) < 4 * largest.std(ddof=1) / np.sqrt(seeds) + 8 / 512
    spread = np.log2(ratios[1:].std(axis=1, ddof=1))
    slope = np.polyfit(np.log2(widths[1:]), spread, 1)[0]
    # log2 of a sample std has standard error 1/(ln 2 sqrt(2 (seeds - 1))); over three octave points the
    # slope's is that / sqrt(2).
    assert abs(slope + 0.5) < 3.5 / np.log(2) / np.sqrt(2 * (seeds - 1)) / np.sqrt(2)


def test_the_limit_is_one_number_for_every_equivalent_form():
    values = [limiting_rate(problem(), p) for p in (mup(table=3), mup(table=8), mup(table=9), mean_field())]
    assert values == pytest.approx([values[0]] * 4, rel=1e-12)
    # Depth enters through the number of hidden matrices that take the step.
    one, three = (limiting_rate(problem(("hidden",), layers=layers), mup()) for layers in (1, 3))
    assert one == pytest.approx(3 * three)


def test_sp_optimum_falls_like_one_over_width():
    widths, seeds = np.array([64, 128, 256]), 32
    logs = np.stack([np.log2(best_rates(standard(), width, seeds)) for width in widths])
    error = logs.std(axis=1, ddof=1).mean() / np.sqrt(seeds)
    slope = np.polyfit(np.log2(widths), logs.mean(axis=1), 1)[0]
    # The slope's standard error over three octave points is error / sqrt(2); 0.05 is for finite width.
    assert abs(slope + 1) < 3.5 * error / np.sqrt(2) + 0.05


def test_a_sample_that_is_fitted_exactly_takes_the_least_rate():
    """One sample's loss is a perfect square with several zeros; rounding must not choose among them."""
    single = LinearProblem(np.ones((1, 3)), np.ones(1), 2, 16)
    limit = limiting_rate(single, mup())
    rates = [best_rate(loss_polynomial(single, mup(), draw(single, 256, seed))) for seed in range(20)]
    assert np.abs(np.array(rates) / limit - 1).max() < 1
    assert best_rate(np.array([4.0, -12.0, 13.0, -6.0, 1.0])) == pytest.approx(1)  # (x - 1)^2 (x - 2)^2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: limiting_rate(problem(), standard()), "does not vanish with width"),
        (lambda: LinearProblem(np.eye(3), np.ones(2), 1, 8), "expected inputs"),
        (lambda: LinearProblem(np.eye(3), np.ones(3), 0, 8), "hidden_layers >= 1"),
        (lambda: LinearProblem(np.eye(3), np.ones(3), 1, 8, ("bias",)), "subset of"),
        (lambda: best_rate(np.array([1.0, 1.0, 1.0])), "falls before it rises"),
        (
            lambda: loss_polynomial(problem(layers=2), mup(), draw(problem(layers=1), 8, 0)),
            "expected weights for 5 inputs and 2 hidden layers; got 5 and 1",
        ),
    ],
)
def test_bad_input_says_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()
