"""The run-time checker that jaxtyping's import hook puts on every function of the package in the tests."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from beartype import beartype

# Float[Array, "P D"], UInt8[np.ndarray, " P"], tuple[Int[jax.Array, ""], ...]
ARRAY = re.compile(r"\b[A-Z]\w*\[[\w.]*(?:Array|ndarray), ")


def check_shapes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Checks declared array shapes and dtypes, and nothing else.

    Wrong plain types and bad arguments to a constructor must meet the package's own sentence instead.
    Annotations are strings here: every module postpones their evaluation.
    """
    if function.__name__ != "__init__":
        hints = function.__annotations__.items()
        function.__annotations__ = {name: hint for name, hint in hints if ARRAY.search(str(hint))}
        return beartype(function)
    return function
