"""The directory of an experiment: one config, finished cells, a summary; resumable after any kill."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from widelimit.training.environment import describe_environment
from widelimit.training.files import TEMPORARY, json_safe, read_json, say_why, write_atomic, write_json
from widelimit.training.lock import LOCK, locked
from widelimit.training.rows import RowLog


class SummaryLike(Protocol):
    """What ``Results.finish`` needs of a summary; ``widelimit.compare.Summary`` is one."""

    def to_json(self) -> dict[str, Any]:
        """The content of ``summary.json``."""

    def to_markdown(self) -> str:
        """The content of ``report.md``."""


class Results:
    """An open directory of results, locked for this process; made by ``open_results``.

    Args:
        directory: where it is.
        config: the configuration as ``config.json`` holds it.
        plan: choices made once, before the first cell, and never again on resume.
        log: the finished cells.
    """

    def __init__(self, directory: Path, config: dict[str, Any], plan: dict[str, Any], log: RowLog) -> None:
        self.directory, self.config, self.plan = directory, config, plan
        self._log, self._started = log, time.monotonic()
        self._before = float(sum(row.get("seconds") or 0.0 for row in log.rows))

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The finished cells in order, exactly as a later run will read them (NaN is None)."""
        return list(self._log.rows)

    @property
    def seconds(self) -> float:
        """Time spent: since opening, plus field "seconds" of the cells that an earlier process finished."""
        return self._before + time.monotonic() - self._started

    def find(self, **fields: Any) -> list[dict[str, Any]]:
        """The finished cells whose fields have these values, e.g. ``find(width=64, seed=0)``; empty if none.

        Args:
            **fields: values to match, compared as they are stored in JSON.
        """
        wanted = json_safe(fields, "fields")
        return [row for row in self._log.rows if all(row.get(key) == value for key, value in wanted.items())]

    def append(self, *rows: Mapping[str, Any]) -> None:
        """Add finished cells to ``rows.jsonl``; they are on disk when this returns.

        Args:
            *rows: flat dicts; a diverged run is one too, with ``diverged=True`` and its loss None or NaN.

        Raises:
            OSError: if the directory is read-only or full; none of the rows is then added, and none is lost.
            TypeError: if a value has no JSON form.
        """
        self._log.append(*rows)

    def save_figure(self, name: str, figure: Any, dots_per_inch: int = 150) -> None:
        """Write a matplotlib figure as PNG, atomically.

        Args:
            name: file name, ending in ".png".
            figure: the ``matplotlib.figure.Figure``.
            dots_per_inch: resolution.

        Raises:
            OSError: if the directory is read-only or full.
        """
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=dots_per_inch, metadata={"Software": None})
        write_atomic(self.directory / name, buffer.getvalue())

    def finish(self, summary: SummaryLike) -> None:
        """Write ``report.md`` and then ``summary.json``, whose presence says that the run is complete.

        Args:
            summary: usually a ``widelimit.compare.Summary``.

        Raises:
            OSError: if the directory is read-only or full.
        """
        write_atomic(self.directory / "report.md", summary.to_markdown())
        write_json(self.directory / "summary.json", summary.to_json())


