"""Kernels of finite networks at initialisation, seed by seed, to hold beside those of the infinite one."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from widelimit import models
from widelimit.kernels.analytic.kernel import Kernel, checked_config, checked_rates, checked_samples
from widelimit.kernels.analytic.networks import Config
from widelimit.kernels.empirical.ntk import ntk
from widelimit.models.shapes import positive

_MODELS: dict[type, Any] = {
    models.MLPConfig: models.MLP,
    models.ConvConfig: models.ConvNet,
    models.ResidualMLPConfig: models.ResidualMLP,
}


def monte_carlo(
    config: Config,
    x1: ArrayLike,
    x2: ArrayLike | None = None,
    *,
    key: jax.Array,
    seeds: int,
    rates: Any = "sgd",
    batch_size: int = 16,
) -> Kernel:
    r"""Returns NNGP and NTK of finite networks at the config's width, one pair per seed.

    The network of seed s is ``initialise(jax.random.split(key, seeds)[s], rules)``. Its kernels are means
    over its outputs: ``sum_o f_o(x) f_o(x') / O`` and the trace of the empirical NTK over O. Their mean over
    seeds approaches ``kernel(config, x1, x2)`` with a bias of order 1/width, and one network scatters about
    it by order 1/sqrt(width); the NNGP part also by 1/sqrt(O) at every width.

    Args:
        config: of the network, at its width; float32 whatever its dtype.
        x1: samples, as in ``kernel``.
        x2: more of them; None is x1.
        key: of JAX's random numbers.
        seeds: number of networks.
        rates: as in ``kernel``.
        batch_size: networks at a time.

    Returns:
        A ``Kernel`` of arrays [seeds, N1, N2].

    Raises:
        ValueError: if seeds or batch_size is not positive, or as ``kernel`` does.

    Example:
        >>> from widelimit.models import MLPConfig
        >>> from widelimit.scaling import ntk
        >>> config = MLPConfig(inputs=2, outputs=8, width=64, base_width=64, parametrization=ntk())
        >>> found = monte_carlo(config, np.eye(2), key=jax.random.key(0), seeds=3)
        >>> found.ntk.shape
        (3, 2, 2)
    """
    checked_config(config)
    positive("seeds", seeds)
    positive("batch_size", batch_size)
    first = jnp.asarray(checked_samples(config, x1, "x1"), jnp.float32)
    second = None if x2 is None else jnp.asarray(checked_samples(config, x2, "x2"), jnp.float32)
    rules, numbers = checked_rates(config, rates)
    model = _MODELS[type(config)](config)

    def apply(params: Any, x: jax.Array) -> jax.Array:
        return model.apply({"params": params, "multipliers": rules.multiplier}, x)

    def one(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        params = models.initialise(key, rules)
        f1 = apply(params, first)
        f2 = f1 if second is None else apply(params, second)
        trace = ntk(apply, params, first, second, form="trace", rates=numbers)
        return f1 @ f2.T / config.outputs, trace / config.outputs

    found = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=batch_size))(jax.random.split(key, seeds))
    return Kernel(*(np.asarray(array, np.float64) for array in found))
