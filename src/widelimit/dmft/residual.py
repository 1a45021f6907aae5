"""Residual networks of infinite width, linear or not, by Monte Carlo over single neurons."""

from __future__ import annotations

import time
from typing import Any

from widelimit.dmft.causal.settings import NOT_LAZY
from widelimit.dmft.lazy import at_gamma_zero
from widelimit.dmft.problem import ResidualProblem
from widelimit.dmft.residual_noise import GaussianNoise, Noise, UnitNoise
from widelimit.dmft.residual_results import Replicas, arrays
from widelimit.dmft.residual_step import Run, Settings
from widelimit.dmft.solution import Solution
from widelimit.kernels.empirical.budget import parse_bytes

_RESPONSES, _RULES = ("auto", "stein", "none"), ("exact", "ntk_euler")


def residual(
    problem: ResidualProblem,
    *,
    samples: int | None = 2000,
    replicas: int = 8,
    seed: int = 0,
    response: str = "auto",
    output_rule: str = "exact",
    tolerance: float | None = None,
    fields: int = 0,
    paths: int | None = None,
    memory: str | float = 2**32,
) -> Solution:
    r"""Returns the training of an infinitely wide residual network of finite depth, for finite steps.

    With ``beta = b L^-alpha``, ``u^{k+1} ~ GP(0, Phi^k)``, ``r^k ~ GP(0, G^{k+1})``, ``c(t, s, nu) = gamma0
    drive(t, s) share(s, nu) Delta_nu(s)`` and sums over s and nu

    ``h^{k+1} = h^k + beta keep (u^{k+1} + a^k g^{k+1}) + (b^2 / L) sum c Phi^k g^{k+1}``,
    ``g^k = g^{k+1} + phi'(h^k) [beta keep (r^k + b^k phi(h^k)) + (b^2 / L) sum c G^{k+1} phi(h^k)]``,
    ``a^k(t, s) = <d phi(h^k(t)) / d r^k(s)>``,  ``b^k(t, s) = <d g^{k+1}(t) / d u^{k+1}(s)>``,
    ``h^0 = keep u^0 + sum c K g^0``,  ``g^L = psi'(h^L) z``,  ``z = keep r^L + sum c psi(h^L)``,
    ``f = <z psi(h^L)> / gamma0``.

    A sample is one neuron through all layers and times. Everything needed at a time is known from earlier
    ones, so one pass solves it. Responses are Stein's, ``a^k = <phi eps_r^T> C_r^{-1}``, in a form that needs
    no inverse and no derivative: right for activations with kinks. Noise comes in pairs of opposite backward
    fields and with exact second moments where samples allow. Cost ``O(L S (P T C)^2)`` a replica.

    Args:
        problem: residual; of any activation, loss, number of outputs, momentum, weight decay and batches.
            At gamma0 = 0 the answer is that of ``lazy``.
        samples: S of each replica, even. None is for linear networks: averages over Gaussians are then
            exact, and there are no replicas and no error bars.
        replicas: independent systems, 2 or more; standard errors are theirs.
        seed: of all noise; runs of other problems with the same seed share their noise.
        response: ``"stein"`` (also ``"auto"``), or ``"none"``: a = b = 0, gradient independence, as if
            backward weights were others than the forward ones.
        output_rule: ``"exact"``, by the readout, or ``"ntk_euler"``, ``f(t+1) = f(t) + NTK Delta``, which
            errs by O(eta) and knows no weight decay.
        tolerance: directions with less than this share of a kernel's scale are left out; None is 1e-5, and
            1e-12 without samples.
        fields: draws of h^k and g^k to keep, of the first replica.
        paths: a multiple of the depth: solutions of several depths with the same seed and the same paths
            share their Brownian motions, so that their differences have little noise.
        memory: bytes that one replica may take, or text such as "2GiB".

    Returns:
        The solution. Layers are 0..L, the stream before and behind branches, and the last feature is what
        the readout sees. Responses are ``A^k = a^k / (beta gamma0)`` and ``B^k = b^k / (beta gamma0)``,
        layers 0..L-1. Diagnostics: seconds, bytes, samples, replicas, replica_spread, pairing_residual
        (``<(W^T g) phi> - <g (W phi)>`` over its size, initial weights), clipped_eigenvalues (share of
        directions left out), effective_rank (directions kept of
        the largest kernel; ``mlp``, which keeps all beside a ridge, counts ``tr K (K + ridge)^-1``).

    Raises:
        TypeError: for another kind of problem.
        ValueError: if an argument makes no sense, or memory does not suffice.
        Diverged: if training blows up.

    Example:
        >>> problem = ResidualProblem(
        ...     targets=[1.0], kernel=[[1.0]], steps=3, learning_rate=0.1, depth=4, activation="identity"
        ... )
        >>> solution = residual(problem, samples=None)
        >>> round(float(solution.ntk.values[0, 0, 0]), 4)  # 2 (1 + 1/L)^L + (1 + 1/L)^(L-1)
        6.8359

    Reference:
        Bordelon et al., Depthwise Hyperparameter Transfer in Residual Networks (arXiv 2309.16620).
    """
    check(problem, samples, replicas, seed, response, output_rule, fields)
    chosen = settings(samples, response, output_rule, tolerance, fields)
    if problem.gamma0 == 0:
        if response == "none" and output_rule == "exact":
            raise ValueError(NOT_LAZY)
        return at_gamma_zero(problem)
    began = time.perf_counter()
    fits(problem, samples, memory)
    merge, rest = divmod(problem.depth if paths is None else paths, problem.depth)
    if rest or merge < 1:
        raise ValueError(f"paths must be a multiple of the depth, {problem.depth}; got {paths!r}.")
    found, notes = Replicas(), Notes()
    for replica in range(replicas if samples else 1):
        run = Run(problem, noise(problem, samples, (seed, replica), merge), chosen).run()
        notes.add(run)
        found.add(arrays(run))
    seconds = time.perf_counter() - began
    return found.solution(problem, "residual", {"seconds": seconds, **notes.summary(samples)})


