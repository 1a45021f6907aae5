"""What happens to a network as it grows: parametrize it, predict the limit, train finite networks beside it.

The rooms, from the bottom up: ``scaling`` (roles, exponents, rules), ``optim`` (optax transforms that apply a
rule tree), ``models``, ``kernels`` (of infinite and finite networks), ``dmft`` (the limit that learns
features), ``training``, ``compare`` and ``figures``. The first two load with the package, which costs little
more than importing JAX, Flax and Optax; the others when they are first used.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from widelimit import optim, scaling

__version__ = "0.1.0"

__all__ = ["compare", "dmft", "figures", "kernels", "models", "optim", "scaling", "training"]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(
        f"module {__name__!r} has no attribute {name!r}; its rooms are {', '.join(__all__)}."
    )


def __dir__() -> list[str]:
    return [*globals(), *__all__]
