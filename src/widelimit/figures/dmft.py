"""A solution of the mean-field theory at a glance: loss, predictions, and kernels over layers and time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from widelimit.figures.convergence import label_decades
from widelimit.figures.style import CATEGORIES, PREDICTION, new_figure, ordered_colors, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from widelimit.dmft import Labelled, Solution

_CURVES = 6
"""Predictions that are drawn: more cannot be told apart."""


def dmft_overview(solution: Solution, lazy: Solution | None = None) -> tuple[Figure, np.ndarray]:
    r"""Draws what a solver of the infinitely wide network's training found.

    Above: the loss; the predictions of the first training points (solid, targets dotted) and test points
    (dashed); how far each layer's feature kernel has moved, ``|Phi(t) - Phi(0)| / |Phi(0)|`` (and gradient
    kernels, dashed); the eigenvalues of the tangent kernel of the training points. Below, of the last layer:
    the feature kernel over samples, before and after (a line parts training and test points); and features
    and gradients between two times, averaged over samples. Bands are two standard errors where the solver
    has them. Of several outputs, predictions show the first and gradients the mean.

    Args:
        solution: of any solver, ``compare.richardson`` or ``Ensembles.solution``. What it does not hold is
            left empty; order parameters of some times only are drawn at these.
        lazy: of ``dmft.lazy`` for the same problem, drawn beside the loss and the eigenvalues in grey.

    Returns:
        The figure, and its axes as an array [2, 4].

    Raises:
        ValueError: if lazy is of a problem with other steps or points.

    Example:
        >>> from widelimit import dmft
        >>> problem = dmft.Problem(
        ...     targets=[1.0, -1.0], kernel=[[1, 0.2], [0.2, 1]], steps=20, learning_rate=0.1, depth=2,
        ...     activation="identity",
        ... )
        >>> figure, axes = dmft_overview(dmft.linear(problem), dmft.lazy(problem))
        >>> axes[0, 0].get_xlabel(), axes[0, 0].get_ylabel()
        ('steps', 'training loss')
    """
    if lazy is not None and lazy.predictions.values.shape != solution.predictions.values.shape:
        raise ValueError(
            f"lazy must have the solution's times and points, {solution.predictions.values.shape}; got "
            f"{lazy.predictions.values.shape}."
        )
    with style():
        figure, axes = new_figure(2, 4, panel=(3.3, 2.8), margin=0.2)
        _loss(axes[0, 0], solution, lazy)
        _predictions(axes[0, 1], solution)
        _movement(axes[0, 2], solution)
        _tangent(axes[0, 3], solution, lazy)
        _samples(figure, axes[1, :2], solution)
        _times(figure, axes[1, 2:], solution)
        problem = solution.problem
        kind = getattr(problem.activation, "__name__", problem.activation)
        room = "compare" if solution.solver in ("finite_ensemble", "richardson") else "dmft"
        figure.suptitle(
            rf"{type(problem).__name__}: {kind}, depth {problem.depth}, $\gamma_0$ = {problem.gamma0:g}, "
            f"P = {problem.samples}, by {room}.{solution.solver}",
            fontsize=11,
        )
    return figure, axes


def _band(ax: Any, values: np.ndarray, stderr: np.ndarray | None, **look: Any) -> None:
    """A curve over the steps, with two standard errors."""
    steps = np.arange(len(values))
    (line,) = ax.plot(steps, values, **look)
    if stderr is not None:
        low, high = values - 2 * stderr, values + 2 * stderr
        ax.fill_between(steps, low, high, color=line.get_color(), alpha=0.25, linewidth=0)


def _loss(ax: Any, solution: Solution, lazy: Solution | None) -> None:
    """The training loss, logarithmic if it falls by more than a factor of ten."""
    loss = solution.loss
    if lazy is not None:
        ax.plot(lazy.loss.values, color="#999999", label="lazy")
    _band(ax, loss.values, loss.stderr, color=CATEGORIES[0], label=solution.solver)
    positive = loss.values[loss.values > 0]
    if len(positive) and positive.max() > 10 * positive.min():
        ax.set_yscale("log")
        ax.set_ylim(bottom=max(positive.min() * 0.7, positive.max() * 1e-8))
    if lazy is not None:
        ax.legend()
    ax.set_title("loss")
    ax.set_xlabel("steps")
    ax.set_ylabel("training loss")


def _predictions(ax: Any, solution: Solution) -> None:
    """Training points with their targets, then test points."""
    p, problem = solution.predictions, solution.problem
    values, stderr = p.values, p.stderr
    if values.ndim == 3:
        values, stderr = values[..., 0], None if stderr is None else stderr[..., 0]
    targets = np.asarray(problem.targets).reshape(problem.samples, problem.outputs)[:, 0]
    shown = [*range(min(problem.samples, _CURVES))]
    shown += range(problem.samples, min(problem.points, problem.samples + _CURVES))
    for point in shown:
        test = point >= problem.samples
        color = CATEGORIES[(point - problem.samples * test) % len(CATEGORIES)]
        error = None if stderr is None else stderr[:, point]
        _band(ax, values[:, point], error, color=color, linestyle="--" if test else "-")
        if not test and problem.loss == "mse":
            ax.axhline(targets[point], color=color, linestyle=":", linewidth=0.9)
    ax.set_title("predictions" + (", first output" if p.values.ndim == 3 else ""))
    ax.set_xlabel("steps")
    ax.set_ylabel("f - f(0)")


def _equal(kernel: Labelled) -> np.ndarray:
    """An order parameter between equal times, [layer, time, ...]; outputs that are alike averaged."""
    values = _plain(kernel)
    if "time'" not in kernel.axes:
        return values
    return np.einsum("ltt->lt", values)[..., None] if values.ndim == 3 else np.einsum("ltmtn->ltmn", values)


def _plain(kernel: Labelled) -> np.ndarray:
    """Without outputs: the mean over pairs of the same one."""
    values, axes = kernel.values, list(kernel.axes)
    if "output" in axes:
        values = np.diagonal(values, axis1=axes.index("output"), axis2=axes.index("output'")).mean(-1)
    return np.asarray(values)


def _movement(ax: Any, solution: Solution) -> None:
    """Distance of each layer's equal-time kernels from their start."""
    kinds = (("features", "-"), ("gradients", "--"))
    found = {name: getattr(solution, name) for name, _ in kinds}
    if not any(kernel is not None for kernel in found.values()):
        return _absent(ax, "kernels by layer")
    for name, line in kinds:
        if found[name] is None:
            continue
        equal = _equal(found[name])
        flat = equal.reshape(*equal.shape[:2], -1)
        size = np.linalg.norm(flat[:, :1], axis=-1)
        moved = np.linalg.norm(flat - flat[:, :1], axis=-1) / np.where(size > 0, size, 1)
        for layer, color in enumerate(ordered_colors(len(moved))):
            label = f"layer {layer + found[name].first_layer}" if name == "features" else None
            label = label if len(moved) <= 5 or layer in (0, len(moved) - 1) else None
            ax.plot(_steps(solution, found[name]), moved[layer], line, color=color, label=label)
    ax.set_ylim(top=1.25 * ax.get_ylim()[1])  # room for the legend
    ax.legend(fontsize=8, loc="upper left", ncols=3, columnspacing=1.0, handlelength=1.2)
    ax.set_title(r"layers: $\Phi$ solid, G dashed")
    ax.set_xlabel("steps")
    first = min(int(_steps(solution, kernel)[0]) for kernel in found.values() if kernel is not None)
    ax.set_ylabel("movement over size at " + (f"step {first}" if first else "start"))
    return None


