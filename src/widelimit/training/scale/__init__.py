"""Training one network at scale: a mesh of devices, accumulated gradients, exact resume, throughput."""

from widelimit.training.scale.fit import FitResult, fit
from widelimit.training.scale.losses import next_token_loss, token_cross_entropy
from widelimit.training.scale.mesh import batch_sharding, check_batch, check_heads, make_mesh, shardings
from widelimit.training.scale.schedules import warmup_then
from widelimit.training.scale.throughput import Flops, Peak, flops_per_token, peak_flops, throughput
from widelimit.training.scale.trainer import Metrics, Trainer, TrainState

__all__ = [
    "FitResult",
    "Flops",
    "Metrics",
    "Peak",
    "TrainState",
    "Trainer",
    "batch_sharding",
    "check_batch",
    "check_heads",
    "fit",
    "flops_per_token",
    "make_mesh",
    "next_token_loss",
    "peak_flops",
    "shardings",
    "throughput",
    "token_cross_entropy",
    "warmup_then",
]
