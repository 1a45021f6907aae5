"""One decoder in many programs: neutral at the base shape, scanned, rematerialised, tied, in bfloat16."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.models.decoders import TOKENS, compiled, logits, parameters, small
from widelimit import optim
from widelimit.models import initialise, rules, stack_blocks, unstack_blocks
from widelimit.scaling import completep, depth_mup, mup, standard

NEUTRAL = {"sp": standard(), "mup": mup(table=8), "depth_mup": depth_mup(), "completep": completep()}


def loss(config, params, tokens=TOKENS):
    """Mean cross entropy of the next token."""
    found = logits(config, params, tokens)[:, :-1]
    return optax.softmax_cross_entropy_with_integer_labels(found, jnp.asarray(tokens[:, 1:])).mean()


def trained(config):
    """Initial weights and logits, and the weights after three steps of Adam, one program."""
    law = rules(config, "adam")
    optimizer = optim.adamw(0.01, law, weight_decay=0.1)

    def program(key):
        start = initialise(key, law)

        def step(carry, _):
            params, state = carry
            gradients = jax.grad(lambda params: loss(config, params))(params)
            updates, state = optimizer.update(gradients, state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), length=3)
        return start, logits(config, start), params

    return program


def at_base(parametrization, **flags):
    """A decoder at the base width and depth."""
    return small(width=8, base_width=8, depth=2, base_depth=2, parametrization=parametrization, **flags)


@pytest.mark.parametrize("flags", [{"scan": True, "tied": True}, {"gains": True, "bias": True, "heads": 2}])
def test_the_base_shape_is_neutral_to_the_operation(flags):
    """At the base shape every rule of width and depth leaves the very same program, constants included."""
    programs = {
        name: jax.make_jaxpr(trained(at_base(parametrization, **flags)))(jax.random.key(0))
        for name, parametrization in NEUTRAL.items()
    }
    first = programs.pop("sp")
    for name, other in programs.items():
        assert str(other) == str(first), name
        for one, two in zip(first.consts, other.consts, strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.slow
def test_the_base_shape_is_neutral_bit_for_bit():
    """Initial weights, logits and three steps of Adam: SP and CompleteP give the same bits, and do move."""
    sp, other = (
        jax.jit(trained(at_base(NEUTRAL[name], scan=True)))(jax.random.key(0)) for name in ("sp", "completep")
    )
    for one, two in zip(jax.tree.leaves(sp), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(one, two)
    moved = jax.tree.map(lambda end, start: np.abs(end - start).max(), sp[2], sp[0])
    assert min(jax.tree.leaves(moved)) > 1e-3


def test_scanned_equals_unrolled():
    """Loss and gradients to 1e-11 in float64: unrolled, and scanned with every block recomputed."""
    config = small(kv_heads=1, positions="alibi", gains=True)

    def found(params, **layout):
        asked = dataclasses.replace(config, **layout)
        return compiled(jax.value_and_grad(lambda params: loss(asked, params)))(params)

    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, parameters(config))
        value, gradient = found(params)
        other, slope = found(stack_blocks(params, config), scan=True, remat=True)
        slope = unstack_blocks(slope, config)
    assert float(other) == pytest.approx(float(value), rel=1e-12)
    for one, two in zip(jax.tree.leaves(slope), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-11, atol=1e-12)


def test_the_scanned_program_does_not_grow_with_depth():
    """The program handed to the compiler: its text is as long for 8 blocks as for 2; unrolled, 3 times."""

    def length(depth, scan):
        config = small(depth=depth, scan=scan)
        made = jax.eval_shape(lambda key: initialise(key, rules(config)), jax.random.key(0))
        step = jax.jit(jax.grad(lambda params: loss(config, params)))
        return len(step.lower(made).as_text())

    assert length(8, True) == pytest.approx(length(2, True), rel=0.01)
    assert length(8, False) > 2.5 * length(2, False)


def test_blocks_are_stacked_and_unstacked_wherever_they_lie():
    """Parameters, and the moments of an optimizer around them, in both directions."""
    config = small(gains=True)
    params = parameters(config)
    params = jax.tree.map(np.float32, params)
    state = optax.adam(0.1).init(params)
    stacked = stack_blocks({"params": params, "state": state}, config)
    assert stacked["params"]["blocks"]["mlp"]["up"]["kernel"].shape == (2, 8, 32)
    assert stacked["state"][0].mu["blocks"]["mlp"]["up"]["kernel"].shape == (2, 8, 32)
    shapes = [leaf.shape for leaf in rules(dataclasses.replace(config, scan=True)).leaves]
    assert [array.shape for array in jax.tree.leaves(stacked["params"])] == shapes
    back = unstack_blocks(stacked, config)
    assert jax.tree.structure(back) == jax.tree.structure({"params": params, "state": state})
    for one, two in zip(jax.tree.leaves(back["params"]), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(one, np.float32(two))
    with pytest.raises(
        ValueError, match=r"a network of 3 blocks has \['block_0'.*; got \['block_0', 'block_1'\]"
    ):
        stack_blocks(params, small(depth=3))
    with pytest.raises(ValueError, match=r"the config has 3 blocks; got stacks of \[\(2,\)\]"):
        unstack_blocks(stacked, small(depth=3))
    with pytest.raises(ValueError, match="the tree holds no 'block_0'"):
        stack_blocks({"readout": params["readout"]}, config)


def test_a_tied_gradient_is_the_sum_of_the_untied_ones():
    """The table is embedding and readout: its gradient is the sum of that of each use."""
    tied, untied = (small(tied=tied, depth=1, init_std=0.5) for tied in (True, False))
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, parameters(tied))
        apart = {**params, "readout": {"kernel": params["embedding"]["table"].T}}
        value, together = compiled(jax.value_and_grad(lambda params: loss(tied, params)))(params)
        other, each = compiled(jax.value_and_grad(lambda params: loss(untied, params)))(apart)
        total = each["embedding"]["table"] + each["readout"]["kernel"].T
    assert float(value) == pytest.approx(float(other), rel=1e-13)
    np.testing.assert_allclose(together["embedding"]["table"], total, rtol=1e-11, atol=1e-13)


def equations(program):
    """All equations of a traced program, those of its inner programs included."""
    for equation in program.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


@pytest.mark.parametrize("tied", [True, False])
def test_bfloat16_multiplies_narrowly_and_keeps_the_rest_wide(tied):
    """Every product, of gradients too, has bfloat16 operands; exponentials, norms and logits are float32."""
    config = small(compute_dtype="bfloat16", tied=tied, scan=True, activation="relu_squared", gains=True)
    made = jax.eval_shape(lambda key: initialise(key, rules(config)), jax.random.key(0))
    assert jax.eval_shape(lambda params: logits(config, params), made).dtype == jnp.float32
    program = jax.make_jaxpr(jax.value_and_grad(lambda params: loss(config, params)))(made)
    seen = {"dot_general": set(), "exp": set(), "rsqrt": set()}
    for equation in equations(program.jaxpr):
        if equation.primitive.name in seen:
            seen[equation.primitive.name] |= {variable.aval.dtype.name for variable in equation.invars}
    assert seen == {"dot_general": {"bfloat16"}, "exp": {"float32"}, "rsqrt": {"float32"}}


def test_bfloat16_is_close_to_float32():
    """Rounding to 8 bits, 2^-9 an operand: the error of all logits together is a few times that, not none."""
    config = small(parametrization=mup(table=8), depth=1)
    params = jax.tree.map(lambda array: jnp.asarray(array, jnp.float32), parameters(config))
    exact, narrow = (
        jax.jit(lambda params, dtype=dtype: logits(dataclasses.replace(config, compute_dtype=dtype), params))(
            params
        )
        for dtype in (None, "bfloat16")
    )
    error = float(jnp.linalg.norm(narrow - exact) / jnp.linalg.norm(exact))
    assert 2**-10 < error < 8 * 2**-9
