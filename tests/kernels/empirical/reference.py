"""The kernel by Jacobians, contracted in NumPy: an independent path to compare with."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from widelimit.kernels import empirical

FORMS = ("full", "trace", "diagonal", "self", "sum")
PATTERNS = {
    "full": "iok,jpk->ijop",
    "trace": "iok,jok->ij",
    "diagonal": "iok,jok->ijo",
    "self": "iok,ipk->iop",
    "sum": "iok,jpk->ij",
}
# The bounds that issue 3 states, on the relative Frobenius error.
BOUND = {"float32": 1e-5, "float64": 1e-10}
# Programs that run for milliseconds: what counts is the time to compile them.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def jacobians(apply, params, x):
    """Per parameter, [N, O, entries] in float64."""

    def one(params, sample):
        batch = jax.tree.map(lambda array: array[None], sample)
        return jax.jacrev(lambda p: apply(p, batch)[0].ravel())(params)

    found = jax.jit(jax.vmap(one, in_axes=(None, 0)), compiler_options=QUICK)(params, x)
    return [np.asarray(j, np.float64).reshape(*j.shape[:2], -1) for j in jax.tree.leaves(found)]


def contracted(jacobians1, jacobians2, form, rates=None):
    """Per parameter, its contribution."""
    rates = [1.0] * len(jacobians1) if rates is None else rates
    scale = 1 / jacobians1[0].shape[1] if form == "sum" else 1.0
    return [
        scale * rate * np.einsum(PATTERNS[form], a, b, optimize=True)
        for rate, a, b in zip(rates, jacobians1, jacobians2, strict=True)
    ]


def convert(tree, dtype):
    """Floating-point arrays in another dtype."""
    return jax.tree.map(
        lambda a: jnp.asarray(a, dtype) if jnp.issubdtype(a.dtype, jnp.floating) else jnp.asarray(a), tree
    )


def distance(got, want):
    """Relative Frobenius error."""
    return np.linalg.norm(np.asarray(got, np.float64) - want) / np.linalg.norm(want)


def compare(apply, params, x1, x2=None, rates=None, forms=FORMS, dtype="float64"):
    """Every form, the first also by parameter, against Jacobians; of form "self" the x2 is left out."""
    with jax.enable_x64(dtype == "float64"):
        params, x1, x2 = (convert(tree, dtype) for tree in (params, x1, x2))

        @functools.partial(jax.jit, compiler_options=QUICK)
        def kernels(params, x1, x2):
            make = functools.partial(empirical.ntk, apply, rates=rates)
            return {
                (form, layers): make(params, x1, None if form == "self" else x2, form=form, per_layer=layers)
                for form in forms
                for layers in ((False, True) if form == forms[0] else (False,))
            }

        got = jax.tree.map(np.asarray, kernels(params, x1, x2))
        first = jacobians(apply, params, x1)
        second = first if x2 is None else jacobians(apply, params, x2)
    numbers = None if rates is None else jax.tree.leaves(getattr(rates, "learning_rate", rates))
    for form in forms:
        want = contracted(first, first if form == "self" else second, form, numbers)
        whole = sum(want)
        assert got[form, False].dtype == dtype
        assert distance(got[form, False], whole) < BOUND[dtype], form
        if (form, True) in got:
            layers = jax.tree.leaves(got[form, True])
            assert distance(sum(layers), whole) < BOUND[dtype], form
            for part, expected in zip(layers, want, strict=True):
                assert np.linalg.norm(part - expected) < BOUND[dtype] * np.linalg.norm(whole), form
