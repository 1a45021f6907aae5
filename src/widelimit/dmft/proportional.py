"""Deep linear networks whose width, data and dimension grow together: exact training dynamics."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from widelimit.dmft.arguments import number, whole
from widelimit.dmft.checks import check_loss
from widelimit.dmft.labelled import Labelled
from widelimit.dmft.proportional_residual import ResidualSteps
from widelimit.dmft.proportional_steps import Steps
from widelimit.kernels.matrices import as_float64
from widelimit.models import MLPConfig, ResidualMLPConfig
from widelimit.scaling import dmft


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ProportionalProblem:
    r"""Gradient descent of a deep linear network, width N and dimension D growing together.

    ``h^1 = W^0 x / sqrt(D)``, ``h^{l+1} = W^l h^l / sqrt(N)``, ``f = sqrt(D) w . h^L / (g N)``, weights and
    inputs ~ N(0, 1), targets ``y = beta . x / sqrt(D)`` with ``|beta|^2 = D``. Every step takes
    ``eta0 g^2 N`` times the gradient of the mean of ``(f - y)^2 / 2``: over all inputs, over P of them, the
    same at every step, or over B fresh ones. Not centred: the loss starts at ``1 + 1 / (g^2 nu)``.

    A fixed g is muP; ``g = nu^(-1/2)`` is the NTK parametrization, ``f = w . h^L / sqrt(N)`` at rate ``eta0
    D`` whatever the width.

    Args:
        nu: N / D; ``math.inf`` is the limit of width alone.
        steps: number T of gradient steps; results hold T + 1 times.
        eta0: learning rate over D: a number, or one for every step, shape [T].
        depth: number L of hidden layers.
        g: feature-learning strength, ``gamma0 sqrt(D)``.
        data: P / D of a fixed training set; ``math.inf`` is the population.
        batch: B / D of fresh samples at every step (one pass); ``math.inf`` is the population.
        branch_scale: None is a network without skips; a number b makes it residual, with ``h^0 = W^0 x /
            sqrt(D)``, L branches ``h^{l+1} = h^l + b W^l h^l / sqrt(N)`` and a readout of h^L. For a limit of
            infinite depth take b of order ``depth**-0.5``.

    Raises:
        ValueError: if a number is out of range, or both data and batch are finite.

    Example:
        >>> problem = ProportionalProblem(nu=4.0, steps=5, eta0=0.1, depth=2)
        >>> problem.network(100).width
        400

    Reference:
        Bordelon & Pehlevan, Deep Linear Network Training Dynamics from Random Initialization: Data, Width,
        Depth, and Hyperparameter Transfer (arXiv 2502.02531).
    """

    nu: float
    steps: int
    eta0: ArrayLike
    depth: int = 1
    g: float = 1.0
    data: float = math.inf
    batch: float = math.inf
    branch_scale: float | None = None

    def __post_init__(self) -> None:
        """Checks everything once, and turns the rate into a float64 array."""
        for name in ("steps", "depth"):
            object.__setattr__(self, name, whole(getattr(self, name), name))
        for name in ("nu", "g", "data", "batch", "branch_scale"):
            if not (name == "branch_scale" and self.branch_scale is None):
                object.__setattr__(self, name, number(getattr(self, name), name))
        for name in ("nu", "data", "batch"):
            if not getattr(self, name) > 0:
                raise ValueError(
                    f"{name} must be a positive number or math.inf; got {getattr(self, name)!r}."
                )
        if not (math.isfinite(self.g) and self.g > 0):
            raise ValueError(f"g must be a positive, finite number; got {self.g!r}.")
        if self.branch_scale is not None and not 0 < self.branch_scale < math.inf:
            raise ValueError(f"branch_scale must be None or a positive number; got {self.branch_scale!r}.")
        if math.isfinite(self.data) and math.isfinite(self.batch):
            raise ValueError(
                f"Give data (a fixed training set) or batch (fresh samples at every step), not both; got "
                f"{self.data} and {self.batch}."
            )
        rate, _ = as_float64(self.eta0, "eta0")
        if rate.shape not in ((), (self.steps,)) or (rate <= 0).any():
            raise ValueError(
                f"eta0 must be positive, a number or one for each of {self.steps} steps; got {self.eta0!r}."
            )
        object.__setattr__(self, "eta0", rate)

    @property
    def rates(self) -> np.ndarray:
        """The rate of every step, [T]."""
        return np.broadcast_to(np.asarray(self.eta0), (self.steps,))

    @property
    def layers(self) -> int:
        """How many hidden fields h there are: L, or L + 1 of a residual network."""
        return self.depth + (self.branch_scale is not None)

    def counts(self, size: int) -> tuple[int, int, int]:
        """Returns N, P and B of the finite network of dimension D = size; 0 stands for the population.

        Raises:
            ValueError: if nu, data or batch times size is not whole.
        """
        found = []
        for name in ("nu", "data", "batch"):
            ratio = getattr(self, name)
            count = 0.0 if math.isinf(ratio) else ratio * size
            if name == "nu" and not count:
                raise ValueError("a finite network needs a finite nu; got inf.")
            if abs(count - round(count)) > 1e-9 * max(count, 1.0) or (count and round(count) < 1):
                raise ValueError(f"{name} times size must be whole; got {ratio} x {size}.")
            found.append(round(count))
        return found[0], found[1], found[2]

    def network(self, size: int) -> MLPConfig | ResidualMLPConfig:
        """Returns the config of the finite network of dimension D = size.

        Args:
            size: D.
        """
        width = self.counts(size)[0]
        settings: dict[str, Any] = {
            "inputs": size,
            "outputs": 1,
            "width": width,
            "base_width": width,
            "parametrization": dmft(gamma0=self.g / math.sqrt(size)),
            "depth": self.depth,
            "activation": "identity",
            "bias": False,
        }
        if self.branch_scale is None:
            return MLPConfig(**settings)
        return ResidualMLPConfig(**settings, branch_scale=self.branch_scale)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Proportional:
    r"""The training of an infinitely large deep linear network of a given shape; exact.

    ``v = beta - beta_hat`` is the error of the network's linear map, per input coordinate.

    Args:
        problem: what was solved.
        loss: of fresh inputs, ``<v v>`` (no 1/2), axes (time,).
        train_loss: of the fixed training set; where there is none, the loss again.
        errors: ``C_v = <v(t) v(s)>``, axes (time, time').
        features: ``H^l = <h^l h^l>`` of the hidden fields that v (what a batch sees of it) drives, layers
            1..L (of a residual network 0..L), axes (layer, time, time').
        gradients: ``G^l = <g^l g^l>``, alike.
        error_response: ``R_v = dv / dr^0``, axes (time, time').
        feature_response: ``R_h^l = dh^l / dr^l``, axes (layer, time, time').
        gradient_response: ``R_g^l = dg^l / du^l``, alike.
        diagnostics: seconds, bytes.
    """

    problem: ProportionalProblem
    loss: Labelled
    train_loss: Labelled
    errors: Labelled
    features: Labelled
    gradients: Labelled
    error_response: Labelled
    feature_response: Labelled
    gradient_response: Labelled
    diagnostics: Mapping[str, Any]


def proportional(problem: ProportionalProblem) -> Proportional:
    r"""Solves the training of a deep linear network in the limit of width, data and dimension together.

    All fields are linear in Gaussians, so times x times matrices close; with n = T + 1, Id - C D is
    triangular in time and one pass over the steps solves all layers::

        E    = tril(eta0 G^1) + R_g^1 / g,     M = (Id + E R_q)^-1,     R_v = -M / (g sqrt(nu))
        C_v  = M (J + G^1 / (g^2 nu)) M^T + (M E) N (M E)^T
        C^1  = R_q R_v / sqrt(nu) + g tril(C_seen eta0),      C^l = R_h^{l-1} + g tril(H^{l-1} eta0)
        D^l  = R_g^{l+1} + g tril(G^{l+1} eta0),      X = (Id - C D)^-1,     Y = (Id - D C)^-1
        H^l  = X (H^{l-1} + C G^{l+1} C^T) X^T,     R_h^l = X C     (H^0 = C_seen)
        G^l  = Y (G^{l+1} + D H^{l-1} D^T) Y^T,     R_g^l = Y D     (G^{L+1} = J, R_g^{L+1} = 0)

    J is all ones, tril strictly lower. The gradient sees the errors v only through the inputs that it is
    taken over, ``R_q v + noise`` of covariance N: for the population ``R_q = Id, N = 0, C_seen = C_v``; for a
    fixed set ``R_q = (Id + M E / data)^-1, N = R_q C_v R_q^T / data`` (which is the training loss over data);
    for fresh batches ``R_q = Id, N = diag(C_v) / batch``.

    Args:
        problem: what to solve.

    Returns:
        Losses and order parameters, exact up to a rounding of about 1e-16 of their start. O(L T^3) time and
        O(L T^2) memory; L^2 in place of L with residual branches.

    Raises:
        Diverged: if training does, with the step.
        TypeError: for another kind of problem.

    Example:
        >>> solution = proportional(ProportionalProblem(nu=1.0, steps=20, eta0=0.05))
        >>> [round(float(solution.loss.values[t]), 5) for t in (0, 5, 20)]
        [2.0, 0.7189, 0.10137]

    Reference:
        arXiv 2502.02531; the equations above are derived for discrete steps, and checked against networks.
    """
    if not isinstance(problem, ProportionalProblem):
        raise TypeError(f"dmft.proportional solves a dmft.ProportionalProblem; got {type(problem).__name__}.")
    started = time.monotonic()
    steps = Steps(problem) if problem.branch_scale is None else ResidualSteps(problem)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is a divergence, and said here
        for t in steps.run():
            for loss in (steps.cov_v, steps.cov_q):
                check_loss(t, float(loss[t, t]), float(loss[0, 0]))
    return _solution(problem, steps, time.monotonic() - started)


def _solution(problem: ProportionalProblem, steps: Steps, seconds: float) -> Proportional:
    """Everything under its name."""
    matrix, layers = ("time", "time'"), ("layer", "time", "time'")
    first = 1 if problem.branch_scale is None else 0
    root = math.sqrt(1 / problem.nu) / problem.g
    size = sum(value.nbytes for value in vars(steps).values() if isinstance(value, np.ndarray))
    return Proportional(
        problem=problem,
        loss=Labelled(steps.cov_v.diagonal().copy(), ("time",)),
        train_loss=Labelled(steps.cov_q.diagonal().copy(), ("time",)),
        errors=Labelled(steps.cov_v, matrix),
        features=Labelled(steps.h, layers, first_layer=first),
        gradients=Labelled(steps.g, layers, first_layer=first),
        error_response=Labelled(-root * steps.m, matrix),
        feature_response=Labelled(steps.r_h, layers, first_layer=first),
        gradient_response=Labelled(steps.r_g, layers, first_layer=first),
        diagnostics={"seconds": seconds, "bytes": size},
    )
