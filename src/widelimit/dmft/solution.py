"""What solvers return: predictions with error bars, order parameters in labelled axes, diagnostics."""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from widelimit.dmft.labelled import Labelled
from widelimit.dmft.problem import Problem, ResidualProblem

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_KINDS: dict[str, type[Problem]] = {"Problem": Problem, "ResidualProblem": ResidualProblem}
_ORDER = ("features", "gradients", "feature_response", "gradient_response", "ntk")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Solution:
    r"""The infinitely wide network's training: predictions, order parameters, and how far to trust them.

    Order parameters carry the layers and samples that theory gives them; deep linear networks' gradients
    have no sample. Training samples come first, test samples follow.

    Args:
        problem: what was solved.
        solver: by which function, e.g. ``"mlp"``.
        predictions: f of training and test points, axes (time, sample) or (time, sample, output).
        loss: mean training loss, axes (time,).
        features: Phi^l = <phi(h) phi(h')>, axes (layer, time, sample, time', sample'), layers 1..L.
        gradients: G^l = <g g'>, alike.
        feature_response: A^l = d phi(h^l) / d r^l / gamma0, alike, layers 1..L-1; None where not kept.
        gradient_response: B^l = d g^{l+1} / d u^{l+1} / gamma0, alike, layers 1..L-1; None where not kept.
        ntk: the equal-time tangent kernel sum_l G^{l+1} Phi^l, axes (time, sample, sample').
        fields: samples of single-site fields by name (``h``, ``z``, ...), or None if not asked for.
        diagnostics: numbers by name; what a solver reports is documented with it (seconds, bytes,
            pairing_residual, clipped_eigenvalues, effective_rank, samples, replicas, ...).

    Example:
        >>> from widelimit import dmft
        >>> problem = dmft.Problem(
        ...     targets=[1.0], kernel=[[1.0]], steps=50, learning_rate=0.1, activation="identity"
        ... )
        >>> solution = dmft.linear(problem)
        >>> round(float(solution.train.values[-1, 0]), 3)
        1.0
    """

    problem: Problem
    solver: str
    predictions: Labelled
    loss: Labelled
    features: Labelled | None = None
    gradients: Labelled | None = None
    feature_response: Labelled | None = None
    gradient_response: Labelled | None = None
    ntk: Labelled | None = None
    fields: Mapping[str, Labelled] | None = None
    diagnostics: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def train(self) -> Labelled:
        """Predictions at the training points."""
        return self._points(slice(None, self.problem.samples))

    @property
    def test(self) -> Labelled:
        """Predictions at the test points; of size 0 where there is none."""
        return self._points(slice(self.problem.samples, None))

    def _points(self, part: slice) -> Labelled:
        """A part of the predictions' samples."""
        p = self.predictions
        return p._replace(values=p.values[:, part], stderr=None if p.stderr is None else p.stderr[:, part])

    def plot(self, lazy: Solution | None = None) -> tuple[Figure, np.ndarray]:
        """Draws loss, predictions and order parameters with ``figures.dmft_overview``; needs matplotlib.

        Args:
            lazy: the lazy limit of the same problem, to be drawn beside.

        Returns:
            The figure, and its axes as an array [2, 4].
        """
        from widelimit.figures import dmft_overview

        return dmft_overview(self, lazy)

    def save(self, path: str | Path) -> None:
        """Writes everything into one file, whole or not at all.

        Functions (an activation or loss of one's own) are not written; ``load`` asks for them.

        Args:
            path: of a ``.npz`` file.
        """
        arrays: dict[str, np.ndarray] = {}
        about: dict[str, Any] = {"solver": self.solver, "diagnostics": dict(self.diagnostics), "labels": {}}
        about["problem"] = _pack_problem(self.problem, arrays)
        for name, value in self._labelled().items():
            about["labels"][name] = {"axes": value.axes, "first_layer": value.first_layer}
            arrays[name] = value.values
            if value.stderr is not None:
                arrays[f"{name}/stderr"] = value.stderr
        arrays["about"] = np.asarray(json.dumps(about, default=float))
        target = Path(path)
        partial = target.with_name(f".tmp-{target.name}-{os.getpid()}")
        try:
            with partial.open("wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)

    def _labelled(self) -> dict[str, Labelled]:
        """Everything labelled that is there, by name."""
        found = {"predictions": self.predictions, "loss": self.loss}
        found |= {name: value for name in _ORDER if (value := getattr(self, name)) is not None}
        return found | {f"fields/{name}": value for name, value in (self.fields or {}).items()}

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        activation: Callable[[jax.Array], jax.Array] | None = None,
        loss: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
    ) -> Solution:
        """Reads what ``save`` wrote.

        Args:
            path: of the file.
            activation: the problem's own activation, if it was a function and not a name.
            loss: the problem's own loss, likewise.

        Raises:
            ValueError: if a function is needed and not given, or the file is not a solution's.
        """
        arrays = {}
        with Path(path).open("rb") as file:
            if zipfile.is_zipfile(file):
                with np.load(file, allow_pickle=False) as archive:
                    arrays = {name: archive[name] for name in archive.files}
        if "about" not in arrays:
            raise ValueError(f"{path} holds no solution: it was not written by Solution.save.")
        about = json.loads(str(arrays.pop("about")))
        problem = _unpack_problem(about["problem"], arrays, {"activation": activation, "loss": loss})
        read = {
            name: Labelled(
                arrays[name], tuple(label["axes"]), arrays.get(f"{name}/stderr"), label["first_layer"]
            )
            for name, label in about["labels"].items()
        }
        fields = {
            name.removeprefix("fields/"): read.pop(name) for name in list(read) if name.startswith("fields/")
        }
        return cls(
            problem=problem,
            solver=about["solver"],
            diagnostics=about["diagnostics"],
            fields=fields or None,
            **read,
        )


def _pack_problem(problem: Problem, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """What JSON can say of a problem; its arrays go beside."""
    about: dict[str, Any] = {"kind": type(problem).__name__}
    for field in dataclasses.fields(problem):
        value = getattr(problem, field.name)
        if field.name == "kernel" and problem.inputs is not None:
            continue  # it follows from the inputs
        if isinstance(value, np.ndarray):
            arrays[f"problem/{field.name}"] = value
        elif callable(value):
            about[field.name] = {"function": getattr(value, "__name__", "function")}
        else:
            about[field.name] = value
    return about


def _unpack_problem(about: dict[str, Any], arrays: dict[str, np.ndarray], own: dict[str, Any]) -> Problem:
    """The problem again, with the functions that a file cannot hold."""
    settings = dict(about)
    kind = _KINDS[settings.pop("kind")]
    for name, value in settings.items():
        if isinstance(value, dict):
            if own.get(name) is None:
                raise ValueError(
                    f"This solution's {name} was a function, {value['function']}; give it: "
                    f"load(..., {name}=...)."
                )
            settings[name] = own[name]
    for name in [name for name in arrays if name.startswith("problem/")]:
        settings[name.removeprefix("problem/")] = arrays.pop(name)
    return kind(**settings)
