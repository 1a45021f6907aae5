"""For models that already exist: turn their own initialisation into a correctly scaled one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from widelimit.scaling import Leaf, Rules, fold, make_rules

PyTree = Any
Init = Callable[[int, jax.Array], PyTree]

# How many standard errors a measured ratio may lie from a power of the fans before it is taken as it is.
_SIGMAS = 4.0


class Rescaled(NamedTuple):
    """Correctly scaled parameters and the rules that train them, with every multiplier folded in."""

    params: PyTree
    rules: Rules


def rescale(
    params: PyTree,
    rules: Rules,
    init: Init,
    *,
    key: jax.Array,
    samples: int = 8,
    initialisers: Mapping[str, str] | None = None,
    apply: Callable[[PyTree], Any] | None = None,
    accept: Collection[str] = (),
) -> Rescaled:
    r"""Rescales a model's own initial parameters, so that its code need not change.

    A parameter's standard deviation becomes ``s(n0) m^-(a+b)``, with ``s(n0)`` what the model's initialiser
    gives at the base width: neutral there, and the parametrization's at every other. How the initialiser
    itself scales is measured on both widths, not assumed to be 1/sqrt(fan_in). Forward multipliers are
    folded into the weights by the symmetry. A parameter that starts from a constant (zero bias, unit gain)
    stays.

    Args:
        params: the parameters at the target width.
        rules: their rules, from a relative parametrization.
        init: the model's initialiser, ``(width, key) -> params``.
        key: PRNG key for the measurement.
        samples: draws per width that are measured.
        initialisers: told instead of measured, path -> how the std scales: ``"fan_in"``, ``"fan_out"``,
            ``"fan_avg"`` (all to the power -1/2) or ``"constant"``.
        apply: ``params -> output`` at the target width, on data of the user's choice. If given, a rescaled
            weight whose size the output does not feel (it is followed by a norm) is refused.
        accept: paths of weights to rescale although a norm follows.

    Returns:
        The parameters and the folded rules: use these with ``widelimit.optim``.

    Raises:
        ValueError: if the parametrization is absolute, a tied readout needs a multiplier, a weight is
        followed by a
            norm, an initialiser is unknown, or a path matches no parameter.

    Example:
        >>> from fractions import Fraction
        >>> from widelimit.scaling import leaf_from_axes, mup
        >>> def init(width, key):
        ...     return {"readout": jax.random.normal(key, (width, 10)) / width**0.5}
        >>> leaf = leaf_from_axes(
        ...     "readout", (256, 10), (64, 10), contracted=(0,), width=Fraction(4), base_width=64
        ... )
        >>> key = jax.random.key(0)
        >>> params = init(256, key)
        >>> rescaled = rescale(params, make_rules({"readout": leaf}, mup(table=8)), init, key=key)
        >>> round(float(rescaled.params["readout"].std() / params["readout"].std()), 6)
        0.5

    Reference:
        Yang et al., arXiv 2203.03466, Lemma J.1 (folding).
    """
    if rules.parametrization.form != "relative":
        raise ValueError(
            f"rescale keeps a model as it is at the base width, which needs a relative parametrization; got "
            f"{rules.parametrization.name} in absolute form. Use to_relative(parametrization, base_width)."
        )
    folded = fold(rules)
    told = dict(initialisers or {})
    _check_paths({*told, *accept}, rules.leaves)
    flat, treedef = jax.tree.flatten(params)
    if len(flat) != len(rules.leaves):
        raise ValueError(f"the rules are for {len(rules.leaves)} parameters; got a model with {len(flat)}.")
    ratios: dict[str, float | None] = {}
    if len(told) < len(rules.leaves):
        ratios = _measure(init, rules.leaves, key, samples)
    ratios |= {leaf.path: _told(leaf, told[leaf.path]) for leaf in rules.leaves if leaf.path in told}
    factors = [
        1.0 if (ratio := ratios[leaf.path]) is None else _growth(leaf, rules) / ratio for leaf in rules.leaves
    ]
    if apply is not None:
        _refuse_normalised(apply, params, rules.leaves, factors, accept)
    scaled = [array if factor == 1 else array * factor for array, factor in zip(flat, factors, strict=True)]
    return Rescaled(jax.tree.unflatten(treedef, scaled), folded)


def _growth(leaf: Leaf, rules: Rules) -> float:
    """Returns the effective std's growth from the base width: m^-(a+b), with the constants."""
    unit = make_rules(
        [dataclasses.replace(leaf, init_scale=1.0)], rules.parametrization, rules.optimizer, rules.alignment
    )
    multiplier = 1.0 if leaf.tied else unit.multiplier[0]
    return unit.init_std[0] * multiplier * math.sqrt(leaf.base_fan_in)


