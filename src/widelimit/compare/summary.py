"""What an experiment ends in: claims and tables, as JSON for machines and as a page for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from widelimit.compare.claims import Claim

_SIGNS = {True: "holds", False: "**fails**", "inconclusive": "*inconclusive*"}


@dataclass(frozen=True)
class Summary:
    """The result of an experiment.

    Args:
        experiment: its name, e.g. ``"lr_transfer"``.
        preset: the preset that it started from.
        seconds: wall-clock time, in seconds.
        claims: what theory fixes, judged.
        tables: what it does not fix: name to rows, each row a flat dict.
        figures: caption of each figure by file name; shown in the report.
        notes: paragraphs for the report (conditions, caveats).

    Example:
        >>> claim = Claim("optimum stays", "slope", predicted=0.0, measured=0.03, stderr=0.04, tolerance=0.15)
        >>> summary = Summary("lr_transfer", "smoke", 1.5, [claim], {"optimum": [{"width": 64}]})
        >>> summary.holds, sorted(summary.to_json())
        (True, ['claims', 'experiment', 'preset', 'seconds', 'tables'])
    """

    experiment: str
    preset: str
    seconds: float
    claims: Sequence[Claim]
    tables: Mapping[str, Sequence[Mapping[str, Any]]]
    figures: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def holds(self) -> bool:
        """Whether every claim holds; an inconclusive one does not."""
        return all(claim.holds is True for claim in self.claims)

    def exit_code(self, strict: bool) -> int:
        """1 if ``strict`` and a claim does not hold, else 0.

        Args:
            strict: the flag ``--strict``.
        """
        return 1 if strict and not self.holds else 0

    def to_json(self) -> dict[str, Any]:
        """The content of ``summary.json``, the same shape for all experiments."""
        return {
            "experiment": self.experiment,
            "preset": self.preset,
            "seconds": round(float(self.seconds), 3),
            "claims": [claim.to_json() for claim in self.claims],
            "tables": {name: [dict(row) for row in rows] for name, rows in self.tables.items()},
        }

    def to_text(self) -> str:
        """The verdicts for a terminal, one claim a line.

        Example:
            >>> print(Summary("e", "smoke", 2.0, [Claim("c", "q", 0.0, 0.03, 0.04, 0.15)], {}).to_text())
            holds         c: 0.03 +- 0.04 (predicted 0 within 0.15)
            1 claim: 1 holds. Took 2.0 s.
        """
        words = {True: "holds", False: "FAILS", "inconclusive": "inconclusive"}
        lines = []
        for claim in self.claims:
            bound = f"{claim.relation.replace('_', ' ')} " if claim.relation != "equal" else ""
            lines.append(
                f"{words[claim.holds]:<13} {claim.name}: {claim.measured:.3g} +- {claim.stderr:.2g} "
                f"(predicted {bound}{claim.predicted:g} within {claim.tolerance:.3g})"
            )
        return "\n".join([*lines, self._verdict()])

    def _verdict(self) -> str:
        """All claims in a sentence."""
        verdicts = [claim.holds for claim in self.claims]
        kinds = ((True, "holds", "hold"), (False, "fails", "fail"), ("inconclusive", *["inconclusive"] * 2))
        counts = [(sum(verdict == kind for verdict in verdicts), one, many) for kind, one, many in kinds]
        shown = ", ".join(f"{n} {one if n == 1 else many}" for n, one, many in counts if n) or "none made"
        plural = "" if len(verdicts) == 1 else "s"
        return f"{len(verdicts)} claim{plural}: {shown}. Took {self.seconds:.1f} s."

    def to_markdown(self) -> str:
        """The page ``report.md``: verdict, claims with the reason for each tolerance, figures, tables."""
        parts = [f"# {self.experiment} ({self.preset})"]
        parts.append(self._verdict())
        parts += self.notes
        if self.claims:
            parts += ["## Claims", markdown_table([_claim_row(claim) for claim in self.claims])]
            parts += ["\n".join(f"* {why}" for why in dict.fromkeys(c.why for c in self.claims) if why)]
        if self.figures:
            parts += [
                "## Figures",
                *(f"![{caption}]({name})\n\n{caption}" for name, caption in self.figures.items()),
            ]
        if self.tables:
            parts += ["## Tables"]
            parts += [f"### {name}\n\n{markdown_table(rows)}" for name, rows in self.tables.items()]
        return "\n\n".join(part for part in parts if part) + "\n"


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a Markdown table: four significant digits, a dash for what is missing, numbers to the right.

    Args:
        rows: flat dicts; columns in order of first appearance.

    Example:
        >>> print(markdown_table([{"width": 64, "loss": 0.123456}, {"width": 128, "loss": None}]))
        | width | loss |
        | ---: | ---: |
        | 64 | 0.1235 |
        | 128 | – |
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if not columns:
        return "(empty)"
    numeric = [all(not isinstance(row.get(key), str) for row in rows) for key in columns]
    lines = [columns, ["---:" if right else "---" for right in numeric]]
    lines += [[_cell(row.get(key)) for key in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _claim_row(claim: Claim) -> dict[str, Any]:
    """A claim as a line of the report."""
    shown = claim.to_json()
    del shown["holds"]
    return {"claim": shown.pop("name"), **shown, "verdict": _SIGNS[claim.holds]}


def _cell(value: Any) -> str:
    """A value as people read it; a bar would end the cell."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).replace("|", "\\|").replace("\n", " ")
