"""The one door to neural-tangents: its wheel, unmodified, on a JAX that it no longer imports on."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax

PACKAGE = "neural_tangents"
INSTALL = "pip install --no-deps neural-tangents==0.6.5 and pip install frozendict"

# Reentrant: what neural-tangents imports while the lock is held may come back here.
_LOCK = threading.RLock()
_opened: list[types.ModuleType] = []


def neural_tangents() -> types.ModuleType:
    r"""Returns the package neural-tangents; the first call imports it, later ones return the same module.

    Where the installed neural-tangents imports by itself, that package is returned and nothing is touched.
    Version 0.6.5 does not on current JAX. It is then imported, unmodified, while the names that JAX has
    removed are put back; they are taken away again right after. What is returned is a namespace of the
    package's public names, in which what cannot work raises ``NotImplementedError`` with the way out:

    * ``STRUCTURED_DERIVATIVES`` and ``AUTO`` of the empirical NTK, which need JAX internals that are gone;
    * ``batch`` and ``monte_carlo_kernel_fn`` on several devices, which need ``pmap``;
    * ``predict.gradient_descent_mse`` of a kernel under ``jit`` or ``vmap``, whose tracing it steps out of;
    * ``predict.max_learning_rate``, which needs an argument that SciPy has removed;
    * ``stax.RectifiedMonomial``, whose formula for a sample with itself is 0 / 0: NaN, or wrong;
    * ``experimental``, which needs TensorFlow.

    Raises:
        ModuleNotFoundError: if neural-tangents, or frozendict, is missing.
        ImportError: if this JAX lacks something that this module does not know how to put back.

    Example:
        >>> nt = neural_tangents()
        >>> init, apply, kernel = nt.stax.serial(nt.stax.Dense(1), nt.stax.Relu(), nt.stax.Dense(1))
        >>> kernel(jax.numpy.ones((1, 4)), None, "nngp").item()
        0.5

    Reference:
        Novak et al., "Neural Tangents: Fast and Easy Infinite Neural Networks in Python" (arXiv 1912.02803).
    """
    with _LOCK:
        if not _opened:
            _opened.append(_open())
        return _opened[0]


def _open() -> types.ModuleType:
    """Imports the package, by itself if it can be."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the package's syntax, once, as Python compiles it
        try:
            return importlib.import_module(PACKAGE)
        except (ImportError, AttributeError):
            _forget()
        try:
            with _restored():
                package = importlib.import_module(PACKAGE)
        except (ImportError, AttributeError) as error:
            _forget()
            raise _explained(error) from error
    return _guarded(package)


def _forget() -> None:
    """Removes what a failed import has left behind, so that the next one starts afresh."""
    for name in list(sys.modules):
        if name == PACKAGE or name.startswith(f"{PACKAGE}."):
            del sys.modules[name]


def _explained(error: Exception) -> ImportError:
    """Returns one sentence on what is missing."""
    if isinstance(error, ModuleNotFoundError) and error.name in (PACKAGE, "frozendict"):
        return ModuleNotFoundError(
            f"this needs {error.name}, which is not installed: {INSTALL} (without its dependencies, "
            "as neural-tangents declares TensorFlow and never uses it here).",
            name=error.name,
        )
    return ImportError(
        f"neural-tangents does not import on JAX {jax.__version__}: {error}. JAX has removed something that "
        "widelimit does not know how to put back; please report it, and meanwhile use an older JAX."
    )


@contextlib.contextmanager
def _restored() -> Iterator[None]:
    """Puts the names that JAX has removed back into its modules, and takes them away again."""
    core, interpreter = importlib.import_module("jax.core"), importlib.import_module("jax.interpreters.ad")
    public = importlib.import_module("jax.extend.core")
    names = ("Jaxpr", "JaxprEqn", "Literal", "Primitive", "Var")
    wanted: list[tuple[types.ModuleType, str, Any]] = [(core, name, getattr(public, name)) for name in names]
    # A key in a table of derivative rules that nothing looks up any more.
    wanted.append((interpreter, "zeros_like_p", public.Primitive("zeros_like")))
    added = [(module, name, value) for module, name, value in wanted if not hasattr(module, name)]
    modules = {f"{PACKAGE}.experimental": _experimental()}
    try:
        importlib.import_module("jax.util")
    except ImportError:
        modules["jax.util"] = _util()
    for module, name, value in added:
        setattr(module, name, value)
    sys.modules.update(modules)
    try:
        yield
    finally:
        for module, name, _ in added:
            delattr(module, name)
        for path in modules:
            sys.modules.pop(path, None)


