"""For models that already exist: turn their own initialisation into a correctly scaled one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from widelimit.models.foldable import (
    ATTENTION,
    BRANCHES,
    refuse_growing_products,
    refuse_normalised,
    refuse_wrong_branches,
)
from widelimit.scaling import Leaf, Rules, fold, make_rules

PyTree = Any

_FANS = ("fan_in", "constant", "fan_avg", "fan_out")
# A measured ratio is a power of a fan if it lies within so many standard errors: of fan_in, which is the
# commonest and which few weights may not tell from fan_avg, or of the nearest. Else it is taken as it is.
_LIKELY, _POSSIBLE = 2.0, 4.0


class Rescaled(NamedTuple):
    """Correctly scaled parameters and the rules that train them, with every multiplier folded in."""

    params: PyTree
    rules: Rules


def rescale(
    params: PyTree,
    rules: Rules,
    init: Callable[..., PyTree],
    apply: Callable[[int, PyTree, Any], Any],
    example: Any,
    *,
    key: jax.Array | None = None,
    samples: int = 8,
    initialisers: Mapping[str, str] | None = None,
    accept: Collection[str] = (),
) -> Rescaled:
    r"""Rescales a model's own initial parameters, so that its code need not change.

    A parameter's standard deviation becomes ``s(n0) m^-(a+b)``, with ``s(n0)`` what the model's initialiser
    gives at the base width: neutral there, and the parametrization's at every other. How the initialiser
    itself scales is measured, not assumed to be 1/sqrt(fan_in): on ``params``, and on a model of the base
    width. Forward multipliers are folded into the weights by the symmetry. A parameter that starts from a
    constant (zero bias, unit gain) stays, as does one that is no float. Under a rule of depth the parameters
    that end a residual branch (see ``in_branches``) are multiplied by the branch's factor besides; an
    initialiser that already shrinks them with the number of blocks must stop doing so.

    ``init``, ``apply`` and ``example`` are those given to ``probe``. With the last two, what cannot be folded
    is found and refused: attention over heads of growing size, unless the parametrization wants 1/sqrt(d),
    weights whose size the output does not feel, as a norm follows, and residual branches that are not those
    of the forward pass. The output must be what training sees: with batch norm, in its training mode and
    without the updated statistics.

    Args:
        params: the initial parameters at the target width.
        rules: their rules, from a relative parametrization.
        init: the model's initialiser, ``init(width) -> params``, or ``init(width, key=...)``.
        apply: its forward pass, ``apply(width, params, example) -> output``.
        example: an input, as arrays.
        key: PRNG key; if given, ``init(base_width, key)`` is drawn from repeatedly, for a base model whose
            few weights would not tell their std in one draw.
        samples: number of draws, if ``key`` is given.
        initialisers: told instead of measured, path -> how the std scales: ``"fan_in"``, ``"fan_out"``,
            ``"fan_avg"`` (all to the power -1/2) or ``"constant"``.
        accept: paths of weights to rescale although a norm follows, ``"attention"`` once the model's own
            attention scale is right, and ``"branches"`` if the declared branches are right all the same.

    Returns:
        The parameters and the folded rules: use these with ``widelimit.optim``.

    Raises:
        ValueError: if the parametrization is absolute, the rules belong to another model, a parameter is not
            finite, an initialiser is unknown, a path matches no parameter, or something cannot be folded: a
            tied readout's multiplier, attention's temperature, a weight followed by a norm.

    Example:
        >>> from widelimit.scaling import mup, probe
        >>> def init(width, key=jax.random.key(0)):
        ...     first, last = jax.random.split(key)
        ...     return {
        ...         "first": jax.random.normal(first, (5, width)),
        ...         "last": jax.random.normal(last, (width, 10)) / width**0.5,
        ...     }
        >>> apply = lambda width, params, x: x @ params["first"] @ params["last"]
        >>> x = jax.numpy.ones((1, 5))
        >>> rules = make_rules(probe(init, apply, x, width=256, base_width=64), mup(), "adam")
        >>> params = init(256, jax.random.key(1))
        >>> rescaled = rescale(params, rules, init, apply, x)
        >>> for name in params:
        ...     print(name, round(float(rescaled.params[name].std() / params[name].std()), 6))
        first 1.0
        last 0.5

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
    _check_paths({*told, *accept} - {ATTENTION, BRANCHES}, rules.leaves)
    flat, treedef = jax.tree.flatten(params)
    _check_shapes(flat, rules.leaves)
    _check_finite(_moments(flat), rules.leaves, "params")
    if ATTENTION not in accept:
        refuse_growing_products(init, apply, example, rules)
    base_width = rules.leaves[0].base_width
    width = int(rules.leaves[0].width * base_width)
    ratios: dict[str, float | None] = {}
    if len(told) < len(rules.leaves):
        keys = [()] if key is None else [(own,) for own in jax.random.split(key, samples)]
        ratios = _measure(flat, (init(base_width, *own) for own in keys), rules.leaves, told)
    ratios |= {leaf.path: _told(leaf, told[leaf.path]) for leaf in rules.leaves if leaf.path in told}
    factors = [
        _branch(leaf, rules) if (ratio := ratios[leaf.path]) is None else _growth(leaf, rules) / ratio
        for leaf in rules.leaves
    ]
    factors = [1.0 if math.isclose(factor, 1.0, rel_tol=1e-12) else factor for factor in factors]

    def output(arrays: PyTree) -> Any:
        return apply(width, arrays, example)

    if any(leaf.depth is not None for leaf in rules.leaves) and BRANCHES not in accept:
        refuse_wrong_branches(output, params, rules.leaves)
    refuse_normalised(output, params, rules.leaves, factors, accept)
    scaled = [array if factor == 1 else array * factor for array, factor in zip(flat, factors, strict=True)]
    return Rescaled(jax.tree.unflatten(treedef, scaled), folded)


