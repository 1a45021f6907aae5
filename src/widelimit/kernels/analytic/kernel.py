"""NNGP and NTK of a config's network in the limit of infinite width."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike

from widelimit import models
from widelimit.kernels.analytic.duals import dual
from widelimit.kernels.analytic.layers import start, weights
from widelimit.kernels.analytic.networks import Config, walk
from widelimit.models import ConvConfig
from widelimit.scaling import Rules

PyTree = Any
Name = Literal["nngp", "ntk"]
Block = Callable[[np.ndarray, np.ndarray], list[np.ndarray]]

_ENTRIES = 2**20
"""Covariances that are held at once, unless batch_size says otherwise."""


class Kernel(NamedTuple):
    """Two kernels of the same samples, float64 [N1, N2] ([N] where only the diagonal is asked for).

    Args:
        nngp: covariance of one output at initialisation, E[f(x) f(x')].
        ntk: sum over parameters of rate times gradient times gradient, of one output.
    """

    nngp: np.ndarray
    ntk: np.ndarray


def kernel(
    config: Config,
    x1: ArrayLike,
    x2: ArrayLike | None = None,
    *,
    get: Name | tuple[Name, ...] = ("nngp", "ntk"),
    rates: str | Rules | PyTree = "sgd",
    tolerance: float = 1e-6,
    batch_size: int | None = None,
    diagonal: bool = False,
) -> Any:
    r"""Returns NNGP and NTK of the infinitely wide network of a config, with its optimizer's learning rates.

    For each layer, from the multipliers m, stds s and rates r of the config's rules at its width,

    ``K <- m^2 s^2 fan_in <K> + m_b^2 s_b^2``,
    ``Theta <- m^2 s^2 fan_in <Theta> + r m^2 fan_in <K> + r_b m_b^2``,

    with <> the mean over inputs (for a convolution: over channels and window), and for each activation
    ``K <- E[phi(u) phi(v)]``, ``Theta <- Theta E[phi'(u) phi'(v)]``, ``(u, v) ~ N(0, K)``. Outputs are
    independent: the full kernels are these times the identity. Width enters through the numbers only: under
    ``ntk`` it cancels, and under ``mup`` this is the kernel *at initialisation* of the network at the
    config's width, which training then moves at every width.

    Activations by closed form (relu, erf, gelu, sin, identity) or by a Hermite series whose error is bounded.
    A zero pre-activation of relu has the derivative 0, as in JAX.

    Args:
        config: of an MLP, a convolutional network or a residual MLP.
        x1: samples, [N1, inputs] or [N1, height, width, inputs]; any real dtype.
        x2: more of them; None is x1.
        get: both kernels, or the name of one.
        rates: ``"sgd"``, the learning rates of that optimizer's rules; rules of the sgd family, whose stds
            and multipliers are taken too; a pytree of numbers shaped like the parameters; None, all 1. The
            contribution of some layers: rates that are 0 elsewhere.
        tolerance: of activations without a closed form, relative to the diagonal.
        batch_size: the kernel is computed in square blocks of so many samples; None chooses.
        diagonal: return only the entries of each sample with itself, [N1].

    Returns:
        A ``Kernel`` of float64 arrays [N1, N2], or the one array that ``get`` names.

    Raises:
        ValueError: if samples are not finite, have another shape than the config's, or the tolerance is
            missed; if rates are of an optimizer other than SGD, whose limit has another kernel.
        TypeError: for another config, or samples that are no real numbers.
        FloatingPointError: if float64 overflows.

    Example:
        >>> from widelimit.models import MLPConfig
        >>> from widelimit.scaling import ntk
        >>> config = MLPConfig(
        ...     inputs=2, outputs=1, width=64, base_width=64, parametrization=ntk(), depth=1,
        ...     activation="relu", bias=False,
        ... )
        >>> kernel(config, np.eye(2), get="nngp").round(4).tolist()
        [[0.25, 0.0796], [0.0796, 0.25]]

    Reference:
        Jacot et al., Neural Tangent Kernel (arXiv 1806.07572); Lee et al. (arXiv 1902.06720); Sohl-Dickstein
        et al. (arXiv 2001.07301) for the standard parametrization.
    """
    wanted = _check_get(get)
    checked_config(config)
    first = checked_samples(config, x1, "x1")
    second = first if x2 is None else checked_samples(config, x2, "x2")
    if diagonal and x2 is not None:
        raise ValueError("diagonal=True is the kernel of each sample with itself; leave x2 out.")
    rules, numbers = checked_rates(config, rates)
    layers = {name: weights(rules, numbers, name) for name in config.layers()}
    phi = dual(config.activation, tolerance)

    def block(one: np.ndarray, two: np.ndarray) -> list[np.ndarray]:
        with np.errstate(over="ignore", invalid="ignore"):
            state = walk(config, layers, phi, start(one, two))
        parts = [getattr(state, name) for name in wanted]
        if not all(np.isfinite(part).all() for part in parts):
            raise FloatingPointError(
                "the kernel is not finite: samples or rates are so large that float64 overflows; "
                "scale them down."
            )
        return parts

    size = _block_size(config, first, batch_size, diagonal)
    if diagonal:
        found = _diagonal(block, first, size)
    else:
        found = _full(block, len(wanted), first, second, size, x2 is None)
    by_name = dict(zip(wanted, found, strict=True))
    return by_name[get] if isinstance(get, str) else Kernel(**by_name)


def _full(
    block: Block, count: int, x1: np.ndarray, x2: np.ndarray, size: int, symmetric: bool
) -> list[np.ndarray]:
    """Computes block by block; of a symmetric kernel one triangle: it is symmetric to the last bit."""
    kernels = [np.empty((len(x1), len(x2))) for _ in range(count)]
    for rows in _slices(len(x1), size):
        for columns in _slices(len(x2), size):
            if symmetric and columns.start < rows.start:
                continue
            for full, part in zip(kernels, block(x1[rows], x2[columns]), strict=True):
                full[rows, columns] = part
                if symmetric and rows == columns:
                    full[rows, columns] = np.triu(part) + np.triu(part, 1).T
                elif symmetric:
                    full[columns, rows] = part.T
    return kernels


def _diagonal(block: Block, x: np.ndarray, size: int) -> list[np.ndarray]:
    """Computes blocks on the diagonal and keeps theirs."""
    parts = [block(x[rows], x[rows]) for rows in _slices(len(x), size)]
    return [np.concatenate([np.diagonal(array) for array in arrays]) for arrays in zip(*parts, strict=True)]


def _slices(samples: int, size: int) -> Iterator[slice]:
    """Yields consecutive blocks."""
    for begin in range(0, samples, size):
        yield slice(begin, min(begin + size, samples))


def _block_size(config: Config, x: np.ndarray, batch_size: int | None, diagonal: bool) -> int:
    """Returns how many samples a block has on each side."""
    if batch_size is not None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be a positive integer or None; got {batch_size!r}.")
        return batch_size
    pixels = x.shape[1] * x.shape[2] if isinstance(config, ConvConfig) else 1
    largest = max(1, int(_ENTRIES**0.5) // pixels)
    return min(largest, 32) if diagonal else largest


def checked_rates(config: Config, rates: Any) -> tuple[Rules, PyTree]:
    """Returns the rules whose stds and multipliers the network has, and the learning rates."""
    if isinstance(rates, str) and rates != "sgd" or isinstance(rates, Rules) and rates.optimizer != "sgd":
        family = rates.optimizer if isinstance(rates, Rules) else repr(rates)
        raise ValueError(
            f"The NTK is the kernel of gradient descent; got rates of {family}, which moves along other "
            'directions. Pass rates="sgd", rules of the sgd family, a pytree of numbers, or None.'
        )
    rules = models.rules(config, "sgd")
    if rates is None or isinstance(rates, str):
        numbers = rules.learning_rate if rates == "sgd" else jax.tree.map(lambda _: 1.0, rules.learning_rate)
        return rules, numbers
    if isinstance(rates, Rules):
        if rates.leaves != rules.leaves:
            raise ValueError(
                "rates are rules of another network; make them with models.rules(config, 'sgd')."
            )
        return rates, rates.learning_rate
    if str(jax.tree.structure(rates)) != str(jax.tree.structure(rules.learning_rate)):
        raise ValueError(
            "rates must be a pytree of numbers shaped like the parameters, "
            f"{jax.tree.structure(rules.learning_rate)}; got {jax.tree.structure(rates)}."
        )
    for rate in jax.tree.leaves(rates):
        if np.ndim(rate) != 0 or not np.isfinite(float(rate)):
            raise ValueError(f"rates must hold one finite number for each parameter; got {rate!r}.")
    return rules, rates


def _check_get(get: Any) -> tuple[Name, ...]:
    """Returns the names asked for."""
    names: tuple[Name, ...] = ("nngp", "ntk")
    if get in names:
        return (get,)
    if isinstance(get, tuple | list) and set(get) == set(names):
        return names
    raise ValueError(f"get must be 'nngp', 'ntk' or both in a tuple; got {get!r}.")


def checked_config(config: Any) -> None:
    """Refuses what has no walk."""
    if type(config) not in Config.__args__:
        known = ", ".join(kind.__name__ for kind in Config.__args__)
        raise TypeError(
            f"analytic kernels are known for {known}; got {type(config).__name__}. For any other network, "
            "average empirical.ntk over seeds, or compose neural_tangents().stax layers."
        )
    if getattr(config, "norm", "none") != "none":
        raise ValueError(f"analytic kernels are known for norm='none'; got {config.norm!r}.")
    if getattr(config, "scan", False):
        raise ValueError("analytic kernels go layer by layer; pass the same config with scan=False.")


def checked_samples(config: Config, x: ArrayLike, name: str) -> np.ndarray:
    """Returns finite float64 samples of the shape that the config wants."""
    given = np.asarray(x)
    try:
        array = given.astype(np.float64, casting="unsafe" if given.dtype.kind != "c" else "safe")
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must hold real numbers; got dtype {given.dtype}.") from error
    axes = 4 if isinstance(config, ConvConfig) else 2
    wanted = ("[N, height, width, {}]" if axes == 4 else "[N, {}]").format(config.inputs)
    if array.ndim != axes or array.shape[-1] != config.inputs or 0 in array.shape:
        raise ValueError(f"{name} must have the shape {wanted}, N >= 1; got {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError(
            f"{name} must be finite; got NaN or infinity in {_bad(array)} of {len(array)} samples."
        )
    return array


def _bad(array: np.ndarray) -> int:
    """Returns in how many samples a number is not finite."""
    return int((~np.isfinite(array)).reshape(len(array), -1).any(axis=1).sum())
