"""How many cells of a sweep run together: a cost model that times nothing, so its answer never changes."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Mode:
    """How the cells of a sweep are executed: ``dataclasses.asdict`` makes it JSON, ``Mode(**d)`` reads it.

    Args:
        group: cells per device in one call of the program, run together by ``vmap``; 1 runs each cell by
            itself, as plain matrix products.
        in_flight: calls that are under way at once. On a CPU they run side by side on its cores.

    Raises:
        ValueError: if one of them is not positive.

    Example:
        >>> Mode(**dataclasses.asdict(Mode(group=1, in_flight=4)))
        Mode(group=1, in_flight=4)
    """

    group: int
    in_flight: int = 1

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} of a Mode must be a whole number, at least 1; got {value!r}.")


def choose_mode(
    *, parameters: int, batch: int, cells: int, platform: str = "cpu", devices: int = 1, cores: int = 2
) -> Mode:
    """Returns how to run a sweep: interim rule, to be replaced by the calibrated one."""
    del batch, devices, cores
    return Mode(group=cells) if parameters < 200_000 or platform != "cpu" else Mode(group=1, in_flight=2)
