"""Deep linear networks: the best learning rate of one step, at finite width and in the limit."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np
from jaxtyping import Float
from numpy.polynomial import polynomial

from widelimit.scaling import Leaf, Parametrization, leaf_from_axes, make_rules

Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class LinearProblem:
    """One gradient step on a deep linear network ``f(x) = v^T W_L ... W_1 W_0 x`` with squared loss.

    The loss is ``1/(2P) sum_i (f(x_i) - y_i)^2``, full batch.

    Args:
        inputs: the P samples, [P, D].
        targets: one target per sample, [P].
        hidden_layers: L, the number of width -> width matrices.
        base_width: n0, where the relative rules are neutral.
        trained: which roles take the step: any of ``"input"``, ``"hidden"``, ``"output"``.

    Raises:
        ValueError: if shapes disagree, or nothing is trained.

    Example:
        >>> problem = LinearProblem(np.eye(2), np.ones(2), hidden_layers=1, base_width=8)
        >>> problem.hidden_layers
        1

    Reference:
        A Proof of Learning Rate Transfer under muP, arXiv 2511.01734, Section 3 (which trains
        ``("hidden",)``).
    """

    inputs: np.ndarray
    targets: np.ndarray
    hidden_layers: int
    base_width: int
    trained: tuple[str, ...] = ("input", "hidden", "output")

    def __post_init__(self) -> None:
        """Checks what the closed form relies on."""
        if self.inputs.ndim != 2 or self.targets.shape != self.inputs.shape[:1]:
            raise ValueError(
                f"expected inputs [P, D] and targets [P]; got {self.inputs.shape} and {self.targets.shape}."
            )
        if (
            self.hidden_layers < 1
            or not set(self.trained) <= {"input", "hidden", "output"}
            or not self.trained
        ):
            raise ValueError(
                "expected hidden_layers >= 1 and trained a subset of ('input', 'hidden', 'output'); got "
                f"{self.hidden_layers} and {self.trained}."
            )


def _leaves(problem: LinearProblem, width: int) -> dict[str, Leaf]:
    """Returns one leaf per role; all hidden layers are alike."""
    inputs, base = problem.inputs.shape[1], problem.base_width
    rows = {
        "input": ((inputs, width), (inputs, base), (False, True)),
        "hidden": ((width, width), (base, base), (True, True)),
        "output": ((width, 1), (base, 1), (True, False)),
    }
    ratio = Fraction(width, base)
    return {
        role: leaf_from_axes(role, shape, small, contracted=(0,), growing=grows, width=ratio, base_width=base)
        for role, (shape, small, grows) in rows.items()
    }


def _effective(
    problem: LinearProblem, parametrization: Parametrization, width: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Returns per role the effective weight's std and its SGD learning rate, 0 where it is not trained."""
    rules = make_rules(_leaves(problem, width), parametrization, "sgd")
    std = {role: rules.init_std[role] * rules.multiplier[role] for role in rules.init_std}
    rate = {
        role: rules.learning_rate[role] * rules.multiplier[role] ** 2 * (role in problem.trained)
        for role in rules.learning_rate
    }
    return std, rate


def limiting_rate(problem: LinearProblem, parametrization: Parametrization) -> float:
    r"""Returns the infinite-width limit of the best one-step learning rate under muP (or mean-field).

    With ``S = 1/P sum_i y_i x_i``, only terms of first order in the rate survive the limit: a product of two
    updates contains ``f_0``, which vanishes. So ``f_1(x) = eta C S.x`` with
    ``C = L rho_hid n^2 s_out^2 s_in^2 + rho_in n s_out^2 + rho_out n s_in^2``, where s are the effective
    weights' stds and rho their rates; C does not depend on n, and

    ``eta* = sum_i y_i (S.x_i) / (C sum_i (S.x_i)^2)``.

    Args:
        problem: data and depth.
        parametrization: one with ``a_out + b_out = 1``, whose initial function vanishes.

    Raises:
        ValueError: if the initial function does not vanish, so that the limit is random.

    Example:
        >>> from widelimit.scaling import mup
        >>> hidden_only = LinearProblem(np.eye(2), np.ones(2), 1, base_width=1, trained=("hidden",))
        >>> round(limiting_rate(hidden_only, mup()), 6)
        4.0

    Reference:
        Derived here; the setting and the existence of the limit: arXiv 2511.01734, Theorem 1.
    """
    if parametrization.multiplier.output + parametrization.init.output != 1:
        raise ValueError(
            f"under {parametrization.name} the initial function does not vanish with width, so the best "
            "one-step rate has a random limit; the closed form is for muP and mean-field."
        )
    width = problem.base_width
    std, rate = _effective(problem, parametrization, width)
    strength = (
        problem.hidden_layers * rate["hidden"] * width**2 * std["output"] ** 2 * std["input"] ** 2
        + rate["input"] * width * std["output"] ** 2
        + rate["output"] * width * std["input"] ** 2
    )
    moved = problem.inputs @ (problem.targets @ problem.inputs) / len(problem.targets)
    return float(problem.targets @ moved / (strength * moved @ moved))


