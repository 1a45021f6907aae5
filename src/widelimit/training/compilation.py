"""JAX's persistent compilation cache, for experiments: a resumed run compiles nothing again."""

from __future__ import annotations

import os
from pathlib import Path

import jax

# JAX keeps programs that took at least 1 s to compile, so none of a small network's on a fast machine. With no
# threshold it also keeps every one-line program (some hundred files). The programs of a sweep take 0.1 to 5 s.
SHORTEST = 0.1  # seconds


def enable_compilation_cache(directory: str | Path) -> Path:
    """Keeps compiled programs in a directory, from which later processes load them.

    For programs that own their process (experiments, notebooks): it changes global JAX configuration, and so
    is never called on import. A directory that is configured already, for instance through the variable
    ``JAX_COMPILATION_CACHE_DIR``, stays. Call it before the first computation. The key of an entry holds the program, its
    options, the versions of JAX and of the device; results do not depend on whether it was compiled or loaded.

    Args:
        directory: made if needed.

    Returns:
        The directory in use.

    Raises:
        OSError: if the directory cannot be made.

    Reference:
        JAX documentation, "Persistent compilation cache".
    """
    configured = jax.config.jax_compilation_cache_dir
    used = Path(configured or directory).expanduser().absolute()
    if not configured:
        used.mkdir(parents=True, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", os.fspath(used))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST)
    return used
