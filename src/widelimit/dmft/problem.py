"""What is solved: the network, its data and how it is trained, in one checked object."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from widelimit.dmft.arguments import check_targets, number, whole
from widelimit.dmft.losses import Loss, loss_function
from widelimit.kernels.matrices import as_float64, check_semi_definite
from widelimit.models import MLPConfig, ResidualMLPConfig, activation
from widelimit.scaling import dmft, with_depth


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    r"""Full-batch (or fixed-batch) gradient descent of a fully connected network that learns features.

    ``h^1 = W^0 x / sqrt(D)``, ``h^{l+1} = W^l phi(h^l) / sqrt(N)``, ``f = w . phi(h^L) / (gamma0 N)``, all
    weights ~ N(0, 1), trained on ``mean_mu loss(f_mu, y_mu)`` from ``f - f_0`` (centred) by steps of
    ``learning_rate gamma0^2 N`` times the gradient. At infinite width it depends on the inputs only through
    ``K_mu,nu = x_mu . x_nu / D``.

    Args:
        targets: y of the P training points, shape [P] or [P, C] for C outputs.
        steps: number T of gradient steps; results hold T + 1 times, before the first to after the last.
        learning_rate: eta, of the limit: a number, or one for every step, shape [T].
        depth: number L of hidden layers (of a ``ResidualProblem``: of branches).
        activation: phi, a name (see ``models.ACTIVATIONS``) or an entrywise function.
        gamma0: feature-learning strength; 0 is the lazy limit, the NTK's.
        inputs: of the training points, shape [P, D].
        test_inputs: of M test points, shape [M, D].
        kernel: K in place of the inputs, shape [P, P], or [P + M, P + M] with test points last.
        loss: ``"mse"`` (``|f - y|^2 / 2``), ``"logistic"`` (targets -1 and 1), ``"cross_entropy"`` (targets
            [P, C] that are probabilities, such as one-hot labels), or a differentiable function of one
            sample's (f, y), both of shape [C] (or [] if targets are [P]).
        momentum: heavy ball, ``m <- momentum m + gradient``, in [0, 1).
        weight_decay: lambda, ``theta <- (1 - eta lambda) theta`` at every step beside the gradient's.
        batches: indices of the training points that each step sees, shape [T, B]; None is all of them.

    Raises:
        TypeError: for what is not a number, a name or a function where one is expected.
        ValueError: if shapes do not fit, numbers are not finite, K is not positive semi-definite, targets are
            none that the loss takes, or both or neither of inputs and kernel are given.

    Example:
        >>> kernel = [[1.0, 0.2], [0.2, 1.0]]
        >>> problem = Problem(targets=[1.0, -1.0], kernel=kernel, steps=10, learning_rate=0.1)
        >>> problem.samples, problem.outputs, problem.network(64).width
        (2, 1, 64)

    Reference:
        Bordelon & Pehlevan, Self-Consistent Dynamical Field Theory of Kernel Evolution in Wide Neural
        Networks (arXiv 2205.09653).
    """

    targets: ArrayLike
    steps: int
    learning_rate: ArrayLike
    depth: int = 1
    activation: str | Callable[[jax.Array], jax.Array] = "tanh"
    gamma0: float = 1.0
    inputs: ArrayLike | None = None
    test_inputs: ArrayLike | None = None
    kernel: ArrayLike | None = None
    loss: str | Loss = "mse"
    momentum: float = 0.0
    weight_decay: float = 0.0
    batches: ArrayLike | None = None

    def __post_init__(self) -> None:
        """Checks everything once, and turns what are arrays into float64 NumPy arrays."""
        targets, _ = as_float64(self.targets, "targets")
        if targets.ndim not in (1, 2) or not targets.size:
            raise ValueError(f"targets must have shape [P] or [P, C]; got {targets.shape}.")
        self._set("targets", targets)
        for name in ("steps", "depth"):
            self._set(name, whole(getattr(self, name), name))
        for name in ("gamma0", "momentum", "weight_decay"):
            self._set(name, number(getattr(self, name), name))
        activation(self.activation)
        loss_function(self.loss)
        check_targets(self.loss, targets)
        if not (math.isfinite(self.gamma0) and self.gamma0 >= 0):
            raise ValueError(f"gamma0 must be a finite number, 0 (lazy) or more; got {self.gamma0!r}.")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1); got {self.momentum!r}.")
        rate, _ = as_float64(self.learning_rate, "learning_rate")
        if rate.shape not in ((), (self.steps,)) or (rate <= 0).any():
            raise ValueError(
                f"learning_rate must be positive, a number or one for each of {self.steps} steps; got "
                f"{self.learning_rate!r}."
            )
        self._set("learning_rate", rate)
        if not 0 <= self.weight_decay * rate.max() < 1:
            raise ValueError(
                f"weight_decay must be 0 or more and learning_rate * weight_decay below 1; got "
                f"{self.weight_decay!r}."
            )
        self._set("batches", self._checked_batches())
        self._check_data()

    def _set(self, name: str, value: Any) -> None:
        """Stores a checked form; the object is frozen for its users."""
        object.__setattr__(self, name, value)

    def _checked_batches(self) -> np.ndarray | None:
        """The batches as whole numbers that exist."""
        if self.batches is None:
            return None
        batches = np.asarray(self.batches)
        whole = (
            batches.ndim == 2 and len(batches) == self.steps and batches.dtype.kind in "iu" and batches.size
        )
        if not whole or batches.min() < 0 or batches.max() >= self.samples:
            raise ValueError(
                f"batches must be whole numbers from 0 to {self.samples - 1}, shape [{self.steps}, B]; got "
                f"shape {batches.shape} of {batches.dtype}."
            )
        return batches

    def _check_data(self) -> None:
        """Inputs or a kernel, and a kernel that can be one."""
        if self.inputs is None and self.kernel is None:
            raise ValueError("Give either inputs (and test_inputs) or kernel; got neither.")
        if self.inputs is not None:
            inputs, _ = as_float64(self.inputs, "inputs")
            if inputs.ndim != 2 or len(inputs) != self.samples or not inputs.size:
                raise ValueError(f"inputs must have shape [{self.samples}, D]; got {inputs.shape}.")
            self._set("inputs", inputs)
            if self.test_inputs is not None:
                test, _ = as_float64(self.test_inputs, "test_inputs")
                if test.ndim != 2 or test.shape[1] != inputs.shape[1] or not test.size:
                    raise ValueError(f"test_inputs must have shape [M, {inputs.shape[1]}]; got {test.shape}.")
                self._set("test_inputs", test)
            x = self.all_inputs
            kernel = x @ x.T / x.shape[1]
            # dataclasses.replace hands the inputs' own kernel back
            if self.kernel is not None and not np.array_equal(np.asarray(self.kernel), kernel):
                raise ValueError(
                    "Give either inputs (and test_inputs) or kernel, not both: with dataclasses.replace, new "
                    "inputs need kernel=None, and a new kernel needs inputs=None and test_inputs=None."
                )
            self._set("kernel", kernel)
            return
        if self.test_inputs is not None:
            raise ValueError("test_inputs go with inputs; a kernel holds its test points last.")
        kernel, eps = as_float64(self.kernel, "kernel")
        if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or len(kernel) < self.samples:
            raise ValueError(
                f"kernel must have shape [P + M, P + M] with P = {self.samples}; got {kernel.shape}."
            )
        if np.abs(kernel - kernel.T).max() > 1e3 * eps * np.abs(kernel).max():
            raise ValueError("kernel must be symmetric.")
        check_semi_definite(np.linalg.eigvalsh(kernel), eps, "kernel")
        self._set("kernel", (kernel + kernel.T) / 2)

    @property
    def samples(self) -> int:
        """P, the number of training points."""
        return len(np.asarray(self.targets))

    @property
    def points(self) -> int:
        """P + M, training and test points."""
        return len(np.asarray(self.kernel))

    @property
    def outputs(self) -> int:
        """C, the size of one prediction."""
        targets = np.asarray(self.targets)
        return targets.shape[1] if targets.ndim == 2 else 1

    @property
    def all_inputs(self) -> np.ndarray:
        """Inputs of training, then of test points, [P + M, D]; of a kernel, the rows of its square root.

        With K given, D = P + M and ``x = sqrt(D) K^(1/2)``, so that ``x x^T / D = K``.
        """
        if self.inputs is not None:
            parts = [self.inputs] if self.test_inputs is None else [self.inputs, self.test_inputs]
            return np.concatenate([np.asarray(part) for part in parts])
        values, vectors = np.linalg.eigh(np.asarray(self.kernel))
        root: np.ndarray = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
        return math.sqrt(len(root)) * root

    def network(self, width: int) -> MLPConfig | ResidualMLPConfig:
        """Returns the config of the finite network whose limit this is.

        Args:
            width: N.
        """
        return MLPConfig(
            inputs=self.all_inputs.shape[1],
            outputs=self.outputs,
            width=width,
            base_width=width,
            parametrization=dmft(gamma0=self.gamma0),
            depth=self.depth,
            activation=self.activation,
            bias=False,
        )

    def memory(self) -> tuple[np.ndarray, np.ndarray]:
        r"""Returns how weights remember: ``theta(t) = keep(t) theta(0) - sum_{s<t} drive(t, s) gradient(s)``.

        Gradient descent has ``keep = 1`` and ``drive(t, s) = eta(s)``; momentum and weight decay change
        both. In units where the gradient carries ``gamma0^2 N``.

        Returns:
            keep, shape [T + 1], and drive, shape [T + 1, T], zero for s >= t.
        """
        steps, rate = self.steps, np.broadcast_to(np.asarray(self.learning_rate), (self.steps,))
        keep, drive = np.ones(steps + 1), np.zeros((steps + 1, steps))
        buffer = np.zeros(steps)
        for t in range(steps):
            shrink = 1 - rate[t] * self.weight_decay
            buffer *= self.momentum
            buffer[t] = 1.0
            keep[t + 1] = shrink * keep[t]
            drive[t + 1] = shrink * drive[t] + rate[t] * buffer
        return keep, drive

    def shares(self) -> np.ndarray:
        """Returns the weight of each training point in the loss of each step, [T, P]: 1/P, or count/B."""
        if self.batches is None:
            return np.full((self.steps, self.samples), 1 / self.samples)
        batches = np.asarray(self.batches)
        counts = np.stack([np.bincount(row, minlength=self.samples) for row in batches])
        return counts / batches.shape[1]

    def errors(self, predictions: jax.Array) -> jax.Array:
        """Returns Delta = -d loss / d f at the training points; for ``"mse"``, y - f.  Works under jit.

        Args:
            predictions: f, shape [P, C], C = 1 where targets are [P].
        """
        return -jax.vmap(jax.grad(self._one_loss))(predictions, self._columns(predictions))

    def losses(self, predictions: jax.Array) -> jax.Array:
        """Returns each training point's loss, [P], of predictions [P, C].  Works under jit."""
        return jax.vmap(self._one_loss)(predictions, self._columns(predictions))

    def _columns(self, predictions: jax.Array) -> jax.Array:
        """Targets as [P, C]."""
        return jnp.asarray(np.asarray(self.targets).reshape(self.samples, self.outputs), predictions.dtype)

    def _one_loss(self, f: jax.Array, y: jax.Array) -> jax.Array:
        """One sample's loss of [C]; a loss for targets [P] sees scalars."""
        scalar = np.asarray(self.targets).ndim == 1
        loss = loss_function(self.loss)
        return loss(f[0], y[0]) if scalar else loss(f, y)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ResidualProblem(Problem):
    r"""A ``Problem`` whose network is residual: ``h^{k+1} = h^k + b L^-alpha W^k phi(h^k) / sqrt(N)``.

    L = depth branches, ``h^0 = W x / sqrt(D)``, readout ``f = w . phi(h^L) / (gamma0 N)`` or
    ``w . h^L / (gamma0 N)``. The branches' weights learn at ``L^(2 alpha - 1)`` times the rate of the others,
    which keeps the change of the stream finite for every alpha.

    Args:
        branch_scale: b.
        branch_exponent: alpha, 1/2 or 1 (any number in [1/2, 1]).
        final_activation: whether the readout sees phi(h^L), or h^L.

    Raises:
        ValueError: as ``Problem``, or if the branch numbers are out of range.

    Example:
        >>> problem = ResidualProblem(targets=[1.0], kernel=[[1.0]], steps=5, learning_rate=0.1, depth=4)
        >>> problem.network(16).parametrization.branch, problem.branch_rate
        (Fraction(1, 2), 1.0)

    Reference:
        Bordelon et al., Depthwise Hyperparameter Transfer in Residual Networks (arXiv 2309.16620).
    """

    branch_scale: float = 1.0
    branch_exponent: float = 0.5
    final_activation: bool = False

    def __post_init__(self) -> None:
        """Checks the branches too."""
        super().__post_init__()
        for name in ("branch_scale", "branch_exponent"):
            self._set(name, number(getattr(self, name), name))
        if not (0 < self.branch_scale < math.inf and 0.5 <= self.branch_exponent <= 1):
            raise ValueError(
                "branch_scale must be positive and branch_exponent lie in [1/2, 1]; got "
                f"{self.branch_scale!r} and {self.branch_exponent!r}."
            )

    @property
    def branch_rate(self) -> float:
        """The branches' learning rate over that of the first and the last layer."""
        return float(self.depth ** (2 * self.branch_exponent - 1))

    def network(self, width: int) -> ResidualMLPConfig:
        """Returns the config of the finite network whose limit this is; its rules know of branches."""
        return ResidualMLPConfig(
            inputs=self.all_inputs.shape[1],
            outputs=self.outputs,
            width=width,
            base_width=width,
            parametrization=with_depth(dmft(gamma0=self.gamma0), str(self.branch_exponent)),
            depth=self.depth,
            base_depth=1,
            branch_scale=self.branch_scale,
            final_activation=self.final_activation,
            activation=self.activation,
            bias=False,
        )


def check_kind(problem: object, solver: str) -> None:
    """Refuses what is no problem.

    Args:
        problem: as given to a solver that takes both kinds.
        solver: its name.

    Raises:
        TypeError: if it is none.
    """
    if not isinstance(problem, Problem):
        raise TypeError(
            f"dmft.{solver} solves a dmft.Problem or a dmft.ResidualProblem; got {type(problem).__name__}."
        )
