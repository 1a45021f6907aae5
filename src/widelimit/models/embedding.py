"""A table whose rows are looked up, and which may serve as the readout too."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from math import sqrt

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from widelimit.models.layers import Parametrized, product, scaled
from widelimit.models.shapes import Axis, finite, leaf_of, positive
from widelimit.scaling import Leaf, Parametrization


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbeddingShape:
    r"""The shape of a table ``[entries, outputs]``: an input-like weight that contracts its entries.

    Looking up row t is the product with a one-hot vector, so the entries are its fan-in. It starts with
    ``std``, at every width.

    Args:
        entries: number of rows, e.g. the vocabulary.
        outputs: length of a row.
        width: the network's width.
        base_width: the network's base width.
        std: initial standard deviation of the entries.
        tied: the table is used again, transposed, as the readout.

    Raises:
        ValueError: if a size is not positive, or the std is negative.

    Example:
        >>> from widelimit.models import growing
        >>> shape = EmbeddingShape(entries=50, outputs=growing(64, 16), width=64, base_width=16)
        >>> leaf = shape.leaves("embedding")["table"]
        >>> leaf.role.value, leaf.fan_in, leaf.shape
        ('input', 50, (50, 64))

    Reference:
        Yang et al., Tensor Programs V (arXiv 2203.03466), Table 8 and Appendix B.
    """

    entries: int
    outputs: Axis
    width: int
    base_width: int
    std: float = 1.0
    tied: bool = False

    def __post_init__(self) -> None:
        """Checks what no table could have."""
        positive("entries", self.entries)
        positive("width", self.width)
        positive("base_width", self.base_width)
        if not 0 <= self.std < float("inf"):
            raise ValueError(f"std is a standard deviation, 0 or more; got {self.std}.")

    @property
    def depth(self) -> Fraction | None:
        """A table feeds the stream; it is in no branch."""
        return None

    @property
    def ends_branch(self) -> bool:
        """A table is in no branch."""
        return False

    @property
    def stack(self) -> int | None:
        """Tables are not scanned over."""
        return None

    def leaves(self, path: str = "") -> dict[str, Leaf]:
        """Returns the ``Leaf`` of the table, under its name.

        Args:
            path: of the layer in the parameter tree.
        """
        axes = (finite(self.entries), self.outputs)
        leaf = leaf_of(f"{path}/table" if path else "table", self, axes, (0,), self.std * sqrt(self.entries))
        return {"table": dataclasses.replace(leaf, tied=self.tied)}


class Embedding(Parametrized):
    r"""Rows of a table: ``y = mult table[t]``; as a tied readout, ``logits = mult (x table^T)``.

    The multiplier of a tied table belongs to its use as readout; rows are then looked up as they stand.
    Taps are those of ``Dense``: ``preactivation`` of the rows, ``logits`` of the readout.

    Args:
        shape: of the table.
        parametrization: the multiplier and initial std that ``init`` takes.
        dtype: of the table that ``init`` draws.
        compute_dtype: of the readout's product, e.g. ``"bfloat16"``; None is the table's. Logits are
            accumulated and returned in the table's dtype in any case.

    Example:
        >>> import jax
        >>> from widelimit.models import growing
        >>> from widelimit.scaling import mup
        >>> shape = EmbeddingShape(entries=9, outputs=growing(8, 4), width=8, base_width=4, tied=True)
        >>> table = Embedding(shape, mup(table=8))
        >>> variables = table.init(jax.random.key(0), jnp.array([[3, 1]]))
        >>> table.apply(variables, jnp.array([[3, 1]])).shape, variables["multipliers"]["table"]
        ((1, 2, 8), 0.5)
        >>> table.apply(variables, jnp.ones((1, 2, 8)), method="readout").shape
        (1, 2, 9)

    Reference:
        Yang et al., Tensor Programs V (arXiv 2203.03466), Table 8 (tied weights).
    """

    shape: EmbeddingShape
    parametrization: Parametrization
    dtype: str = "float32"
    compute_dtype: str | None = None

    def setup(self) -> None:
        """Declares the table."""
        params, multipliers = self._variables(self.shape, self.parametrization, self.dtype)
        self.table, self.multiplier = jnp.asarray(params["table"]), multipliers["table"]

    def __call__(self, tokens: Num[Array, "*batch"]) -> Float[Array, "*batch outputs"]:
        """Looks rows up; a token outside the table gets a row of NaN, which no loss overlooks."""
        if not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise TypeError(f"{self.where} looks up integers; got tokens of dtype {tokens.dtype}.")
        rows = self.table.at[tokens].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        return self._tap("preactivation", self._scaled(rows))

    def first(self, count: int) -> Float[Array, "count outputs"]:
        """Returns the first rows, as a table of positions is used."""
        if count > self.shape.entries:
            raise ValueError(
                f"{self.where} has {self.shape.entries} rows, the longest sequence that it knows; "
                f"got one of length {count}."
            )
        return self._tap("preactivation", self._scaled(self.table[:count]))

    def readout(self, x: Float[Array, "*batch outputs"]) -> Float[Array, "*batch entries"]:
        """Returns the logits of a tied readout."""
        if not self.shape.tied:
            raise ValueError(f"{self.where} is no readout; declare it with EmbeddingShape(tied=True).")
        if self.compute_dtype is None:
            logits = scaled(self.multiplier, product(x, self.table.T))
        else:
            narrow = scaled(self.multiplier, self.table).astype(self.compute_dtype)
            logits = product(x, narrow.T, self.table.dtype.name)
        return self._tap("logits", logits)

    def _scaled(self, rows: Float[Array, "*batch outputs"]) -> Float[Array, "*batch outputs"]:
        """Returns rows times the multiplier of an untied table."""
        return rows if self.shape.tied else scaled(self.multiplier, rows)
