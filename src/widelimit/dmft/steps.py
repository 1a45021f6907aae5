"""What solvers on NumPy share: errors at a step, the loss over all of them, and a bound on memory."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from widelimit.dmft.checks import check_field, check_loss
from widelimit.dmft.labelled import Labelled
from widelimit.dmft.problem import Problem
from widelimit.kernels.empirical.budget import parse_bytes
from widelimit.models import activation


def float64_errors(problem: Problem) -> Callable[[np.ndarray], np.ndarray]:
    """Returns Delta = -d loss / d f as a function of predictions [P, C], in float64.

    Args:
        problem: whose loss it is. ``"mse"`` needs no JAX; any other loss is compiled once.
    """
    if problem.loss == "mse":
        targets = _columns(problem)
        return lambda f: targets - f
    compiled = jax.jit(problem.errors)

    def errors(f: np.ndarray) -> np.ndarray:
        with jax.enable_x64(True):
            return np.asarray(compiled(jnp.asarray(f)))

    return errors


def float64_losses(problem: Problem, f: np.ndarray) -> np.ndarray:
    """Returns the mean training loss at each time, [T + 1], of predictions [T + 1, P, C].

    Args:
        problem: whose loss it is.
        f: predictions at the training points.
    """
    if problem.loss == "mse":
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(((f - _columns(problem)) ** 2).sum(-1).mean(-1) / 2)
    with jax.enable_x64(True):
        return np.asarray(jax.jit(jax.vmap(problem.losses))(jnp.asarray(f)).mean(-1))


def outcome(problem: Problem, f: np.ndarray) -> tuple[Labelled, Labelled]:
    """Returns predictions and loss as a ``Solution`` holds them, of an exact solver.

    Args:
        problem: that was solved.
        f: predictions at all points, [T + 1, P + M, C].

    Raises:
        Diverged: at the first step after which the loss is beyond bounds.
    """
    losses = float64_losses(problem, f[:, : problem.samples])
    for step, loss in enumerate(losses):
        check_loss(step, float(loss), float(losses[0]))
    values, axes = (f, ("time", "sample", "output")) if wide(problem) else (f[..., 0], ("time", "sample"))
    return Labelled(values, axes), Labelled(losses, ("time",))


def check_path(problem: Problem, f: np.ndarray, sizes: ArrayLike) -> None:
    """Raises at the first step at which the loss or a field of particles blew up.

    Args:
        problem: that was solved.
        f: predictions at all points, [T + 1, P + M, C].
        sizes: root mean square of h and of z, [T + 1, 2].

    Raises:
        Diverged: with the step.
    """
    losses, sizes = float64_losses(problem, f[:, : problem.samples]), np.asarray(sizes, np.float64)
    for step, (loss, (h, z)) in enumerate(zip(losses, sizes, strict=True)):
        check_loss(step, float(loss), float(losses[0]))
        check_field(step, h, sizes[0, 0], problem.gamma0)
        check_field(step, z, sizes[0, 1], problem.gamma0, "the readout's weights")


def is_identity(problem: Problem) -> bool:
    """Returns whether the network is linear: its activation is ``"identity"``, by name or as that function.

    A function of one's own is not looked at: no finite number of its values says what it does elsewhere.

    Args:
        problem: that is solved.
    """
    return activation(problem.activation) is activation("identity")


def wide(problem: Problem) -> bool:
    """Returns whether results have an axis of outputs: where targets are [P, C].

    Args:
        problem: that is solved.
    """
    return np.asarray(problem.targets).ndim == 2


def _columns(problem: Problem) -> np.ndarray:
    """Targets as [P, C]."""
    return np.asarray(problem.targets).reshape(problem.samples, problem.outputs)


def check_memory(numbers: int, memory: str | float) -> int:
    """Returns the bytes of float64 numbers; refuses them where they are more than memory allows.

    Args:
        numbers: how many are held at once.
        memory: bytes that may be used, or text such as "2GiB".

    Raises:
        ValueError: if they do not fit.
    """
    needed, allowed = 8 * numbers, parse_bytes(memory)
    if needed > allowed:
        raise ValueError(
            f"This problem's order parameters take {needed / 1e9:.3g} GB and memory allows "
            f"{allowed / 1e9:.3g}: take fewer points or steps, or pass more memory."
        )
    return needed
