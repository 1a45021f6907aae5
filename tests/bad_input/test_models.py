"""Rules and models that do not fit, in an experiment of a user's own."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import pytest

from widelimit.models import MLPConfig, initialise, rescale, rules
from widelimit.optim import adam, sgd
from widelimit.scaling import from_json, make_rules, mean_field, mup, probe, to_json
from widelimit.training import main


@dataclasses.dataclass(frozen=True)
class Mine:
    """An experiment of a user's own.

    Args:
        preset: the only one.
        seed: of everything random.
    """

    preset: Literal["default"] = "default"
    seed: int = 0


def network(width: int = 16, base_width: int = 8, parametrization=None) -> MLPConfig:
    """The model of that experiment."""
    return MLPConfig(
        inputs=3,
        outputs=2,
        width=width,
        base_width=base_width,
        parametrization=parametrization or mup(),
        depth=2,
    )


def weights(width: int = 16):
    """Its initial parameters."""
    return initialise(jax.random.key(0), rules(network(width), "adam"))


def foreign(width: int):
    """Parameters of a model that is not ours."""
    first, last = jax.random.split(jax.random.key(0))
    return {
        "first": jax.random.normal(first, (3, width)),
        "last": jax.random.normal(last, (width, 2)) / width**0.5,
    }


def forward(width: int, params, inputs):
    """Its forward pass."""
    return inputs @ params["first"] @ params["last"]


EXAMPLE = jnp.ones((1, 3))
RULES = rules(network(), "adam")
FOREIGN = make_rules(probe(foreign, forward, EXAMPLE, width=16, base_width=8), mup(), "adam")
BROKEN = {**foreign(16), "first": foreign(16)["first"].at[0, 0].set(jnp.nan)}


def uneven(width: int):
    """A layer that does not grow with the width."""
    return {"first": jnp.ones((3, width + 3)), "last": jnp.ones((width + 3, 2))}


@pytest.mark.parametrize(
    ("step", "match"),
    [
        (lambda: from_json(to_json(RULES), weights(32)), r"another model: 'Dense_0/bias' has shape \(32,\)"),
        (
            lambda: from_json(to_json(RULES), foreign(16)),
            "'Dense_0/bias' is in the rules but not in the model",
        ),
        (lambda: from_json(to_json(RULES)[:1000], weights()), "text that is not JSON"),
        (lambda: from_json('{"rules": []}', weights()), "JSON without that format field"),
        (
            lambda: from_json(to_json(RULES).replace('"epsilon": 0.5', '"epsilon": NaN'), weights()),
            "must be a finite number; got nan",
        ),
        (lambda: from_json(to_json(RULES).replace('"hidden"', '"inner"'), weights()), "is damaged"),
        (lambda: sgd(0.1, RULES).init(weights()), "optimizer 'sgd', but these rules were made for 'adam'"),
        (lambda: adam(0.1, RULES).init(weights(32)), r"shape \(16,\), but that parameter has shape \(32,\)"),
        (
            lambda: adam(0.1, RULES).init({**weights(), "gain": jnp.ones(3)}),
            "'gain' is in the parameters and not",
        ),
        (
            lambda: adam(0.1, RULES).init({"Dense_0": weights()["Dense_0"]}),
            "is in the rules and not in the param",
        ),
        (lambda: adam(0.1, None), "takes rules made by widelimit.scaling.make_rules; got NoneType"),
        (lambda: make_rules(FOREIGN.leaves, mup(), "lamb"), "learning rates for .*; got optimizer 'lamb'"),
        (lambda: make_rules(foreign(16), mup(), "adam"), "Leaf"),
        (lambda: rescale(BROKEN, FOREIGN, foreign, forward, EXAMPLE), "first must be finite to be rescaled"),
        (lambda: rescale(foreign(32), FOREIGN, foreign, forward, EXAMPLE), r"first of shape \(3, 16\); got"),
        (lambda: probe(foreign, forward, EXAMPLE, width=16), "base_width is missing: pass base_width="),
        (
            lambda: probe(foreign, forward, EXAMPLE, width=-16, base_width=8),
            "width must be a positive integer",
        ),
        (
            lambda: probe(foreign, forward, EXAMPLE, width=16, base_width=0),
            "base_width must be a positive integer",
        ),
        (lambda: probe(uneven, forward, EXAMPLE, width=16, base_width=8), "13.6% off proportional; make it"),
        (
            lambda: probe(foreign, forward, EXAMPLE, width=16, base_width=8, overrides={"frist": "input"}),
            "overrides",
        ),
        (
            lambda: mean_field(gamma0=-1.0),
            "gamma0, the feature-learning strength, must be positive; got -1.0",
        ),
        (lambda: network(width=0), "must be a positive integer; got 0"),
        (lambda: network(base_width=None), "base size of an axis must be a positive integer; got None"),
    ],
)
def test_rules_and_models_that_do_not_fit(tmp_path, refused, step, match):
    """In an experiment of a user's own, whose mistakes are told like ours."""

    def run(config: Mine, directory: Path):
        step()
        pytest.fail("went on as if nothing were wrong")

    refused(lambda: main("mine", {"default": Mine()}, run, ["--directory", str(tmp_path / "runs")]), match)
