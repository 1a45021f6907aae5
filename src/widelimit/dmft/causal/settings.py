"""How a problem is solved by Monte Carlo, checked and in one hashable object."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from widelimit.dmft.arguments import whole
from widelimit.dmft.problem import Problem, ResidualProblem
from widelimit.models import activation

RESPONSES = ("auto", "pathwise", "stein", "none")
OUTPUT_RULES = ("exact", "ntk_euler")
DTYPES = ("auto", "float32", "float64")
SMALL = 1e-3  # gamma0 below which f = <z phi> / gamma0 would be made of float32's rounding
NOT_LAZY = (
    'response="none" with output_rule="exact" has another limit at gamma0 = 0 than the lazy one, which is '
    'what would be returned: use output_rule="ntk_euler", see docs/dmft_discrepancies.md.'
)
#: Options of ``mlp`` that say what is computed, and what they are if not given.
DEFAULTS: Mapping[str, Any] = types.MappingProxyType(
    {
        "samples": 2000,
        "replicas": 8,
        "seed": 0,
        "response": "auto",
        "response_samples": 64,
        "output_rule": "exact",
        "control_variate": True,
        "antithetic": True,
        "moments": True,
        "fields": 0,
        "dtype": "auto",
    }
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What ``mlp`` was asked for, and the sizes that follow from the problem.

    Raises:
        ValueError: for numbers out of range and names that are unknown.
        TypeError: if the problem is none of this solver's.
    """

    points: int
    train: int
    outputs: int
    depth: int
    steps: int
    samples: int
    replicas: int
    seed: int
    response: str
    response_samples: int
    output_rule: str
    antithetic: bool
    moments: bool
    control_variate: bool
    fields: int
    dtype: str

    @property
    def pairs(self) -> int:
        """Independent draws of noise: half the samples where they come in pairs (u, r), (u, -r)."""
        return self.samples // 2 if self.antithetic else self.samples

    @property
    def ridge(self) -> float:
        """Of Stein's responses, over the mean of the kernel's diagonal; goes to zero with the samples."""
        return 2 / self.samples


def settings(problem: Problem, **asked: Any) -> Settings:
    """Returns the checked settings for a problem.

    Args:
        problem: what is to be solved.
        asked: the options of ``mlp``.
    """
    if not isinstance(problem, Problem) or isinstance(problem, ResidualProblem):
        raise TypeError(
            f"mlp solves a dmft.Problem; got {type(problem).__name__}"
            + (": use dmft.residual." if isinstance(problem, ResidualProblem) else ".")
        )
    for name, least in (("samples", 2), ("replicas", 2), ("response_samples", 1), ("fields", 0), ("seed", 0)):
        asked[name] = whole(asked[name], name, least)
    for name, known in (("response", RESPONSES), ("output_rule", OUTPUT_RULES), ("dtype", DTYPES)):
        if asked[name] not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}; got {asked[name]!r}.")
    if asked["antithetic"] and asked["samples"] % 2:
        raise ValueError(f"samples must be even where they come in pairs; got {asked['samples']!r}.")
    if asked["output_rule"] == "ntk_euler" and problem.weight_decay:
        raise ValueError(
            'output_rule="ntk_euler" adds up gradient steps and knows no weight decay; use "exact".'
        )
    if problem.gamma0 == 0 and asked["response"] == "none" and problem.depth > 1:
        if asked["output_rule"] == "exact":
            raise ValueError(NOT_LAZY)
    if asked["dtype"] == "auto":
        asked["dtype"] = "float64" if problem.gamma0 < SMALL else "float32"
    if asked["response"] == "auto":
        asked["response"] = "stein"
    if asked["response"] == "pathwise" and problem.depth > 1 and kinked(problem):
        raise ValueError(
            'response="pathwise" needs a second derivative, and this activation has a kink; use "stein".'
        )
    for name in ("fields", "response_samples"):
        if asked[name] > asked["samples"] and (name == "fields" or asked["response"] == "pathwise"):
            raise ValueError(f"{name} must be {asked['samples']}, the samples, at most; got {asked[name]}.")
    if asked["response"] == "pathwise" and asked["antithetic"] and asked["response_samples"] % 2:
        raise ValueError(
            f"response_samples must be even where they come in pairs; got {asked['response_samples']}."
        )
    return Settings(
        points=problem.points,
        train=problem.samples,
        outputs=problem.outputs,
        depth=int(problem.depth),
        steps=int(problem.steps),
        **asked,
    )


def kinked(problem: Problem) -> bool:
    """Whether phi' jumps: then phi'' is no function, and a derivative along the path misses a part.

    Args:
        problem: whose activation it is.
    """
    phi = activation(problem.activation)
    with jax.enable_x64(True):
        x = jnp.linspace(-6.0, 6.0, 24002)  # 0 is between two points
        first = jax.vmap(jax.grad(lambda h: phi(h[None])[0]))
        second = jax.vmap(jax.grad(jax.grad(lambda h: phi(h[None])[0])))
        slopes, bends = np.asarray(first(x)), np.asarray(second((x[1:] + x[:-1]) / 2))
        missed = np.abs(np.diff(slopes) - bends * np.diff(np.asarray(x)))
    return bool(missed.max() > 1e-3 * max(np.abs(slopes).max(), 1e-30))
