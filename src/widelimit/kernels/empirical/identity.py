"""Which kernel a file holds: hashes of what it is made of."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr

from widelimit.kernels.checks import Apply, PyTree


def identity(
    apply: Apply,
    params: PyTree,
    example: PyTree,
    x1: PyTree,
    x2: PyTree,
    form: str,
    rates: PyTree,
    dtype: Any,
) -> dict[str, str]:
    """Returns hashes of all that a kernel depends on, by name.

    The function counts by what it computes: the program that JAX traces, and the arrays it closes over.

    Args:
        apply: the function.
        params: its parameters.
        example: a sample, in the dtype in which the function sees it.
        x1: inputs of the rows.
        x2: inputs of the columns, None for the same.
        form: of the kernel.
        rates: learning rate of each parameter.
        dtype: of the result.

    Example:
        >>> w, x = np.ones(3), np.eye(3)
        >>> one, two = (identity(lambda w, x: k * x @ w, w, x[:1], x, None, "full", None, "float32")
        ...             for k in (1.0, 2.0))
        >>> [name for name in one if one[name] != two[name]]
        ['function']
    """
    traced = jax.make_jaxpr(apply)(params, example)
    program = re.sub(r"0x[0-9a-f]+", "", str(traced))  # addresses are others in every process
    return {
        "function": _digest((program, list(_constants(traced)))),
        "params": _digest(params),
        "x1": _digest(x1),
        "x2": _digest(x2),
        "form": form,
        "rates": _digest(getattr(rates, "learning_rate", rates)),
        "dtype": str(np.dtype(dtype)),
    }


def _constants(program: ClosedJaxpr) -> Iterator[Any]:
    """Arrays that a function closes over, and those of the compiled functions and loops inside."""
    yield from program.consts
    for step in program.jaxpr.eqns:
        for part in jax.tree.leaves(list(step.params.values())):
            if isinstance(part, ClosedJaxpr):
                yield from _constants(part)


def _digest(tree: PyTree) -> str:
    """A hash of a pytree: its structure, and the dtype, shape and bytes of each leaf."""
    leaves, structure = jax.tree.flatten(tree)
    total = hashlib.blake2b(str(structure).encode(), digest_size=16)
    for leaf in leaves:
        if isinstance(leaf, str):
            total.update(leaf.encode())
            continue
        array = np.ascontiguousarray(leaf)
        total.update(f"{array.dtype}{array.shape}".encode())
        total.update(array.reshape(-1).view(np.uint8).data)
    return total.hexdigest()