def _told(leaf: Leaf, initialiser: str) -> float:
    """Returns the ratio of initial std, target over base width, of a named initialiser."""
    fans = {
        "fan_in": (leaf.fan_in, leaf.base_fan_in),
        "fan_out": (leaf.fan_out, leaf.base_fan_out),
        "fan_avg": (leaf.fan_in + leaf.fan_out, leaf.base_fan_in + leaf.base_fan_out),
        "constant": (1, 1),
    }
    if initialiser not in fans:
        raise ValueError(
            f"{leaf.path}: an initialiser scales by one of {', '.join(fans)}; got {initialiser!r}."
        )
    target, base = fans[initialiser]
    return math.sqrt(base / target)


def _measure(init: Init, leaves: tuple[Leaf, ...], key: jax.Array, samples: int) -> dict[str, float | None]:
    """Returns every parameter's ratio of initial std, target over base width; None where it is a constant."""
    base_width = leaves[0].base_width
    widths = (base_width, int(leaves[0].width * base_width))
    keys = jax.random.split(key, samples)
    sums = [np.zeros((len(leaves), 3)) for _ in widths]
    for moments, width in zip(sums, widths, strict=True):
        for sample in keys:
            arrays = [np.asarray(array, np.float64) for array in jax.tree.leaves(init(width, sample))]
            moments += [(array.size, array.sum(), (array**2).sum()) for array in arrays]
    (base_size, base_mean, base_square), (size, mean, square) = (total.T for total in sums)
    base_std = np.sqrt(np.maximum(base_square / base_size - (base_mean / base_size) ** 2, 0))
    std = np.sqrt(np.maximum(square / size - (mean / size) ** 2, 0))
    # The std of N draws has a relative standard error of at most 1/sqrt(2 N) for the normal and flatter laws.
    error = np.sqrt(0.5 / base_size + 0.5 / size)
    return {leaf.path: _ratio(leaf, *row) for leaf, *row in zip(leaves, base_std, std, error, strict=True)}


def _ratio(leaf: Leaf, base_std: float, std: float, error: float) -> float | None:
    """Returns the exact power of a fan that a measured ratio agrees with, else the ratio itself."""
    if leaf.shape == leaf.base_shape:
        return 1.0
    # Rounding leaves a constant array with a std of the order of float32's epsilon, not exactly zero.
    constant = [value < 1e-6 for value in (base_std, std)]
    if all(constant):
        return None
    if any(constant):
        raise ValueError(
            f"{leaf.path} starts from a constant at one width and at random at the other; say how it "
            f"scales with initialisers={{{leaf.path!r}: 'constant'}} or change its initialiser."
        )
    ratio = std / base_std
    exact = {_told(leaf, name) for name in ("constant", "fan_in", "fan_out", "fan_avg")}
    near = sorted(exact, key=lambda value: abs(math.log(ratio / value)))
    return near[0] if abs(math.log(ratio / near[0])) < _SIGMAS * error else ratio


def _check_paths(paths: set[str], leaves: tuple[Leaf, ...]) -> None:
    """Raises if a path given by the user names no parameter."""
    known = [leaf.path for leaf in leaves]
    for path in sorted(paths):
        if path not in known:
            raise ValueError(f"no parameter has the path {path!r}; the paths are {', '.join(known)}.")


def _refuse_normalised(
    apply: Callable[[PyTree], Any],
    params: PyTree,
    leaves: tuple[Leaf, ...],
    factors: list[float],
    accept: Collection[str],
) -> None:
    """Raises if the output does not feel the size of a weight that is to be rescaled."""
    generator = np.random.default_rng(0)
    flat, treedef = jax.tree.flatten(params)
    # A zero readout would hide every other weight: give all-zero arrays some value for this check.
    filled = [
        array if np.any(np.asarray(array)) else array + generator.normal(size=array.shape).astype(array.dtype)
        for array in flat
    ]

    def output(arrays: list[Any]) -> np.ndarray:
        outputs = jax.tree.leaves(apply(jax.tree.unflatten(treedef, arrays)))
        return np.concatenate([np.asarray(array, np.float64).ravel() for array in outputs])

    reference = output(filled)
    for index, (leaf, factor) in enumerate(zip(leaves, factors, strict=True)):
        if factor == 1 or leaf.path in accept:
            continue
        doubled = output([2 * array if i == index else array for i, array in enumerate(filled)])
        if np.linalg.norm(doubled - reference) <= 1e-3 * np.linalg.norm(reference):
            raise ValueError(
                f"{leaf.path} is followed by a norm: the output does not feel its size, so a factor of "
                f"{factor:.4g} cannot be folded into it. Put the scale behind the norm in the code, or "
                f"pass accept=[{leaf.path!r}] to rescale it all the same (rates are relative to its size)."
            )
