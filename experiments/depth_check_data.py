"""What the depth check trains on, and the networks that fit it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from experiments.depth_check_network import Shape
from widelimit.models import DecoderConfig, ResidualMLPConfig
from widelimit.scaling import mup
from widelimit.training.data import digits, text, token_batch

if TYPE_CHECKING:
    from experiments.depth_check import Config

Batches = tuple[np.ndarray, np.ndarray]


def load(config: Config) -> Batches:
    """Returns inputs [T, B, ...] and labels [T, B, ...], a batch a step, the same for all networks."""
    if config.model == "decoder":
        tokens = text()
        drawn = [
            token_batch(tokens, seed=config.seed, step=t, batch=config.batch_size, context=config.context)
            for t in range(config.steps)
        ]
        windows = np.stack([np.asarray(one, np.int32) for one in drawn])
        return windows[..., :-1], windows[..., 1:]
    count, own = config.steps * config.batch_size, digits(seed=config.seed, smallest_std=1.0)
    if count > len(own.train_inputs):
        raise ValueError(
            f"{config.steps} steps of {config.batch_size} samples need {count} of the "
            f"{len(own.train_inputs)} training images; lower steps or batch_size."
        )
    parts = (config.steps, config.batch_size)
    inputs = np.asarray(own.train_inputs[:count], np.float32).reshape(*parts, -1)
    return inputs, np.asarray(own.train_targets[:count], np.int32).reshape(parts)


def fingerprint(batches: Batches) -> str:
    """Returns a hash of the batches."""
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in batches)).hexdigest()[
        :16
    ]


def shape(config: Config, branch_depth: int, depth: int, width: int) -> Shape:
    """Returns the network of a cell; whose parametrization it has does not matter."""
    common = {
        "width": width,
        "base_width": config.base_width,
        "depth": depth,
        "base_depth": config.base_depth,
        "branch_scale": config.branch_scale,
        "parametrization": mup(table=8),
        "norm": "rms",
        "scan": True,
    }
    if config.model == "decoder":
        heads = {"head_size": config.base_width, "vocabulary": 256, "context": config.context}
        return DecoderConfig(**common, **heads)
    ends = {"inputs": 64, "outputs": 10, "activation": config.activation, "branch_depth": branch_depth}
    return ResidualMLPConfig(**common, **ends)
