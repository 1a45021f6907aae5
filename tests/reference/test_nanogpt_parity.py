"""Our decoder trains as EleutherAI/nanoGPT-mup does: its recorded losses, step by step."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.reference import nanogpt_problem as problem
from tests.reference.nanogpt_differences import DIFFERENCES
from widelimit import optim
from widelimit.models import Decoder, DecoderConfig, rules, stack_blocks
from widelimit.scaling import mup, standard, with_depth
from widelimit.training import cross_entropy

REFERENCE = json.loads(Path(__file__).with_name("nanogpt_losses.json").read_text())
# In float64 both sides agree to rounding. A rate, multiplier or epsilon of one array that is off by 1% shows
# as 1.6e-7 or more, except for the bias of the key, which no softmax sees.
TOLERANCE = 1e-10


def config_of(case, **changes):
    """The peer's network as a config of ours: tied embeddings are its first difference from the table."""
    parametrization = standard() if case["scheme"] == "standard" else mup(table=8)
    if case["scheme"] == "depth":
        parametrization = with_depth(parametrization, case["alpha"])
    fields = {
        "vocabulary": problem.VOCABULARY,
        "context": problem.CONTEXT,
        "width": problem.WIDTH,
        "base_width": problem.BASE_WIDTH,
        "depth": problem.DEPTH,
        "base_depth": problem.BASE_DEPTH,
        "heads": problem.HEADS,
        "norm": "layer",
        "gains": True,
        "positions": "learned",
        "tied": True,
        "bias": case["bias"],
        "embedding_multiplier": case["input_alpha"],
        "output_multiplier": case["output_alpha"],
        "dtype": "float64",
        "scan": True,
    }
    return DecoderConfig(parametrization=parametrization, **(fields | changes))


def rules_of(case, without=None, **changes):
    """Our rules with the peer's differences, all or all but one."""
    config = config_of(case, **changes)
    made = rules(config, "adam", weight_decay="undone")
    for name, difference in DIFFERENCES.items():
        if name != without:
            made = difference(made, config, case)
    return made


def parameters(bias):
    """The problem's weights as our parameters: a gain is kept as its offset from 1."""

    def ours(tree):
        return {
            **{name: ours(part) for name, part in tree.items() if isinstance(part, dict)},
            **{name: part - (name == "gain") for name, part in tree.items() if not isinstance(part, dict)},
        }

    drawn = problem.weights(bias)
    blocks = {f"block_{index}": ours(block) for index, block in enumerate(drawn["blocks"])}
    tables = {name: {"table": drawn[name]} for name in ("embedding", "positions")}
    config = config_of(problem.USUAL | {"bias": bias})
    return stack_blocks({**tables, **blocks, "norm": ours(drawn["norm"])}, config)


def clip_as_torch(limit):
    """torch's clip_grad_norm_: optax's but for 1e-6 in the denominator."""

    def update(gradient, _):
        factor = jnp.minimum(1.0, limit / (optax.tree.norm(gradient) + 1e-6))
        return jax.tree.map(lambda g: factor * g, gradient)

    return optax.stateless(update)


@functools.cache
def program(config):
    """A compiled training run; what differs between rules and settings enters as arrays, so it is shared."""
    template = rules(config, "adam")
    network = Decoder(config)

    def train(params, tokens, numbers, settings):
        of_case = dataclasses.replace(template, **numbers)
        transform = optax.chain(
            clip_as_torch(settings["clip"]),
            optim.adamw(
                settings["learning_rate"],
                of_case,
                *problem.BETAS,
                eps=settings["eps"],
                weight_decay=settings["weight_decay"],
            ),
        )

        def loss_fn(p, batch):
            logits = network.apply({"params": p, "multipliers": of_case.multiplier}, batch[:, :-1])
            return cross_entropy(logits.reshape(-1, problem.VOCABULARY), batch[:, 1:].reshape(-1))

        def step(carry, index):
            p, state = carry
            loss, gradient = jax.value_and_grad(loss_fn)(p, tokens[index % problem.BATCHES])
            updates, state = transform.update(gradient, state, p)
            return (optax.apply_updates(p, updates), state), loss

        return jax.lax.scan(step, (params, transform.init(params)), jnp.arange(problem.STEPS))[1]

    # Half the time to compile, and it runs for milliseconds.
    return jax.jit(train, compiler_options={"xla_backend_optimization_level": 1})


