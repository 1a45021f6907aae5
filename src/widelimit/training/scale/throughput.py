"""Tokens per second, and which share of the hardware's peak the model's arithmetic takes (MFU)."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from widelimit.models import EmbeddingShape, Network
from widelimit.models.transformer import TransformerConfig

# Dense peak flop/s of bfloat16 products of one device, from the vendors' data sheets (without sparsity). A
# name matches if the device's kind contains it; the first match counts, so more special ones come first.
PEAKS: Mapping[str, float] = {
    "A100": 312e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989.4e12,
    "H200": 989.4e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
}


@dataclasses.dataclass(frozen=True)
class Flops:
    """Floating-point operations of the model itself, per token: one multiplication and one addition are two.

    Args:
        products: of products with weights, forward: ``2 N``.
        attention: of attention scores and their use, forward, every query with every key: ``4 L H d T``.
        causal: whether half of those pairs are masked.

    Example:
        >>> flops = Flops(products=200.0, attention=40.0, causal=True)
        >>> flops.forward, flops.training, flops.training_unmasked
        (240.0, 720.0, 660.0)
    """

    products: float
    attention: float = 0.0
    causal: bool = False

    @property
    def forward(self) -> float:
        """Of one token, forward."""
        return self.products + self.attention

    @property
    def training(self) -> float:
        """Of one token in a training step: three times the forward pass, and no recomputation (remat).

        With masked pairs counted, as Chowdhery et al. define model-FLOPs utilisation.
        """
        return 3.0 * self.forward

    @property
    def training_unmasked(self) -> float:
        """The same without the masked half of causal attention, ``(T + 1) / 2T`` of it rounded to a half."""
        return 3.0 * (self.products + self.attention / (2 if self.causal else 1))


def flops_per_token(config: Network, context: int = 0, causal: bool = True) -> Flops:
    r"""Returns the model's operations per token from the leaves that its config declares.

    ``2 N + 4 L (H d) T`` forward, three times that in training, with N the weights that take part in
    products: all arrays with a contracted axis but for tables that are only looked up (a tied table is
    multiplied once). L, H and d are blocks, heads and head size of a transformer. Vectors and entrywise
    operations are left out.

    Args:
        config: of the network. Its readout counts once per token, also where a vision transformer pools
            first: two operations per weight of the readout and patch too many.
        context: T, keys per query; 0 for networks without attention.
        causal: keys after the query are masked.

    Example:
        >>> from widelimit.models import MLPConfig
        >>> from widelimit.scaling import mup
        >>> config = MLPConfig(inputs=3, outputs=2, width=8, base_width=8, parametrization=mup(), depth=2)
        >>> flops_per_token(config).forward == 2 * (3 * 8 + 8 * 8 + 8 * 2)
        True

    Reference:
        Chowdhery et al., PaLM (arXiv 2204.02311), Appendix B.
    """
    attention = 0.0
    if isinstance(config, TransformerConfig):
        heads = config.split()
        attention = 4.0 * config.depth * heads.queries * heads.size * context
    return Flops(2.0 * _multiplied(config.layers()), attention, causal and attention > 0)


def _multiplied(layers: Mapping[str, Any]) -> int:
    """Returns the number of weights that take part in products."""
    total = 0
    for shape in layers.values():
        if isinstance(shape, Mapping):
            total += _multiplied(shape)
        elif not (isinstance(shape, EmbeddingShape) and not shape.tied):
            total += sum(math.prod(leaf.shape) for leaf in shape.leaves().values() if leaf.contracted)
    return total


@dataclasses.dataclass(frozen=True)
class Peak:
    """The peak of a mesh, in flop/s.

    Args:
        flops: of all devices together.
        source: where the number comes from, in words.
    """

    flops: float
    source: str


def peak_flops(mesh: Mesh, dtype: str = "float32") -> Peak:
    """Returns the peak of a mesh: of bfloat16 products from the data sheet, or measured where there is none.

    A CPU, or a device that the table does not know, multiplies two matrices of 1024 x 1024 in the given
    dtype some times, and the best counts. The simulated devices of one CPU share it: its peak is not
    multiplied by their number.

    Args:
        mesh: of the run.
        dtype: of a measured product.

    Example:
        >>> from widelimit.training.scale import make_mesh
        >>> peak_flops(make_mesh(data=8)).source
        'measured: the best product of two 1024 x 1024 float32 matrices on one cpu'
    """
    devices = list(mesh.devices.flat)
    kind = devices[0].device_kind
    for name, flops in PEAKS.items():
        if name.lower() in kind.lower():
            return Peak(flops * len(devices), f"data sheet: dense bfloat16, {len(devices)} x {kind}")
    together = 1 if devices[0].platform == "cpu" else len(devices)
    source = f"measured: the best product of two 1024 x 1024 {dtype} matrices on one {kind}"
    return Peak(together * _measured(devices[0], dtype), source)


def throughput(
    rows: Sequence[Mapping[str, Any]], *, tokens: int, flops: Flops, peak: Peak
) -> dict[str, float | int | None]:
    """Returns tokens per second and model-FLOPs utilisation of a run, from the rows that ``fit`` wrote.

    The median over stretches of steps; the first stretch of each process, which compiles, does not count,
    nor do validation and checkpoints. ``mfu`` counts all pairs of attention, as published numbers do;
    ``mfu_unmasked`` only those that a causal model needs. Both are None if no stretch is left.

    Args:
        rows: from ``fit``.
        tokens: per step.
        flops: per token.
        peak: of the mesh.

    Example:
        >>> rows = [{"step": 9, "steps": 9, "train_seconds": 3.0, "warmup": False}]
        >>> throughput(rows, tokens=10, flops=Flops(100.0), peak=Peak(1e5, "made up"))["mfu"]
        0.09

    Reference:
        Chowdhery et al., PaLM (arXiv 2204.02311), Appendix B.
    """
    timed = [row for row in rows if row.get("train_seconds") and not row["warmup"]]
    rates = [row["steps"] * tokens / row["train_seconds"] for row in timed]
    low, rate, high = np.percentile(rates, (25, 50, 75)).tolist() if rates else (None,) * 3
    return {
        "tokens_per_second": rate,
        "lower_quartile": low,
        "upper_quartile": high,
        "mfu": None if rate is None else rate * flops.training / peak.flops,
        "mfu_unmasked": None if rate is None else rate * flops.training_unmasked / peak.flops,
        "stretches": len(rates),
    }


@functools.cache
def _measured(device: jax.Device, dtype: str, size: int = 1024, repeats: int = 8) -> float:
    """Operations per second of the fastest of some products."""
    one = jax.device_put(jnp.ones((size, size), dtype), device)
    multiply = jax.jit(jnp.matmul)
    jax.block_until_ready(multiply(one, one))
    best = math.inf
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(multiply(one, one))
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best
