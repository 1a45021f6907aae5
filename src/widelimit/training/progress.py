"""A progress bar with the remaining time on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, TextIO


class Progress:
    """Progress over cells that cost different amounts.

    On a terminal a tqdm bar; elsewhere (a log file, a batch job) a line every ``interval`` seconds. The
    remaining time is extrapolated from the work done by this process only, so it is right after a resume.

    Args:
        total: all the work, in any unit (say steps times width squared).
        label: what is being done.
        done: work that an earlier process finished, same unit.
        interval: seconds between lines where there is no terminal.
        stream: where to show it; standard error by default.

    Example:
        >>> with Progress(total=10.0, label="sweep", stream=sys.stdout) as progress:
        ...     progress.finished("width 64: loss 0.21", work=10.0)
        sweep: width 64: loss 0.21
        sweep: 100% done in 00:00
    """

    def __init__(
        self,
        total: float,
        label: str,
        done: float = 0.0,
        interval: float = 30.0,
        stream: TextIO | None = None,
    ) -> None:
        from tqdm import tqdm

        self._stream = stream or sys.stderr
        self._label, self._interval, self._initial = label, interval, done
        self._total, self._done = max(float(total), 1e-12), float(done)
        self._started = self._printed = time.monotonic()
        self._tqdm: Any = tqdm
        self._bar: Any = None
        if self._stream.isatty():
            self._bar = tqdm(
                total=100.0,
                initial=100.0 * self._done / self._total,
                desc=label,
                file=self._stream,
                bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed} so far, {remaining} to go{postfix}",
            )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal in order, also after an error."""
        if self._bar is not None:
            self._bar.close()
        elif kind is None:
            self._say(f"{self._share():.0f}% done in {self._clock(time.monotonic() - self._started)}")

    def advance(self, work: float) -> None:
        """Count work that is done, e.g. after each chunk of a cell.

        Args:
            work: in the unit of ``total``.
        """
        before = self._share()
        self._done += work
        if self._bar is not None:
            self._bar.update(self._share() - before)
            return
        now = time.monotonic()
        if now - self._printed >= self._interval:
            self._printed = now
            rate = (self._done - self._initial) / (now - self._started)
            left = (self._total - self._done) / rate if rate > 0 else 0.0
            self._say(f"{self._share():.0f}% done, {self._clock(left)} to go")

    def finished(self, message: str, work: float = 0.0) -> None:
        """Say in a line of its own that a cell is finished.

        Args:
            message: which one, and its result.
            work: as for ``advance``.
        """
        if self._bar is None:
            self._say(message)
        else:
            self._tqdm.write(f"{self._label}: {message}", file=self._stream)
        self.advance(work)

    def _share(self) -> float:
        """Percent done; rounding may not show more than all."""
        return min(100.0, 100.0 * self._done / self._total)

    def _say(self, message: str) -> None:
        """A line that is visible at once, also in a file."""
        print(f"{self._label}: {message}", file=self._stream, flush=True)

    def _clock(self, seconds: float) -> str:
        """Seconds as people read them."""
        return str(self._tqdm.format_interval(seconds))
