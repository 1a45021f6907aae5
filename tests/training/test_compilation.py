"""The persistent compilation cache: off on import, and once on, a second process compiles nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

PROGRAM = """
import sys, jax, jax.numpy as jnp
from widelimit.training import enable_compilation_cache
assert jax.config.values["jax_compilation_cache_dir"] == (sys.argv[2] if len(sys.argv) > 2 else None)
used = enable_compilation_cache(sys.argv[1])
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name))
draw = lambda x: jnp.sum(jax.random.normal(jax.random.key(0), (3, 3)) @ jnp.sin(x))
print(jax.jit(draw)(jnp.eye(3)))
print(used, sum(name.endswith("/cache_hits") for name in events))
"""


def outcome(directory: Path, *arguments: str, **environment: str) -> list[str]:
    """What a fresh process prints: a result, and the directory with the number of programs found in it."""
    command = [sys.executable, "-W", "error", "-c", PROGRAM, str(directory), *arguments]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_second_process_loads_what_the_first_compiled(tmp_path):
    """And computes the same bits."""
    first, used, hits = outcome(tmp_path / "new" / "cache")
    assert used == str(tmp_path / "new" / "cache") and int(hits) == 0
    again, _, hits = outcome(tmp_path / "new" / "cache")
    assert again == first and int(hits) >= 1


def test_a_truncated_entry_is_compiled_again(tmp_path):
    """A process killed while it writes an entry spoils nothing but that entry."""
    first, *_ = outcome(tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]  # JAX warns, so without -W error
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.split()[0] == first


def test_a_directory_that_the_user_configured_stays(tmp_path):
    """The environment variable wins."""
    own = str(tmp_path / "own")
    _, used, _ = outcome(tmp_path / "ours", own, JAX_COMPILATION_CACHE_DIR=own)
    assert used == own and not (tmp_path / "ours").exists()


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path):
    """Nothing is cached in a place nobody asked for."""
    from widelimit.training import enable_compilation_cache

    (tmp_path / "file").write_text("")
    own = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        with pytest.raises(OSError, match="file"):
            enable_compilation_cache(tmp_path / "file" / "cache")
    finally:
        jax.config.update("jax_compilation_cache_dir", own)