@dataclasses.dataclass(frozen=True, eq=False)
class LinearWeights:
    """Weights of a deep linear network before a parametrization scales them: all entries are N(0, 1).

    One draw serves every parametrization and every choice of what is trained, so that they differ in nothing
    else. The width is ``len(readout)``.

    Args:
        first: W_0, [n, D].
        hidden: W_1 ... W_L, each [n, n].
        readout: v, [n].

    Example:
        >>> problem = LinearProblem(np.eye(2), np.ones(2), hidden_layers=3, base_width=8)
        >>> len(LinearWeights.draw(problem, 16, np.random.default_rng(0)).hidden)
        3
    """

    first: Float[Array, "n D"]
    hidden: tuple[Float[Array, "n n"], ...]
    readout: Float[Array, " n"]

    @classmethod
    def draw(cls, problem: LinearProblem, width: int, generator: np.random.Generator) -> LinearWeights:
        """Returns new weights.

        Args:
            problem: gives depth and number of inputs.
            width: n.
            generator: where they come from.
        """
        first = generator.normal(size=(width, problem.inputs.shape[1]))
        hidden = tuple(generator.normal(size=(width, width)) for _ in range(problem.hidden_layers))
        return cls(first, hidden, generator.normal(size=width))


def loss_polynomial(
    problem: LinearProblem, parametrization: Parametrization, weights: LinearWeights
) -> Float[Array, " k"]:
    r"""Returns the exact loss after one step of gradient descent, as a polynomial in the learning rate.

    Each updated matrix is ``W_l - eta rho_l u_l p_l^T`` (u the backward vector, p the forward one, summed
    over samples with their errors), so the output is a polynomial in eta of degree L + 2. What a step adds to
    the activations of layer l lies in the span of l + 1 vectors, ``W_l ... W_{j+1} u_j``; these and their
    coefficients are carried through the layers, and no update is ever formed.

    Args:
        problem: data and depth.
        parametrization: its SGD rules at this width.
        weights: before scaling.

    Returns:
        Coefficients, lowest order first.

    Raises:
        ValueError: if the weights are of another problem.

    Example:
        >>> from widelimit.scaling import mup
        >>> problem = LinearProblem(np.eye(2), np.ones(2), hidden_layers=1, base_width=8)
        >>> loss_polynomial(problem, mup(), LinearWeights.draw(problem, 8, np.random.default_rng(0))).shape
        (7,)

    Reference:
        arXiv 2511.01734, Section 3.
    """
    x, y, width = problem.inputs.T, problem.targets, len(weights.readout)
    if weights.first.shape != (width, len(x)) or len(weights.hidden) != problem.hidden_layers:
        raise ValueError(
            f"expected weights for {len(x)} inputs and {problem.hidden_layers} hidden layers; got "
            f"{weights.first.shape[1]} and {len(weights.hidden)}: draw them for this problem."
        )
    std, rate = _effective(problem, parametrization, width)

    forward = [std["input"] * (weights.first @ x)]
    for matrix in weights.hidden:
        forward.append(std["hidden"] * (matrix @ forward[-1]))
    readout = std["output"] * weights.readout
    error = (readout @ forward[-1] - y) / len(y)
    backward = [readout]
    for matrix in reversed(weights.hidden):
        backward.insert(0, std["hidden"] * (backward[0] @ matrix))

    # Activations after the step: forward + sum_k eta^k basis @ moved[k], with moved[k] of shape [basis, P].
    basis = backward[0][:, None]
    moved = [np.zeros((1, len(y))), -rate["input"] * ((x @ error) @ x)[None]]
    for matrix, before, back in zip(weights.hidden, forward[:-1], backward[1:], strict=True):
        seen = _seen(before @ error, before, basis, moved)
        basis = np.column_stack([std["hidden"] * (matrix @ basis), back])
        steps = [np.zeros_like(y), *(-rate["hidden"] * term for term in seen)]
        moved = [np.vstack([old, step]) for old, step in zip([*moved, 0 * moved[0]], steps, strict=True)]
    outputs = [*_seen(readout, forward[-1], basis, moved), np.zeros_like(y)]
    for k, term in enumerate(_seen(forward[-1] @ error, forward[-1], basis, moved)):
        outputs[k + 1] = outputs[k + 1] - rate["output"] * term
    residual = np.stack([outputs[0] - y, *outputs[1:]])
    loss = np.zeros(2 * len(residual) - 1)
    for i, left in enumerate(residual):
        loss[i : i + len(residual)] += residual @ left / (2 * len(y))
    return loss


def _seen(vector: Array, before: Array, basis: Array, moved: list[Array]) -> list[Array]:
    """Returns a vector's products with the activations after the step, by order in the rate."""
    inner = vector @ basis
    return [vector @ before + inner @ moved[0], *(inner @ term for term in moved[1:])]


def best_rate(loss: Float[Array, " k"]) -> float:
    """Returns the positive learning rate at which a loss polynomial is smallest, the least one of several.

    A single sample is fitted exactly at several rates; they tie up to rounding.

    Args:
        loss: coefficients, lowest order first.

    Raises:
        ValueError: if the loss has no minimum at a positive rate.

    Example:
        >>> best_rate(np.array([1.0, -2.0, 1.0]))
        1.0

    Reference:
        None; the global minimum over the real critical points.
    """
    roots = polynomial.polyroots(polynomial.polyder(np.trim_zeros(loss, "b")))
    rates = roots[(np.abs(roots.imag) < 1e-9 * np.abs(roots)) & (roots.real > 0)].real
    if rates.size == 0:
        raise ValueError(f"expected a loss that falls before it rises; got the polynomial {loss.tolist()}.")
    values, rounding = (polynomial.polyval(rates, c) * f for c, f in ((loss, 1.0), (np.abs(loss), 1e-13)))
    return float(rates[values - rounding <= (values + rounding).min()].min())
