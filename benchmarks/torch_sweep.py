"""The PyTorch + microsoft/mup side of the sweep benchmark: the cells of the grid one after another, eagerly.

Runs under another interpreter, which needs torch, mup and numpy only:

    torch-python benchmarks/torch_sweep.py problem.npz

``problem.npz`` holds the data and the grid (see ``sweep.py``, which starts this as a subprocess). Each
line on standard input names a variant, for instance ``{"optimizer": "adam", "impl": "fused", "threads":
2}``; each line on standard output is what one pass over the whole grid took. Models and optimizers are
built inside the timed region, as ours are.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from typing import Any

import numpy as np
import torch
from mup import MuAdam, MuReadout, MuSGD, make_base_shapes, set_base_shapes
from mup import init as mup_init
from torch import nn
from torch.nn.functional import cross_entropy


def network(inputs: int, width: int, outputs: int) -> nn.Sequential:
    """A tanh network with two hidden layers and mup's readout."""
    return nn.Sequential(
        nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), MuReadout(width, outputs)
    )


class Grid:
    """The cells (learning rate x seed) of one width; what does not depend on a cell is made once."""

    def __init__(self, file: str):
        stored = np.load(file)
        self.x, self.y = torch.from_numpy(stored["x"]), torch.from_numpy(stored["y"])
        self.order = torch.from_numpy(stored["order"])  # (seed, step, batch): the examples of every step
        self.rates = [float(rate) for rate in stored["rates"]]
        self.width, base, self.outputs = (int(stored[name]) for name in ("width", "base_width", "outputs"))
        shapes = (network(self.x.shape[1], width, self.outputs) for width in (base, 2 * base))
        self.base_shapes = make_base_shapes(*shapes)

    def cell(self, rate: float, seed: int, optimizer: str, kwargs: dict[str, Any]) -> torch.Tensor:
        """Trains one network and returns its loss at every step."""
        torch.manual_seed(seed)
        model = network(self.x.shape[1], self.width, self.outputs)
        set_base_shapes(model, self.base_shapes)
        for layer in model[::2]:
            mup_init.kaiming_normal_(layer.weight, nonlinearity="linear")
            nn.init.zeros_(layer.bias)
        make = {"adam": MuAdam, "sgd": MuSGD}[optimizer]
        step = make(model.parameters(), lr=rate, **kwargs)
        history = []
        for index in self.order[seed]:
            loss = cross_entropy(model(self.x[index]), self.y[index])
            step.zero_grad(set_to_none=True)
            loss.backward()
            step.step()
            history.append(loss.detach())
        return torch.stack(history)

    def run(self, optimizer: str, impl: str, threads: int, cells: int | None = None) -> dict[str, Any]:
        """Times one pass over the grid, or its first so many cells; losses are read once, at its end."""
        torch.set_num_threads(threads)
        kwargs = {"loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}[impl]
        start = time.perf_counter()
        grid = itertools.islice(itertools.product(self.rates, range(len(self.order))), cells)
        losses = [self.cell(rate, seed, optimizer, kwargs) for rate, seed in grid]
        table = torch.stack(losses).numpy()
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "cell_steps": table.size, "final_loss": table[:, -1].tolist()}


def main() -> None:
    """Answers requests until standard input ends."""
    grid = Grid(sys.argv[1])
    print(json.dumps({"torch": torch.__version__}), flush=True)
    for line in sys.stdin:
        print(json.dumps(grid.run(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
