"""Deep nonlinear networks at infinite width: explicit steps in time, Monte Carlo averages."""

from __future__ import annotations

import time
from pathlib import Path

import jax
import numpy as np

from widelimit.dmft.causal.bias import ridge_bias
from widelimit.dmft.causal.collect import arrays, effective_rank
from widelimit.dmft.causal.control import corrected
from widelimit.dmft.causal.guard import check
from widelimit.dmft.causal.noise import draw
from widelimit.dmft.causal.planner import Plan, make
from widelimit.dmft.causal.progress import Bar
from widelimit.dmft.causal.replica import Runner
from widelimit.dmft.causal.settings import DEFAULTS, Settings, settings
from widelimit.dmft.causal.store import Store
from widelimit.dmft.lazy import at_gamma_zero
from widelimit.dmft.problem import Problem
from widelimit.dmft.replicas import Arrays, Moments, labelled, loss
from widelimit.dmft.solution import Solution


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
    dtype: str = "auto",
    memory: str | int | None = None,
    progress: bool = False,
    directory: str | Path | None = None,
) -> Solution:
    r"""Returns the infinitely wide network's training, by Monte Carlo over single neurons, step by step.

    Each neuron of layer l sees Gaussian fields ``u ~ GP(Phi^{l-1})`` and ``r ~ GP(G^{l+1})`` and

    ``h(t) = keep(t) [u(t) + gamma0 A^{l-1} g] + gamma0 sum_{s<t} drive(t, s) Phi^{l-1}(t, s) Delta(s) g(s)``,
    ``z(t) = keep(t) [r(t) + gamma0 B^l phi] + gamma0 sum_{s<t} drive(t, s) G^{l+1}(t, s) Delta(s) phi(s)``,

    with g = phi'(h) z, Phi = <phi phi>, G = <g g>, ``gamma0 A = <d phi / d r>``,
    ``gamma0 B = <d g / d u>`` and ``f = <z^L phi(h^L)> / gamma0``. All that time t needs is known from before
    it, so one pass is exact: there is no fixed point to be iterated to. With gamma0 = 0, ``lazy`` answers.

    Args:
        problem: what is solved; any loss, schedule, momentum, weight decay, batches, and several outputs.
        samples: S, neurons of each replica; the answer is off by O(1 / samples).
        replicas: independent systems, each with kernels of its own: their spread is the standard error.
            That of predictions and loss holds the estimated bias of Stein's ridge too, for which the first
            replica is solved twice.
        seed: of all noise; the same seed gives another problem of the same shape the same noise.
        response: how A and B are estimated: ``"stein"`` (from the noise; any activation), ``"pathwise"``
            (derivatives along the path; smooth activations), ``"none"`` (gradient independence, A = B = 0:
            wrong beyond one hidden layer). ``"auto"`` is Stein, whose predictions have the smaller error at
            equal cost; entries of A and B themselves are better pathwise.
        response_samples: of each replica, that carry derivatives along the path.
        output_rule: ``"exact"`` for this learning rate, or ``"ntk_euler"``,
            ``f(t+1) = f(t) + drive NTK(t, t) share Delta(t)``, which is off by O(learning_rate).
        control_variate: whether predictions are corrected by the lazy limit of the same noise (from 4
            replicas on, which the coefficient needs).
        antithetic: whether noise comes in pairs (u, r), (u, -r).
        moments: whether noise is moment-matched over samples and times.
        fields: n, to keep n samples of h and z in ``Solution.fields``.
        dtype: of fields, ``"float32"`` or ``"float64"``; ``"auto"`` is float64 for gamma0 below 1e-3, where f
            would be made of rounding errors. Kernels are factored in float64.
        memory: that may be used, bytes or text such as "2GiB"; None is what the device has.
        progress: whether a bar shows the remaining time.
        directory: where finished replicas are kept; a run that was killed goes on from there.

    Raises:
        Diverged: if the learning rate is too large, or a few samples carry everything.
        ValueError: for bad options, or if the run cannot fit into the memory, with the numbers.

    Example:
        >>> from widelimit import dmft
        >>> problem = dmft.Problem(
        ...     targets=[1.0, -1.0], kernel=[[1.0, 0.3], [0.3, 1.0]], steps=5, learning_rate=0.2, depth=2
        ... )
        >>> solution = dmft.mlp(problem, samples=500, replicas=4)
        >>> solution.predictions.values[0].tolist(), solution.features.axes
        ([0.0, 0.0], ('layer', 'time', 'sample', "time'", "sample'"))
        >>> bool(solution.predictions.stderr.max() < 0.01)
        True

    Reference:
        Bordelon & Pehlevan, Self-Consistent Dynamical Field Theory of Kernel Evolution in Wide Neural
        Networks (arXiv 2205.09653); stepped causally instead of iterated.
    """
    began = time.perf_counter()
    options = {name: value for name, value in locals().items() if name in DEFAULTS}
    s = settings(problem, **options)
    if problem.gamma0 == 0:
        return at_gamma_zero(problem)
    planned = make(s, memory)
    found = _replicas(problem, s, planned, Store(directory, problem, s), progress)
    return _solution(problem, s, found, planned, time.perf_counter() - began)


