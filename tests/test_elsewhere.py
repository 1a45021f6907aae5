"""Models that none of our code built get muP Adam in five lines: the coordinate check's exponents are 0.

What is fitted is the exponent in the width of the size of a change ``x_t - x_0``, for hidden layers and
logits, after each of the first steps. Theory says 0 under muP. With the library's own initialisation and
plain Adam, every unit of a layer that sums over the width moves by ``lr * sum_j |h_j| ~ n`` in the first
step, and so do the logits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from widelimit.compare import Claim, PowerLaw, coordinate_sizes, fit_exponent
from widelimit.models import rescale
from widelimit.optim import adam
from widelimit.scaling import make_rules, mup, probe

BASE, MULTIPLES, SEEDS, STEPS = 64, (1, 2, 4, 8), 16, 3
LEARNING_RATE = 2.0**-11
# Fixed before the run, and twice the standard error must fit in. A size is 1 + k/n times its limit; where
# this is a quarter more at the base width, the line fitted over a factor of 8 tilts by 0.09.
ALLOWANCE = 0.1
# Also fixed before the run, for the first step, where theory says 1; later ones bend as they saturate.
GROWTH = 0.5
CLASSES = 10
KEYS = jax.random.split(jax.random.key(3, impl="unsafe_rbg"), SEEDS)
# Programs that run for milliseconds: what counts is the time to compile them.
QUICK = {"xla_backend_optimization_level": 0}
DATA = jax.random.normal(jax.random.key(1), (16, 8))
LABELS = jax.random.randint(jax.random.key(2), (16,), 0, CLASSES)


class Model(NamedTuple):
    """What probe and rescale are given; ``features`` also returns what the library shows of the layers."""

    init: Callable[..., Any]
    apply: Callable[[int, Any, Any], Any]
    features: Callable[[int, Any, Any], Mapping[str, Any]]
    example: Any
    labels: Any = LABELS
    base: int = BASE


@pytest.fixture(autouse=True)
def foreign_models():
    """Models of other packages promote ranks and dtypes."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def mup_adam(init, apply, x, width, base):
    """The five lines."""
    leaves = probe(init, apply, x, width=width, base_width=base)
    rules = make_rules(leaves, mup(), "adam")
    params, rules = rescale(init(width), rules, init, apply, x)
    optimizer = adam(LEARNING_RATE, rules)
    state = optimizer.init(params)
    return params, optimizer, state


def plain_adam(init, apply, x, width, base):
    """What a user does without us."""
    params, optimizer = init(width), optax.adam(LEARNING_RATE)
    return params, optimizer, optimizer.init(params)


def factor(new, old):
    """What rescale multiplied an array by."""
    new, old = np.asarray(new), np.asarray(old)  # numpy compiles nothing
    return np.vdot(new, old) / np.vdot(old, old) if old.any() else np.float32(1)


def changes(model: Model, start: Callable[..., Any], width: int) -> dict[str, np.ndarray]:
    """Size of the change by layer, [seeds, steps]."""
    params, optimizer, _ = start(model.init, model.apply, model.example, width, model.base)
    factors = jax.tree.map(factor, params, model.init(width))
    batches = jax.tree.map(lambda array: jnp.stack([array] * STEPS), (model.example, model.labels))

    def loss(params, batch):
        x, y = batch
        return optax.softmax_cross_entropy_with_integer_labels(
            model.features(width, params, x)["logits"], y
        ).mean()

    def run(params):
        features = functools.partial(model.features, width, x=model.example)
        return coordinate_sizes(params, features, loss, optimizer, batches).change

    program = jax.jit(run, compiler_options=QUICK)
    seeds = [program(jax.tree.map(np.multiply, model.init(width, key), factors)) for key in KEYS]
    return jax.tree.map(lambda *sizes: np.stack(sizes), *seeds)


def exponents(
    model: Model, start: Callable[..., Any], multiples: Sequence[int]
) -> dict[tuple[str, int], PowerLaw]:
    """By layer and step, the fitted exponent."""
    widths = [model.base * multiple for multiple in multiples]
    sizes = [changes(model, start, width) for width in widths]
    return {
        (layer, step + 1): fit_exponent(widths, np.stack([size[layer][:, step] for size in sizes], axis=1))
        for layer in sizes[0]
        for step in range(STEPS)
    }


# --- The models, as their libraries' pages write them ---


