"""The loss curves of `transformer_transfer`: which there are, and how each is trained and read back."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from experiments.decoder_sweep import sweep_cells
from experiments.transfer_search import optimum, search, window
from experiments.transformer_transfer_cases import MAIN
from widelimit.compare import Optimum
from widelimit.models import DecoderConfig
from widelimit.training import Checkpoint, Mode, Results
from widelimit.training.data import Tokens

Varied = Literal["learning_rate", "init_scale", "weight_decay"]


@dataclasses.dataclass(frozen=True)
class Grid:
    """One loss curve of one network: over its learning rate, or over a hyperparameter at the tuned rate."""

    width: int
    case: str
    varied: Varied = "learning_rate"

    @property
    def fields(self) -> dict[str, Any]:
        """What tells its rows from others."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        return f"width {self.width:>5} {self.case} {self.varied}"


def grids(config: Any) -> list[Grid]:
    """Returns all curves, each after those that it takes its rates from."""
    ends = (config.widths[0], config.widths[-1])
    rates = [Grid(width, name) for width in config.widths for name in MAIN]
    rates += [Grid(width, name) for name in config.ablations for width in ends]
    values: tuple[tuple[Varied, tuple[float, ...]], ...] = (
        ("init_scale", config.scales),
        ("weight_decay", config.decays),
    )
    return rates + [
        Grid(width, name, varied)
        for varied, given in values
        if given
        for width in config.widths
        for name in MAIN
    ]


def curve(results: Results, grid: Grid) -> Optimum:
    """Returns a curve and its minimum, from the rows as they are stored."""
    axis = "log2_lr" if grid.varied == "learning_rate" else "log2_value"
    return optimum(results, grid.fields, "loss", axis)


def train(config: Any, results: Results, tokens: Tokens, grid: Grid, network: DecoderConfig) -> Optimum:
    """Trains what is missing of a curve."""
    seeds = range(config.seed, config.seed + config.seeds)
    mode = Mode(**results.plan["modes"][str(grid.width)])

    def cells(rates: list[float], store: Checkpoint, **numbers: Any) -> list[dict[str, Any]]:
        fields = {**grid.fields, **({"log2_value": numbers.pop("log2_value")} if numbers else {})}
        return sweep_cells(tokens, network, fields, rates, seeds, config, mode, store, **numbers)

    base = Grid(config.widths[0], grid.case)
    if grid.varied == "learning_rate":
        tuned, center = None, config.center
        if grid != base:
            narrower = [width for width in config.widths if width < grid.width]
            last = base if grid.case in config.ablations else Grid(narrower[-1], grid.case)
            tuned, center = (curve(results, other).log2_lr for other in (base, last))
        number = config.ablation_rates if grid.case in config.ablations else config.rates
        wanted = window(center, number, config.spacing, tuned)
        return search(results, grid.fields, wanted, cells, config.checkpoint_seconds, "loss")
    rate = curve(results, base).log2_lr
    for value in config.scales if grid.varied == "init_scale" else config.decays:
        if not results.find(**grid.fields, log2_value=value):
            name = "-".join(map(str, (*grid.fields.values(), value)))
            store = Checkpoint(results.directory / "checkpoints" / name, config.checkpoint_seconds)
            results.append(*cells([rate], store, log2_value=value, **{grid.varied: 2.0**value}))
            store.clear()
    return curve(results, grid)
