"""JAX's persistent compilation cache, for experiments: a resumed run compiles nothing again."""

from __future__ import annotations

import os
from pathlib import Path

import jax

# JAX keeps programs that took at least 1 s to compile, so few of a small network's. With no threshold it also
# keeps every one-line program, some hundred files. The programs of a sweep take 0.2 to 5 s.
SHORTEST = 0.1  # seconds


def enable_compilation_cache(directory: str | Path) -> Path:
    """Keeps compiled programs in a directory, from which later processes load them.

    For programs that own their process (experiments, notebooks): it changes global JAX configuration, and so
    is never called on import. Call it before the first computation. A directory that is configured already,
    for instance through the variable ``JAX_COMPILATION_CACHE_DIR``, stays. An entry is found by the program,
    its options, and the versions of JAX and of the device.

    Args:
        directory: made if needed.

    Returns:
        The directory in use.

    Raises:
        OSError: if the directory cannot be made.

    Reference:
        JAX documentation, "Persistent compilation cache".
    """
    configured = jax.config.values.get("jax_compilation_cache_dir")
    used = Path(configured or directory).expanduser().absolute()
    if not configured:
        used.mkdir(parents=True, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", os.fspath(used))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST)
    return used
