"""Our side of the sweep benchmark: the whole grid by ``widelimit.training.sweep``.

    python -m benchmarks.jax_sweep problem.npz [cache]

``sweep.py`` starts this as a subprocess; requests and answers are as in ``torch_sweep.py``. The first
answer of a process includes tracing and compiling, unless ``cache`` is a folder that holds the programs.
"""

from __future__ import annotations

import functools
import json
import math
import os
import sys
import time
from typing import Any

import jax
import numpy as np

from widelimit import optim
from widelimit.models import MLP, MLPConfig, initialise, rules
from widelimit.scaling import Rules, mup
from widelimit.training import Problem, choose_mode, cross_entropy, sweep
from widelimit.training.compilation import enable_compilation_cache


class Grid:
    """The cells (learning rate x seed) of one width."""

    def __init__(self, file: str):
        stored = np.load(file)
        self.data = {"x": stored["x"], "y": stored["y"]}
        self.order, self.rates = stored["order"], stored["rates"]
        self.config = MLPConfig(
            inputs=stored["x"].shape[1],
            outputs=int(stored["outputs"]),
            width=int(stored["width"]),
            base_width=int(stored["base_width"]),
            parametrization=mup(table=8),
        )

    @functools.cached_property
    def network(self) -> MLP:
        """The network, built once: compiled programs are kept by the identity of the problem."""
        return MLP(self.config)

    @functools.cache  # noqa: B019  (one grid lives as long as the process)
    def problem(self, optimizer: str) -> Problem:
        """What a cell trains."""

        def loss(params: Any, batch: Any, rules: Rules) -> jax.Array:
            variables = {"params": params, "multipliers": rules.multiplier}
            logits: Any = self.network.apply(variables, batch["x"])
            return cross_entropy(logits, batch["y"])

        return Problem(initialise=initialise, loss=loss, optimizer=getattr(optim, optimizer))

    def run(self, optimizer: str) -> dict[str, Any]:
        """Times one pass over the grid."""
        start = time.perf_counter()
        extras = rules(self.config, optimizer)
        parameters = sum(math.prod(leaf.shape) for leaf in extras.leaves)
        seeds, _, batch = self.order.shape
        result = sweep(
            self.problem(optimizer),
            learning_rates=self.rates,
            seeds=range(seeds),
            data=self.data,
            batches=self.order,
            mode=choose_mode(
                parameters=parameters,
                batch=batch,
                cells=seeds * len(self.rates),
                platform=jax.default_backend(),
                devices=jax.device_count(),
                cores=os.cpu_count() or 1,
            ),
            extras=extras,
        )
        seconds = time.perf_counter() - start
        losses = result.losses
        return {
            "seconds": seconds,
            "cell_steps": losses.size,
            "final_loss": losses[..., -1].ravel().tolist(),
        }


def main() -> None:
    """Answers requests until standard input ends."""
    grid = Grid(sys.argv[1])
    if len(sys.argv) > 2:
        enable_compilation_cache(sys.argv[2])
    print(json.dumps({"jax": jax.__version__}), flush=True)
    for line in sys.stdin:
        print(json.dumps(grid.run(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
