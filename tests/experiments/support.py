"""What the tests of experiments share: what a run left behind, and a run that was killed."""

from __future__ import annotations

import json


def stored(directory):
    """Rows and summary of a finished run, without the fields that hold times."""

    def timeless(value):
        if isinstance(value, dict):
            return {key: timeless(item) for key, item in value.items() if key != "seconds"}
        return [timeless(item) for item in value] if isinstance(value, list) else value

    rows = [json.loads(line) for line in (directory / "rows.jsonl").read_text().splitlines()]
    return timeless(rows), timeless(json.loads((directory / "summary.json").read_text()))


def killed(directory, place, rows):
    """Makes a new directory of a run's beginning: these bytes are all that its rows had got to."""
    place.mkdir()
    for name in ("config.json", "environment.json"):
        (place / name).write_bytes((directory / name).read_bytes())
    (place / "rows.jsonl").write_bytes(rows)
    return place
