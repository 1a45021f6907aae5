"""Forms that the symmetry calls equivalent are one network: they train identically, whatever the optimizer.

Raw weights, multipliers, learning rates, epsilons and decays all differ between the forms; what may not
differ is the loss of any step and the *effective* weights (multiplier times raw weight) at the end. Initial
raw weights share their random numbers, scaled by the rules' stds, so that the forms start from the same
effective weights by themselves, the readout's included: no exception is needed for the initial output.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from widelimit import optim
from widelimit.models import (
    MLP,
    ConvConfig,
    ConvNet,
    MLPConfig,
    ResidualMLP,
    ResidualMLPConfig,
    initialise,
    rules,
)
from widelimit.scaling import (
    PerRole,
    Rules,
    completep,
    dmft,
    fold,
    mean_field,
    mup,
    ntk,
    standard,
    with_depth,
)

NUMBERS = ("init_std", "multiplier", "learning_rate", "epsilon", "weight_decay", "gradient_norm")
STEPS, TOLERANCE = 20, 1e-10
# A width multiple of 3 makes every factor but 1 inexact, so that agreement is no accident of powers of two.
WIDTH, BASE = 24, 8
GAMMA = 1.5
RICH = {
    "mup 3": mup(table=3, gamma0=GAMMA),
    "mup 8": mup(table=8, gamma0=GAMMA),
    "mup 9": mup(table=9, gamma0=GAMMA),
    "mean_field": mean_field(gamma0=GAMMA),
}
LAZY = {"standard": standard(), "ntk": ntk()}
CLASSES = {
    "muP = mean field": (RICH, "full"),
    "SP = NTK (full)": (LAZY, "full"),
    "SP = NTK (kernel)": (LAZY, "kernel"),
}

Make = Callable[[Rules], optax.GradientTransformation]
# name -> (family, decay convention, optimizer from rules). Some epsilons are as large as the gradients.
OPTIMIZERS: dict[str, tuple[str, str, Make]] = {
    "sgd": ("sgd", "coupled", lambda r: optim.sgd(0.05, r)),
    "momentum": ("sgd", "coupled", lambda r: optim.sgd(0.02, r, momentum=0.9)),
    "nesterov": (
        "sgd",
        "undone",
        lambda r: optim.sgd(0.02, r, momentum=0.9, nesterov=True, weight_decay=0.1),
    ),
    "adam, eps 0": ("adam", "coupled", lambda r: optim.adam(0.01, r, eps=0.0)),
    "adam, eps": ("adam", "coupled", lambda r: optim.adam(0.02, r, eps=0.05)),
    "adam, eps root": ("adam", "coupled", lambda r: optim.adam(0.02, r, eps=0.0, eps_root=0.003)),
    "adamw, undone": ("adam", "undone", lambda r: optim.adamw(0.01, r, eps=1e-3, weight_decay=1.0)),
    "adamw, independent": (
        "adam",
        "independent",
        lambda r: optim.adamw(0.01, r, eps=1e-3, weight_decay=0.01),
    ),
    "adamw, sqrt width": ("adam", "sqrt_width", lambda r: optim.adamw(0.01, r, eps=1e-3, weight_decay=1.0)),
    "adam-atan2": ("adam", "coupled", lambda r: optim.adam_atan2(0.01, r)),
    "lion": ("adam", "undone", lambda r: optim.lion(0.003, r, weight_decay=0.1)),
    "muon": ("muon", "undone", lambda r: optim.muon(0.01, r, eps=1e-3, ns_eps=1e-2, weight_decay=0.1)),
    "clipped sgd": (
        "sgd",
        "coupled",
        lambda r: optax.chain(optim.clip_by_global_norm(0.4, r), optim.sgd(0.1, r)),
    ),
    "clipped adam": (
        "adam",
        "coupled",
        lambda r: optax.chain(optim.clip_by_global_norm(0.4, r), optim.adam(0.02, r, eps=0.05)),
    ),
}


def network(parametrization) -> MLPConfig:
    """Two hidden layers with random biases."""
    return MLPConfig(
        inputs=5, outputs=3, width=WIDTH, base_width=BASE, parametrization=parametrization, bias_std=0.2
    )


def problem():
    """A batch for regression; its first input is always zero, so that Adam without epsilon meets 0/0."""
    x = jax.random.normal(jax.random.key(1), (16, 5)).at[:, 0].set(0.0)
    return x, jnp.sin(2 * x[:, 1:4])


@functools.cache
def initial(config):
    """Raw initial weights in float64: they depend on the parametrization, and on no optimizer."""
    return initialise(jax.random.key(0), rules(config), "float64")


def numbers_of(rule: Rules) -> dict:
    """What differs between parametrizations, and so what one compiled program takes as its argument."""
    return {name: getattr(rule, name) for name in NUMBERS}


def trajectory(model, template: Rules, make: Make, x, y):
    """Compiles training: (raw weights, numbers) -> losses of every step, final effective weights."""

    @jax.jit
    def program(params, numbers):
        rule = dataclasses.replace(template, **numbers)
        optimizer = make(rule)

        def loss_fn(p):
            return jnp.mean((model.apply({"params": p, "multipliers": rule.multiplier}, x) - y) ** 2)

        def step(carry, _):
            p, state = carry
            loss, gradient = jax.value_and_grad(loss_fn)(p)
            updates, state = optimizer.update(gradient, state, p)
            return (optax.apply_updates(p, updates), state), loss

        (params, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), length=STEPS)
        return losses, jax.tree.map(jnp.multiply, rule.multiplier, params)

    return program


def compiled(family: str, decay: str, make: Make):
    """Returns one program for every parametrization and alignment, as a function of them alone."""
    program = trajectory(
        MLP(network(standard())), rules(network(standard()), family, "full", decay), make, *problem()
    )

    def run(parametrization, alignment="full"):
        rule = rules(network(parametrization), family, alignment, decay)
        return program(initial(network(parametrization)), numbers_of(rule))

    run.programs = program._cache_size
    return run


def assert_same(one, other, name: str):
    """Losses agree to 1e-10 relative; so do effective weights, in units of each array's largest."""
    np.testing.assert_allclose(one[0], other[0], rtol=TOLERANCE, atol=0, err_msg=name)
    for a, b in zip(jax.tree.leaves(one[1]), jax.tree.leaves(other[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE * float(jnp.abs(a).max()), err_msg=name)


def differ(one, other) -> float:
    """Largest relative difference between two runs' losses."""
    return float(np.max(np.abs(one[0] / other[0] - 1)))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_equivalent_forms_train_identically(name):
    """Tables 3, 8, 9 and mean field are one network, and so are standard and NTK at equal alignment.

    The two classes are not the same network: were the rules all ones, this would show.
    """
    with jax.enable_x64(True):
        family = OPTIMIZERS[name][0]
        run, references = compiled(*OPTIMIZERS[name]), []
        for label, (forms, alignment) in CLASSES.items():
            if family == "muon" and alignment == "kernel":
                continue  # a maximal update is no kernel regime: there is no such rule
            results = {form: run(parametrization, alignment) for form, parametrization in forms.items()}
            references.append(next(iter(results.values())))
            losses = references[-1][0]
            assert losses[-1] < 0.95 * losses[0], "nothing was learned, so nothing was compared"
            for form, result in results.items():
                assert_same(references[-1], result, f"{label}: {form}")
        assert run.programs() == 1
        assert min(differ(references[0], other) for other in references[1:]) > 1e-3


DEPTH = {"sgd": "momentum", "adam": "adam, eps 0", "muon": "muon"}


@pytest.mark.parametrize("family", DEPTH)
def test_rules_of_depth_have_equivalent_forms_too(family):
    """A residual network of 2/3 the base depth: muP's tables, mean field and all of them folded.

    A branch's multiplier is part of a weight's, so it moves into the weight as every other does. Another
    alpha is another network.
    """
    _, decay, make = OPTIMIZERS[DEPTH[family]]

    def deep(form, alpha):
        width = {"inputs": 5, "outputs": 3, "width": WIDTH, "base_width": BASE, "bias_std": 0.2}
        blocks = {"depth": 2, "base_depth": 3, "branch_depth": 2}
        return ResidualMLPConfig(**width, **blocks, parametrization=with_depth(form, alpha))

    with jax.enable_x64(True):
        template = deep(mup(), 1)
        program = trajectory(ResidualMLP(template), rules(template, family, None, decay), make, *problem())
        references = []
        for alpha in ("1/2", 1):
            results = {}
            for label, form in RICH.items():
                config = deep(form, alpha)
                rule = rules(config, family, None, decay)
                results[label] = program(initial(config), numbers_of(rule))
                raw = jax.tree.map(jnp.multiply, rule.multiplier, initial(config))
                results[f"{label}, folded"] = program(raw, numbers_of(fold(rule)))
            references.append(results["mup 3"])
            assert references[-1][0][-1] < 0.95 * references[-1][0][0]
            for label, result in results.items():
                assert_same(references[-1], result, f"alpha {alpha}: {label}")
        assert differ(*references) > 1e-3


@pytest.mark.parametrize("forms", [RICH, LAZY], ids=["muP = mean field", "SP = NTK"])
def test_adafactor_trains_equivalent_forms_identically(forms):
    """Its parameter scaling sees raw weights; its bound moves with them, so zero biases train alike."""
    results = {}
    with jax.enable_x64(True):
        for form, parametrization in forms.items():
            config = dataclasses.replace(network(parametrization), bias_std=0.0)
            rule = rules(config, "adafactor", "full")
            # The bound is read off the parametrization, so each form has a program of its own.
            make = functools.partial(optim.adafactor, 0.05, min_dim_size_to_factor=8)
            program = trajectory(MLP(config), rule, make, *problem())
            results[form] = program(initial(config), numbers_of(rule))
        reference = next(iter(results.values()))
        assert reference[0][-1] < 0.95 * reference[0][0]
        for form, result in results.items():
            assert_same(reference, result, form)


@pytest.mark.slow
def test_adafactor_s_forms_are_equivalent_in_depth_too():
    """Its smallest scale, from which zero biases train, follows the raw weight of a branch's last layer."""
    results = {}
    with jax.enable_x64(True):
        for table in (3, 9):
            width = {"inputs": 5, "outputs": 3, "width": WIDTH, "base_width": BASE}
            config = ResidualMLPConfig(**width, depth=2, base_depth=3, parametrization=completep(table=table))
            make = functools.partial(optim.adafactor, 0.05, min_dim_size_to_factor=8)
            for label in ("", ", folded"):
                rule, raw = rules(config, "adafactor"), initial(config)
                if label:
                    raw, rule = jax.tree.map(jnp.multiply, rule.multiplier, raw), fold(rule)
                program = trajectory(ResidualMLP(config), rule, make, *problem())
                results[f"{table}{label}"] = program(raw, numbers_of(rule))
        assert results["3"][0][-1] < 0.95 * results["3"][0][0]
        for label, result in results.items():
            assert_same(results["3"], result, label)


def test_coupled_decay_depends_on_the_form():
    """Why conventions are stated: decay on the layer's own rate is another training in another form."""
    with jax.enable_x64(True):
        run = compiled("adam", "coupled", lambda r: optim.adamw(0.01, r, eps=1e-3, weight_decay=1.0))
        assert differ(run(mup(table=3)), run(mup(table=9))) > 1e-3


def test_the_plain_clip_depends_on_the_form():
    """Why there is a clip of our own: optax's sees the raw gradients, which differ between forms."""
    with jax.enable_x64(True):
        run = compiled(
            "sgd", "coupled", lambda r: optax.chain(optax.clip_by_global_norm(0.4), optim.sgd(0.1, r))
        )
        assert differ(run(mup(table=3)), run(mup(table=9))) > 1e-3


def test_an_epsilon_of_one_size_depends_on_the_form():
    """Why epsilon is a rule: the same epsilon beside gradients of another size is another optimizer."""

    def unscaled(r):
        return optim.adam(
            0.02, dataclasses.replace(r, epsilon=jax.tree.map(lambda _: 1.0, r.epsilon)), eps=0.05
        )

    with jax.enable_x64(True):
        run = compiled("adam", "coupled", unscaled)
        assert differ(run(mup(table=3)), run(mup(table=8))) > 1e-3


def test_the_convolutional_network_has_equivalent_forms_too():
    """Roles of convolution kernels come from their channels, so the same symmetry holds."""
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(1), (6, 4, 4, 2))
        config = ConvConfig(inputs=2, outputs=2, width=6, base_width=2, parametrization=standard())
        program = trajectory(
            ConvNet(config), rules(config, "adam"), OPTIMIZERS["adam, eps"][2], x, jnp.sin(x.mean((1, 2)))
        )
        configs = [dataclasses.replace(config, parametrization=form) for form in RICH.values()]
        results = [program(initial(other), numbers_of(rules(other, "adam"))) for other in configs]
        assert results[0][0][-1] < 0.95 * results[0][0][0]
        for form, result in zip(RICH, results, strict=True):
            assert_same(results[0], result, form)


def test_absolute_dmft_is_mean_field_up_to_constants():
    """The papers' absolute form (rate eta gamma0^2 N) is the relative one with constants of the base width.

    ``gamma0' = gamma0 sqrt(n0)``, global rate ``eta / n0``, and the input layer's rate times ``n0 / D``, as
    the papers' ``1/sqrt(D)`` stands in front of the weight and not in it.
    """
    gamma0, eta, inputs = 0.8, 0.3, 5
    relative = mean_field(gamma0=gamma0 * BASE**0.5)
    constants = PerRole(BASE / inputs, 1.0, 1.0, 1.0)
    rates = tuple(dataclasses.replace(row, learning_rate_constant=constants) for row in relative.rates)
    relative = dataclasses.replace(relative, rates=rates)
    results = []
    with jax.enable_x64(True):
        for parametrization, rate in ((dmft(gamma0=gamma0), eta), (relative, eta / BASE)):
            config = dataclasses.replace(network(parametrization), bias=False)
            rule = rules(config, "sgd")
            program = trajectory(MLP(config), rule, functools.partial(optim.sgd, rate), *problem())
            results.append(program(initial(config), numbers_of(rule)))
        assert results[0][0][-1] < 0.95 * results[0][0][0]
        assert_same(*results, "dmft")
