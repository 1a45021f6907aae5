"""Trains one decoder on text, or one vision transformer on images, on one device or a mesh.

    python -m experiments.train                                 # a decoder on Python's own library
    python -m experiments.train --source my_texts --tokenizer bpe --width 512 --depth 8
    python -m experiments.train --model vit                     # digits
    python -m experiments.train --preset full                   # 151 million parameters in bfloat16, one GPU
    python -m experiments.train --mesh-data 2 --mesh-model 4 --pad-vocabulary 8    # on eight devices

Killed at any moment, the same command goes on where it stopped and ends with the same numbers. The report
says how fast it was: tokens per second, and which share of the device's peak the model's arithmetic took.
The trained weights stay in `checkpoints/`. Expected in `default`: the loss starts at ln 257 plus half the
variance of the logits (5.67) and the validation loss ends at 1.65 nats a byte, far below the 3.10 that the
frequencies of single bytes can tell (`unigram`). Run time: seconds (smoke), about three minutes of processor
time on two cores (default), minutes on one H100 (full).
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax

from experiments.train_networks import Job, make_job
from experiments.train_report import summarise
from widelimit.compare import Summary
from widelimit.scaling.rules import Decay
from widelimit.training import Checkpoint, Results, main, open_results
from widelimit.training.scale import FitResult, Trainer, fit, make_mesh, peak_flops

DRAWS = 8  # initial networks whose loss is compared with theory


@dataclasses.dataclass(frozen=True)
class Config:
    """Training of one network.

    Args:
        preset: the preset this config started from.
        seed: of initial weights and batches, and of the split of images; text is split by file.
        model: decoder (a language model on text) or vit (a vision transformer on images).
        source: the text: python (its own standard library), a directory or a file.
        suffixes: endings of the files of a directory of text; none is .txt.
        tokenizer: bytes, or bpe (trained on the text, kept in the user's cache).
        vocabulary: pieces of bpe, or tokens of a token file; none for the default.
        token_file: tokens in place of text: raw little-endian numbers, or .npy.
        token_dtype: of a raw token file.
        pad_vocabulary: the network's vocabulary is rounded up to a multiple of this, for a mesh to divide.
        context: tokens per window.
        images: the images of a vit: digits (comes with scikit-learn), or the directory of a CIFAR-10.
        patch: pixels along a side of a vit's patch.
        parametrization: sp, mup, depth_mup, completep, or a number: muP with that power of depth.
        width: of the stream.
        base_width: where hyperparameters were tuned.
        depth: blocks.
        base_depth: where hyperparameters were tuned.
        head_size: size of a head, so that heads grow in number with the width.
        heads: number of heads, so that they grow in size; needs --head-size None.
        kv_heads: heads of keys and values; none for one per query head.
        mlp_ratio: hidden units of the MLP per unit of the width.
        activation: gelu, relu_squared, swiglu, ...
        norm: of the stream before each branch.
        gains: train gains of the norms.
        attention_kernel: xla, or cudnn: fused attention for products in bfloat16 on an NVIDIA GPU.
        positions: rope, learned, alibi or none for a decoder (default: rope), learned, sincos or none for a
            vit (default: learned).
        tied: read out with the embedding (decoder).
        bias: of dense layers.
        zero_query: start queries at zero.
        zero_readout: start the readout at zero.
        init_std: of every matrix and table at the base width; none for 1/sqrt(fan_in), and 1 for tables.
        optimizer: adamw, sgd or muon.
        learning_rate: the highest, at the base width and depth.
        beta1: momentum.
        beta2: of Adam's second moment.
        epsilon: of Adam, at the base width.
        weight_decay: coefficient, in the convention of --decay.
        decay: coupled, undone (by the global rate alone), independent or sqrt_width; needs --weight-decay.
        clip: largest gradient norm, in width-independent units; 0 for no clip.
        schedule: what the rate does after the warm-up.
        warmup: steps over which the rate rises.
        final_rate: rate of the last step as a share of the highest.
        steps: optimizer steps.
        batch: windows or images per step.
        micro_batches: parts that a batch is taken in.
        mesh_data: devices that a batch is split over.
        mesh_model: devices that large matrices are split over.
        precision: of matrix products; weights, stream and loss are float32.
        scan: compile one block and loop over it.
        remat: recompute blocks in the backward pass.
        log_every: steps between two rows.
        validate_every: steps between two validations, a multiple of --log-every.
        validation_batches: batches of the validation part.
        checkpoint_seconds: time between two checkpoints; 0 takes one after every row.
        keep: checkpoints that stay.
    """

    preset: Literal["smoke", "default", "full"] = "default"
    seed: int = 0
    model: Literal["decoder", "vit"] = "decoder"
    source: str = "python"
    suffixes: tuple[str, ...] = ()
    tokenizer: Literal["bytes", "bpe"] = "bytes"
    vocabulary: int | None = None
    token_file: Path | None = None
    token_dtype: Literal["uint16", "uint32"] = "uint16"
    pad_vocabulary: int = 1
    context: int = 128
    images: str = "digits"
    patch: int = 2
    parametrization: str = "completep"
    width: int = 128
    base_width: int = 32
    depth: int = 4
    base_depth: int = 2
    head_size: int | None = 16
    heads: int | None = None
    kv_heads: int | None = None
    mlp_ratio: float = 4.0
    activation: str = "gelu"
    norm: Literal["rms", "layer"] = "rms"
    gains: bool = False
    attention_kernel: Literal["xla", "cudnn"] = "xla"
    positions: Literal["default", "rope", "learned", "alibi", "sincos", "none"] = "default"
    tied: bool = False
    bias: bool = False
    zero_query: bool = False
    zero_readout: bool = False
    init_std: float | None = None
    optimizer: Literal["adamw", "sgd", "muon"] = "adamw"
    learning_rate: float = 2.0**-7
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    decay: Decay = "undone"
    clip: float = 1.0
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup: int = 40
    final_rate: float = 0.0
    steps: int = 400
    batch: int = 16
    micro_batches: int = 1
    mesh_data: int = 1
    mesh_model: int = 1
    precision: Literal["float32", "bfloat16"] = "float32"
    scan: bool = False
    remat: bool = False
    log_every: int = 10
    validate_every: int = 50
    validation_batches: int = 8
    checkpoint_seconds: float = 60.0
    keep: int = 2

    def __post_init__(self) -> None:
        """Says what cannot be honoured, before anything is read."""
        if self.steps < 1 or self.log_every < 1 or self.validation_batches < 1 or self.keep < 1:
            raise ValueError(
                "steps, log_every, validation_batches and keep must be at least 1; got "
                f"{self.steps}, {self.log_every}, {self.validation_batches} and {self.keep}."
            )
        if self.validate_every < 1 or self.validate_every % self.log_every:
            raise ValueError(
                "validate_every must be a multiple of log_every; got "
                f"{self.validate_every} and {self.log_every}."
            )
        if self.clip < 0 or self.weight_decay < 0 or self.pad_vocabulary < 1 or self.seed < 0:
            raise ValueError(
                "clip, weight_decay and seed must be 0 or more, and pad_vocabulary at least 1; got "
                f"{self.clip}, {self.weight_decay}, {self.seed} and {self.pad_vocabulary}."
            )
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise ValueError(
                f"beta1 and beta2 must be at least 0 and below 1; got {self.beta1} and {self.beta2}."
            )


# Flags that only some runs can honour, and what a config must be to honour them.
_ONLY = {
    (
        "model",
        "decoder",
    ): "source suffixes tokenizer vocabulary token_file token_dtype pad_vocabulary context tied".split(),
    ("model", "vit"): ["images", "patch"],
    ("optimizer", "adamw, muon"): ["beta2", "epsilon"],
}

# The same where more than a name decides: flags, whether a config honours them, where not, and what to do.
_UNLESS: tuple[tuple[str, Callable[[Config], bool], str, str], ...] = (
    (
        "source suffixes tokenizer",
        lambda config: config.token_file is None,
        "with a token file",
        "leave out token_file",
    ),
    (
        "token_dtype",
        lambda config: config.token_file is not None and config.token_file.suffix != ".npy",
        "without a raw token file",
        "pass one as token_file",
    ),
    ("decay", lambda config: config.weight_decay > 0, "with weight_decay 0", "pass weight_decay"),
)

PRESETS = {
    "smoke": Config(
        preset="smoke",
        context=16,
        width=16,
        base_width=8,
        depth=1,
        base_depth=1,
        head_size=8,
        steps=12,
        warmup=2,
        batch=4,
        log_every=4,
        validate_every=8,
        validation_batches=2,
    ),
    "default": Config(),
    "full": Config(
        preset="full",
        pad_vocabulary=64,
        context=1024,
        width=1024,
        base_width=256,
        depth=12,
        base_depth=4,
        head_size=128,
        attention_kernel="cudnn",
        batch=64,
        micro_batches=4,
        steps=2000,
        warmup=200,
        weight_decay=0.1,
        precision="bfloat16",
        log_every=20,
        validate_every=200,
        learning_rate=2.0**-9,
    ),
}


def run(config: Config, directory: Path) -> Summary:
    """Trains, or goes on training, and reports."""
    _check_flags(config)
    mesh = make_mesh(config.mesh_data, config.mesh_model)
    job = make_job(config, mesh)
    # The peak and the last bits are those of one kind of device.
    fixed = {
        "data": job.fingerprint,
        "devices": jax.device_count(),
        "device_kind": mesh.devices.flat[0].device_kind,
    }
    trainer = Trainer(job.loss, job.optimizer, job.rules, mesh, config.micro_batches)
    trainer.place(job.batches(0))  # or says why there can be no such batch
    jax.eval_shape(job.loss, trainer.shapes.params, job.batches(0))  # or why this device cannot compute it
    with open_results(
        directory, "train", config, lambda: {"peak": peak_flops(mesh, config.precision)}, fixed
    ) as results:
        _draws(config, job, trainer, results)
        result = _train(config, job, trainer, results)
        summary = summarise(config, job, results, result)
        results.finish(summary)
    return summary


def _check_flags(config: Config) -> None:
    """Refuses a flag that was given and would do nothing, or that this machine cannot honour."""
    platform = jax.devices()[0].platform
    if config.attention_kernel == "cudnn" and platform not in ("gpu", "cuda"):
        raise ValueError(
            f"attention_kernel 'cudnn' needs an NVIDIA GPU; JAX's device is a {platform}: pass "
            "--attention-kernel xla."
        )
    for (field, values), names in _ONLY.items():
        if getattr(config, field) in values.split(", "):
            continue
        for name in names:
            if getattr(config, name) != getattr(PRESETS[config.preset], name):
                raise ValueError(
                    f"{name} does nothing with {field} {getattr(config, field)!r}; leave it out, or take "
                    f"{field} {values}."
                )
    for flags, honoured, where, advice in _UNLESS:
        for name in [] if honoured(config) else flags.split():
            if getattr(config, name) != getattr(PRESETS[config.preset], name):
                raise ValueError(f"{name} does nothing {where}; leave it out, or {advice}.")


def _draws(config: Config, job: Job, trainer: Trainer, results: Results) -> None:
    """The validation loss of some initial networks, each a row of its own."""
    batch = trainer.place(job.validation[0])
    for draw in range(DRAWS):
        if not results.find(draw=draw):
            params = trainer.initialise(jax.random.fold_in(jax.random.key(config.seed), draw)).params
            results.append({"draw": draw, "initial_loss": float(trainer.evaluate(params, batch))})


def _train(config: Config, job: Job, trainer: Trainer, results: Results) -> FitResult:
    """The run itself; its initial weights are those of the first draw."""
    settings: dict[str, Any] = {"vocabulary": job.outputs, "data": job.fingerprint, "seed": config.seed}
    return fit(
        trainer,
        job.batches,
        steps=config.steps,
        key=jax.random.fold_in(jax.random.key(config.seed), 0),
        tokens=job.tokens,
        log_every=config.log_every,
        validation=job.validation,
        validate_every=config.validate_every,
        settings=settings,
        checkpoint=Checkpoint(results.directory / "checkpoints", config.checkpoint_seconds, config.keep),
        results=results,
        label="train",
    )


if __name__ == "__main__":
    sys.exit(main("train", PRESETS, run))
