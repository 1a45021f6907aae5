"""Deep nonlinear networks at infinite width: explicit steps in time, Monte Carlo averages."""

from __future__ import annotations

import time

import jax
import numpy as np

from widelimit.dmft.causal.collect import Arrays, Moments, arrays
from widelimit.dmft.causal.control import corrected
from widelimit.dmft.causal.guard import check
from widelimit.dmft.causal.noise import draw
from widelimit.dmft.causal.replica import Runner
from widelimit.dmft.causal.settings import Settings, settings
from widelimit.dmft.labelled import Labelled
from widelimit.dmft.lazy import lazy
from widelimit.dmft.problem import Problem
from widelimit.dmft.solution import Solution
from widelimit.dmft.steps import float64_losses, wide

AXES = {
    "features": "layer time sample time' sample'",
    "gradients": "layer time sample output time' sample' output'",
    "feature_response": "layer time sample time' sample' output'",
    "gradient_response": "layer time sample output time' sample'",
    "ntk": "time sample output sample' output'",
    "predictions": "time sample output",
    "h": "layer time sample draw",
    "z": "layer time sample output draw",
}


def mlp(
    problem: Problem,
    *,
    samples: int = 2000,
    replicas: int = 8,
    seed: int = 0,
    response: str = "auto",
    response_samples: int = 64,
    output_rule: str = "exact",
    control_variate: bool = True,
    antithetic: bool = True,
    moments: bool = True,
    fields: int = 0,
    dtype: str = "float32",
) -> Solution:
    """Returns the infinitely wide network's training, by Monte Carlo over single neurons.

    Args:
        problem: what is solved.
        samples: S of each replica.
        replicas: independent systems, each with kernels of its own.
        seed: of all noise.
        response: how derivatives are estimated.
        response_samples: of pathwise responses.
        output_rule: exact or Euler.
        control_variate: whether the lazy limit of the same noise corrects predictions.
        antithetic: whether noise comes in pairs (u, r), (u, -r).
        moments: whether noise is moment-matched.
        fields: samples of fields to keep.
        dtype: of fields.
    """
    began = time.perf_counter()
    s = settings(
        problem,
        samples=samples,
        replicas=replicas,
        seed=seed,
        response=response,
        response_samples=response_samples,
        output_rule=output_rule,
        control_variate=control_variate,
        antithetic=antithetic,
        moments=moments,
        fields=fields,
        dtype=dtype,
    )
    if problem.gamma0 == 0:
        return lazy(problem)
    totals: dict[str, Moments] = {}
    curves, kernels, pairing, clipped, kept = [], [], [], [], {}
    with jax.enable_x64(True):
        runner = Runner(problem, s)
        for replica in range(replicas):
            found, lost = _replica(problem, s, runner, replica)
            curves.append(found.pop("predictions"))
            kernels.append(found["ntk"][0])
            pairing.append(_pairing(found.pop("pairing")))
            clipped.append(lost)
            for name in ("h", "z"):
                part = found.pop(name)
                if fields and replica == 0:
                    kept[name] = part
            for name, value in found.items():
                totals.setdefault(name, Moments()).add(value)
    f = np.stack(curves)
    if control_variate:
        f = corrected(problem, f, np.stack(kernels))
    return Solution(
        problem=problem,
        solver="mlp",
        predictions=_labelled(problem, "predictions", f.mean(0), f.std(0, ddof=1) / np.sqrt(replicas)),
        loss=_loss(problem, f),
        **{
            name: _labelled(problem, name, np.asarray(total.mean), total.stderr())
            for name, total in totals.items()
        },
        fields={name: _labelled(problem, name, value, None) for name, value in kept.items()} or None,
        diagnostics={
            "seconds": time.perf_counter() - began,
            "samples": samples,
            "replicas": replicas,
            "response": s.response,
            "pairing_residual": max(pairing),
            "clipped_eigenvalues": float(np.mean(clipped)),
        },
    )


def _replica(problem: Problem, s: Settings, runner: Runner, replica: int) -> tuple[Arrays, float]:
    """One replica's results and the part of the kernels' directions that was clipped."""
    begin = 0
    for end, rows in runner.run(draw(s, replica)):
        check(problem, s.samples, rows, begin, end)
        begin = end
    directions = (s.depth - 1) * s.points * (s.steps + 1) * (1 + s.outputs)
    return arrays(rows, s, problem.gamma0), sum(runner.clipped) / max(directions, 1)


def _pairing(both: np.ndarray) -> float:
    """The largest violation over the largest size, in the worst layer; 0 where there is one layer only."""
    worst, size = both.max(axis=0).T
    return float((worst / np.where(size > 0, size, 1.0)).max(initial=0.0))


def _labelled(problem: Problem, name: str, values: np.ndarray, stderr: np.ndarray | None) -> Labelled:
    """An order parameter in its axes; without those of outputs where targets have none."""
    axes = AXES[name].split()
    if not wide(problem):
        index = tuple(0 if axis.startswith("output") else slice(None) for axis in axes)
        values = values[index]
        stderr = None if stderr is None else stderr[index]
        axes = [axis for axis in axes if not axis.startswith("output")]
    return Labelled(values, tuple(axes), stderr)


def _loss(problem: Problem, f: np.ndarray) -> Labelled:
    """The loss of the mean prediction, and its standard error by leaving out each replica in turn."""
    count = len(f)
    f = f[:, :, : problem.samples]
    whole = f.mean(0)
    values = float64_losses(problem, whole)
    left = np.stack([float64_losses(problem, (count * whole - one) / (count - 1)) for one in f])
    spread = ((left - left.mean(0)) ** 2).sum(0) * (count - 1) / count
    return Labelled(values, ("time",), np.sqrt(spread))
