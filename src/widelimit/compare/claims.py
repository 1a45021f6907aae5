"""Claims: theory predicts a value, an experiment measures it with an error bar, and it holds or not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

Verdict = bool | Literal["inconclusive"]
Relation = Literal["equal", "at_most", "at_least", "below", "above"]
_NOTES = {
    "equal": "",
    "at_most": " (at most)",
    "at_least": " (at least)",
    "below": " (below by {sigmas:g} standard errors)",
    "above": " (above by {sigmas:g} standard errors)",
}


@dataclass(frozen=True)
class Claim:
    """One prediction beside its measurement, and the verdict.

    With d = measured - predicted:

    * "equal" holds if ``|d| <= tolerance``;
    * "at_most" holds if ``d <= tolerance``, "at_least" if ``-d <= tolerance``. These three are inconclusive
      where ``stderr > tolerance / 2``, so that an underpowered run never passes;
    * "below" holds if ``d <= -tolerance - sigmas * stderr``, fails if ``d >= -tolerance + sigmas * stderr``,
      and is inconclusive between; "above" mirrors it. These say that two things differ, by a margin in
      standard errors.

    A measurement or error bar that is NaN is inconclusive, an infinite measurement is judged as it stands.

    Args:
        name: what is claimed of what, e.g. ``"mup/adam: optimum does not move with width"``.
        quantity: what was measured, e.g. ``"d log2(lr*) / d log2(width)"``.
        predicted: value from theory, fixed before the run.
        measured: value found.
        stderr: standard error of ``measured``, from seeds.
        tolerance: fixed in the code before the run.
        relation: "equal", "at_most", "at_least", "below" or "above".
        sigmas: margin of "below" and "above", in standard errors.
        why: why this tolerance; shown beside the claim in the report.

    Raises:
        ValueError: if the tolerance is negative or not a number, the prediction is not finite, or the
            relation is unknown.

    Example:
        >>> claim = Claim("optimum stays", "slope", predicted=0.0, measured=0.03, stderr=0.04, tolerance=0.15)
        >>> claim.holds
        True
        >>> Claim("optimum stays", "slope", predicted=0.0, measured=0.03, stderr=0.1, tolerance=0.15).holds
        'inconclusive'
    """

    name: str
    quantity: str
    predicted: float
    measured: float
    stderr: float
    tolerance: float
    relation: Relation = "equal"
    sigmas: float = 3.0
    why: str = ""

    def __post_init__(self) -> None:
        """Refuse a claim that could not be judged."""
        if self.relation not in _NOTES:
            raise ValueError(f"Expected relation to be one of {sorted(_NOTES)}, got {self.relation!r}.")
        if not 0.0 <= self.tolerance < math.inf or not math.isfinite(self.predicted):
            raise ValueError(
                f"Claim {self.name!r} needs a finite prediction and a finite tolerance of zero or more, got "
                f"predicted={self.predicted} and tolerance={self.tolerance}."
            )

    @property
    def holds(self) -> Verdict:
        """True, False or "inconclusive"."""
        sign = -1.0 if self.relation in ("at_least", "above") else 1.0
        off = sign * (self.measured - self.predicted)
        if math.isnan(off):
            return "inconclusive"
        if math.isinf(off):
            return off < 0 and self.relation != "equal"
        if math.isnan(self.stderr):
            return "inconclusive"
        if self.relation in ("below", "above"):
            margin = self.sigmas * self.stderr
            if off <= -self.tolerance - margin:
                return True
            return False if off >= -self.tolerance + margin else "inconclusive"
        if self.stderr > self.tolerance / 2:
            return "inconclusive"
        return bool((abs(off) if self.relation == "equal" else off) <= self.tolerance)

    def to_json(self) -> dict[str, Any]:
        """The claim as ``summary.json`` holds it: no NaN, and a one-sided relation said in words.

        Example:
            >>> Claim("a", "q", 0.0, float("nan"), 0.1, 1.0).to_json()["measured"] is None
            True
        """
        return {
            "name": self.name,
            "quantity": self.quantity + _NOTES[self.relation].format(sigmas=self.sigmas),
            "predicted": _number(self.predicted),
            "measured": _number(self.measured),
            "stderr": _number(self.stderr),
            "tolerance": _number(self.tolerance),
            "holds": self.holds,
        }


def _number(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return float(value) if math.isfinite(value) else None
