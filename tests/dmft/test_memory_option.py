"""The option ``memory`` has one form in every solver: a number of bytes, or text."""

from __future__ import annotations

import pytest

from widelimit import compare, dmft

PLAIN = dmft.Problem(
    targets=[1.0], kernel=[[1.0]], steps=3, learning_rate=0.1, depth=2, activation="identity"
)
ONE = dmft.Problem(targets=[1.0], kernel=[[1.0]], steps=3, learning_rate=0.1, activation="identity")
DEEP = dmft.ResidualProblem(
    targets=[1.0], kernel=[[1.0]], steps=3, learning_rate=0.1, depth=2, activation="identity"
)
SOLVERS = {
    "lazy": lambda m: dmft.lazy(PLAIN, memory=m),
    "linear": lambda m: dmft.linear(PLAIN, memory=m),
    "linear, residual": lambda m: dmft.linear(DEEP, memory=m),
    "two_layer": lambda m: dmft.two_layer(ONE, method="closed", memory=m),
    "finite_width": lambda m: dmft.finite_width(ONE, method="quadrature", memory=m),
    "mlp": lambda m: dmft.mlp(PLAIN, samples=32, replicas=2, memory=m),
    "residual": lambda m: dmft.residual(DEEP, samples=None, memory=m),
    "infinite_depth": lambda m: dmft.infinite_depth(DEEP, depths=(2, 4), samples=None, memory=m),
    "finite_ensemble": lambda m: compare.finite_ensemble(PLAIN, [4], 2, memory=m),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_memory_is_bytes_or_text(name):
    """1 GiB is enough as text and as a float; ten bytes are too few either way; other text is a sentence."""
    for enough in ("1GiB", 1e9):
        SOLVERS[name](enough)
    for little in ("10B", 10):
        with pytest.raises(ValueError, match="memory"):
            SOLVERS[name](little)
    with pytest.raises(ValueError, match="Expected memory as bytes or text"):
        SOLVERS[name]("much")
