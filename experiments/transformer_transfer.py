"""Does the best learning rate of a decoder stay put as it grows wider? Trained on text that is there already.

    python -m experiments.transformer_transfer                      # two cores, about nine minutes
    python -m experiments.transformer_transfer --preset full        # a GPU; claims what breaks transfer
    python -m experiments.transformer_transfer --source my_texts --suffixes .md .txt
    python -m experiments.transformer_transfer --token-file train.bin --vocabulary 50257

Trains a decoder (AdamW, warmup and linear decay) on a grid of (learning rate x seed) at every width, in the
standard parametrization and in muP, and finds the optimum of the validation loss with its error bar. Changes
to muP, one at a time, are trained at the smallest and the largest width: trained gains, heads that grow in
size with attention 1/d or 1/sqrt(d), a readout that starts at the standard size. Expected: over a factor 8
of width muP's optimum moves by a third of a factor 2, SP's falls by two and a half; of the changes at this
size only that a standard readout learns faster.

Reference: Yang et al., arXiv 2203.03466, Figure 1; Lingle, arXiv 2404.05728 (what breaks transfer).
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax

from experiments.decoder_sweep import check_source, held_out, load, parameter_count, step_windows
from experiments.transfer_search import REACH, plan
from experiments.transformer_transfer_cases import ABLATIONS, decoder
from experiments.transformer_transfer_grids import Grid, curve, grids, train
from experiments.transformer_transfer_report import summarise
from widelimit.compare import Summary
from widelimit.models import DecoderConfig
from widelimit.training import Progress, main, open_results


@dataclasses.dataclass(frozen=True)
class Config:
    """Transfer across the width of a decoder.

    Args:
        preset: the preset this config started from.
        seed: of initial weights and windows; cell s uses seed + s.
        source: the text: python (the installed library's source), a directory, or a file.
        suffixes: endings of the files of a directory; .txt if none is given.
        tokenizer: bytes, or bpe (a byte-pair encoding learned from the training part).
        vocabulary: pieces of bpe, or tokens of the token file; a default if not given.
        token_file: a file of tokens (raw uint16 as nanoGPT's, or .npy) in place of a text.
        widths: of the stream; the first is the base width, where the rate is tuned.
        depth: number of blocks.
        context: tokens that the network sees at once.
        head_size: of an attention head; heads grow in number with the width.
        activation: of the MLPs.
        compute_dtype: of matrix products.
        ablations: changes to muP, any of gains, growing_heads, sqrt_attention, standard_readout.
        judge_ablations: whether what Lingle reports of them is claimed, or only the shift is reported.
        scales: log2 factors on the initial scale, trained at the rate tuned at the base width; or none.
        decays: log2 of weight-decay coefficients, likewise.
        batch_size: windows per step.
        steps: optimizer steps per cell.
        warmup: of them, those over which the rate rises.
        validation_windows: windows on which the loss after the last step is measured.
        seeds: cells per learning rate.
        rates: learning rates in the window around the expected optimum.
        ablation_rates: learning rates in that of an ablation.
        spacing: distance of neighbouring rates, in log2.
        center: log2 of the rate in the middle of the window at the base width.
        checkpoint_seconds: time between two checkpoints of a running grid; 0 takes one after every chunk.
    """

    preset: Literal["smoke", "default", "full"] = "default"
    seed: int = 0
    source: str = "python"
    suffixes: tuple[str, ...] = ()
    tokenizer: Literal["bytes", "bpe"] = "bytes"
    vocabulary: int | None = None
    token_file: Path | None = None
    widths: tuple[int, ...] = (16, 32, 64, 128)
    depth: int = 2
    context: int = 64
    head_size: int = 16
    activation: str = "gelu"
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    ablations: tuple[str, ...] = ("gains", "growing_heads", "sqrt_attention", "standard_readout")
    judge_ablations: bool = False
    scales: tuple[float, ...] = ()
    decays: tuple[float, ...] = ()
    batch_size: int = 8
    steps: int = 200
    warmup: int = 20
    validation_windows: int = 128
    seeds: int = 3
    rates: int = 7
    ablation_rates: int = 5
    spacing: float = 1.0
    center: float = -5.0
    checkpoint_seconds: float = 30.0

    def __post_init__(self) -> None:
        """Says what cannot be run, before anything is."""
        if not {*self.ablations} <= {*ABLATIONS} or len({*self.ablations}) < len(self.ablations):
            raise ValueError(
                f"ablations must be different ones of {', '.join(ABLATIONS)}; got {self.ablations}."
            )
        if len(self.widths) < 2 or min(self.widths) < 1 or list(self.widths) != sorted({*self.widths}):
            raise ValueError(f"widths must be at least two increasing positive numbers; got {self.widths}.")
        off = [width for width in self.widths if self.head_size < 1 or width % self.head_size]
        if off or self.head_size % 2:
            raise ValueError(
                f"every width must be a multiple of an even head_size; got head_size {self.head_size} and "
                f"widths {self.widths}."
            )
        if (
            self.seeds < 2
            or min(self.rates, self.ablation_rates) < 5
            or not self.spacing > 0
            or not 0 <= self.warmup < self.steps
        ):
            raise ValueError(
                "an optimum with an error bar needs seeds >= 2, rates >= 5, spacing > 0 and fewer steps of "
                f"warmup than steps; got {self.seeds}, {self.rates} (ablations: {self.ablation_rates}), "
                f"{self.spacing}, {self.warmup} and {self.steps}."
            )
        if not self.rates * self.spacing + abs(self.center) <= REACH:
            raise ValueError(
                f"the window of learning rates must lie within 2^-{REACH} and 2^{REACH}; got {self.rates} "
                f"rates, {self.spacing} apart in log2, around {self.center}."
            )
        for name, values in (("scales", self.scales), ("decays", self.decays)):
            if values and (len(values) < 3 or list(values) != sorted({*values})):
                raise ValueError(
                    f"{name} must be at least three increasing log2 values, or none; got {values}."
                )


PRESETS = {
    "smoke": Config(
        preset="smoke",
        widths=(8, 16),
        head_size=8,
        depth=1,
        context=16,
        ablations=("sqrt_attention",),
        batch_size=4,
        steps=20,
        warmup=2,
        validation_windows=16,
        seeds=2,
        rates=5,
        spacing=1.0,
        center=-4.0,
    ),
    "default": Config(),
    "full": Config(
        preset="full",
        tokenizer="bpe",
        widths=(64, 128, 256, 512, 1024),
        depth=4,
        context=256,
        head_size=64,
        compute_dtype="bfloat16",
        judge_ablations=True,
        scales=(-2.0, -1.0, 0.0, 1.0, 2.0),
        decays=(-4.0, -3.0, -2.0, -1.0, 0.0),
        batch_size=16,
        steps=800,  # once through the text
        warmup=80,
        validation_windows=256,
        seeds=3,
        rates=7,
        center=-7.0,
    ),
}


def run(config: Config, directory: Path) -> Summary:
    """Runs the sweeps, or what is missing of them, and judges them."""
    check_source(config, PRESETS[config.preset])
    tokens = load(config)
    step_windows(tokens, config, config.seed, 0), held_out(tokens, config)  # or says why there can be none
    wanted = grids(config)
    networks = {grid: decoder(config, grid.case, grid.width, tokens.vocabulary) for grid in wanted}
    # The number of devices decides the rounding, so a resumed run must have as many.
    fixed = {"data": tokens.fingerprint(), "devices": jax.device_count()}
    with open_results(
        directory, "transformer_transfer", config, lambda: _plan(config, networks), fixed
    ) as results:
        work = {grid: parameter_count(network) + 5e4 for grid, network in networks.items()}
        with Progress(total=sum(work.values()), label="transformer_transfer") as progress:
            for grid, network in networks.items():
                best = train(config, results, tokens, grid, network)
                progress.finished(f"{grid}: best 2^{best.log2_lr:.2f}, loss {best.loss:.4f}", work[grid])
        shutil.rmtree(directory / "checkpoints", ignore_errors=True)
        summary = summarise(config, results, {grid: curve(results, grid) for grid in wanted}, tokens)
        results.finish(summary)
    return summary


def _plan(config: Config, networks: Mapping[Grid, DecoderConfig]) -> dict[str, Any]:
    """Returns what is decided once, before the first cell, and stored: how cells run."""
    sizes = {str(grid.width): parameter_count(network) for grid, network in networks.items()}
    return plan(sizes, batch=config.batch_size * config.context, cells=config.rates * config.seeds)


if __name__ == "__main__":
    sys.exit(main("transformer_transfer", PRESETS, run))
