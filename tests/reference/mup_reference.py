"""Regenerates mup_losses.json: what microsoft/mup 1.0.0 computes on the problem of problem.py.

Runs in an environment of its own (nothing else here needs PyTorch), from the root of the repository:

    python -m venv torchenv
    torchenv/bin/pip install mup==1.0.0 torch==2.13.0 numpy==2.4.6     # the CPU build of torch will do
    torchenv/bin/python -m tests.reference.mup_reference

It takes seconds. Two things are recorded, in float64:

* the loss of each of 50 steps, for every optimizer of problem.py at width multiples 1, 2 and 8, with biases
  and without. Both sides start from the same raw weights, so mup supplies what it does *during* training: the
  multiplier in MuReadout, and the learning rate and weight decay of every parameter group;
* the standard deviations that mup's initialisation gives large layers, at multiples 1 and 8.
"""

from __future__ import annotations

import argparse
import json
import platform
from importlib.metadata import version
from pathlib import Path

import mup
import numpy as np
import torch

from tests.reference import problem

INIT_MULTIPLES, INIT_FIXED, INIT_BASE = (1, 8), 256, 128


class MLP(torch.nn.Module):
    """The three-layer tanh network, with mup's readout."""

    def __init__(self, inputs: int, width: int, outputs: int, bias: bool):
        super().__init__()
        self.input = torch.nn.Linear(inputs, width, bias=bias)
        self.hidden = torch.nn.Linear(width, width, bias=bias)
        self.readout = mup.MuReadout(width, outputs, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.readout(torch.tanh(self.hidden(torch.tanh(self.input(x)))))


def build(multiple: int, bias: bool, inputs: int, base: int, outputs: int) -> MLP:
    """A model with mup's base shapes set; a third width tells mup which axes grow, also at multiple 1."""
    model, small, delta = (MLP(inputs, width, outputs, bias) for width in (base * multiple, base, base * 2))
    mup.set_base_shapes(model, small, delta=delta)
    return model


def optimizer(name: str, multiple: int, model: MLP) -> torch.optim.Optimizer:
    """mup's optimizer with the settings of problem.py."""
    hp = problem.OPTIMIZERS[name]
    if "eps" not in hp:
        return mup.MuSGD(model.parameters(), lr=hp["learning_rate"], momentum=hp.get("momentum", 0.0))
    common = {"lr": hp["learning_rate"], "betas": (hp["b1"], hp["b2"]), "eps": hp["eps"]}
    if "weight_decay" in hp:
        return mup.MuAdamW(model.parameters(), weight_decay=hp["weight_decay"], **common)
    if hp["scale_eps"]:
        wide = [parameter for name, parameter in model.named_parameters() if name != "readout.bias"]
        fixed = [parameter for name, parameter in model.named_parameters() if name == "readout.bias"]
        return mup.MuAdam([{"params": wide, "eps": hp["eps"] / multiple}, {"params": fixed}], **common)
    return mup.MuAdam(model.parameters(), **common)


def losses(name: str, multiple: int, bias: bool) -> list[float]:
    """The training losses (mean squared error, mean over batch and outputs) before each step."""
    model = build(multiple, bias, problem.INPUTS, problem.BASE_WIDTH, problem.OUTPUTS)
    with torch.no_grad():
        for layer, arrays in problem.weights(multiple, bias).items():
            module = getattr(model, layer)
            module.weight.copy_(torch.from_numpy(arrays["kernel"].T))
            if bias:
                module.bias.copy_(torch.from_numpy(arrays["bias"]))
    opt = optimizer(name, multiple, model)
    x, y = map(torch.from_numpy, problem.batches())
    history = []
    for step in range(problem.STEPS):
        batch = step % problem.BATCHES
        opt.zero_grad()
        loss = torch.mean((model(x[batch]) - y[batch]) ** 2)
        loss.backward()
        opt.step()
        history.append(loss.item())
    return history


def initial_stds(scheme: str, multiple: int) -> dict[str, float]:
    """The std of every kernel: torch's default initialisation rescaled by mup, or mup.init's functions."""
    torch.manual_seed(problem.SEED)
    model = build(multiple, True, INIT_FIXED, INIT_BASE, INIT_FIXED)
    for layer in problem.LAYERS:
        weight = getattr(model, layer).weight
        if scheme == "mup.init.normal_":
            mup.init.normal_(weight, std=INIT_BASE**-0.5)
        elif scheme == "mup.init.kaiming_normal_":
            mup.init.kaiming_normal_(weight, nonlinearity="linear")
    return {layer: getattr(model, layer).weight.std().item() for layer in problem.LAYERS}


def main() -> None:
    """Writes the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("mup_losses.json"))
    output = parser.parse_args().output
    torch.set_default_dtype(torch.float64)
    runs = [
        {"optimizer": name, "multiple": multiple, "bias": bias, "losses": losses(name, multiple, bias)}
        for name in problem.OPTIMIZERS
        for multiple in problem.MULTIPLES
        for bias in (True, False)
    ]
    schemes = ("set_base_shapes", "mup.init.normal_", "mup.init.kaiming_normal_")
    record = {
        "versions": {
            "mup": version("mup"),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "seed": problem.SEED,
        "fingerprint": problem.fingerprint(),
        "optimizers": problem.OPTIMIZERS,
        "runs": runs,
        "init": {
            "fixed": INIT_FIXED,
            "base_width": INIT_BASE,
            "stds": [
                {"scheme": scheme, "multiple": multiple, **initial_stds(scheme, multiple)}
                for scheme in schemes
                for multiple in INIT_MULTIPLES
            ],
        },
    }
    output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
