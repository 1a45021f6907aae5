"""Initial weights: their measured size against the rules, and what that makes of the network's output."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from widelimit.compare import fit_exponent
from widelimit.models import MLP, ConvConfig, MLPConfig, initialise, rules
from widelimit.scaling import Parametrization, PerRole, dmft, mean_field, mup, ntk, standard

FORMS = {
    "standard": standard(),
    "ntk": ntk(),
    "mean_field": mean_field(),
    "dmft": dmft(gamma0=2.0),
    "mup 3": mup(table=3),
    "mup 8": mup(table=8),
    "mup 9": mup(table=9),
}
# RMS of the output at initialisation, n^-s: order one where the readout's entries fall as n^-1/2 in effect.
OUTPUT = {name: 0.0 if name in ("standard", "ntk") else -0.5 for name in FORMS}

WIDTHS, SEEDS = (8, 32, 128), 500


def config(parametrization: Parametrization, **changes) -> MLPConfig:
    """An MLP with random biases, so that every parameter has a std to measure."""
    fields = {"inputs": 30, "outputs": 20, "width": 96, "base_width": 32, "bias_std": 0.3}
    return MLPConfig(parametrization=parametrization, **{**fields, **changes})


def scores(params, rule):
    """z-scores of the mean and of the variance of every parameter, should its entries be N(0, std^2)."""
    for leaf, param, std in zip(
        rule.leaves, jax.tree.leaves(params), jax.tree.leaves(rule.init_std), strict=True
    ):
        entries = np.asarray(param).ravel() / std
        yield (
            leaf.path,
            entries.mean() * entries.size**0.5,
            (np.mean(entries**2) - 1) * (entries.size / 2) ** 0.5,
        )


@functools.cache
def output_sizes() -> np.ndarray:
    """Returns |f(x)| at initialisation, [form, seed, width]: each width draws once for all forms."""

    def sizes(width: int):
        networks = [
            config(form, width=width, base_width=8, outputs=1, bias=False, activation="identity")
            for form in FORMS.values()
        ]
        made = [rules(network, network.parametrization.rates[0].family) for network in networks]
        numbers = [{"init_std": rule.init_std, "multiplier": rule.multiplier} for rule in made]
        stacked = jax.tree.map(lambda *values: jnp.stack([jnp.asarray(value) for value in values]), *numbers)
        x = jax.random.normal(jax.random.key(1), (1, networks[0].inputs))

        def size(key, numbers):
            params = initialise(key, dataclasses.replace(made[0], init_std=numbers["init_std"]))
            f = MLP(networks[0]).apply({"params": params, "multipliers": numbers["multiplier"]}, x)
            return jnp.abs(f)[0, 0]

        over_forms = jax.vmap(size, in_axes=(None, 0))
        keys = jax.random.split(jax.random.key(width), SEEDS)
        return jax.jit(lambda: jax.lax.map(lambda key: over_forms(key, stacked), keys, batch_size=50))()

    return np.stack([sizes(width).T for width in WIDTHS], axis=2)


@pytest.mark.parametrize("name", FORMS)
def test_measured_std_is_the_rule(name):
    """Both ways to initialise, every parameter: mean 0 and the rule's std, by z-scores over all entries."""
    network = config(FORMS[name])
    rule = rules(network)
    own = initialise(jax.random.key(0), rule)
    flax = MLP(network).init(jax.random.key(0), jnp.ones((1, 30)))
    assert flax["multipliers"] == rule.multiplier
    for params in (own, flax["params"]):
        for path, mean, variance in scores(params, rule):
            assert max(abs(mean), abs(variance)) < 4.5, (path, mean, variance)


def test_parametrizations_share_their_draws():
    """The same key gives the same numbers, scaled; so equivalent forms start from one network."""
    drawn = {}
    for name, form in FORMS.items():
        rule = rules(config(form))
        drawn[name] = jax.tree.map(jnp.divide, initialise(jax.random.key(0), rule), rule.init_std)
    for name in FORMS:
        for one, other in zip(*map(jax.tree.leaves, (drawn["standard"], drawn[name])), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6)


def test_keys_are_split_in_tree_order():
    """The documented order, so that a result can be reproduced without this package."""
    rule = rules(config(standard(), bias_std=0.0))
    params = initialise(jax.random.key(3), rule)
    keys = jax.random.split(jax.random.key(3), 6)  # Dense_0/bias, Dense_0/kernel, Dense_1/bias, ...
    by_hand = jax.random.normal(keys[3], (96, 96)) / 96**0.5
    np.testing.assert_allclose(params["Dense_1"]["kernel"], by_hand, rtol=1e-6)
    assert not jnp.any(params["Dense_1"]["bias"])


def test_compiled_with_stds_as_arrays_draws_the_same():
    """One compiled program draws for every parametrization what the plain call draws."""
    shapes = rules(config(standard()))
    draw = jax.jit(lambda key, stds: initialise(key, dataclasses.replace(shapes, init_std=stds)))
    for form in FORMS.values():
        rule = rules(config(form))
        compiled, plain = draw(jax.random.key(0), rule.init_std), initialise(jax.random.key(0), rule)
        for one, other in zip(*map(jax.tree.leaves, (compiled, plain)), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6)
    assert draw._cache_size() == 1


def test_double_precision_is_asked_for():
    """A float64 that JAX would quietly narrow is refused; inside enable_x64 it is float64."""
    rule = rules(config(standard()))
    with pytest.raises(ValueError, match="float64 is off in JAX"):
        initialise(jax.random.key(0), rule, "float64")
    with jax.enable_x64(True):
        assert {p.dtype for p in jax.tree.leaves(initialise(jax.random.key(0), rule, "float64"))} == {
            jnp.dtype("float64")
        }


def test_width_independent_constants_reach_the_weights():
    """He's factor 2 for relu is a constant of the parametrization, of weights and of nothing else."""
    he = dataclasses.replace(standard(), init_constant=PerRole(2**0.5, 2**0.5, 1.0, 1.0))
    plain, scaled = (
        rules(ConvConfig(inputs=3, outputs=2, width=8, base_width=4, parametrization=p))
        for p in (standard(), he)
    )
    ratio = jax.tree.map(lambda a, b: round((a / b) ** 2, 6) if b else None, scaled.init_std, plain.init_std)
    assert [ratio[layer]["kernel"] for layer in ratio] == [2.0, 2.0, 1.0]


@pytest.mark.parametrize("name", FORMS)
def test_output_size_scales_as_the_theory_says(name):
    """Standard and NTK outputs start at order one, mean-field and muP's at n^-1/2: fitted with an error bar.

    In a linear network without biases the variance is exact at every width, so no correction enters the fit.
    """
    law = fit_exponent(WIDTHS, output_sizes()[list(FORMS).index(name)], mean="rms")
    assert law.stderr < 0.04
    assert abs(law.exponent - OUTPUT[name]) < 4 * law.stderr, law
