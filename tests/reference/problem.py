"""The tiny training problem that microsoft/mup (PyTorch) and widelimit (JAX) both solve, in numpy alone.

Weights and batches come from ``numpy.random.RandomState``, the one numpy stream that never changes between
versions, so that both sides can draw them and only the losses need to be kept.
"""

from __future__ import annotations

import numpy as np

INPUTS, OUTPUTS, BATCH, BATCHES, STEPS = 8, 4, 16, 5, 50
BASE_WIDTH = 16
MULTIPLES = (1, 2, 8)
LAYERS = ("input", "hidden", "readout")
SEED = 20220303

# Well away from the stability edge, and yet every rule must matter. ``eps`` is the epsilon at the base width.
# microsoft/mup leaves epsilon alone; where ``scale_eps`` is true it is scaled by hand: eps / multiple for
# every parameter whose gradient falls like 1 / width, which is all but the readout's bias. That epsilon is as
# large as the gradients, so that it matters.
OPTIMIZERS: dict[str, dict[str, float | bool]] = {
    "sgd": {"learning_rate": 0.1},
    "momentum": {"learning_rate": 0.02, "momentum": 0.9},
    "adam": {"learning_rate": 0.01, "b1": 0.9, "b2": 0.99, "eps": 1e-8, "scale_eps": False},
    "adam_eps": {"learning_rate": 0.03, "b1": 0.9, "b2": 0.99, "eps": 0.03, "scale_eps": True},
    "adamw": {
        "learning_rate": 0.01,
        "b1": 0.9,
        "b2": 0.99,
        "eps": 1e-8,
        "scale_eps": False,
        "weight_decay": 1.0,
    },
}


def weights(multiple: int, bias: bool) -> dict[str, dict[str, np.ndarray]]:
    """Raw initial weights as in Table 8 (readout: the std at base width); kernels (fan_in, fan_out)."""
    stream = np.random.RandomState([SEED, multiple])
    width = BASE_WIDTH * multiple
    shapes = {"input": (INPUTS, width), "hidden": (width, width), "readout": (width, OUTPUTS)}
    stds = {"input": INPUTS**-0.5, "hidden": width**-0.5, "readout": BASE_WIDTH**-0.5}
    layers = {name: {"kernel": stds[name] * stream.standard_normal(shapes[name])} for name in LAYERS}
    if bias:
        for name in LAYERS:
            layers[name]["bias"] = 0.3 * stream.standard_normal(shapes[name][1])
    return layers


def batches() -> tuple[np.ndarray, np.ndarray]:
    """Inputs and quadratic targets with leading axes (BATCHES, BATCH); step t uses batch t mod BATCHES."""
    stream = np.random.RandomState([SEED])
    x = stream.standard_normal((BATCHES, BATCH, INPUTS))
    linear = stream.standard_normal((INPUTS, OUTPUTS)) / INPUTS**0.5
    quadratic = stream.standard_normal((INPUTS, OUTPUTS)) / INPUTS**0.5
    return x, x @ linear + 0.5 * (x @ quadratic) ** 2


def fingerprint() -> float:
    """A number that changes if the drawn weights or batches do, to tell that apart from a wrong rule."""
    drawn = [array for layer in weights(2, True).values() for array in layer.values()]
    return float(sum(np.abs(array).sum() for array in (*drawn, *batches())))