def _tangent(ax: Any, solution: Solution, lazy: Solution | None) -> None:
    """Eigenvalues of the training points' tangent kernel over time."""
    if solution.ntk is None:
        return _absent(ax, "tangent kernel")
    for one, many in ((lazy, False), (solution, True)):
        if one is None or one.ntk is None:
            continue
        ntk, p, steps = _plain(one.ntk), one.problem.samples, _steps(one, one.ntk)
        values = np.linalg.eigvalsh(ntk[:, :p, :p])[:, ::-1][:, :_CURVES]
        values = np.where(values > 1e-10 * values.max(), values, np.nan)
        colors = ordered_colors(values.shape[1]) if many else ["#999999"] * values.shape[1]
        for k, color in enumerate(colors):
            ax.plot(steps, values[:, k], color=color, linewidth=1.5 if many else 1.0)
    ax.set_yscale("log")
    label_decades(ax)
    ax.set_title("eigenvalues of the tangent kernel")
    ax.set_xlabel("steps")
    return None


def _samples(figure: Figure, axes: np.ndarray, solution: Solution) -> None:
    """The last layer's feature kernel over samples, before and after, in one scale."""
    if solution.features is None:
        for ax in axes:
            _absent(ax, "features over samples")
        return
    equal, problem = _equal(solution.features)[-1], solution.problem
    bound = np.abs(equal[[0, -1]]).max() or 1.0
    steps = _steps(solution, solution.features)
    whole = (steps[0], steps[-1]) == (0, problem.steps)
    titles = ("before", "after") if whole else (f"step {steps[0]}", f"step {steps[-1]}")
    for ax, time, title in zip(axes, (0, -1), titles, strict=True):
        image = ax.imshow(equal[time], cmap="RdBu_r", vmin=-bound, vmax=bound)
        ax.set_title(rf"$\Phi$ of layer {_last(solution.features)}, {title}")
        ax.set_xlabel("sample")
        _whole(ax)
        if problem.points > problem.samples:
            ax.axhline(problem.samples - 0.5, color=PREDICTION, linewidth=0.8)
            ax.axvline(problem.samples - 0.5, color=PREDICTION, linewidth=0.8)
        figure.colorbar(image, ax=ax, shrink=0.85)
    axes[0].set_ylabel("sample")


