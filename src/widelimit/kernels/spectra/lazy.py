"""How lazy a trained network is: how far its kernel moved, and how much of training the tangent explains."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from widelimit.kernels import checks
from widelimit.kernels.checks import Apply, PyTree
from widelimit.kernels.dynamics.linearise import linearise
from widelimit.kernels.empirical.ntk import ntk
from widelimit.kernels.matrices import as_matrix
from widelimit.kernels.spectra.measures import alignment, cka_gap, relative_change, trace_ratio
from widelimit.kernels.spectra.operators import precision

Form = Literal["trace", "full", "sum"]
Verdict = Literal["lazy", "between", "rich"]
LAZY, RICH = 0.1, 0.5  # a convention, not a theorem: see Laziness.verdict


@dataclasses.dataclass(frozen=True)
class Laziness:
    r"""What a network did between two sets of parameters, in numbers that are 0 for a linear model.

    Args:
        linearisation_gap: ``|f_T - f_lin| / |f_T - f_0|`` over the samples, ``f_lin`` the tangent at the
            start evaluated at the parameters of the end.
        kernel_change: ``|Theta_T - Theta_0| / |Theta_0|``, Frobenius.
        cka_gap: ``1 - CKA(Theta_T, Theta_0)``, centred; blind to a change of scale.
        kernel_growth: ``tr Theta_T / tr Theta_0`` (1 for a linear model).
        parameter_motion: ``|theta_T - theta_0| / |theta_0|``. Not 0 for a linear model; small for wide ones.
        alignment_start: centred kernel-target alignment of ``Theta_0``; None without targets.
        alignment_end: that of ``Theta_T``; None without targets.
        samples: N, on how many samples all this was measured.

    Example:
        >>> Laziness(0.02, 0.03, 1e-4, 1.01, 0.05, None, None, samples=100).verdict
        'lazy'

    Reference:
        Chizat, Oyallon and Bach, arXiv 1812.07956; Fort et al., arXiv 2010.15110.
    """

    linearisation_gap: float
    kernel_change: float
    cka_gap: float
    kernel_growth: float
    parameter_motion: float
    alignment_start: float | None
    alignment_end: float | None
    samples: int

    @property
    def tangent_share(self) -> float:
        """Share of the squared change of the function that the tangent explains, ``1 - gap^2``."""
        return 1.0 - self.linearisation_gap**2

    @property
    def alignment_change(self) -> float | None:
        """Change of the centred kernel-target alignment, end minus start."""
        if self.alignment_start is None or self.alignment_end is None:
            return None
        return self.alignment_end - self.alignment_start

    @property
    def verdict(self) -> Verdict:
        """``"lazy"``, ``"between"`` or ``"rich"``, by the larger of gap to the tangent and kernel change.

        Lazy up to 0.1 (the tangent explains 99% of the change or more), rich above 0.5 (it explains less than
        three quarters, or the kernel moved by more than half of itself).
        """
        worst = max(self.linearisation_gap, self.kernel_change)
        return "lazy" if worst <= LAZY else "rich" if worst > RICH else "between"

    def describe(self) -> str:
        """Returns a table of the measures, and one sentence with the verdict."""
        rows = [
            ("gap to the linearisation", "|f_T - f_lin| / |f_T - f_0|", f"{self.linearisation_gap:.3g}"),
            ("kernel change", "|Theta_T - Theta_0| / |Theta_0|", f"{self.kernel_change:.3g}"),
            ("1 - CKA, centred", "", f"{self.cka_gap:.3g}"),
            ("kernel growth", "tr Theta_T / tr Theta_0", f"{self.kernel_growth:.4g}"),
            ("parameter motion", "|theta_T - theta_0| / |theta_0|", f"{self.parameter_motion:.3g}"),
        ]
        if self.alignment_change is not None:
            ends = f"{self.alignment_start:.3f} -> {self.alignment_end:.3f}"
            rows.append(("alignment with targets, centred", ends, f"{self.alignment_change:+.3g}"))
        lines = [f"{name:<33}{formula:<33}{value:>10}" for name, formula, value in rows]
        title = {"lazy": "Lazy", "between": "Neither lazy nor rich", "rich": "Rich"}[self.verdict]
        lines.append(
            f"{title}: on these {self.samples} samples the tangent at the start explains "
            f"{self.tangent_share:.1%} of the function's change\n"
            f"(lazy: gap and kernel change at most {LAZY}; rich: one of them above {RICH})."
        )
        return "\n".join(lines)


def laziness(
    apply: Apply,
    start: PyTree,
    end: PyTree,
    x: Any,
    *,
    rates: PyTree = None,
    targets: ArrayLike | None = None,
    form: Form = "trace",
) -> Laziness:
    r"""Measures how lazily a network went from ``start`` to ``end``: any function, any optimizer.

    Two kernels are computed on the samples, [N, N] by default: some hundreds of samples tell enough. In
    float32 the gap is good to ``1e-7 |f| / |f_T - f_0|``, and ``1 - CKA`` to about 1e-13; give float64
    parameters and inputs for less.

    Args:
        apply: ``apply(params, x) -> outputs [N, ...]``, sample by sample.
        start: parameters before training, a pytree of float arrays.
        end: parameters after it, likewise.
        x: inputs, a pytree of arrays with leading axis N of 2 or more.
        rates: learning rate of each parameter, a pytree like the parameters or ``scaling.Rules``; None is 1.
            They weight the kernels.
        targets: what was learned, shape [N] or [N, outputs] (class labels: one-hot), for the alignment.
        form: which kernel: summed over outputs, full, or that of the summed logits.

    Raises:
        ValueError: if there are fewer than two samples, the parameters do not match or are not finite, or the
            function or the parameters did not move.

    Example:
        >>> params = {"w": jnp.array([[1.0], [2.0]])}
        >>> moved = {"w": jnp.array([[1.0], [2.5]])}
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> linear = laziness(lambda p, x: x @ p["w"], params, moved, x)
        >>> linear.linearisation_gap, linear.kernel_change, linear.verdict
        (0.0, 0.0, 'lazy')
        >>> square = laziness(lambda p, x: (x @ p["w"]) ** 2, params, moved, x)
        >>> print(square.describe())
        gap to the linearisation         |f_T - f_lin| / |f_T - f_0|          0.0894
        kernel change                    |Theta_T - Theta_0| / |Theta_0|       0.382
        1 - CKA, centred                                                      0.0011
        kernel growth                    tr Theta_T / tr Theta_0                1.38
        parameter motion                 |theta_T - theta_0| / |theta_0|       0.224
        Neither lazy nor rich: on these 3 samples the tangent at the start explains 99.2% of the function's
        change (lazy: gap and kernel change at most 0.1; rich: one of them above 0.5).

    Reference:
        Chizat, Oyallon and Bach, arXiv 1812.07956, Section 2; kernel measures: Fort et al., arXiv 2010.15110.
    """
    if form not in ("trace", "full", "sum"):
        raise ValueError(f"form must be 'trace', 'full' or 'sum'; got {form!r}.")
    checks.parameters(start)
    motion = _relative_motion(start, end)
    with precision(
        np.result_type(*(leaf.dtype for leaf in jax.tree.leaves(start) if hasattr(leaf, "dtype")), "f4")
    ):
        checks.uncoupled(apply, start, x)
        outputs, tangents = _evaluate(apply, form, start, end, x, rates)
        before, after, tangent = (np.asarray(output, float) for output in outputs)
    if before.ndim == 0 or len(before) < 2:
        raise ValueError(f"there must be two samples or more; got outputs of shape {before.shape}.")
    if not (np.isfinite(after).all() and np.isfinite(tangent).all()):
        raise ValueError(
            "outputs at the start, along the tangent and at the end must be finite; training diverged?"
        )
    change = float(np.linalg.norm(after - before))
    if change == 0.0:
        raise ValueError("the function must change between start and end, but its outputs are the same.")
    kernels = [as_matrix(tangent_kernel) for tangent_kernel in tangents]
    alignments: list[float | None] = [None, None]
    if targets is not None:
        goal = np.asarray(targets, float)
        goal = goal.ravel() if form == "full" else goal
        alignments = [alignment(kernel, goal, centred=True) for kernel in kernels]
    return Laziness(
        linearisation_gap=float(np.linalg.norm(after - tangent)) / change,
        kernel_change=relative_change(kernels[1], kernels[0]),
        cka_gap=cka_gap(kernels[1], kernels[0]),
        kernel_growth=trace_ratio(kernels[1], kernels[0]),
        parameter_motion=motion,
        alignment_start=alignments[0],
        alignment_end=alignments[1],
        samples=len(before),
    )


def _relative_motion(start: PyTree, end: PyTree) -> float:
    """Returns |theta_T - theta_0| / |theta_0|."""
    first, second = jax.tree.leaves(start), jax.tree.leaves(end)
    trees: list[Any] = [jax.tree.structure(start), jax.tree.structure(end)]
    same = trees[0] == trees[1]
    if not same or [jnp.shape(leaf) for leaf in first] != [jnp.shape(leaf) for leaf in second]:
        raise ValueError("start and end must be parameters of one network, but their trees or shapes differ.")
    flat, moved = (
        np.concatenate([np.zeros(0), *(np.asarray(leaf, float).ravel() for leaf in leaves)])
        for leaves in (first, second)
    )
    if not (np.isfinite(flat).all() and np.isfinite(moved).all()):
        raise ValueError("parameters at start and end must be finite; some are not: training diverged?")
    if not flat.any():
        raise ValueError("parameters must not all be zero at the start: their motion is relative to them.")
    return float(np.linalg.norm(moved - flat) / np.linalg.norm(flat))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _evaluate(
    apply: Apply, form: Form, start: PyTree, end: PyTree, x: Any, rates: PyTree
) -> tuple[list[jax.Array], list[jax.Array]]:
    """Returns the outputs at the start, at the end and along the tangent, and the kernels at both ends."""
    outputs = [apply(start, x), apply(end, x), linearise(apply, start)(end, x)]
    return outputs, [ntk(apply, params, x, form=form, rates=rates) for params in (start, end)]