class Notes:
    """How far to trust runs: worst values over them."""

    def __init__(self) -> None:
        self.runs, self.bytes = 0, 0
        self.pairing, self.clipped, self.rank = 0.0, 0.0, 0

    def add(self, run: Run) -> None:
        """Takes note of a finished run."""
        channels = [*run.forward, *run.backward]
        directions = sum(channel.rank + channel.clipped for channel in channels)
        self.runs += 1
        self.bytes = max(self.bytes, needed(run.problem, run.noise.size))
        if run.settings.random:
            self.pairing = max(self.pairing, run.unpaired / run.paired if run.paired else 0.0)
            self.clipped += sum(channel.clipped for channel in channels) / directions
            self.rank = max(self.rank, *(channel.rank for channel in channels))

    def summary(self, samples: int | None) -> dict[str, Any]:
        """Returns diagnostics by name."""
        return {
            "bytes": self.bytes,
            "samples": samples or 0,
            "replicas": self.runs,
            "pairing_residual": self.pairing,
            "clipped_eigenvalues": self.clipped / self.runs,
            "effective_rank": self.rank,
        }


def check(
    problem: ResidualProblem,
    samples: int | None,
    replicas: int,
    seed: int,
    response: str,
    output_rule: str,
    fields: int,
) -> None:
    """Refuses what makes no sense, in a sentence."""
    if not isinstance(problem, ResidualProblem):
        raise TypeError(f"residual solves a dmft.ResidualProblem; got {type(problem).__name__}.")
    if samples is None:
        if problem.activation != "identity":
            raise ValueError(
                f'samples=None is exact for activation="identity" only; got {problem.activation!r}: give '
                "a number of samples."
            )
    elif isinstance(samples, bool) or int(samples) != samples or samples < 2 or samples % 2:
        raise ValueError(f"samples come in pairs, so must be an even number, 2 or more; got {samples!r}.")
    for name, value, least in (("replicas", replicas, 2), ("seed", seed, 0), ("fields", fields, 0)):
        if isinstance(value, bool) or int(value) != value or value < least:
            raise ValueError(f"{name} must be a whole number, {least} or more; got {value!r}.")
    if response not in _RESPONSES or output_rule not in _RULES:
        raise ValueError(
            f"response must be one of {', '.join(_RESPONSES)}, and output_rule of {', '.join(_RULES)}; got "
            f"{response!r} and {output_rule!r}."
        )
    if output_rule == "ntk_euler" and problem.weight_decay:
        raise ValueError(
            'output_rule="ntk_euler" adds up gradient steps and knows no weight decay; use "exact".'
        )


def settings(
    samples: int | None, response: str, output_rule: str, tolerance: float | None, fields: int
) -> Settings:
    """Options as the run wants them."""
    if tolerance is None:
        tolerance = 1e-5 if samples else 1e-12
    if isinstance(tolerance, bool) or not 0 < tolerance < 1:
        raise ValueError(f"tolerance must be a share, above 0 and below 1; got {tolerance!r}.")
    return Settings(
        responses=response != "none", euler=output_rule == "ntk_euler", tolerance=tolerance, fields=fields
    )


def noise(problem: ResidualProblem, samples: int | None, key: tuple[int, ...], merge: int = 1) -> Noise:
    """The noise of one replica; without samples, an orthogonal basis."""
    if samples:
        return GaussianNoise(key, samples, merge)
    return UnitNoise(variables(problem))


def variables(problem: ResidualProblem) -> int:
    """How many Gaussian variables the single-site equations have at most."""
    fields = problem.points * (problem.steps + 1) * (1 + problem.outputs)
    return problem.points + problem.outputs + problem.depth * fields


def needed(problem: ResidualProblem, size: int) -> int:
    """Bytes of a run: fields of all times, whitened ones and noise (taken as half as many), kernels."""
    columns = problem.points * (problem.steps + 1) * (1 + problem.outputs)
    kernels = 6 * (problem.depth + 1) * (problem.points * (problem.steps + 1)) ** 2 * problem.outputs**2
    return 8 * (2 * (problem.depth + 1) * columns * size + kernels)


def fits(problem: ResidualProblem, samples: int | None, memory: str | float) -> None:
    """Refuses what does not fit, with the numbers."""
    bytes_needed, allowed = needed(problem, samples or variables(problem)), parse_bytes(memory)
    if bytes_needed > allowed:
        raise ValueError(
            f"One replica takes {bytes_needed / 1e6:.0f} MB and memory allows {allowed / 1e6:.0f}: take "
            "fewer samples, points or steps, or more memory."
        )
