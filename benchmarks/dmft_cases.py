"""The problems of the mean-field benchmark, and one of them solved in a process of its own.

    python -m benchmarks.dmft_cases '{"solver": "linear", ...}'

Writes one line of JSON: seconds of the first call (with compilation, without imports) and of a second one.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.common import Row
from widelimit import dmft


@dataclasses.dataclass(frozen=True)
class Case:
    """A problem and how it is solved; T counts times, as the notebooks do, so there are T - 1 steps."""

    solver: str
    P: int
    T: int
    D: int
    L: int
    eta: float
    gamma0: float
    S: int = 0
    R: int = 8

    def inputs(self) -> np.ndarray:
        """Standard normal, [P, D]."""
        return np.random.default_rng(0).standard_normal((self.D, self.P)).T

    def targets(self) -> np.ndarray:
        """Half -1, half 1; which half is first differs between the notebooks."""
        first = -1.0 if self.solver == "mlp" else 1.0
        return np.where(np.arange(self.P) < self.P // 2, first, -first)

    def problem(self) -> dmft.Problem:
        """What a solver takes."""
        return dmft.Problem(
            targets=self.targets(),
            inputs=self.inputs(),
            steps=self.T - 1,
            learning_rate=self.eta,
            depth=self.L,
            gamma0=self.gamma0,
            activation=ACTIVATIONS[self.solver],
        )

    def solve(self, seed: int, **options: Any) -> dmft.Solution:
        """One call of the solver."""
        if self.solver == "linear":
            return dmft.linear(self.problem())
        solver = {"mlp": dmft.mlp, "two_layer": dmft.two_layer}[self.solver]
        return solver(self.problem(), samples=self.S, replicas=self.R, seed=seed, **options)  # type: ignore[operator]


def scaled_tanh(h: jax.Array) -> jax.Array:
    """The notebook's activation."""
    return jnp.tanh(0.8 * h) / 0.8


ACTIVATIONS: dict[str, Any] = {"mlp": scaled_tanh, "two_layer": "relu", "linear": "identity"}
CASES = {
    "tanh": Case("mlp", 10, 100, 25, 3, 0.1, 1.0, 2000),
    "relu": Case("two_layer", 25, 200, 40, 1, 0.075, 3.0, 256),
    "linear": Case("linear", 20, 100, 40, 5, 0.025, 1.5),
}
ON_GPU = {"tanh, P = 40": Case("mlp", 40, 100, 100, 3, 0.1, 1.0, 16384)}
QUICK = {
    "tanh": Case("mlp", 3, 8, 5, 2, 0.1, 1.0, 200, 4),
    "relu": Case("two_layer", 3, 10, 5, 1, 0.075, 1.0, 128, 4),
    "linear": Case("linear", 3, 10, 5, 2, 0.025, 1.5),
}
AIMS = {"tanh": (60.0, 0.005), "relu": (2.0, 0.005), "linear": (1.0, 0.0)}  # seconds; error over initial loss


def error(solution: dmft.Solution) -> float:
    """The largest standard error of the loss over the initial loss; 0 where nothing is sampled."""
    loss = solution.loss
    return 0.0 if loss.stderr is None else float(loss.stderr.max() / loss.values[0])


def measure(case: Case) -> Row:
    """Solves twice, with other noise."""
    seconds, found = [], []
    for seed in (0, 1):
        begin = time.perf_counter()
        found.append(case.solve(seed))
        seconds.append(time.perf_counter() - begin)
    return {
        "cold": seconds[0],
        "warm": seconds[1],
        "error": max(error(solution) for solution in found),
        "loss": found[0].loss.values.tolist(),
        "bytes": float(found[0].diagnostics["bytes"]),
        "pairing": float(found[0].diagnostics.get("pairing_residual", 0.0)),
        "device": jax.devices()[0].device_kind,
    }


if __name__ == "__main__":
    print(json.dumps(measure(Case(**json.loads(sys.argv[1])))), flush=True)
