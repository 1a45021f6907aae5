"""Operations per token against the program's own count, schedules, and what a run reports of its speed."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest

from tests.training.scale.support import DECODER
from widelimit.models import Decoder, DecoderConfig, rules
from widelimit.training.scale import Peak, flops_per_token, make_mesh, peak_flops, throughput, warmup_then


def decoder_flops(config):
    """Of a decoder, by the formula."""
    return flops_per_token(config, config.context)


def product_flops(jaxpr):
    """Two for each multiplication and addition of every product in a traced program."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            contracted = equation.params["dimension_numbers"][0][0]
            sizes = [equation.invars[0].aval.shape[axis] for axis in contracted]
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(sizes)
        for inner in jax.tree.leaves(list(equation.params.values())):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                total += product_flops(getattr(inner, "jaxpr", inner))
    return total


def traced(config, rows=2):
    """The forward pass of some rows, and its arguments' shapes."""
    numbers, model = rules(config), Decoder(config)
    params = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, np.float32),
        jax.tree.unflatten(jax.tree.structure(numbers.init_std), numbers.leaves),
    )

    def forward(params, tokens):
        return model.apply({"params": params, "multipliers": numbers.multiplier}, tokens)

    return forward, params, jax.ShapeDtypeStruct((rows, config.context), np.int32)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tied": True, "positions": "learned"},
        {"activation": "swiglu", "kv_heads": 1, "depth": 3, "gains": True, "bias": True},
    ],
)
def test_the_formula_counts_every_product_exactly(changes):
    """2 N + 4 L H d T per token are the program's products: none is forgotten, no table counted."""
    config = DecoderConfig(**{**DECODER, **changes})
    forward, *shapes = traced(config)
    counted = product_flops(jax.make_jaxpr(forward)(*shapes).jaxpr)
    assert decoder_flops(config).forward * 2 * config.context == counted


def test_the_formula_against_the_compilers_count():
    """XLA counts entrywise operations too: a few per score, some twenty per hidden unit.

    At width 128 these are below a tenth of the products (20 per hidden unit against 4 * 128, and less in the
    softmax), so its count lies between 1 and 1.1 times the formula.
    """
    config = DecoderConfig(**{**DECODER, "width": 128, "head_size": 16, "vocabulary": 256, "context": 32})
    forward, *shapes = traced(config)
    counted = jax.jit(forward).lower(*shapes).compile().cost_analysis()["flops"]
    assert 1 <= counted / (decoder_flops(config).forward * 2 * config.context) <= 1.1


def test_a_training_step_is_three_forward_passes():
    """And the masked half of causal attention is left out where asked for."""
    flops = decoder_flops(DecoderConfig(**DECODER))
    assert flops.training == 3 * (flops.products + flops.attention)
    assert flops.training - flops.training_unmasked == 1.5 * flops.attention > 0


def test_throughput_leaves_out_the_warm_up():
    """The first stretch of each process compiles; the median of the others counts."""
    rows = [
        {"step": 0, "validation_loss": 3.0},
        {"step": 10, "steps": 10, "train_seconds": 50.0, "warmup": True},
        {"step": 20, "steps": 10, "train_seconds": 2.0, "warmup": False},
        {"step": 30, "steps": 10, "train_seconds": 1.0, "warmup": False},
        {"step": 40, "steps": 10, "train_seconds": 4.0, "warmup": False},
    ]
    flops = decoder_flops(DecoderConfig(**DECODER))
    found = throughput(rows, tokens=100, flops=flops, peak=Peak(1e6, "made up"))
    assert (found["tokens_per_second"], found["stretches"]) == (500.0, 3)
    assert found["mfu"] == pytest.approx(500 * flops.training / 1e6)
    assert found["mfu_unmasked"] == pytest.approx(500 * flops.training_unmasked / 1e6)
    short = throughput(rows[:2], tokens=100, flops=flops, peak=Peak(1e6, "made up"))
    assert short["tokens_per_second"] is None and short["stretches"] == 0


def test_a_known_device_has_the_peak_of_its_data_sheet(monkeypatch):
    """The more special name counts, and every device."""

    class Device:
        platform = "gpu"

        def __init__(self, kind):
            self.device_kind = kind

    class Mesh:
        def __init__(self, kind):
            self.devices = np.array([[Device(kind)] * 2])

    for kind, flops in {
        "NVIDIA H100 80GB HBM3": 989.4e12,
        "NVIDIA H100 PCIe": 756e12,
        "NVIDIA H200": 989.4e12,
        "NVIDIA A100-SXM4-80GB": 312e12,
        "TPU v5 lite": 197e12,
        "TPU v6 lite": 918e12,
        "TPU v5p": 459e12,
    }.items():
        peak = peak_flops(Mesh(kind))
        assert peak.flops == 2 * flops and peak.source.startswith("data sheet")


def test_a_cpu_has_the_peak_that_it_shows():
    """Measured once, and simulated devices share it; the report can say so."""
    one, eight = peak_flops(make_mesh()), peak_flops(make_mesh(8))
    assert one == eight and one.flops > 1e8 and one.source.startswith("measured")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("step", 1.0, 10), "must be one of constant, linear, cosine; got 'step'"),
        (("cosine", 0.0, 10), "must be positive and finite; got 0.0"),
        (("cosine", 1.0, 10, 10), "the warm-up must end before the run does; got 10 of 10"),
        (("constant", 1.0, 10, 0, 0.5), "0 for a constant one; got 0.5 for a constant"),
        (("linear", 1.0, 10, 0, 1.5), "a share between 0 and 1"),
    ],
)
def test_schedules_that_make_no_sense(arguments, match):
    """One sentence each."""
    with pytest.raises(ValueError, match=match):
        warmup_then(*arguments)


def test_a_cosine_ends_where_it_should():
    """The peak after the warm-up, half of the way in the middle, the final share at the last step."""
    schedule = jax.jit(jax.vmap(warmup_then("cosine", 2.0, steps=15, warmup=4, final=0.5)))
    found = schedule(np.array([0, 3, 4, 9, 14], np.int32))
    np.testing.assert_allclose(found, [0.5, 2.0, 2.0, 1.5, 1.0], rtol=1e-6)
