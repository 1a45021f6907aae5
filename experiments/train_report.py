"""Claims, tables and the figure of one training run, from its rows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from widelimit.compare import Claim, Summary
from widelimit.figures import CATEGORIES, new_figure, style
from widelimit.figures.style import PREDICTION
from widelimit.training import Results
from widelimit.training.scale import FitResult, Peak, throughput
from widelimit.training.scale.fit import checksum

if TYPE_CHECKING:
    from experiments.train import Config
    from experiments.train_networks import Job

# Fixed before any run: half of the half nat that logits of variance one add to ln V.
INITIAL_LOSS = 0.25
CHECKED = 200  # last steps whose batches are drawn again: those of whole rows, and of one row at least


def summarise(config: Config, job: Job, results: Results, result: FitResult) -> Summary:
    """Judges what theory fixes, and says how the run went and how fast it was."""
    rows = [row for row in results.rows if "step" in row]
    peak = Peak(**results.plan["peak"])
    speed = throughput(rows, tokens=job.tokens, flops=job.flops, peak=peak)
    results.save_figure("training.png", _figure(job, rows, speed))
    return Summary(
        experiment="train",
        preset=config.preset,
        seconds=results.seconds,
        claims=_claims(config, job, results, result),
        tables={
            "loss": [_loss(job, rows, result)],
            "throughput": [{**speed, **_arithmetic(config, job, peak)}],
            "validation": [
                {"step": row["step"], "tokens": row["tokens"], "validation_loss": row["validation_loss"]}
                for row in rows
                if "validation_loss" in row
            ],
        },
        figures={
            "training.png": "Above: training loss (mean over the steps of a row) and validation loss against "
            "tokens, with the loss of predicting nothing and of single-token frequencies. Below: tokens per "
            "second of each row; open circles compiled first and do not count."
        },
        notes=_notes(config, job, peak, result),
    )


def _claims(config: Config, job: Job, results: Results, result: FitResult) -> list[Claim]:
    """The initial loss, and that nothing was skipped or seen twice: measured on batches too."""
    claims = []
    if job.logit_variance is not None:
        drawn = [row["initial_loss"] for row in results.rows if "draw" in row]
        claims.append(
            Claim(
                "the loss starts where Gaussian logits put it",
                "validation loss before training, nats, mean over initial weights",
                math.log(job.outputs) + job.logit_variance / 2,
                float(np.mean(drawn)),
                float(np.std(drawn, ddof=1) / math.sqrt(len(drawn))),
                INITIAL_LOSS,
                why="Tolerance of the initial loss: half of the half nat that logits of variance one add to "
                "ln V, so that one whose variance is doubled there is found.",
            )
        )
    if not result.diverged:
        counts = [int(leaf) for leaf in jax.tree.leaves(result.state.optimizer) if _is_count(leaf)]
        counts.append(int(result.state.step))
        counts.append(sum(row.get("steps", 0) for row in results.rows))
        off = max(abs(count - config.steps) for count in counts)
        claims.append(
            Claim(
                "schedule, optimizer and data stand at the same step, resumed or not",
                "steps by which the state, the optimizer or the rows are off, and steps of the last rows "
                "whose batches are not those that (seed, step) gives",
                0.0,
                float(off + misplaced(job, results.rows)),
                0.0,
                0.0,
                why="Tolerance of the position: none, it is a whole number. The batches of the last "
                f"{CHECKED} steps are drawn again and compared with the checksum that each row keeps of "
                "those it was trained on.",
            )
        )
    return claims


def misplaced(job: Job, rows: list[dict[str, Any]]) -> int:
    """Returns how many of the last steps belong to rows that were trained on other batches than their own."""
    wrong = looked = 0
    for row in reversed([row for row in rows if "checksum" in row]):
        if looked and looked + row["steps"] > CHECKED:
            break
        looked += row["steps"]
        seen = 0
        for step in range(row["step"] - row["steps"], row["step"]):
            seen = checksum(job.batches(step), seen)
        wrong += row["steps"] * (seen != row["checksum"])
    return wrong


def _is_count(leaf: Any) -> bool:
    """Whether an array of the optimizer's state counts steps."""
    return leaf.ndim == 0 and np.issubdtype(leaf.dtype, np.integer)


