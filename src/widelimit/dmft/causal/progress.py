"""A bar over replicas and windows of time, with the remaining time."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from widelimit.dmft.causal.planner import Plan


class Bar:
    """Shows how far a run is, where it is asked to.

    Args:
        shown: whether there is a bar at all.
        replicas: in all.
        planned: whose windows are counted by the times they hold.
    """

    def __init__(self, shown: bool, replicas: int, planned: Plan) -> None:
        self._windows, self._place = planned.windows, 0
        self._bar: Any = None
        if shown:
            from tqdm import tqdm

            self._bar = tqdm(total=replicas * planned.windows[-1], desc="dmft.mlp", unit="step")

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves the terminal in order, also after an error."""
        if self._bar is not None:
            self._bar.close()

    def window(self) -> None:
        """Counts one window."""
        ends = (0, *self._windows)
        self._count(ends[self._place + 1] - ends[self._place])
        self._place = (self._place + 1) % len(self._windows)

    def skip(self) -> None:
        """Counts a replica that was there already."""
        if self._bar is not None:
            self._bar.initial += self._windows[-1]
        self._count(self._windows[-1])

    def _count(self, steps: int) -> None:
        """Moves the bar."""
        if self._bar is not None:
            self._bar.update(steps)