def losses(name, without=None):
    """Our losses on a case, with the peer's differences, all or all but one."""
    case = problem.CASES[name]
    made = rules_of(case, without)
    numbers = {
        field: getattr(made, field) for field in ("multiplier", "learning_rate", "epsilon", "weight_decay")
    }
    settings = {key: case[key] for key in ("learning_rate", "eps", "weight_decay")}
    settings["clip"] = np.inf if case["clip"] is None else case["clip"]
    # Rules enter as arrays, so any rule of depth serves as the template of one program.
    config = config_of(case if case["scheme"] == "standard" else case | {"scheme": "mup"})
    with jax.enable_x64(True):
        as_arrays = jax.tree.map(lambda number: jnp.float64(number), (numbers, settings))
        params = jax.tree.map(jnp.asarray, parameters(case["bias"]))
        return np.asarray(program(config)(params, jnp.asarray(problem.batches()), *as_arrays))


def test_both_sides_draw_the_same_problem():
    """If this fails, numpy's frozen stream is not frozen, and the losses say nothing about our rules."""
    assert problem.fingerprint() == pytest.approx(REFERENCE["fingerprint"], rel=1e-14)
    assert problem.CASES == REFERENCE["cases"]
    assert REFERENCE["losses"].keys() == problem.CASES.keys()


@pytest.mark.parametrize("name", problem.CASES)
def test_losses_agree_with_nanogpt_mup(name):
    """All 20 losses agree: forward pass, branch multipliers, rates, epsilon and decay are the peer's."""
    np.testing.assert_allclose(losses(name), REFERENCE["losses"][name], rtol=TOLERANCE)


# The case in which a difference shows, and how large it is: |1 - loss with all but this one / peer's loss| at
# step 20, to two digits. (Where branch outputs start is not part of a step: see the test of initial stds.)
EFFECTS = {
    ("attention 1/d", "mup"): 0.032,
    ("attention 1/d", "completep"): 0.031,
    ("one epsilon", "mup, large eps"): 0.015,
    ("one epsilon", "completep, large eps"): 0.0021,
    ("one epsilon", "alpha 1/2, large eps"): 0.0015,
    ("muP's decay unscaled", "mup, weight decay"): 0.0038,
    ("matrices decay only", "standard"): 0.0012,
    ("matrices decay only", "completep, weight decay"): 0.0099,
}


@pytest.mark.parametrize(("difference", "name"), EFFECTS)
def test_each_difference_is_real_and_documented(difference, name):
    """Left out, each moves the 20th loss by what docs/transformers.md says: none is there for show."""
    effect = abs(losses(name, without=difference)[-1] / REFERENCE["losses"][name][-1] - 1)
    assert effect == pytest.approx(EFFECTS[difference, name], rel=0.05)


@pytest.mark.parametrize("name", ["standard", "mup", "completep"])
def test_initial_std_scales_as_nanogpt_mup(name):
    """The std of every kind of matrix is the peer's at base width and 4 times it, small outputs included."""
    for multiple, measured in REFERENCE["init"][name].items():
        case = problem.CASES[name] | {"bias": False}
        made = rules_of(
            case,
            width=problem.INIT_BASE * int(multiple),
            base_width=problem.INIT_BASE,
            depth=problem.INIT_DEPTH,
            init_std=0.02,
        )
        block = made.init_std["blocks"]
        ours = {"embedding": made.init_std["embedding"]["table"]}
        ours |= {kind: block["attention"][kind]["kernel"] for kind in ("query", "output")}
        ours |= {kind: block["mlp"][kind]["kernel"] for kind in ("up", "down")}
        # The smallest sample has 24 * 64 entries: 1 sigma of its std is 1/sqrt(2 * 1536) = 1.8%, others 0.5%.
        assert ours == pytest.approx(measured, rel=0.04)
