"""Small decoders for the tests, and the decoder written out once more, in NumPy, head by head."""

from __future__ import annotations

import math

import jax
import numpy as np

from widelimit.models import Decoder, DecoderConfig, leaves, rules
from widelimit.scaling import completep

TOKENS = np.array([[3, 1, 4, 1, 5], [2, 6, 5, 3, 5]])


def small(**changes):
    """A decoder of two blocks of width 8 at base shape 4 x 1, with four heads of size 2."""
    fields = {"vocabulary": 7, "context": 6, "width": 8, "base_width": 4, "depth": 2, "base_depth": 1}
    heads = {} if "heads" in changes else {"head_size": 2}
    return DecoderConfig(**{**fields, **heads, "parametrization": completep(), **changes})


def multipliers(config):
    """The forward multipliers of a config."""
    return rules(config).multiplier


def parameters(config, seed=0):
    """Raw weights, float64 arrays of NumPy in the sizes of the rules; what starts at zero is drawn too."""
    law, generator = rules(config), np.random.default_rng(seed)
    return jax.tree.map(
        lambda std, leaf: (std or 0.3) * generator.normal(size=leaf.shape), law.init_std, leaves(config)
    )


def compiled(function):
    """Compiles without the optimisations, which take longest: these networks are small."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def logits(config, params, tokens=TOKENS, **variables):
    """The network's logits."""
    return Decoder(config).apply(
        {"params": params, "multipliers": multipliers(config), **variables}, jax.numpy.asarray(tokens)
    )


def reference(config, params, tokens=TOKENS):
    """Logits of a decoder of unrolled parameters, one sequence, one head and one query at a time."""
    return np.stack([sequence(config, params, multipliers(config), row) for row in tokens])


def sequence(config, params, scale, row):
    """Logits of one sequence, shape [T, vocabulary]."""
    x = params["embedding"]["table"][row]
    if not config.tied:
        x = x * scale["embedding"]["table"]
    if config.positions == "learned":
        x = x + scale["positions"]["table"] * params["positions"]["table"][: len(row)]
    x = config.embedding_multiplier * x
    for index in range(config.depth):
        weights, factors = params[f"block_{index}"], scale[f"block_{index}"]
        x = x + config.branch_scale * attention(config, weights["attention"], factors["attention"], x)
        x = x + config.branch_scale * mlp(config, weights["mlp"], factors["mlp"], x)
    x = norm(config, params, scale, x)
    if config.tied:
        return config.output_multiplier * scale["embedding"]["table"] * x @ params["embedding"]["table"].T
    return config.output_multiplier * scale["readout"]["kernel"] * x @ params["readout"]["kernel"]


def dense(weights, factors, name, x):
    """A dense layer, with or without bias."""
    y = factors[name]["kernel"] * x @ weights[name]["kernel"]
    return y + factors[name]["bias"] * weights[name]["bias"] if "bias" in weights[name] else y


def norm(config, weights, factors, x):
    """The norm under the name ``norm``; without parameters it has no name."""
    if config.norm == "layer":
        x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + config.norm_epsilon)
    if "norm" in weights:
        x = x * (1 + factors["norm"]["gain"] * weights["norm"]["gain"])
        if "bias" in weights["norm"]:
            x = x + factors["norm"]["bias"] * weights["norm"]["bias"]
    return x


def mlp(config, weights, factors, x):
    """The MLP's branch."""
    h = norm(config, weights, factors, x)
    up = dense(weights, factors, "up", h)
    if config.activation == "swiglu":
        gate = dense(weights, factors, "gate", h)
        up = gate / (1 + np.exp(-gate)) * up
    elif config.activation == "relu_squared":
        up = np.where(up > 0, up * up, 0)
    else:
        up = up * np.vectorize(lambda u: (1 + math.erf(u / math.sqrt(2))) / 2)(up)
    return dense(weights, factors, "down", up)


def _turned(x, position):
    """RoPE: the pair (i, i + d/2) as a complex number times exp(i t theta_i)."""
    half = len(x) // 2
    turned = (x[:half] + 1j * x[half:]) * np.exp(1j * position * 10_000.0 ** (-np.arange(half) / half))
    return np.concatenate([turned.real, turned.imag])


def attention(config, weights, factors, x, causal=True):
    """Attention's branch, with softmax over the past or over all positions, query by query."""
    heads = config.heads or config.width // config.head_size
    size, keys = config.width // heads, config.kv_heads or heads
    base_size = config.head_size or config.base_width // config.heads
    h = norm(config, weights, factors, x)
    query, key, value = (dense(weights, factors, name, h) for name in ("query", "key", "value"))
    out = np.zeros_like(query)
    for head in range(heads):
        own = slice(head * size, (head + 1) * size)
        other = slice(head // (heads // keys) * size, (head // (heads // keys) + 1) * size)
        for t in range(len(x)):
            score = []
            for s in range(t + 1 if causal else len(x)):
                q, k = query[t, own], key[s, other]
                if config.positions == "rope":
                    q, k = _turned(q, t), _turned(k, s)
                bias = -(2.0 ** (-8 * (head + 1) / heads)) * (t - s) if config.positions == "alibi" else 0.0
                score.append(math.sqrt(base_size) / size * q @ k + bias)
            weight = np.exp(np.array(score) - max(score))
            out[t, own] = weight @ value[: len(weight), other] / weight.sum()
    return dense(weights, factors, "output", out)
