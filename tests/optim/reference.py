"""The optimizers of widelimit.optim once more, in plain numpy loops, one parameter at a time."""

from __future__ import annotations

import math

import numpy as np


def rms(x):
    return math.sqrt(np.mean(x**2))


def direction(name, options, memory, g, t):
    """Adam-like and momentum directions; ``memory`` holds the moments and is changed; t counts from 1."""
    b1 = options.get("b1", 0.9)
    if name in ("sgd", "momentum", "nesterov"):
        if name == "sgd":
            return g
        memory["trace"] = g + options["momentum"] * memory.get("trace", 0.0)
        return g + options["momentum"] * memory["trace"] if name == "nesterov" else memory["trace"]
    if name == "lion":
        old = memory.get("m", np.zeros_like(g))
        memory["m"] = 0.99 * old + 0.01 * g
        return np.sign(0.9 * old + 0.1 * g)
    b2 = options.get("b2", 0.999)
    memory["m"] = b1 * memory.get("m", 0.0) + (1 - b1) * g
    memory["v"] = b2 * memory.get("v", 0.0) + (1 - b2) * g**2
    m, v = memory["m"] / (1 - b1**t), memory["v"] / (1 - b2**t)
    if name in ("nadamw", "muon"):
        m = b1 * memory["m"] / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
    if name == "adam_atan2":
        return 4 / math.pi * np.arctan2(m, np.sqrt(v))
    denominator = np.sqrt(v + options.get("eps_root", 0.0)) + options.get("eps", 1e-8)
    return np.divide(m, denominator, out=np.zeros_like(m), where=denominator != 0)


def orthogonal_step(options, memory, g, t):
    """Muon's direction of a square matrix four times as wide as its base: five Newton-Schulz steps."""
    beta = options["beta"]
    g = g / 4  # a sixteenth of the entries: the Frobenius norm that eps is compared with is the base width's
    memory["m"] = beta * memory.get("m", 0.0) + (1 - beta) * g
    x = beta * memory["m"] / (1 - beta ** (t + 1)) + (1 - beta) * g / (1 - beta**t)
    x = x / (math.sqrt(np.sum(x**2)) + 1e-8)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x


def adafactor_step(options, memory, w, g, t, rate, smallest, factored):
    """Adafactor's step, rate included, before its decay."""
    beta, square = 1 - t**-0.8, g**2 + options.get("eps", 1e-30)
    if factored:
        memory["row"] = beta * memory.get("row", 0.0) + (1 - beta) * square.mean(1)
        memory["col"] = beta * memory.get("col", 0.0) + (1 - beta) * square.mean(0)
        u = g / np.sqrt(np.outer(memory["row"], memory["col"]) / memory["row"].mean())
    else:
        memory["v"] = beta * memory.get("v", 0.0) + (1 - beta) * square
        u = g / np.sqrt(memory["v"])
    u = u / max(1.0, rms(u)) * rate * max(rms(w), smallest)
    if "momentum" in options:
        memory["ema"] = options["momentum"] * memory.get("ema", 0.0) + (1 - options["momentum"]) * u
        u = memory["ema"]
    return u


def run(name, options, w, rows, rate, decay_rate, rule):
    """Returns the parameter after every step.

    Args:
        name: of the alias.
        options: its arguments.
        w: one parameter.
        rows: its gradients, one per step.
        rate: the global learning rate of every step.
        decay_rate: the weight-decay coefficient of every step.
        rule: the numbers of this parameter: learning_rate, epsilon, weight_decay, smallest (parameter scale),
            factored, orthogonal (Muon's hidden matrix), and the convention.
    """
    memory, path = {}, []
    for t, g in enumerate(rows):
        lr, wd, layer = rate[t], decay_rate[t], rule["learning_rate"]
        if name.startswith("sgd") or name in ("momentum", "nesterov", "lion"):
            step = lr * layer * direction(name, options, memory, g, t + 1)
        elif name.startswith("adafactor"):
            g = g / rule["epsilon"]
            step = adafactor_step(
                options, memory, w, g, t + 1, lr * layer, rule["smallest"], rule["factored"]
            )
        elif rule["orthogonal"]:
            step = lr * layer * orthogonal_step(options, memory, g / rule["epsilon"], t + 1)
        else:
            step = lr * layer * direction(name, options, memory, g / rule["epsilon"], t + 1)
        removed = wd * rule["weight_decay"] * (1.0 if rule["decay"] == "independent" else lr * layer)
        w = w - step - removed * w
        path.append(w)
    return np.stack(path)
