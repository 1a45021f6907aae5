"""The global learning rate over a run: a linear warm-up, then a decay; rates per layer are rules."""

from __future__ import annotations

import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from widelimit.training.data.streams import as_count

Shape = Literal["constant", "linear", "cosine"]


def warmup_then(shape: Shape, rate: float, steps: int, warmup: int = 0, final: float = 0.0) -> optax.Schedule:
    r"""Returns a schedule: linear from ``rate / warmup`` to ``rate``, then constant, linear or cosine.

    Step t of ``warmup`` has ``rate (t + 1) / warmup``, so that the first step moves; the decay runs from
    ``rate`` to ``final * rate``, reached at the last step.

    Args:
        shape: ``"constant"``, ``"linear"`` or ``"cosine"``.
        rate: the highest rate.
        steps: of the run.
        warmup: steps of the warm-up, fewer than ``steps``.
        final: rate of the last step as a share of the highest; a constant schedule has none.

    Raises:
        ValueError: if the shape is unknown, the rate is not positive and finite, the warm-up does not end
            before the run, or ``final`` is no share or is given for a constant rate.

    Example:
        >>> schedule = warmup_then("linear", 1.0, steps=6, warmup=2, final=0.25)
        >>> [float(schedule(step)) for step in range(6)]
        [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    as_count("steps", steps, 1)
    as_count("warmup", warmup, 0)
    if shape not in get_args(Shape):
        raise ValueError(f"the schedule must be one of {', '.join(get_args(Shape))}; got {shape!r}.")
    if not 0 < rate < math.inf:
        raise ValueError(f"the learning rate must be positive and finite; got {rate}.")
    if warmup >= steps:
        raise ValueError(f"the warm-up must end before the run does; got {warmup} of {steps} steps.")
    if not 0 <= final <= 1 or (shape == "constant" and final):
        raise ValueError(
            "the final rate is a share between 0 and 1 of the highest, and 0 for a constant one; got "
            f"{final} for a {shape} schedule."
        )
    left = max(steps - warmup - 1, 1)

    def at(count: ArrayLike) -> jax.Array:
        """Written out: optax's cosine mixes whole numbers and floats, which strict promotion refuses."""
        t = jnp.asarray(count, float)
        done = jnp.clip((t - warmup) / left, 0.0, 1.0)
        fall = {"constant": 0 * done, "linear": done, "cosine": 0.5 * (1 - jnp.cos(math.pi * done))}[shape]
        rise = jnp.minimum((t + 1) / warmup, 1.0) if warmup else 1.0
        return rate * rise * (1.0 - (1.0 - final) * fall)

    return at
