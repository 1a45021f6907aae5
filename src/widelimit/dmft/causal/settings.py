"""How a problem is solved by Monte Carlo, checked and in one hashable object."""

from __future__ import annotations

import dataclasses

from widelimit.dmft.problem import Problem, ResidualProblem

RESPONSES = ("auto", "pathwise", "stein", "none")
OUTPUT_RULES = ("exact", "ntk_euler")
DTYPES = ("float32", "float64")
KINKED = ("relu",)  # their second derivative is no function: a derivative along the path would miss it


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


def settings(problem: Problem, **asked: object) -> Settings:
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
        value = asked[name]
        if isinstance(value, bool) or int(value) != value or value < least:  # type: ignore[call-overload,operator]
            raise ValueError(f"{name} must be a whole number, {least} or more; got {value!r}.")
    for name, known in (("response", RESPONSES), ("output_rule", OUTPUT_RULES), ("dtype", DTYPES)):
        if asked[name] not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}; got {asked[name]!r}.")
    if asked["antithetic"] and asked["samples"] % 2:  # type: ignore[operator]
        raise ValueError(f"samples must be even where they come in pairs; got {asked['samples']!r}.")
    if asked["output_rule"] == "ntk_euler" and problem.weight_decay:
        raise ValueError(
            'output_rule="ntk_euler" adds up gradient steps and knows no weight decay; use "exact".'
        )
    if asked["response"] == "auto":
        asked["response"] = "stein"
    return Settings(
        points=problem.points,
        train=problem.samples,
        outputs=problem.outputs,
        depth=int(problem.depth),
        steps=int(problem.steps),
        **asked,  # type: ignore[arg-type]
    )