def _growth(leaf: Leaf, rules: Rules) -> float:
    """Returns the effective std's growth from the base width: m^-(a+b), with the constants."""
    unit = make_rules(
        [dataclasses.replace(leaf, init_scale=1.0)], rules.parametrization, rules.optimizer, rules.alignment
    )
    multiplier = 1.0 if leaf.tied else unit.multiplier[0]
    return unit.init_std[0] * multiplier * math.sqrt(leaf.base_fan_in)


def _branch(leaf: Leaf, rules: Rules) -> float:
    """Returns the factor of a residual branch on a constant that ends one: a gain behind it, say."""
    if not leaf.ends_branch or leaf.depth is None:
        return 1.0
    return float(leaf.depth) ** -float(rules.parametrization.branch)


def _told(leaf: Leaf, initialiser: str) -> float:
    """Returns the ratio of initial std, target over base width, of a named initialiser."""
    fans = {
        "fan_in": (leaf.fan_in, leaf.base_fan_in),
        "fan_out": (leaf.fan_out, leaf.base_fan_out),
        "fan_avg": (leaf.fan_in + leaf.fan_out, leaf.base_fan_in + leaf.base_fan_out),
        "constant": (1, 1),
    }
    if initialiser not in _FANS:
        raise ValueError(
            f"{leaf.path}: an initialiser scales by one of {', '.join(_FANS)}; got {initialiser!r}."
        )
    target, base = fans[initialiser]
    return math.sqrt(base / target)


def _measure(
    flat: Sequence[Any], base_models: Iterable[PyTree], leaves: tuple[Leaf, ...], told: Collection[str]
) -> dict[str, float | None]:
    """Returns every other parameter's ratio of initial std, target over base; None where it is a constant."""
    base_moments = sum((_moments(jax.tree.leaves(model)) for model in base_models), np.zeros(()))
    _check_finite(base_moments, leaves, "init(base_width)")
    std, error = _std(_moments(flat))
    base_std, base_error = _std(base_moments)
    errors = np.hypot(error, base_error)
    rows = zip(leaves, base_std, std, errors, strict=True)
    return {leaf.path: _ratio(leaf, *row) for leaf, *row in rows if leaf.path not in told}


def _moments(arrays: Sequence[Any]) -> np.ndarray:
    """Returns number, sum and sum of squares of every array [P, 3]; what is no float counts as constant."""
    rows = []
    for array in arrays:
        floating = jnp.issubdtype(array.dtype, jnp.floating)
        numbers = np.asarray(array, np.float64) if floating else np.zeros(1)
        with np.errstate(invalid="ignore"):  # a sum over both infinities is NaN, which _check_finite reports
            rows.append((numbers.size, numbers.sum(), np.square(numbers).sum()))
    return np.array(rows)


def _check_finite(moments: np.ndarray, leaves: tuple[Leaf, ...], what: str) -> None:
    """Raises where an array has no finite sum, which would be taken for a constant."""
    for leaf, row in zip(leaves, moments, strict=True):
        if not np.isfinite(row).all():
            raise ValueError(
                f"{leaf.path} must be finite to be rescaled; {what} holds NaN or infinite values there: "
                "rescale the model's initial parameters, before any training."
            )


def _std(moments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns standard deviations and the relative error they have as estimates from so many draws."""
    size, total, square = moments.T
    variance = square / size - (total / size) ** 2
    # Summed in float64, a constant array has a variance of the order of rounding, not exactly zero.
    std = np.sqrt(np.where(variance > 1e-12 * square / size, variance, 0))
    # The std of N draws has a relative standard error of at most 1/sqrt(2 N) for the normal and flatter laws.
    return std, np.sqrt(0.5 / size)


def _ratio(leaf: Leaf, base_std: float, std: float, error: float) -> float | None:
    """Returns the exact power of a fan that a measured ratio agrees with, else the ratio itself."""
    if leaf.shape == leaf.base_shape:
        return 1.0
    constant = [value == 0 for value in (base_std, std)]
    if all(constant):
        return None
    if any(constant):
        raise ValueError(
            f"{leaf.path} starts from a constant at one width and at random at the other; say how it "
            f"scales with initialisers={{{leaf.path!r}: 'constant'}} or change its initialiser."
        )
    ratio = std / base_std

    def off(name: str) -> float:
        return abs(math.log(ratio / _told(leaf, name))) / error

    nearest = min(_FANS, key=off)
    chosen = "fan_in" if off("fan_in") < _LIKELY else nearest
    return _told(leaf, chosen) if off(chosen) < _POSSIBLE else ratio


def _check_paths(paths: set[str], leaves: tuple[Leaf, ...]) -> None:
    """Raises if a path given by the user names no parameter."""
    known = [leaf.path for leaf in leaves]
    for path in sorted(paths):
        if path not in known:
            raise ValueError(f"no parameter has the path {path!r}; the paths are {', '.join(known)}.")


def _check_shapes(flat: Sequence[Any], leaves: tuple[Leaf, ...]) -> None:
    """Raises if the parameters are not those that the rules are for."""
    if len(flat) != len(leaves):
        raise ValueError(f"the rules are for {len(leaves)} parameters; got a model with {len(flat)}.")
    for array, leaf in zip(flat, leaves, strict=True):
        if array.shape != leaf.shape:
            raise ValueError(
                f"the rules are for {leaf.path} of shape {leaf.shape}; got {array.shape}. Pass the "
                "parameters of the target width."
            )
