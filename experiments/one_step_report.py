"""Claims, tables and figure of the best one-step learning rate, from its rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from widelimit.compare import Claim, PowerLaw, Summary, family_quantile, fit_exponent, mean_over_seeds
from widelimit.figures import CATEGORIES, new_figure, style
from widelimit.figures.optimum import width_axis
from widelimit.figures.style import PREDICTION
from widelimit.training import Results, pivot

# All tolerances are fixed before a run: chance, from the spread that pilots with other seeds found, plus what
# finite width can do. The pilots found relative corrections of 1/n to 25/n, on both data sets. Exponents of
# the mean rate are fitted together with that correction, so that only its square, the next order, is left.
CORRECTION = 25.0
SPREAD = 3.5  # std of eta*/eta*_inf, times sqrt(n)
LOG_SPREAD = 0.5  # std of log2 eta*: largest at the smallest widths, where it stops growing
HEAVY = 1.2  # by how much the fourth moment widens the error of an rms, beside a Gaussian's
CLAIMS = 8
NAMES = {"hidden": "hidden layers trained", "all": "all layers trained"}


def summarise(config: Any, results: Results, limits: Mapping[str, float]) -> Summary:
    """Judges where the best rate goes, and draws it."""
    rates = {
        (parametrization, trained): pivot(
            results.find(parametrization=parametrization, trained=trained), "rate", ("seed", "width")
        )[0]
        for parametrization in ("mup", "standard")
        for trained in limits
    }
    moves = {
        case: fit_exponent(config.widths, table, correction=True, paired=False)
        for case, table in rates.items()
    }
    off = {trained: np.abs(rates["mup", trained] / limit - 1) for trained, limit in limits.items()}
    shrinks = {
        trained: fit_exponent(config.widths, table, mean="rms", paired=False)
        for trained, table in off.items()
    }
    claims = []
    for trained, limit in limits.items():
        ratio = mean_over_seeds(rates["mup", trained][:, -1] / limit)
        claims += [
            Claim(
                f"mup, {NAMES[trained]}: the best rate at width {config.widths[-1]} is the derived limit",
                "mean of eta* / eta*_inf",
                predicted=1.0,
                measured=ratio.value,
                stderr=ratio.stderr,
                tolerance=_chance(config) * SPREAD / np.sqrt(config.widths[-1])
                + CORRECTION / config.widths[-1],
                why=f"Chance for {CLAIMS} claims, and {CORRECTION:g} / width for the finite width.",
            ),
            _slope(config, f"mup, {NAMES[trained]}: distance from the limit", shrinks[trained], -0.5),
            _slope(config, f"mup, {NAMES[trained]}: the best rate stays", moves["mup", trained], 0.0),
            _slope(
                config, f"standard, {NAMES[trained]}: the best rate falls", moves["standard", trained], -1.0
            ),
        ]
    results.save_figure("best_rate.png", _figure(config, rates, moves, limits, off, shrinks))
    return Summary(
        experiment="one_step_rate",
        preset=config.preset,
        seconds=results.seconds,
        claims=claims,
        tables={"best_rate": _table(config, rates, limits)},
        figures={
            "best_rate.png": "Best learning rate of one step: geometric mean over seeds and one standard "
            "deviation. Left: muP, limit dashed. Middle: SP, slope -1 dashed. Right: root mean square "
            "distance from muP's limit and its standard error, slope -1/2 dashed. Slopes of the rates are "
            "fitted together with a correction of order 1/width."
        },
        notes=[
            f"Data: {config.data}; {config.samples} samples; {config.hidden_layers} hidden matrices; "
            f"{config.seeds} draws of the weights per width."
        ],
    )


def _chance(config: Any) -> float:
    """Returns how far chance may move a mean over seeds, in standard deviations of one seed."""
    return family_quantile(CLAIMS, degrees=config.seeds - 1) / float(np.sqrt(config.seeds))


def _slope(config: Any, name: str, law: PowerLaw, predicted: float) -> Claim:
    """A claim on an exponent, with what chance and finite width can do to it."""
    widths = np.asarray(config.widths, float)
    columns = [np.ones(widths.shape), np.log2(widths)]
    if predicted == -0.5:
        quantity = "d log2(rms |eta*/eta*_inf - 1|) / d log2(width)"
        spread = np.full(widths.shape, HEAVY / np.log(2) / np.sqrt(2))
        left, order = CORRECTION / widths, f"{CORRECTION:g} / width"
    else:
        quantity = "d log2(eta*) / d log2(width), beside a correction of order 1 / width"
        columns.append(1 / widths)
        spread = np.minimum(LOG_SPREAD, SPREAD / np.sqrt(widths) / np.log(2))
        left, order = (CORRECTION / widths) ** 2, f"({CORRECTION:g} / width)^2"
    leverage = np.linalg.pinv(np.stack(columns, axis=1))[1]
    chance = _chance(config) * np.sqrt(np.sum((leverage * spread) ** 2))
    finite = abs(np.sum(leverage * left)) / np.log(2)
    return Claim(
        f"{name} like width^{predicted:g}" if predicted else f"{name} as the width grows",
        quantity,
        predicted,
        law.exponent,
        law.stderr,
        tolerance=float(chance + finite),
        why=f"{chance:.2f} for chance ({CLAIMS} claims) and {finite:.2f} for what is left, of order {order}.",
    )


def _table(
    config: Any, rates: Mapping[tuple[str, str], np.ndarray], limits: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Returns a row per curve and width."""
    rows = []
    for (parametrization, trained), table in rates.items():
        for width, column in zip(config.widths, table.T, strict=True):
            row = {"parametrization": parametrization, "trained": trained, "width": width}
            row |= {"log2_rate": np.log2(column).mean(), "log2_rate_std": np.log2(column).std(ddof=1)}
            if parametrization == "mup":
                ratio = mean_over_seeds(column / limits[trained])
                row |= {"limit": limits[trained], "ratio": ratio.value, "ratio_stderr": ratio.stderr}
            rows.append(row)
    return rows