@contextlib.contextmanager
def open_results(
    directory: str | Path,
    experiment: str,
    config: Any,
    plan: Callable[[], Mapping[str, Any]] | None = None,
    fixed: Mapping[str, Any] | None = None,
) -> Iterator[Results]:
    """Open the results of an experiment: a new directory, or one of the same config to go on with.

    Nothing is written before everything is checked. The lock is the kernel's (``flock``), so it vanishes with
    the process that holds it, however that ends.

    Args:
        directory: made if missing; may hold an unfinished or finished run of the same config.
        experiment: name of the experiment.
        config: a dataclass or dict; what defines the numbers, the seed and preset included.
        plan: returns choices to store before the first cell (chunk sizes, vmap or loop); called for a new
            directory only, and its stored answer is ``Results.plan`` ever after.
        fixed: what a resumed run must find unchanged although no config names it, such as the fingerprint of
            the data or the number of devices; stored with the plan, by name.

    Yields:
        The open results.

    Raises:
        ValueError: if the directory holds another experiment or config, or was begun under other ``fixed``
            conditions (naming what differs), if it holds other files, or damaged ones.
        OSError: if it cannot be read or written, or another process is writing it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place:
        ...     with open_results(place, "demo", {"widths": [64, 128]}) as results:
        ...         results.append({"width": 64, "loss": 0.5, "seconds": 1.0})
        ...     with open_results(place, "demo", {"widths": [64, 128]}) as results:
        ...         [width for width in results.config["widths"] if not results.find(width=width)]
        [128]
    """
    path, wanted, needed = Path(directory), json_safe(config, "config"), json_safe(dict(fixed or {}), "fixed")
    stored = _checked(path, experiment, wanted, needed)
    environment = json_safe(describe_environment())
    made = needed | json_safe(dict(plan()) if plan and stored is None else {}, "plan")
    with say_why(f"make the directory {path}"):
        path.mkdir(parents=True, exist_ok=True)
    with locked(path):
        for leftover in path.glob(f"{TEMPORARY}*"):
            leftover.unlink()
        stored = _checked(path, experiment, wanted, needed)  # again: another process may just have been here
        log = RowLog(path / "rows.jsonl")
        if stored is None:
            stored = {"experiment": experiment, "config": wanted, "plan": made}
            write_json(path / "config.json", stored)
        _record_environment(path / "environment.json", environment)
        yield Results(path, stored["config"], stored["plan"], log)


def _checked(path: Path, experiment: str, wanted: Any, needed: Mapping[str, Any]) -> dict[str, Any] | None:
    """The stored config if it is this one, None for a directory that is ours to begin; else refuse."""
    with say_why(f"read the directory {path}"):
        if not path.exists():
            return None
        names = sorted(entry.name for entry in path.iterdir())
    if "config.json" not in names:
        foreign = [name for name in names if name != LOCK and not name.startswith(TEMPORARY)]
        if foreign:
            shown = ", ".join(foreign[:3]) + ", ..." * (len(foreign) > 3)
            raise ValueError(
                f"{path} holds files of something else ({shown}) and no config.json; "
                "choose an empty or new directory."
            )
        return None
    stored = read_json(path / "config.json")
    whole = isinstance(stored, dict) and {"experiment", "config", "plan"} <= stored.keys()
    if not whole or not isinstance(stored["plan"], dict):
        raise ValueError(f"{path / 'config.json'} is not one of widelimit; choose another directory.")
    ours = {"experiment": experiment, **_flat(wanted)}
    there = {"experiment": stored["experiment"], **_flat(stored["config"])}
    differing = [key for key in {**ours, **there} if ours.get(key, _ABSENT) != there.get(key, _ABSENT)]
    if differing:
        shown = "; ".join(
            f"{key} is {there.get(key, _ABSENT)} there and {ours.get(key, _ABSENT)} here"
            for key in differing[:5]
        )
        more = f"; and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise ValueError(
            f"{path} holds the results of another config ({shown}{more}); choose another directory."
        )
    for name, value in needed.items():
        theirs = stored["plan"].get(name, _ABSENT)
        if theirs != value:
            raise ValueError(
                f"{path} was begun with {name} {theirs}, and now it is {value}; go on as it was begun, or "
                "choose another directory."
            )
    return stored


_ABSENT = "absent"


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Nested fields by dotted name, so that an error can name exactly what differs."""
    if not isinstance(config, dict):
        return {prefix.rstrip("."): config}
    return {
        key: value for name, item in config.items() for key, value in _flat(item, f"{prefix}{name}.").items()
    }


def _record_environment(path: Path, environment: dict[str, Any]) -> None:
    """Keep what the run began under, and what it was resumed under where that differs."""
    known = read_json(path) if path.exists() else {}
    if not isinstance(known, dict):
        raise ValueError(f"{path} is damaged: it is not one of widelimit; delete it, and start again.")
    latest = known.get("resumed_under", [])[-1:] or [{k: v for k, v in known.items() if k != "resumed_under"}]
    if not known:
        write_json(path, environment)
    elif latest[0] != environment:
        write_json(path, {**known, "resumed_under": [*known.get("resumed_under", []), environment]})
