"""What a problem's functions are, as a hash that is the same in another process and differs where they do."""

from __future__ import annotations

import functools
import hashlib
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from widelimit.dmft.losses import loss_function
from widelimit.dmft.problem import Problem
from widelimit.models import activation

_LIBRARIES = ("builtins", "flax", "jax", "jaxlib", "math", "numpy", "optax", "scipy", "widelimit")
_DECADES = 10.0 ** np.arange(-3, 4)
_GRID = np.unique(np.concatenate([-_DECADES, [0.0], _DECADES, np.linspace(-10.0, 10.0, 257)]))
_ROWS = 32  # different targets at which a loss is taken


def functions(problem: Problem) -> str:
    """Returns a hash of a problem's activation and loss, by code and by values and slopes on a wide grid.

    Code is that of Python functions with their constants, defaults, closures and the globals that they name,
    all the way down; a function of a library goes by its name. What has no code has its values only.

    Args:
        problem: whose functions they are; a name stands for its function.

    Example:
        >>> import dataclasses
        >>> problem = Problem(targets=[1.0], kernel=[[1.0]], steps=1, learning_rate=0.1, activation="relu")
        >>> functions(problem) == functions(dataclasses.replace(problem, activation=jax.nn.relu))
        True
        >>> functions(problem) == functions(dataclasses.replace(problem, activation=jax.nn.relu6))
        False
    """
    digest = hashlib.sha256()
    phi, loss = activation(problem.activation), loss_function(problem.loss)
    seen: dict[int, int] = {}
    for part in (*_parts(phi, seen), *_parts(loss, seen)):
        digest.update(part + b"\0")
    for values in (_activation_values(phi), _loss_values(loss, np.asarray(problem.targets))):
        digest.update(values)
    return digest.hexdigest()


def _values(function: Callable[..., Any], *places: np.ndarray) -> bytes:
    """Values and slopes in single precision, whatever JAX is set to; in double where it needs that."""
    try:
        with jax.enable_x64(False):
            found = function(*(jnp.asarray(place, jnp.float32) for place in places))
    except Exception:
        with jax.enable_x64(True):
            found = function(*(jnp.asarray(place, jnp.float64) for place in places))
    return b"".join(np.ascontiguousarray(part).tobytes() for part in found)


def _activation_values(phi: Callable[[jax.Array], jax.Array]) -> bytes:
    """At every place of the grid."""
    return _values(jax.vmap(jax.value_and_grad(lambda h: phi(h[None])[0])), _GRID)


def _loss_values(loss: Callable[[jax.Array, jax.Array], jax.Array], targets: np.ndarray) -> bytes:
    """Around targets of every kind, for one output at a time and all at once; far away and across."""
    y = np.unique(targets, axis=0)
    y = y[np.unique(np.linspace(0, len(y) - 1, _ROWS).astype(int))]
    shifts = _GRID[:, None]
    if y.ndim == 2:
        ways = np.concatenate([np.eye(y.shape[1])[:_ROWS], np.ones((1, y.shape[1]))])
        shifts = (_GRID[:, None, None] * ways).reshape(-1, 1, y.shape[1])
    f = np.concatenate([y + shifts, -y + shifts])
    f, y = f.reshape(-1, *y.shape[1:]), np.broadcast_to(y, f.shape).reshape(-1, *y.shape[1:])
    return _values(jax.vmap(jax.value_and_grad(loss)), f, y)


def _parts(value: Any, seen: dict[int, int]) -> Iterator[bytes]:
    """What a value is made of, piece by piece; a piece that came before, by its number."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        yield f"{type(value).__name__} {value!r}".encode()
        return
    if not isinstance(value, tuple | frozenset | types.CodeType):  # equal ones may be one object, or two
        if id(value) in seen:
            yield f"as {seen[id(value)]}".encode()
            return
        seen[id(value)] = len(seen)
    yield type(value).__name__.encode()
    if isinstance(value, types.ModuleType):
        yield value.__name__.encode()
    elif isinstance(value, np.ndarray | np.generic | jax.Array):
        array = np.asarray(value)
        yield f"{array.shape} {array.dtype}".encode() + np.ascontiguousarray(array).tobytes()
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from _parts(key, seen)
            yield from _parts(entry, seen)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _parts(entry, seen)
    elif isinstance(value, set | frozenset):  # their order differs between processes
        for entry in sorted(value, key=repr):
            yield from _parts(entry, seen)
    elif isinstance(value, types.CodeType):
        yield from _code(value, seen)
    elif named := _library_name(value):
        yield named.encode()
    else:
        yield from _object(value, seen)


def _code(code: types.CodeType, seen: dict[int, int]) -> Iterator[bytes]:
    """Instructions, constants (functions inside among them) and names; not where it was written."""
    yield code.co_code
    for part in (code.co_consts, code.co_names, code.co_varnames, code.co_freevars):
        yield from (piece for entry in part for piece in _parts(entry, seen))


def _object(value: Any, seen: dict[int, int]) -> Iterator[bytes]:
    """A function, or an object by its type and what it holds."""
    if isinstance(value, functools.partial):
        for piece in (value.func, value.args, value.keywords):
            yield from _parts(piece, seen)
    elif isinstance(value, types.MethodType):
        yield from _parts(value.__func__, seen)
        yield from _parts(value.__self__, seen)
    elif isinstance(value, types.FunctionType):
        yield from _function(value, seen)
    elif hasattr(value, "__wrapped__"):  # compiled, or with a derivative of its own, which values show
        yield from _parts(value.__wrapped__, seen)
    elif not isinstance(value, type):
        if callable(value) and isinstance(call := type(value).__call__, types.FunctionType):
            yield from _parts(call, seen)
        if not _of_library(type(value)):
            yield from _parts(getattr(value, "__dict__", {}), seen)
    else:
        yield f"{value.__module__}.{value.__qualname__}".encode()


def _function(value: types.FunctionType, seen: dict[int, int]) -> Iterator[bytes]:
    """Code, defaults, closure, and the globals that it names (of one's own functions)."""
    yield from _parts(value.__code__, seen)
    yield from _parts(value.__defaults__, seen)
    yield from _parts(value.__kwdefaults__, seen)
    for cell in value.__closure__ or ():
        try:
            yield from _parts(cell.cell_contents, seen)
        except ValueError:  # not filled yet
            yield b"empty"
    if not _of_library(value):
        for name in sorted(_names(value.__code__) & value.__globals__.keys()):
            yield name.encode()
            yield from _parts(value.__globals__[name], seen)


def _names(code: types.CodeType) -> set[str]:
    """Names that code looks up, in functions inside too."""
    inside = (const for const in code.co_consts if isinstance(const, types.CodeType))
    return set(code.co_names).union(*(_names(part) for part in inside))


def _of_library(value: Any) -> bool:
    """Whether it was written in a library."""
    return str(getattr(value, "__module__", None)).split(".")[0] in _LIBRARIES


def _library_name(value: Any) -> str | None:
    """The name under which a library's function is found there; None for what was made by one."""
    module, name = str(getattr(value, "__module__", None)), getattr(value, "__qualname__", None)
    if not _of_library(value) or not name or "<locals>" in name:
        return None
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return f"{module}.{name}" if found is value else None
