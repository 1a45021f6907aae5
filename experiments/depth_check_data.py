"""What the depth check trains on, and the networks that fit it."""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.depth_check_network import Shape
from widelimit.models import DecoderConfig, ResidualMLPConfig
from widelimit.scaling import mup
from widelimit.training.data import Tokens, digits, text, token_batch

if TYPE_CHECKING:
    from experiments.depth_check import Config

Batches = tuple[np.ndarray, np.ndarray]


def load(config: Config) -> Batches:
    """Returns inputs [T, B, ...] and labels [T, B, ...], a batch a step, the same for all networks."""
    if config.model == "decoder":
        tokens = _tokens()
        drawn = [
            token_batch(tokens, seed=config.seed, step=t, batch=config.batch_size, context=config.context)
            for t in range(config.steps)
        ]
        windows = np.stack([np.asarray(one, np.int32) for one in drawn])
        return windows[..., :-1], windows[..., 1:]
    return images(config.seed, config.steps, config.batch_size)


@functools.cache
def _tokens() -> Tokens:
    """Returns the text of the decoder, read once."""
    return text()


def images(seed: int, steps: int, batch_size: int) -> Batches:
    """Returns the first images of the training split as batches [T, B, 64], and their labels [T, B]."""
    count, data = steps * batch_size, digits(seed=seed, smallest_std=1.0)
    if count > len(data.train_inputs):
        raise ValueError(
            f"{steps} steps of {batch_size} samples need {count} of the {len(data.train_inputs)} training "
            "images; lower steps or batch_size."
        )
    inputs = np.asarray(data.train_inputs[:count], np.float32).reshape(steps, batch_size, -1)
    return inputs, np.asarray(data.train_targets[:count], np.int32).reshape(steps, batch_size)


def fingerprint(batches: Batches) -> str:
    """Returns a hash of the batches."""
    whole = b"".join(np.ascontiguousarray(array).tobytes() for array in batches)
    return hashlib.sha256(whole).hexdigest()[:16]


def shape(config: Config, branch_depth: int, depth: int, width: int) -> Shape:
    """Returns the network of a cell; whose parametrization it has does not matter."""
    common: dict[str, Any] = {
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
        heads: dict[str, Any] = {"head_size": config.base_width, "context": config.context}
        return DecoderConfig(**common, **heads, vocabulary=_tokens().vocabulary)
    layers: dict[str, Any] = {"activation": config.activation, "branch_depth": branch_depth}
    return ResidualMLPConfig(inputs=64, outputs=10, **common, **layers)
