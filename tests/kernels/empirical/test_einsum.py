"""Products as plain matrix products: the numbers of NumPy's einsum, and no copies of large arrays."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from widelimit.kernels.empirical.einsum import einsum

SIZES = dict(zip("ijcdkmst", (3, 4, 2, 5, 6, 7, 1, 1), strict=True))


@pytest.mark.parametrize("positions", [1, 2])
@pytest.mark.parametrize(
    "pattern",
    [
        "isk,jtk->isjt",
        "icsm,jctm->isjt",
        "icsm,jdtm->icsjdt",
        "icsm,jctm->icsjt",
        "isk,icsm->icmk",
        "icsk,ism->icmk",
        "icmk,jcmk->ij",
        "icmk,jdmk->icjd",
        "icmk,idmk->icd",
        "ikm,jkm->mij",
        "icjm,jcm->icj",
        "is,jt->isjt",
        "im,icm,idm->icd",
        "isk,jk->ij",
    ],
)
def test_numpys_numbers(pattern, positions):
    """Every pattern of the kernels, to rounding."""
    sizes = SIZES | {"s": positions, "t": positions}
    given = pattern.split("->")[0].split(",")
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        arrays = [rng.normal(size=[sizes[axis] for axis in axes]) for axes in given]
        found = einsum(pattern, *map(jnp.asarray, arrays))
    np.testing.assert_allclose(found, np.einsum(pattern, *arrays), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "pattern", ["icmk,jcmk->ij", "icsm,jctm->isjt", "icsm,jdtm->icsjdt", "isk,jtk->isjt"]
)
def test_axes_stay_where_they_are(pattern):
    """With one position both arrays enter the product as they lie in memory: nothing wide is transposed."""
    arrays = [jnp.ones([SIZES[axis] for axis in axes]) for axes in pattern.split("->")[0].split(",")]
    program = jax.make_jaxpr(lambda *a: einsum(pattern, *a))(*arrays).jaxpr
    (product,) = (eqn for eqn in program.eqns if eqn.primitive.name == "dot_general")
    assert [v.aval.ndim for v in product.invars] == [2, 2]
    for eqn in program.eqns:
        if eqn.primitive.name == "transpose":
            wide = [axis for axis in eqn.params["permutation"] if eqn.invars[0].aval.shape[axis] > 1]
            assert wide == sorted(wide)