def _times(figure: Figure, axes: np.ndarray, solution: Solution) -> None:
    """The last layer's features and gradients between two times, averaged over equal samples."""
    for ax, name, symbol in zip(axes, ("features", "gradients"), (r"$\Phi$", "G"), strict=True):
        kernel = getattr(solution, name)
        if kernel is None:
            _absent(ax, f"{name} between times")
            continue
        if "time'" not in kernel.axes:
            _absent(ax, f"{name} between times", "equal times only")
            continue
        values = _plain(kernel)[-1]
        if values.ndim == 4:
            values = np.einsum("tmsm->ts", values) / values.shape[1]
        image = ax.imshow(values, origin="lower", cmap="viridis")
        ax.set_title(f"{symbol} of layer {_last(kernel)} between times")
        ax.set_xlabel("steps")
        ax.set_ylabel("steps")
        _whole(ax)
        steps = _steps(solution, kernel)
        if len(steps) <= solution.problem.steps:  # some times only: few enough to be named
            shown = np.unique(np.linspace(0, len(steps) - 1, 5).astype(int))
            ax.set_xticks(shown, [str(step) for step in steps[shown]])
            ax.set_yticks(shown, [str(step) for step in steps[shown]])
        figure.colorbar(image, ax=ax, shrink=0.85)


def _steps(solution: Solution, kernel: Labelled) -> np.ndarray:
    """The steps at which an order parameter is known: all, or the times that an ensemble measured."""
    count = kernel.values.shape[kernel.axes.index("time")]
    if count == solution.problem.steps + 1:
        return np.arange(count)
    return np.asarray(solution.diagnostics["times"])


def _whole(ax: Any) -> None:
    """Ticks at whole numbers, no grid over a picture."""
    from matplotlib.ticker import MaxNLocator

    ax.grid(False)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(5, integer=True))


def _last(kernel: Labelled) -> int:
    """The number of the last layer."""
    return kernel.first_layer + len(kernel.values) - 1


def _absent(ax: Any, title: str, why: str = "not kept") -> None:
    """Says that the solver did not keep this."""
    ax.set_title(title)
    ax.set_axis_off()
    ax.text(0.5, 0.5, why, ha="center", va="center", transform=ax.transAxes, color="#777777")