def _figure(
    config: Any,
    rates: Mapping[tuple[str, str], np.ndarray],
    moves: Mapping[tuple[str, str], PowerLaw],
    limits: Mapping[str, float],
    off: Mapping[str, np.ndarray],
    shrinks: Mapping[str, PowerLaw],
) -> Any:
    """Draws three panels: muP's rate, SP's rate, muP's distance from its limit."""
    from matplotlib.lines import Line2D

    widths = np.asarray(config.widths, float)
    middle = np.exp2(np.log2(widths).mean())
    with style():
        figure, axes = new_figure(1, 3, panel=(3.1, 3.0), margin=1.6)
        left, center, right = axes[0]
        center.sharey(left)
        for color, marker, (trained, limit) in zip(CATEGORIES, "os", limits.items(), strict=False):
            look = {"color": color, "marker": marker}
            for ax, parametrization in ((left, "mup"), (center, "standard")):
                logs, law = np.log2(rates[parametrization, trained]), moves[parametrization, trained]
                mean, std = logs.mean(axis=0), logs.std(axis=0, ddof=1)
                ax.fill_between(widths, 2 ** (mean - std), 2 ** (mean + std), color=color, alpha=0.15, lw=0)
                ax.plot(widths, 2**mean, label=f"{trained}: {_signed(law)}", **look)
                falling = law.predict(middle) * middle / widths
                theory = np.full(widths.shape, limit) if ax is left else falling
                ax.plot(widths, theory, "--", color=color, linewidth=1.0)
            law, square = shrinks[trained], off[trained] ** 2
            rms = np.sqrt(square.mean(axis=0))
            error = square.std(axis=0, ddof=1) / np.sqrt(len(square)) / (2 * rms)
            right.errorbar(widths, rms, error, linestyle="", **look)
            right.plot(widths, law.predict(widths), color=color, label=f"{trained}: {_signed(law)}")
            theory = law.predict(middle) * np.sqrt(middle / widths)
            right.plot(widths, theory, "--", color=color, linewidth=1.0)
        titles = ("muP: the best rate converges", "SP: it falls like 1/width", "muP: distance from the limit")
        for ax, title in zip(axes[0], titles, strict=True):
            ax.set_title(title)
            ax.set_yscale("log", base=2)
            width_axis(ax, list(config.widths))
            ax.set_xlabel("width")
            ax.legend(title="slope", loc="upper right" if ax is right else "lower left")
        left.set_ylabel("best one-step learning rate")
        right.set_ylabel(r"rms |$\eta^*/\eta^*_\infty - 1$|")
        handles = [
            *(
                Line2D(
                    [], [], color=color, marker=marker, label=NAMES[trained].replace(" trained", "\ntrained")
                )
                for color, marker, trained in zip(CATEGORIES, "os", limits, strict=False)
            ),
            Line2D([], [], color=PREDICTION, linestyle="--", linewidth=1.0, label="theory"),
        ]
        figure.legend(handles=handles, loc="outside right upper")
    return figure


def _signed(law: PowerLaw) -> str:
    """Returns an exponent with its error bar, for a legend."""
    return f"{law.exponent:+.2f} ± {law.stderr:.2f}".replace("-", "\N{MINUS SIGN}")
