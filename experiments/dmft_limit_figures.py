"""The figure of the DMFT experiment: the whole story in nine panels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from experiments.dmft_limit_regimes import QUANTITIES, Found, Regime
from widelimit.dmft import Labelled
from widelimit.figures import limit_story
from widelimit.training import Results

_NAMES = ("DMFT", "NTK", "no responses")


def save_all(results: Results, found: Found) -> dict[str, str]:
    """Draws and saves the figure; returns its caption by file name."""
    rich = found.rich
    steps, depth = found.config.steps, found.config.depth
    figure, _ = limit_story(
        {f"{one.name}, gamma0 = {one.problem.gamma0:g}": _losses(one) for one in found.regimes},
        {
            "lazy: predictions": _errors(found.lazy),
            "rich: predictions": _errors(rich),
            "rich: kernels": _kernel_errors(rich),
        },
        _held_out(found),
        {
            f"rich: features of layer {depth}": _kernels(rich, "features", depth),
            "rich: gradients of layer 1": _kernels(rich, "gradients", 1),
        },
        {"step 0": _densities(rich, 0), f"step {steps}": _densities(rich, -1)},
    )
    results.save_figure("limit.png", figure)
    last = rich.widths[-1]
    return {
        "limit.png": "Finite networks beside their limit. (a, b) Training loss: mean over networks of each "
        f"width, band: standard deviation at width {last}; predictions of infinite width over them, with two "
        f"standard errors. (c) Held-out images after training, width {last}. (d, e) Distance of single "
        "networks and of their mean from DMFT, over all steps and images, with predicted slopes (dashed); "
        "grey: DMFT's Monte-Carlo error; lines: distance of other predictions. (f) The same for the mean of "
        "kernels, relative; *: fitted together with a factor exp(k / N). (g, h) Kernels of training and "
        "held-out images after training, networks above the diagonal, DMFT below. (i) Densities of a "
        "pre-activation, units of networks and sites of DMFT."
    }


def _predictions(one: Regime) -> dict[str, Any]:
    """Solutions by name, in the figure's order."""
    return dict(zip(_NAMES, (one.full, one.lazy, one.none), strict=True))


def _losses(one: Regime) -> dict[str, Any]:
    """Loss curves."""
    networks = {
        width: (own.loss.mean(axis=0), own.loss.std(axis=0)) for width, own in one.ensembles.members.items()
    }
    return {
        "networks": networks,
        "predictions": {
            name: (solution.loss.values, solution.loss.stderr) for name, solution in _predictions(one).items()
        },
    }


def _line(one: Regime, quantity: str, which: str, predicted: float) -> dict[str, Any]:
    """Sizes against width."""
    sizes, (law, bent) = one.sizes(quantity, which), one.rate(quantity, which)
    found = f"{law.value:+.2f} ± {law.stderr:.2f}" if math.isfinite(law.value) else "not resolved"
    return {
        "widths": one.widths,
        "values": sizes.values,
        "errors": sizes.errors,
        "predicted": predicted,
        "label": f"{found} ({predicted:g})" + ("*" if bent else ""),
    }


def _errors(one: Regime) -> dict[str, Any]:
    """Distances of predictions."""
    return {
        "lines": {
            "network": _line(one, "predictions", "single", -0.5),
            "mean": _line(one, "predictions", "mean", -1.0),
        },
        "floor": one.rates["predictions"].floor,
        "names": _NAMES,
        "levels": {name: one.off(solution).value for name, solution in list(_predictions(one).items())[1:]},
        "unit": "distance of f from DMFT / |f|",
    }


def _kernel_errors(one: Regime) -> dict[str, Any]:
    """Distances of kernels."""
    kernels = ("features", "gradients", "ntk")
    return {
        "lines": {QUANTITIES[quantity]: _line(one, quantity, "mean", -1.0) for quantity in kernels},
        "floor": max(one.rates[quantity].floor for quantity in kernels),
        "floor_name": "largest Monte-Carlo error of DMFT",
        "levels": {},
        "unit": "distance of the mean from DMFT, relative",
    }


def _held_out(found: Found) -> dict[str, Any]:
    """Held-out images after training; of several outputs, the first."""
    rich = found.rich
    test = slice(rich.problem.samples, None)

    def last(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else values[-1, test].reshape(found.config.test_samples, -1)[:, 0]

    own = rich.ensembles.members[rich.widths[-1]].predictions
    shown = slice(0, 6)
    return {
        "title": f"rich: held-out images, step {found.config.steps}",
        "labels": [f"image {i + 1}" for i in range(found.config.test_samples)][shown],
        "targets": np.asarray(found.test_targets)[shown],
        "networks": (last(own.mean(axis=0))[shown], last(own.std(axis=0))[shown]),  # type: ignore[index]
        "predictions": {
            name: (
                last(solution.predictions.values)[shown],  # type: ignore[index]
                None if solution.predictions.stderr is None else last(solution.predictions.stderr)[shown],  # type: ignore[index]
            )
            for name, solution in _predictions(rich).items()
        },
    }


def _kernels(one: Regime, name: str, layer: int) -> tuple[np.ndarray, np.ndarray]:
    """The last kernel of a layer, of networks and of DMFT; of several outputs, the first with itself."""
    networks: Labelled = getattr(one.ensembles.solution(one.widths[-1]), name)
    limit: Labelled = getattr(one.full, name)
    outputs = {axis.replace("'", "_"): 0 for axis in limit.axes if axis.startswith("output")}
    both = networks.at(layer=layer, time=-1, **outputs), limit.at(layer=layer, time=-1, time_=-1, **outputs)
    return both[0].values, both[1].values


def _densities(one: Regime, time: int) -> tuple[np.ndarray, np.ndarray]:
    """The last layer's pre-activation of the first held-out image."""
    image, depth = one.problem.samples, one.problem.depth
    units = one.ensembles.members[one.widths[-1]].fields["h"].at(layer=depth, time=time, sample=image)
    sites = one.full.fields["h"].at(layer=depth, time=time, sample=image)  # type: ignore[index]
    return units.values.ravel(), sites.values.ravel()