class Block(nnx.Module):
    """A transformer block between two linear maps; heads of one size, growing in number."""

    def __init__(self, width, rngs):
        self.embed = nnx.Linear(8, width, rngs=rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(width // 8, width, decode=False, rngs=rngs)
        self.up = nnx.Linear(width, 2 * width, rngs=rngs)
        self.down = nnx.Linear(2 * width, width, rngs=rngs)
        self.head = nnx.Linear(width, CLASSES, rngs=rngs)

    def __call__(self, x):
        x = self.embed(x.reshape(4, 4, 8))
        x = x + self.attention(self.norm(x))
        x = x + self.down(nnx.gelu(self.up(x)))
        return self.head(x).reshape(16, CLASSES)


def nnx_model() -> Model:
    """``nnx.capture`` keeps the output of every submodule."""

    def put(width, params):
        model = Block(width, nnx.Rngs(0))
        nnx.update(model, params)
        return model

    def features(width, params, x):
        capture = nnx.capture(put(width, params), nnx.Intermediate, method_outputs=nnx.Intermediate)
        logits, taps = capture(x)
        outputs = {name: taps[name]["__call__"].get_value()[0] for name in ("attention", "down")}
        return outputs | {"logits": logits}

    def init(width, key=KEYS[0]):
        return nnx.state(Block(width, nnx.Rngs(key)), nnx.Param)

    return Model(init, lambda width, params, x: put(width, params)(x), features, DATA)


def equinox_model() -> Model:
    """Activations are those of the modules' own parts, called one by one."""

    def make(width, key=KEYS[0]):
        return eqx.nn.MLP(8, CLASSES, width, 3, activation=jnp.tanh, key=key)

    def combine(width, params):
        return eqx.combine(params, eqx.filter(make(width), eqx.is_array, inverse=True))

    def features(width, params, x):
        taps = {}
        for number, layer in enumerate(combine(width, params).layers):
            taps[f"layer {number}"] = x = jax.vmap(layer)(x)
            x = jnp.tanh(x)
        return {"layer 1": taps["layer 1"], "layer 2": taps["layer 2"], "logits": taps["layer 3"]}

    return Model(
        lambda width, key=KEYS[0]: eqx.filter(make(width, key), eqx.is_array),
        lambda width, params, x: jax.vmap(combine(width, params))(x),
        features,
        DATA,
    )


def haiku_model() -> Model:
    """Activations are seen by an interceptor of the methods."""

    def make(width):
        return hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([width, width, width, CLASSES])(x)))

    def features(width, params, x):
        taps = {}

        def record(call, args, kwargs, context):
            taps[context.module.name] = out = call(*args, **kwargs)
            return out

        def forward(x):
            with hk.intercept_methods(record):
                return hk.nets.MLP([width, width, width, CLASSES])(x)

        logits = hk.without_apply_rng(hk.transform(forward)).apply(params, x)
        return {name: tap for name, tap in taps.items() if name in ("linear_1", "linear_2")} | {
            "logits": logits
        }

    return Model(
        lambda width, key=KEYS[0]: make(width).init(key, DATA),
        lambda width, params, x: make(width).apply(params, x),
        features,
        DATA,
    )


def published_model() -> Model:
    """A gated linear RNN language model from an installed package; Linen captures every module's output."""
    gated = pytest.importorskip("flax_gated_linear_rnn", reason="needs the package flax-gated-linear-rnn")
    fixed = {"n_layer": 2, "eps": 1e-6, "max_seq_length": 6, "use_word_embedding": True, "use_head": True}
    fixed |= {"input_vocab_size": CLASSES, "output_vocab_size": CLASSES, "positional_encoding_mode": "none"}
    fixed |= dict.fromkeys(["channel_mixing_dropout", "time_mixing_dropout", "embedding_dropout"], 0.0)

    def make(width):
        return gated.GatedLinearRNNLM(d_model=width, d_h=width, d_channel_mixing=2 * width, **fixed)

    tokens = jax.random.randint(jax.random.key(4), (4, 6), 0, CLASSES)

    def features(width, params, x):
        (_, logits), taps = make(width).apply(params, x, False, capture_intermediates=True)
        taps = taps["intermediates"]
        found = {
            name: taps[name]["__call__"][0] for name in ("channel_mixing_layers_0", "channel_mixing_layers_1")
        }
        return found | {"logits": logits}

    return Model(
        lambda width, key=KEYS[0]: make(width).init(key, tokens, False),
        lambda width, params, x: make(width).apply(params, x, False)[1],
        features,
        tokens,
        jnp.roll(tokens, -1, axis=1),
        base=2 * BASE,  # its logits come close to their limit only at twice the widths that do for the others
    )


MODELS = [
    pytest.param(nnx_model, id="NNX", marks=pytest.mark.slow),
    pytest.param(equinox_model, id="Equinox"),
    pytest.param(haiku_model, id="Haiku", marks=pytest.mark.slow),
    pytest.param(published_model, id="published", marks=pytest.mark.slow),
]


def claims(laws: Mapping[tuple[str, int], PowerLaw]) -> list[Claim]:
    """No change depends on the width."""
    return [
        Claim(f"{layer}, step {step}", "d log change / d log width", 0.0, law.exponent, law.stderr, ALLOWANCE)
        for (layer, step), law in laws.items()
    ]


@pytest.mark.parametrize("make", MODELS)
def test_five_lines_give_mup_adam(make):
    """Under muP no change depends on the width; by the library's own means all do, and the check says so."""
    model = make()
    flat = claims(exponents(model, mup_adam, MULTIPLES))
    assert [claim for claim in flat if claim.holds is not True] == []
    plain = exponents(model, plain_adam, (MULTIPLES[0], MULTIPLES[-1]))
    assert [claim for claim in claims(plain) if claim.holds is not False] == []
    first = {layer: law for (layer, step), law in plain.items() if step == 1}
    assert {layer: law for layer, law in first.items() if law.exponent - 3 * law.stderr < GROWTH} == {}