def _loss(job: Job, rows: list[dict[str, Any]], result: FitResult) -> dict[str, Any]:
    """A row: where the loss began and ended, and what it can be held against."""
    validated = [row["validation_loss"] for row in rows if "validation_loss" in row]
    return {
        "parameters": job.parameters,
        "steps": int(result.state.step),
        "tokens": rows[-1]["tokens"],
        "ln_outputs": math.log(job.outputs),
        "unigram": job.unigram,
        "initial_validation_loss": validated[0],
        "final_training_loss": rows[-1]["loss"],
        "final_validation_loss": None if result.diverged else validated[-1],
        "diverged_at": int(result.state.diverged_at) if result.diverged else None,
    }


def _arithmetic(config: Config, job: Job, peak: Peak) -> dict[str, Any]:
    """What the utilisation was computed from."""
    return {
        "flops_per_token": job.flops.training,
        "flops_per_token_unmasked": job.flops.training_unmasked,
        "peak_flops": peak.flops,
        "devices": config.mesh_data * config.mesh_model,
        "tokens_per_step": job.tokens,
    }


def _notes(config: Config, job: Job, peak: Peak, result: FitResult) -> list[str]:
    """Conditions, for the report."""
    tokens = "tokens" if config.model == "decoder" else "patches"
    notes = [
        f"Data: {job.name}. {' '.join(job.notes)}".strip(),
        f"{job.parameters:,} parameters under {config.parametrization} with {config.optimizer}; mesh of "
        f"{config.mesh_data} x {config.mesh_model} devices, {config.micro_batches} micro-batch(es), products "
        f"in {config.precision}. Speeds are in {tokens}.",
        f"Peak: {peak.source}. Utilisation counts six operations per weight and token, attention over all "
        "pairs (`mfu`) or over those that are not masked (`mfu_unmasked`), and no recomputation; the rows in "
        "which a process compiles, validation and checkpoints are left out.",
    ]
    if result.diverged:
        notes.append(
            f"The run diverged at step {int(result.state.diverged_at)}; its weights are those after "
            f"{int(result.state.step)} steps."
        )
    return notes


def _figure(job: Job, rows: list[dict[str, Any]], speed: dict[str, Any]) -> Any:
    """Loss and speed against tokens."""
    trained = [row for row in rows if "loss" in row]
    validated = [row for row in rows if "validation_loss" in row]
    with style():
        figure, axes = new_figure(2, 1, panel=(5.6, 2.6), margin=1.6, sharex=True)
        loss, rate = axes[:, 0]
        middle = [row["tokens"] - row["steps"] * job.tokens / 2 for row in trained]
        loss.plot(middle, _column(trained, "loss"), color=CATEGORIES[0], label="training")
        loss.plot(
            [row["tokens"] for row in validated],
            _column(validated, "validation_loss"),
            "o-",
            color=CATEGORIES[1],
            label="validation",
        )
        loss.axhline(
            math.log(job.outputs), color=PREDICTION, linestyle="--", linewidth=1.0, label="ln of outputs"
        )
        if job.unigram is not None:
            loss.axhline(job.unigram, color=PREDICTION, linestyle=":", linewidth=1.0, label="unigram")
        loss.set_ylabel("loss (nats)")
        for warm, look in (
            (False, {"color": CATEGORIES[2]}),
            (True, {"color": "white", "markeredgecolor": CATEGORIES[2]}),
        ):
            chosen = [(x, row) for x, row in zip(middle, trained, strict=True) if row["warmup"] == warm]
            rate.plot(
                [x for x, _ in chosen],
                [row["steps"] * job.tokens / row["train_seconds"] for _, row in chosen],
                "o",
                label="compiled first" if warm else "measured",
                **look,
            )
        if speed["tokens_per_second"]:
            rate.axhline(
                speed["tokens_per_second"],
                color=PREDICTION,
                linewidth=1.0,
                label=f"median: MFU {speed['mfu']:.1%}",
            )
        rate.set_ylim(bottom=0)
        rate.set_xlabel("tokens seen")
        rate.set_ylabel("tokens per second")
        for ax in (loss, rate):
            ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def _column(rows: list[dict[str, Any]], name: str) -> list[float]:
    """A field of the rows; what is missing (a diverged run's loss) leaves a gap."""
    return [math.nan if row.get(name) is None else row[name] for row in rows]
