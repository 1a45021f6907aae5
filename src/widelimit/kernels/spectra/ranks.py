"""How many directions of function space a dense kernel uses."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from widelimit.kernels.matrices import positive_eigenvalues

Kind = Literal["entropy", "participation", "largest"]


def effective_rank(kernel: ArrayLike, kind: Kind = "entropy") -> float:
    r"""Effective rank of a positive semi-definite kernel, between 1 and N; r for r equal eigenvalues.

    With eigenvalues lam and shares ``p = lam / tr K``:

    * ``"entropy"``: ``exp(-sum p log p)``;
    * ``"participation"``: ``tr(K)^2 / tr(K^2) = 1 / sum p^2``;
    * ``"largest"``: ``tr(K) / lam_max = 1 / max p`` (the stable or intrinsic rank).

    They are ordered, entropy >= participation >= largest: Renyi entropies of order 1, 2 and infinity.

    Args:
        kernel: shape [N, N], or its eigenvalues, shape [N]. Flatten [N, N, O, O] with ``as_matrix``.
        kind: which of the three.

    Raises:
        ValueError: if the kernel is not symmetric and positive semi-definite, or is
            zero, or ``kind`` is unknown.

    Example:
        >>> [round(effective_rank([3.0, 1.0], kind), 3) for kind in ("entropy", "participation", "largest")]
        [1.755, 1.6, 1.333]

    Reference:
        Roy and Vetterli, "The effective rank" (2007); Tropp, arXiv 1501.01571, Section 7.1.
    """
    if kind not in ("entropy", "participation", "largest"):
        raise ValueError(f"kind must be 'entropy', 'participation' or 'largest'; got {kind!r}.")
    values = positive_eigenvalues(kernel)
    shares = values / values.max()
    shares /= shares.sum()
    if kind == "entropy":
        present = shares[shares > 0]
        return float(np.exp(-np.sum(present * np.log(present))))
    return float(1 / np.sum(shares**2) if kind == "participation" else 1 / shares.max())


def degrees_of_freedom(kernel: ArrayLike, ridge: float) -> float:
    r"""Effective dimension of a dense kernel, ``tr K (K + ridge)^-1 = sum lam / (lam + ridge)``.

    The number of eigenfunctions that ridge regression with this kernel fits. ``effective_dimension``
    estimates it where the kernel does not fit in memory.

    Args:
        kernel: shape [N, N], or its eigenvalues, shape [N]. Flatten [N, N, O, O] with ``as_matrix``.
        ridge: positive, in the unit of the kernel; added to K, not to K / N.

    Raises:
        ValueError: if the ridge is not positive, or the kernel is not symmetric and positive semi-definite.

    Example:
        >>> degrees_of_freedom(np.diag([9.0, 1.0]), ridge=1.0)
        1.4

    Reference:
        Caponnetto and De Vito, "Optimal rates for the regularized least-squares algorithm" (2007).
    """
    if not 0 < ridge < np.inf:
        raise ValueError(f"ridge must be positive and finite; got {ridge}.")
    values = positive_eigenvalues(kernel)
    return float(np.sum(values / (values + ridge)))