def _util() -> types.ModuleType:
    """Returns the part of the former ``jax.util`` that is imported."""
    module = types.ModuleType("jax.util")
    module.__dict__.update(safe_map=_safe_map, safe_zip=_safe_zip)
    return module


def _safe_map(function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Maps over sequences of equal length."""
    return [function(*items) for items in zip(*map(list, arguments), strict=True)]


def _safe_zip(*arguments: Any) -> list[tuple[Any, ...]]:
    """Zips sequences of equal length."""
    return list(zip(*map(list, arguments), strict=True))


def _experimental() -> types.ModuleType:
    """Returns a stand-in for the subpackage that needs TensorFlow; what it is asked for, it refuses."""
    module = types.ModuleType(f"{PACKAGE}.experimental")

    def refuse(name: str) -> Any:
        if name.startswith("__"):  # Python's own questions, e.g. of inspect and copy
            raise AttributeError(name)
        raise NotImplementedError(
            f"{PACKAGE}.experimental.{name} needs TensorFlow and a part of JAX that is gone; "
            "use widelimit.kernels.empirical on a JAX function."
        )

    module.__dict__["__getattr__"] = refuse
    return module


def _guarded(package: types.ModuleType) -> types.ModuleType:
    """Returns a namespace of the package's public names, in which what cannot work says so."""
    mse = _checked(package.predict.gradient_descent_mse, _check_concrete)
    predict = _copied(package.predict, max_learning_rate=_refuse_rate, gradient_descent_mse=mse)
    names = ("empirical_ntk_fn", "empirical_kernel_fn")
    checked = {name: _checked(getattr(package, name), _check_implementation) for name in names}
    return _copied(
        package,
        predict=predict,
        stax=_copied(package.stax, RectifiedMonomial=_refuse_monomial),
        batch=_checked(package.batch, _check_devices),
        monte_carlo_kernel_fn=_checked(package.monte_carlo_kernel_fn, _check_devices, _check_implementation),
        **checked,
    )


def _copied(module: types.ModuleType, **replaced: Any) -> types.ModuleType:
    """Returns a namespace with a module's names, some of them replaced; the module stays as it is."""
    copy = types.ModuleType(module.__name__, module.__doc__)
    copy.__dict__.update(module.__dict__)
    copy.__dict__.update(replaced)
    return copy


def _checked(function: Callable[..., Any], *checks: Callable[[dict[str, Any]], None]) -> Callable[..., Any]:
    """Returns a function that looks at its arguments, defaults included, before it runs."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        for check in checks:
            check(bound.arguments)
        return function(*args, **kwargs)

    return checked


def _check_implementation(arguments: dict[str, Any]) -> None:
    """Refuses the two implementations of the empirical NTK that walk JAX's internals."""
    if int(arguments["implementation"]) in (0, 3):
        raise NotImplementedError(
            "implementation AUTO (0) and STRUCTURED_DERIVATIVES (3) of neural-tangents do not run on this "
            "JAX; use widelimit.kernels.empirical.ntk, which is structured, or implementation 1 or 2."
        )


def _check_devices(arguments: dict[str, Any]) -> None:
    """Refuses what would call ``pmap``."""
    count = arguments["device_count"]
    if count > 0 or (count == -1 and jax.local_device_count() > 1):
        raise NotImplementedError(
            "neural-tangents spreads over devices with pmap, which this JAX has replaced "
            f"(device_count={count}, {jax.local_device_count()} devices here); pass device_count=0 "
            "for one device."
        )


def _check_concrete(arguments: dict[str, Any]) -> None:
    """Refuses a kernel that is being traced: JAX no longer lets a solver be made outside of the trace."""
    if isinstance(arguments["k_train_train"], jax.core.Tracer):
        raise NotImplementedError(
            "predict.gradient_descent_mse cannot take a kernel under jit, vmap or grad on this JAX; call it "
            "outside of them, or use widelimit.kernels.dynamics.gradient_flow."
        )


def _refuse_monomial(*args: Any, **kwargs: Any) -> Any:
    """Stands in for ``stax.RectifiedMonomial``."""
    raise NotImplementedError(
        "stax.RectifiedMonomial divides 0 by 0 where a sample meets itself, so that its kernel's diagonal is "
        "NaN or wrong; use stax.Relu for degree 1, else stax.ElementwiseNumerical of the function."
    )


def _refuse_rate(*args: Any, **kwargs: Any) -> Any:
    """Stands in for ``predict.max_learning_rate``."""
    raise NotImplementedError(
        "predict.max_learning_rate asks SciPy for an argument that is gone; "
        "use widelimit.kernels.dynamics.largest_rate."
    )