class _Found:
    """What all replicas give together."""

    def __init__(self) -> None:
        self.totals: dict[str, Moments] = {}
        self.curves: list[np.ndarray] = []
        self.kernels: list[np.ndarray] = []
        self.fields: Arrays = {}
        self.pairing: list[float] = []
        self.clipped: list[float] = []
        self.bias: np.ndarray | None = None
        self.resumed = 0

    def add(self, part: Arrays) -> None:
        """Counts one more replica; keeps the fields of the first."""
        self.curves.append(part["predictions"])
        self.kernels.append(part["ntk"][0])
        self.clipped.append(float(part["clipped"]))
        self.bias = part.get("bias", self.bias)
        worst, size = part["pairing"].max(axis=0).T
        self.pairing.append(float((worst / np.where(size > 0, size, 1.0)).max(initial=0.0)))
        self.fields = self.fields or {name: part[name] for name in ("h", "z")}
        for name in set(part) - {"predictions", "bias", "clipped", "pairing", "h", "z"}:
            self.totals.setdefault(name, Moments()).add(part[name])


def _replicas(problem: Problem, s: Settings, planned: Plan, store: Store, progress: bool) -> _Found:
    """All replicas, computed or read from where they were kept."""
    found = _Found()
    with jax.enable_x64(True), Bar(progress, s.replicas, planned) as bar:
        runner = Runner(problem, s, planned.windows)
        for replica in range(s.replicas):
            part = store.load(replica)
            if part is not None:
                found.resumed += 1
                bar.skip()
            else:
                begin = 0
                noise = draw(s, replica)
                for end, rows in runner.run(noise):
                    check(problem, s.samples, rows, begin, end)
                    begin = end
                    bar.window()
                part = arrays(rows, s, problem.gamma0)
                part["clipped"] = np.asarray(runner.clipped)
                if replica == 0:
                    part["bias"] = ridge_bias(runner, noise, s, part["predictions"])
                store.save(replica, part)
            if replica == 0 and "bias" not in part:  # kept before biases were
                part["bias"] = ridge_bias(runner, draw(s, 0), s, part["predictions"])
            found.add(part)
    return found


def _solution(problem: Problem, s: Settings, found: _Found, planned: Plan, seconds: float) -> Solution:
    """Means, standard errors and diagnostics."""
    f = np.stack(found.curves)
    spread = float(f.std(axis=0, ddof=1).max())
    used = False
    if s.control_variate:
        f, used = corrected(problem, f, np.stack(found.kernels))
    bias = np.asarray(found.bias)
    order = {
        name: labelled(problem, name, total.mean, total.stderr()) for name, total in found.totals.items()
    }
    fields = {name: labelled(problem, name, value, None) for name, value in found.fields.items()}
    return Solution(
        problem=problem,
        solver="mlp",
        predictions=labelled(
            problem, "predictions", f.mean(0), np.hypot(f.std(0, ddof=1) / np.sqrt(len(f)), bias)
        ),
        loss=loss(problem, f, bias),
        **order,
        fields=fields if s.fields else None,
        diagnostics={
            "seconds": seconds,
            "seconds_predicted": planned.seconds,
            "bytes": planned.bytes,
            "samples": s.samples,
            "replicas": s.replicas,
            "replicas_resumed": found.resumed,
            "response": s.response,
            "control_variate": used,
            "pairing_residual": max(found.pairing),
            "clipped_eigenvalues": float(np.mean(found.clipped)),
            "effective_rank": effective_rank(found.totals, s),
            "replica_spread": spread,
            "bias": float(np.abs(bias).max()),
        },
    )
