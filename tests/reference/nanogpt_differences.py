"""Where EleutherAI/nanoGPT-mup departs from CompleteP's table, and so from our rules: one function a name.

Each takes our rules of a decoder, its config and a case of nanogpt_problem.py, and returns the rules with
that one thing as the peer has it. Tied embeddings, another difference, are a flag of the config.
"""

from __future__ import annotations

import dataclasses
from math import sqrt

import jax

from widelimit.models import DecoderConfig
from widelimit.scaling import Rules


def attention_scale(rules: Rules, config: DecoderConfig, case: dict) -> Rules:
    """Under muP, 1/d on the attention logits: ours is sqrt(d_0)/d, which is 1/sqrt(d) at the base width."""
    if case["scheme"] == "standard":
        return rules
    (blocks,) = (tree for name, tree in rules.multiplier.items() if name == "blocks")
    less = config.split().base_size ** -0.5
    query = jax.tree.map(lambda multiplier: less * multiplier, blocks["attention"]["query"])
    attention = blocks["attention"] | {"query": query}
    multiplier = rules.multiplier | {"blocks": blocks | {"attention": attention}}
    return dataclasses.replace(rules, multiplier=multiplier)


def one_epsilon(rules: Rules, config: DecoderConfig, case: dict) -> Rules:
    """One epsilon for all arrays: unscaled, or with the depth rule m_N^-1 m_L^-alpha everywhere."""
    factor = 1.0
    if case["scheme"] == "depth":
        deep = config.depth / config.base_depth
        factor = config.base_width / config.width * deep ** -case["alpha"]
    return dataclasses.replace(rules, epsilon=jax.tree.map(lambda _: factor, rules.epsilon))


def mup_decay(rules: Rules, config: DecoderConfig, case: dict) -> Rules:
    """Under muP without the depth rule, the decay of a hidden matrix falls with its rate, as 1/m_N."""
    if case["scheme"] != "mup":
        return rules
    ones = jax.tree.map(lambda _: 1.0, rules.weight_decay)
    return dataclasses.replace(rules, weight_decay=ones, decay="coupled")


def matrices_decay(rules: Rules, config: DecoderConfig, case: dict) -> Rules:
    """Only matrices and tables decay, no biases and gains."""
    leaves = jax.tree.unflatten(jax.tree.structure(rules.weight_decay), rules.leaves)
    factors = jax.tree.map(lambda leaf, factor: factor * bool(leaf.contracted), leaves, rules.weight_decay)
    return dataclasses.replace(rules, weight_decay=factors)


def shallow_outputs(rules: Rules, config: DecoderConfig, case: dict) -> Rules:
    """On the main line and without muP, the last matrix of a branch starts smaller by sqrt(2 L)."""
    if case["scheme"] == "depth":
        return rules
    leaves = jax.tree.unflatten(jax.tree.structure(rules.init_std), rules.leaves)
    stds = jax.tree.map(
        lambda leaf, std: std / sqrt(2 * config.depth) if leaf.ends_branch else std, leaves, rules.init_std
    )
    return dataclasses.replace(rules, init_std=stds)


def constant_std(rules: Rules, config: DecoderConfig, case: dict) -> Rules:
    """Without muP, every matrix starts with the std of the base width: ours falls as 1/sqrt(fan_in)."""
    if case["scheme"] != "standard":
        return rules
    leaves = jax.tree.unflatten(jax.tree.structure(rules.init_std), rules.leaves)
    stds = jax.tree.map(lambda leaf, std: std * sqrt(leaf.fan_in / leaf.base_fan_in), leaves, rules.init_std)
    return dataclasses.replace(rules, init_std=stds)


DIFFERENCES = {
    "attention 1/d": attention_scale,
    "one epsilon": one_epsilon,
    "muP's decay unscaled": mup_decay,
    "matrices decay only": matrices_decay,
    "branch outputs start small": shallow_outputs,
    "standard std at every width": constant_std,
}
