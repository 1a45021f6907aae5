"""Progress on a terminal and in a log file."""

from __future__ import annotations

import io

import pytest

from widelimit.training import Progress


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """It is one."""
        return True


class Clock:
    """Time that moves when told."""

    now = 100.0

    def monotonic(self) -> float:
        """The time."""
        return self.now


@pytest.fixture
def clock(monkeypatch):
    """Time under control."""
    clock = Clock()
    monkeypatch.setattr("widelimit.training.progress.time", clock)
    return clock


def test_log_file_gets_a_line_now_and_then(clock):
    """A line per finished cell, one per interval with the time to go, none in between, and the end."""
    stream = io.StringIO()
    with Progress(total=10.0, label="sweep", interval=30.0, stream=stream) as progress:
        for _ in range(4):
            clock.now += 10.0
            progress.advance(1.0)
        clock.now += 10.0
        progress.finished("width 64 done", work=1.0)
    assert stream.getvalue().splitlines() == [
        "sweep: 30% done, 01:10 to go",
        "sweep: width 64 done",
        "sweep: 50% done in 00:50",
    ]


def test_remaining_time_after_a_resume_counts_this_process_only(clock):
    """Nine tenths were done before; the last tenth takes as long as this process says."""
    stream = io.StringIO()
    with Progress(total=100.0, label="s", done=90.0, interval=1.0, stream=stream) as progress:
        clock.now += 20.0
        progress.advance(5.0)
    assert stream.getvalue().splitlines()[0] == "s: 95% done, 00:20 to go"


def test_terminal_gets_a_bar_with_the_remaining_time():
    """Percent, bar, time so far and to go; finished cells are lines of their own; all done is 100%."""
    stream = Terminal()
    with Progress(total=3.0, label="sweep", stream=stream) as progress:
        for i in range(3):
            progress.finished(f"cell {i}", work=1.0)
    text = stream.getvalue()
    assert "to go" in text and "so far" in text and "100%" in text and text.count("sweep: cell") == 3


def test_an_error_leaves_no_false_end():
    """A run that failed does not report that it is done."""
    stream = io.StringIO()
    with pytest.raises(ValueError), Progress(total=3.0, label="sweep", stream=stream) as progress:
        progress.advance(1.0)
        raise ValueError
    assert stream.getvalue() == ""
