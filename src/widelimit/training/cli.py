"""The command line that all experiments share: flags from a dataclass, presets, errors as one sentence."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import dis
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Protocol

from widelimit.training.compilation import enable_compilation_cache

_STRICT = "Exit with code 1 unless every claim holds."


class SummaryLike(Protocol):
    """What ``main`` needs of the summary that an experiment returns."""

    def to_text(self) -> str:
        """The verdicts for the terminal."""

    def exit_code(self, strict: bool) -> int:
        """1 if strict and a claim does not hold."""


def main(
    experiment: str,
    presets: Mapping[str, Any],
    run: Callable[[Any, Path], SummaryLike],
    argv: Sequence[str] | None = None,
) -> int:
    """Run an experiment from the command line and return the exit code of the process.

    Flags: ``--preset`` picks the config to start from, one flag per field of the config overrides it
        (``--seed`` is a
    field), ``--directory`` says where the results go (default ``runs/<experiment>/<preset>``), ``--strict``
    exits 1 unless every claim holds. Compiled programs are kept for the next run in JAX's persistent cache
    (``JAX_COMPILATION_CACHE_DIR`` if set, else ``~/.cache/widelimit/xla``).

    Exit codes: 0 done; 1 ``--strict`` and a claim does not hold; 2 the user's input is wrong, said in one
    sentence; 130 interrupted. An error that our code did not raise on purpose keeps its traceback.

    Args:
        experiment: name of the experiment.
        presets: the configs by name; frozen dataclasses of one class, with fields ``preset`` and ``seed``,
            each field documented in the class's docstring. The key "default" must exist.
        run: the experiment; takes the config and the directory, returns its summary.
        argv: the arguments; those of the process by default.

    Raises:
        TypeError: if a preset is not as described, which is the experiment's mistake and not the user's.

    Example:
        ``if __name__ == "__main__": sys.exit(main("lr_transfer", PRESETS, run))``
    """
    _check_presets(presets)
    arguments = list(sys.argv[1:] if argv is None else argv)
    fields, place, strict = _parse(experiment, presets, inspect.getmodule(run), arguments)
    try:
        config = type(presets["default"])(**fields)
        directory = place or Path("runs") / experiment / config.preset
        _use_compilation_cache()
        summary = run(config, directory)
    except KeyboardInterrupt:
        print(f"{experiment}: interrupted; the same command goes on where it stopped.", file=sys.stderr)
        return 130
    except (ValueError, TypeError, KeyError, OSError, ArithmeticError) as error:
        if not (isinstance(error, OSError) or _is_ours(error.__traceback__, _name(run))):
            raise
        if os.environ.get("WIDELIMIT_TRACEBACK"):
            traceback.print_exc()
        text = error.args[0] if len(error.args) == 1 else error
        print(f"{experiment}: {' '.join(str(text).split())}", file=sys.stderr)
        return 2
    print(summary.to_text())
    print(f"Results: {directory}")
    return summary.exit_code(strict)


def _check_presets(presets: Mapping[str, Any]) -> None:
    """Hold the experiment's author to the contract, before a user meets the gap."""
    if "default" not in presets or len({type(config) for config in presets.values()}) != 1:
        raise TypeError(f"Expected presets of one class and one named 'default', got {dict(presets)}.")
    for name, config in presets.items():
        if not dataclasses.is_dataclass(config) or getattr(config, "preset", None) != name:
            raise TypeError(
                f"Preset {name!r} must be a dataclass whose field 'preset' is {name!r}, got {config}."
            )
        if not isinstance(getattr(config, "seed", None), int):
            raise TypeError(f"Preset {name!r} needs an integer field 'seed'.")


def _parse(
    experiment: str, presets: Mapping[str, Any], module: Any, arguments: list[str]
) -> tuple[dict[str, Any], Path | None, bool]:
    """Flags to the fields of a config: the preset is looked for first, because it sets all other defaults.

    The config's own checks run later, outside of tyro, which would frame their sentences.
    """
    import tyro

    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--preset", default="default")
    try:
        preset = first.parse_known_args(arguments)[0].preset
    except argparse.ArgumentError:
        preset = "default"  # tyro says what is wrong
    config = presets.get(preset, presets["default"])
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    kind: Any = type(
        type(config).__name__, (type(config),), {"__doc__": type(config).__doc__, "__post_init__": _no_checks}
    )
    where = f"Where the results go; the same command resumes there. Default: runs/{experiment}/<preset>."
    flags = dataclasses.make_dataclass(
        "Flags",
        [
            ("config", kind, dataclasses.field(default=kind(**values))),
            ("directory", Annotated[Path | None, tyro.conf.arg(help=where, metavar="PATH")], None),
            ("strict", Annotated[bool, tyro.conf.arg(help=_STRICT)], False),
        ],
    )
    parsed: Any = tyro.cli(
        flags,
        prog=f"python -m {module.__spec__.name}" if getattr(module, "__spec__", None) else experiment,
        description=inspect.cleandoc(module.__doc__ or "") if module else None,
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    return {name: getattr(parsed.config, name) for name in values}, parsed.directory, parsed.strict


def _no_checks(config: Any) -> None:
    """Leaves a config unchecked until all of its flags are read."""


def _use_compilation_cache() -> None:
    """Keep compiled programs between runs; set here, in the experiment's process, never at import."""
    import jax

    settings: Any = jax.config
    if not settings.jax_enable_compilation_cache:
        return  # switched off by the user, or by tests
    place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "widelimit" / "xla"
    with contextlib.suppress(OSError):  # no cache: slower, not wrong
        enable_compilation_cache(place)


def _name(run: Callable[..., Any]) -> str:
    """Dotted name of the experiment's module, also where it runs as ``python -m``."""
    spec = getattr(sys.modules.get(run.__module__), "__spec__", None)
    return spec.name if spec else run.__module__


def _is_ours(trace: TracebackType | None, module: str) -> bool:
    """Whether a ``raise`` in our own code made the error, for the user to read; else it is a defect."""
    if trace is None:
        return False
    while trace.tb_next:
        trace = trace.tb_next
    frame = trace.tb_frame
    deliberate = frame.f_code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    room = str(frame.f_globals.get("__name__", "")).split(".")[0]
    return deliberate and room in {"widelimit", "__main__", module.split(".")[0]}
